"""Where a request goes: to the place that it names, the one that its row names, or the default."""

import asyncio
from collections.abc import Collection, Iterable, Mapping

from batchyard.service.config.names import GROUPS
from batchyard.service.domain.keys import Caller, KeyRecord
from batchyard.service.domain.records import ENDED, BatchRecord, FileRecord
from batchyard.service.errors import FailedPrecondition, InvalidArgument, NotFound, PermissionDenied
from batchyard.service.providers.base import Provider, check_group
from batchyard.service.registry.tenant import TenantRegistry

_OPENAI, _AZURE = "openai", "azure"


class Router:
    """The configured places by name: deployments, and providers, which stand for their first deployment."""

    def __init__(self, providers: Iterable[Provider], default: str, groups: Collection[str] = ()) -> None:
        """`groups` are the names of the model groups."""
        self._places: dict[str, Provider] = {}
        for provider in providers:
            self._places.setdefault(provider.name, provider)
            self._places[provider.place] = provider
        self._default = default
        self._groups = groups
        self.homes: Mapping[str, str] = {name: place.name for name, place in self._places.items()}
        """The provider of each place."""

    def provider(self, name: str, key: KeyRecord | None = None) -> Provider:
        """The place of a name that `checked` gave, the default for none.

        Raises PermissionDenied where `key` may not use it.
        """
        place = self._places[name or self._default]
        if key and not _serves(key, place):
            raise _denied(name, key) if name else _denied(self._default, key, ", the default")
        return place

    def of(self, row: FileRecord | BatchRecord) -> Provider:
        """Where a row's file or batch lives. Raises FailedPrecondition where that is not configured any more."""
        name = row.deployment or row.provider
        if name not in self._places:
            raise FailedPrecondition(f"'{row.id}' is at '{name}', which is not configured any more.", param="provider")
        return self._places[name]

    async def latest(self, batch: BatchRecord, *, fresh: bool) -> BatchRecord:
        """A batch as it is, or was a moment ago, as `Provider.batch` has it; one that has ended stays as it was.

        Raises FailedPrecondition where it has to be `fresh` and its place is not configured any more.
        """
        gone = (batch.deployment or batch.provider) not in self._places
        if batch.status in ENDED or (gone and not fresh):
            return batch
        return await self.of(batch).batch(batch, fresh=fresh)

    async def refresh(self, owner: TenantRegistry, place: str) -> None:
        """Looks again at the owner's live batches, at one place or at all."""
        places = [self._places[place]] if place else set(self._places.values())
        await asyncio.gather(*(provider.refresh(owner) for provider in places))

    def place_of(self, name: str, models: Collection[str], key: KeyRecord | None = None, *, azure: bool = False) -> str:
        """The place that a request means which names a provider, as `checked` has it, or model groups.

        Raises InvalidArgument where a model is no group, or the provider is another than theirs; PermissionDenied where
        `key` may not use one.
        """
        for model in models:
            if model not in self._groups:
                known = ", ".join(sorted(group for group in self._groups if not key or key.batches_over(group)))
                message = f"There is no model group '{model}' here. Configured: {known or 'none'}."
                raise InvalidArgument(message, param="model", code="model_not_found")
            if key:
                check_group(key, model)
            if name and name != GROUPS:
                message = (
                    f"The request names the provider '{name}' and the model group '{model}', which is at '{GROUPS}'."
                )
                raise InvalidArgument(message, param="model", code="invalid_value")
        return self.checked(GROUPS if models else name, key, azure=azure)

    def checked(self, name: str, key: KeyRecord | None = None, *, azure: bool = False) -> str:
        """The place that a request means, empty where it names none. Raises InvalidArgument.

        Raises PermissionDenied where `key` may use nothing there.

        `/openai/...` is both our path for OpenAI and what Azure's own clients call: it means Azure where the request
        shows a sign of such a client (`azure`), and where no OpenAI is configured.
        """
        if name == _OPENAI and _AZURE in self._places and (azure or _OPENAI not in self._places):
            name = _AZURE
        if name and name not in self._places:
            known = ", ".join(sorted(known for known, place in self._places.items() if not key or _serves(key, place)))
            raise InvalidArgument(f"There is no provider '{name}' here. Configured: {known}.", param="provider")
        there = (place for place in self._places.values() if name in (place.name, place.place))
        if name and key and not any(_serves(key, place) for place in there):
            raise _denied(name, key)
        return name


def _serves(key: KeyRecord, place: Provider) -> bool:
    return key.serves(place.name, place.place)


def _denied(name: str, key: KeyRecord, which: str = "") -> PermissionDenied:
    allowed = ", ".join(key.providers)
    return PermissionDenied(f"This API key may not use '{name}'{which}, but only: {allowed}.", param="provider")


class Lookup:
    """Finds files and batches of a caller, at a place or anywhere (empty). Raises NotFound."""

    def __init__(self, router: Router) -> None:
        self._router = router

    async def file(self, caller: Caller, owner: TenantRegistry, file_id: str, place: str) -> FileRecord:
        """A file that is missing may be the result of a batch that has just ended: those are looked at once more."""
        try:
            return await owner.get_file(file_id, place)
        except NotFound:
            await self._router.refresh(owner, place)
        try:
            return await owner.get_file(file_id, place)
        except NotFound:
            if not (caller.master and place):
                raise
        return await self._router.provider(place).find_file(file_id)

    async def batch(self, caller: Caller, owner: TenantRegistry, batch_id: str, place: str) -> BatchRecord:
        try:
            return await owner.get_batch(batch_id, place)
        except NotFound:
            if not (caller.master and place):
                raise
        return await self._router.provider(place).find_batch(batch_id)
