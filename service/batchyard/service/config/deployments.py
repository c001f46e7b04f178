"""Deployments of other providers: entries of `files_settings` and `model_list`, and OpenAI's and Azure's variables.

What a file says wrongly is a problem. Variables may be meant for other programs: a set of them that makes no
deployment is left out, with a warning. The same account, found twice, is one deployment.
"""

import re
from collections.abc import Callable, Iterator, Mapping
from dataclasses import replace
from itertools import count
from typing import Annotated, Any, NamedTuple
from urllib.parse import urlsplit

from batchyard.service.config.account_words import CREDENTIALS, IDENTITY, is_reference
from batchyard.service.config.entries import PARAMS, Account, Credentials, foreign, named, outside, read_account
from batchyard.service.config.names import AZURE, OPENAI, PROVIDERS, RESERVED
from batchyard.service.config.parsing import UnfitError, may_be_secret, parse
from batchyard.service.config.settings import Deployment, Problem
from batchyard.service.config.sources import did_you_mean, resolve, unset
from batchyard.service.config.types import Secret, TextFormat
from batchyard.service.config.yaml_document import Document, KeyPath, dotted

_OPENAI_BASE = "https://api.openai.com/v1"
_AZURE_VERSION = "2025-04-01-preview"  # the last one; facts 5.1
_V1 = {"v1", "latest", "preview"}  # LiteLLM's words for Azure's newer URLs
_AZURE_PATH = re.compile(
    r"(.*?)(?:/openai/?|/openai/((?:v1|deployments|files|batches|models|responses|chat|embeddings|completions)(?:/.*)?))?"
)
_MEANT_REFERENCE = re.compile(r"\$\{?\w+\}?|\{\{.*\}\}|(os\.)?(environ|getenv)\W.*", re.IGNORECASE)
_OPENAI_MODEL = re.compile(
    r"(gpt-|o\d|text-embedding-|omni-moderation-|ft:)[^/]*"
)  # LiteLLM takes these without openai/
_USER = ("AZURE_USERNAME", "AZURE_PASSWORD")
_NEAR_VARIABLE = 0.9
NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]{0,63}")


class Variables(NamedTuple):
    """A provider's variables, by key; of several the first that is set counts.

    Without the key that it `needs` there is no deployment, which those who set one that `hints` at it are told.
    """

    needs: str
    hints: tuple[str, ...]
    names: Mapping[str, tuple[str, ...]]


VARIABLES = {
    OPENAI: Variables(
        "api_key",
        ("api_base",),
        {
            "api_key": ("OPENAI_API_KEY",),
            "api_base": ("OPENAI_BASE_URL", "OPENAI_API_BASE"),
            "organization": ("OPENAI_ORGANIZATION", "OPENAI_ORG_ID"),
            "project": ("OPENAI_PROJECT", "OPENAI_PROJECT_ID"),
        },
    ),
    AZURE: Variables(
        "api_base",
        ("api_key", "azure_ad_token"),
        {
            "api_key": ("AZURE_OPENAI_API_KEY", "AZURE_API_KEY"),
            "api_base": ("AZURE_API_BASE", "AZURE_OPENAI_ENDPOINT"),
            "api_version": ("AZURE_API_VERSION", "OPENAI_API_VERSION"),
            "azure_ad_token": ("AZURE_AD_TOKEN", "AZURE_OPENAI_AD_TOKEN"),
            "tenant_id": ("AZURE_TENANT_ID",),
            "client_id": ("AZURE_CLIENT_ID",),
            "client_secret": ("AZURE_CLIENT_SECRET",),
            "azure_scope": ("AZURE_SCOPE",),
        },
    ),
}

Values = Mapping[str, Any]


class ModelEntry(NamedTuple):
    """An entry of `model_list`: its deployment, which another entry may have made, and what that calls the model.

    One that is disabled or wrong has no deployment.
    """

    path: KeyPath
    content: Values
    deployment: Deployment | None
    model: str


