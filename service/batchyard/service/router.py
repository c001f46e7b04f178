"""Which provider a request goes to: the one it names, the one its row names, or the default."""

from collections.abc import Iterable

from batchyard.service.errors import InvalidArgument
from batchyard.service.providers.base import Provider


class Router:
    """The configured providers by name, one of them the default."""

    def __init__(self, providers: Iterable[Provider], default: str) -> None:
        self._providers = {provider.name: provider for provider in providers}
        self._default = default

    def provider(self, name: str) -> Provider:
        """The provider of a name, the default for none. Raises InvalidArgument."""
        return self._providers[self.checked(name) or self._default]

    def checked(self, name: str) -> str:
        """A filter's provider name as it is, if it is configured or empty. Raises InvalidArgument."""
        if name and name not in self._providers:
            known = ", ".join(sorted(self._providers))
            raise InvalidArgument(f"There is no provider '{name}' here. Configured: {known}.", param="provider")
        return name
