"""Deployments of other providers: entries of `files_settings` and `model_list`, and OpenAI's and Azure's variables.

What a file says wrongly is a problem. Variables may be meant for other programs: a set of them that makes no
deployment is left out, with a warning. The same account, found twice, is one deployment.
"""

import re
from collections.abc import Iterator, Mapping
from dataclasses import replace
from typing import Annotated, Any, NamedTuple
from urllib.parse import urlsplit

from batchyard.service.layers import did_you_mean, resolve, unset
from batchyard.service.parsing import UnfitError, parse
from batchyard.service.settings import Deployment, Form, Problem, Secret
from batchyard.service.yamlfile import Document, KeyPath, dotted

OPENAI, AZURE = "openai", "azure"
PROVIDERS = (OPENAI, AZURE)
RESERVED = {"local", "v1", "files", "batches", "uploads", "health", "openapi.json", "metrics"}
"""Words that begin other paths, or name what is no deployment."""

_OPENAI_BASE = "https://api.openai.com/v1"
_AZURE_VERSION = "2025-04-01-preview"  # the last one; facts 5.1
_V1 = {"v1", "latest", "preview"}  # LiteLLM's words for Azure's newer URLs
_NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]{0,63}")
_SECRETS = ("api_key", "azure_ad_token", "client_secret")
_TEXTS = ("organization", "project", "api_version", "tenant_id", "client_id")
KEYS = {"custom_llm_provider", "model", "api_base", *_SECRETS, *_TEXTS}
"""What of an entry is read."""


class Variables(NamedTuple):
    """A provider's variables, by key; of several the first that is set counts."""

    needs: str
    names: Mapping[str, tuple[str, ...]]


VARIABLES = {
    OPENAI: Variables(
        "api_key",
        {
            "api_key": ("OPENAI_API_KEY",),
            "api_base": ("OPENAI_BASE_URL", "OPENAI_API_BASE"),
            "organization": ("OPENAI_ORGANIZATION", "OPENAI_ORG_ID"),
            "project": ("OPENAI_PROJECT", "OPENAI_PROJECT_ID"),
        },
    ),
    AZURE: Variables(
        "api_base",
        {
            "api_key": ("AZURE_OPENAI_API_KEY", "AZURE_API_KEY"),
            "api_base": ("AZURE_API_BASE", "AZURE_OPENAI_ENDPOINT"),
            "api_version": ("AZURE_API_VERSION", "OPENAI_API_VERSION"),
            "azure_ad_token": ("AZURE_AD_TOKEN", "AZURE_OPENAI_AD_TOKEN"),
            "tenant_id": ("AZURE_TENANT_ID",),
            "client_id": ("AZURE_CLIENT_ID",),
            "client_secret": ("AZURE_CLIENT_SECRET",),
        },
    ),
}