class Deployments:
    """All that are found, in the order in which they are chosen: `files_settings`, variables, `model_list`.

    `is_own` says whether a URL is this very server's, which would call itself.
    """

    def __init__(self, document: Document, environ: Mapping[str, str], is_own: Callable[[str], bool]) -> None:
        self.problems: list[Problem] = []
        self.warnings: list[Problem] = []
        self.in_file: list[str] = []
        self.models: list[ModelEntry] = []
        self._document = document
        self._environ = environ
        self._is_own = is_own
        self._found: list[Deployment] = []
        self._accounts: dict[Deployment, Deployment] = {}
        self._credentials = Credentials(document)
        self.problems += self._credentials.problems
        for path, entry in self._entries("files_settings"):
            account = read_account(path, entry, self._credentials, self._resolved)
            self._add_entry(path, account, self._resolved(account.values.get("custom_llm_provider")), entry)
        for provider in PROVIDERS:
            self._add_variables(provider)
        for path, entry in self._entries("model_list"):
            given = entry.get(PARAMS)
            if isinstance(given, dict) and isinstance(given.get("model"), str):
                self._add_model(path, given, entry)

    def all(self) -> tuple[Deployment, ...]:
        return tuple(self._found)

    def _entries(self, section: str) -> Iterator[tuple[KeyPath, dict[str, Any]]]:
        entries = self._document.data.get(section)
        for index, entry in enumerate(entries if isinstance(entries, list) else ()):
            if isinstance(entry, dict):
                yield (section, index), entry

    def _add_model(self, path: KeyPath, given: Values, entry: Values) -> None:
        inner = (*path, PARAMS)
        account = read_account(inner, given, self._credentials, self._resolved)
        account.faults.extend(outside(path, entry))
        model = str(self._resolved(given["model"]))
        said, of_model = self._resolved(account.values.get("custom_llm_provider")), _provider_of(model)
        provider = said or of_model
        if provider != of_model and {provider, of_model} <= {*PROVIDERS} and "api_base" not in account.values:
            differs = f"differs from that of the model, {of_model}; give one of them, or api_base"
            account.faults.append(((*inner, "custom_llm_provider"), differs))
        kept = self._add_entry(inner, account, provider, entry)
        self.models.append(ModelEntry(path, entry, kept, model.removeprefix(f"{provider}/")))

    def _add_entry(self, path: KeyPath, account: Account, provider: object, entry: Values) -> Deployment | None:
        values, known = account.values, isinstance(provider, str) and provider in PROVIDERS
        if (known or not provider) and self._is_refused(path, account, str(provider) if known else ""):
            return None
        reason = named(account.unread, path[:2]) if known else ""
        if reason := reason or self._disabled(provider, values):
            place = path[:2]  # the entry as a whole
            self.warnings.append(Problem(f"{dotted(place)} is disabled", reason, self._document.where(place)))
            return None
        name, info = str(provider), entry.get("model_info")
        try:
            made = self._made(name, self._completed(name, values))
            kept = self._keep(made, info.get("id") if isinstance(info, dict) else None)
        except UnfitError as unfit:
            self.problems.append(Problem(dotted(path), str(unfit), self._document.where(path)))
            return None
        self.in_file.append(name)
        return kept

    def _is_refused(self, path: KeyPath, account: Account, provider: str) -> bool:
        """Whether an entry is written wrongly. One of `files_settings`, where uploads go, is not left out either."""
        faults = [*account.faults, *foreign(provider, account, path)]
        faults += account.unread if provider and path[0] == "files_settings" else []
        self.problems += [Problem(dotted(place), text, self._document.where(place)) for place, text in faults]
        return bool(faults)

    def _disabled(self, provider: object, values: Values) -> str:
        """Why an entry makes no deployment though nothing is wrong with it; empty where it does."""
        texts = [value for value in values.values() if isinstance(value, str)]
        missing = {name for text in texts for name in resolve(text, self._environ)[1]}
        if isinstance(provider, str) and provider in PROVIDERS:
            needs, _, names = VARIABLES[provider]
            if not missing and _means_variables(provider, values):
                if misspelt := self._misspelt(provider):
                    return misspelt
                if needs not in self._completed(provider, values):
                    missing = {names[needs][0]}
        elif isinstance(provider, str) and provider:
            shown = "such a provider" if may_be_secret(provider) else f"provider '{provider[:64]}'"
            return f"there is no {shown}{did_you_mean(provider, PROVIDERS)}"
        elif not missing:
            return f"it names no provider; expected one of {', '.join(PROVIDERS)}"
        return ", ".join(map(unset, sorted(missing)))

    def _completed(self, provider: str, values: Values) -> Values:
        """An entry's values without references, and what it takes of the variables."""
        resolved = {key: self._resolved(value) for key, value in values.items()}
        own = self._variables(provider)
        if not _means_variables(provider, values):
            return {key: value for key, value in own.items() if key == "azure_scope"} | resolved
        if any(key in values for key in CREDENTIALS):
            own = {key: value for key, value in own.items() if key not in CREDENTIALS}
        return own | resolved

    def _add_variables(self, provider: str) -> None:
        needs, hints, names = VARIABLES[provider]
        values = self._variables(provider)
        subject = f"the {provider.upper()}_* variables make no deployment"
        if needs not in values:
            if any(key in values for key in hints):
                self.warnings.append(Problem(subject, unset(names[needs][0])))
            return
        try:
            if unread := self._misspelt(provider) or self._unread_identity(provider, values):
                raise UnfitError(unread)
            made = self._made(provider, values)
            if not (made.api_key or made.ad_token or made.client_secret):
                raise UnfitError("neither AZURE_API_KEY, AZURE_AD_TOKEN nor a tenant, client id and secret are set")
            self._keep(made, None)
        except UnfitError as unfit:
            self.warnings.append(Problem(subject, str(unfit)))

    def _misspelt(self, provider: str) -> str:
        """What is wrong with a variable whose name is nearly one for the address; empty where there is none."""
        known = VARIABLES[provider].names
        addresses, others = known["api_base"], {name for names in known.values() for name in names}
        for name in sorted(self._environ):
            unread = name not in others and name.startswith(f"{provider.upper()}_") and self._environ[name]
            if unread and (hint := did_you_mean(name, addresses, _NEAR_VARIABLE)):
                return f"the variable {name} is not read{hint}"
        return ""

    def _unread_identity(self, provider: str, values: Values) -> str:
        """What is wrong with variables of a user's identity, which LiteLLM takes before that of an application."""
        given = all(map(self._environ.get, _USER))
        if provider != AZURE or not given or {"api_key", "azure_ad_token"} & set(values):
            return ""
        return f"{' and '.join(_USER)} choose an identity that is not read"

    def _variables(self, provider: str) -> dict[str, str]:
        found = {key: map(self._environ.get, names) for key, names in VARIABLES[provider].names.items()}
        return {key: value for key, values in found.items() if (value := next(filter(None, values), None))}

    def _resolved(self, value: Any) -> Any:
        return resolve(value, self._environ)[0] if isinstance(value, str) else value

    def _made(self, provider: str, values: Values) -> Deployment:
        """Raises UnfitError, with the key in its text."""
        url = _read(Annotated[str, TextFormat.HTTP_URL], "api_base", values.get("api_base", _OPENAI_BASE)).rstrip("/")
        if self._is_own(url):
            raise UnfitError("api_base: is this very server, which would call itself")
        if provider == OPENAI:
            read = _some(values, "api_key", "organization", "project")
            return Deployment(name="", provider="openai", api_base=url, **read)
        base, v1 = _azure_base(url)
        version = _some(values, "api_version").get("api_version") or _AZURE_VERSION
        version = "v1" if v1 or version in _V1 else version
        return Deployment(name="", provider="azure", api_base=base, api_version=version, **_credential(values))

    def _keep(self, made: Deployment, name: object) -> Deployment:
        """What is kept of an account: the deployment that was found first."""
        account = replace(made, api_version="")
        if account in self._accounts:
            return self._accounts[account]
        taken = {known.name for known in self._found}
        number = 1 + sum(known.provider == made.provider for known in self._found)
        first = {made.provider} if number == 1 else set()
        if name is None:
            usual = first or (f"{made.provider}-{more}" for more in count(number))
            name = next(free for free in usual if free not in taken)
        elif not isinstance(name, str) or not NAME.fullmatch(name) or name in RESERVED | taken | {*PROVIDERS} - first:
            raise UnfitError(
                "model_info.id: expected a name that nothing else has, of up to 64 letters, digits, '.', '_' and '-'"
            )
        self._found.append(replace(made, name=str(name)))
        self._accounts[account] = self._found[-1]
        return self._found[-1]


def _means_variables(provider: str, values: Values) -> bool:
    """Whether an entry's account is that of the variables. An OpenAI key alone is for OpenAI's own address."""
    return not ("api_base" in values or (provider == OPENAI and "api_key" in values))


def _provider_of(model: str) -> str:
    """The provider that LiteLLM takes a model for; empty where its name doesn't say."""
    provider, slash, _ = model.partition("/")
    return provider if slash else OPENAI if _OPENAI_MODEL.fullmatch(model) else ""


def _read(hint: Any, key: str, value: object) -> Any:
    try:
        return parse(hint, value, hidden=True)
    except UnfitError as unfit:
        raise UnfitError(f"{key}: {unfit}") from None


def _some(values: Values, *keys: str) -> dict[str, Any]:
    """Those of the keys that are there; all of them travel in headers or in a URL. Raises UnfitError."""
    found = {key: _read(Secret, key, values[key]) for key in keys if key in values}
    for key, value in found.items():
        if is_reference(value):
            raise UnfitError(f"{key}: is a reference (oidc/) that is not read; give the token or key itself")
        if _MEANT_REFERENCE.fullmatch(value):
            raise UnfitError(f"{key}: looks like a reference to a variable; those are written os.environ/NAME")
    return found


def _credential(values: Values) -> dict[str, Any]:
    """A key counts before a token, and that before an identity; nothing: the machine's own."""
    if "api_key" in values:
        return _some(values, "api_key")
    if "azure_ad_token" in values:
        return {"ad_token": _some(values, "azure_ad_token")["azure_ad_token"]}
    found = _some(values, *IDENTITY)
    if "client_secret" in found and len(found) < len(IDENTITY):
        raise UnfitError("client_secret: needs tenant_id and client_id beside it")
    return {**found, "scope": _some(values, "azure_scope").get("azure_scope")}


def _azure_base(url: str) -> tuple[str, bool]:
    """The resource's endpoint, and whether the URL asks for the newer family; paths of the API are cut off."""
    path = urlsplit(url).path
    found = _AZURE_PATH.fullmatch(path)
    head, rest = found.groups() if found else (path, None)
    return url.removesuffix(path) + head, f"{rest}/".startswith("v1/")