class Deployments:
    """All that are found, in the order in which they are chosen: `files_settings`, variables, `model_list`."""

    def __init__(self, document: Document, environ: Mapping[str, str]) -> None:
        self.problems: list[Problem] = []
        self.warnings: list[str] = []
        self.in_file: list[str] = []
        self._document = document
        self._environ = environ
        self._found: list[Deployment] = []
        for path, entry in self._entries("files_settings"):
            self._add_entry(path, entry, str(entry.get("custom_llm_provider") or ""), entry)
        for provider in PROVIDERS:
            self._add_variables(provider)
        for path, entry in self._entries("model_list"):
            given = entry.get("litellm_params")
            if isinstance(given, dict) and isinstance(given.get("model"), str):
                self._add_entry((*path, "litellm_params"), given, given["model"].partition("/")[0], entry)

    def all(self) -> tuple[Deployment, ...]:
        return tuple(self._found)

    def _entries(self, section: str) -> Iterator[tuple[KeyPath, dict[str, Any]]]:
        entries = self._document.data.get(section)
        for index, entry in enumerate(entries if isinstance(entries, list) else ()):
            if isinstance(entry, dict):
                yield (section, index), entry

    def _add_entry(self, path: KeyPath, given: dict[str, Any], provider: str, entry: dict[str, Any]) -> None:
        where = self._document.where(path)
        values = {key: value for key, value in given.items() if key in KEYS and value is not None}
        missing = sorted({name for text in values.values() if isinstance(text, str) for name in self._missing(text)})
        if provider not in PROVIDERS:
            hint = did_you_mean(provider, PROVIDERS)
            self.warnings.append(f"{dotted(path)} is disabled: there is no provider '{provider[:64]}'{hint} ({where})")
            return
        if missing:
            reasons = ", ".join(unset(name) for name in missing)
            self.warnings.append(f"{dotted(path)} is disabled: {reasons} ({where})")
            return
        try:
            made = self._made(provider, {key: self._resolved(value) for key, value in values.items()})
            info = entry.get("model_info")
            self._keep(made, info.get("id") if isinstance(info, dict) else None)
            self.in_file.append(provider)
        except UnfitError as unfit:
            self.problems.append(Problem(dotted(path), str(unfit), where))

    def _add_variables(self, provider: str) -> None:
        needs, names = VARIABLES[provider]
        values = {key: value for key, found in names.items() if (value := self._first(found))}
        if needs not in values:
            return
        try:
            made = self._made(provider, values)
            if not (made.api_key or made.ad_token or (made.tenant_id and made.client_id and made.client_secret)):
                raise UnfitError("neither AZURE_API_KEY, AZURE_AD_TOKEN nor a tenant, client id and secret are set")
            self._keep(made, None)
        except UnfitError as unfit:
            self.warnings.append(f"the {provider.upper()}_* variables make no deployment: {unfit}")

    def _first(self, names: tuple[str, ...]) -> str:
        return next((self._environ[name] for name in names if self._environ.get(name)), "")

    def _missing(self, text: str) -> list[str]:
        return resolve(text, self._environ)[1]

    def _resolved(self, value: Any) -> Any:
        return resolve(value, self._environ)[0] if isinstance(value, str) else value

    def _made(self, provider: str, values: Mapping[str, Any]) -> Deployment:
        """Raises UnfitError, with the key in its text."""
        texts = {key: _read(str | None, key, values[key]) for key in _TEXTS if key in values}
        secrets = {key: _read(Secret, key, values[key]) for key in _SECRETS if key in values}
        secrets["ad_token"] = secrets.pop("azure_ad_token", None)
        if provider == OPENAI:
            base = _url(values.get("api_base", _OPENAI_BASE))
            return Deployment(name="", provider="openai", api_base=base, **_for_openai(texts, secrets))
        if "api_base" not in values:
            raise UnfitError("api_base: an Azure resource has no default; expected https://RESOURCE.openai.azure.com")
        base, v1 = _azure_base(_url(values["api_base"]))
        version = texts.pop("api_version", None) or ("v1" if v1 else _AZURE_VERSION)
        version = "v1" if v1 or version in _V1 else version
        return Deployment(name="", provider="azure", api_base=base, api_version=version, **texts, **secrets)

    def _keep(self, made: Deployment, name: object) -> None:
        if any(replace(made, name=known.name) == known for known in self._found):
            return
        taken = {known.name for known in self._found}
        if name is not None and (not isinstance(name, str) or not _NAME.fullmatch(name) or name in RESERVED | taken):
            raise UnfitError("model_info.id: expected a name that is no other's, of letters, digits, '.', '_' and '-'")
        count = 1 + sum(known.provider == made.provider for known in self._found)
        usual = made.provider if count == 1 else f"{made.provider}-{count}"
        self._found.append(replace(made, name=str(name or usual)))


def _for_openai(texts: Mapping[str, Any], secrets: Mapping[str, Any]) -> dict[str, Any]:
    return {
        "organization": texts.get("organization"),
        "project": texts.get("project"),
        "api_key": secrets.get("api_key"),
    }


def _read(hint: Any, key: str, value: object) -> Any:
    try:
        return parse(hint, value, hidden=True)
    except UnfitError as unfit:
        raise UnfitError(f"{key}: {unfit}") from None


def _url(value: object) -> str:
    return str(_read(Annotated[str, Form.HTTP_URL], "api_base", value)).rstrip("/")


def _azure_base(url: str) -> tuple[str, bool]:
    """The resource's endpoint, and whether the URL asks for the newer family; paths of the API are cut off."""
    path = urlsplit(url).path
    head, found, rest = path.partition("/openai")
    base = url.removesuffix(path) + head
    return (base, rest == "/v1") if found else (url, False)
