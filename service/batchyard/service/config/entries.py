"""What an entry of `files_settings` or `model_list` says of its account: what is read of it, and what is not."""

from collections.abc import Callable, Iterable, Iterator, Mapping
from typing import Any, NamedTuple

from batchyard.service.config.account_words import (
    CREDENTIAL,
    OF_OTHERS,
    READ,
    SYNONYMS,
    could_be_one,
    is_harmless,
    is_litellms,
    is_reference,
    near,
    within,
)
from batchyard.service.config.settings import Problem
from batchyard.service.config.sources import did_you_mean
from batchyard.service.config.yaml_document import Document, KeyPath, dotted

PARAMS = "litellm_params"
CREDENTIAL_LIST = "credential_list"
_NAME, _VALUES = "credential_name", "credential_values"
_KIND = ("credential_info", "custom_llm_provider")  # what LiteLLM's UI writes down of a credential
_UNREAD = "could choose another address, account or identity, and is not read"
_INSTEAD = "say it by api_base, api_key and the other keys of an account, or remove it"
_MOST_NAMED = 3


class Account(NamedTuple):
    """What an entry says of its account.

    `values` are those of the words that are read, in LiteLLM's own word where there are several; `faults` what is
    written wrongly, by its place; `unread` why the entry can't be used though it may be right for LiteLLM; `meant_for`
    the provider of its credential, in lower case.
    """

    values: dict[str, Any]
    faults: list[tuple[KeyPath, str]]
    unread: list[tuple[KeyPath, str]]
    meant_for: str = ""


class Credentials:
    """The entries of `credential_list`, which others refer to by name; the first of a name counts, as with LiteLLM."""

    def __init__(self, document: Document) -> None:
        self.problems: list[Problem] = []
        self._document = document
        self._found: dict[str, tuple[KeyPath, Mapping[str, Any]]] = {}
        entries = document.data.get(CREDENTIAL_LIST)
        if entries is not None and not isinstance(entries, list):
            self._refuse((CREDENTIAL_LIST,), "expected a list (- credential_name: ...)")
        for index, entry in enumerate(entries if isinstance(entries, list) else ()):
            self._add((CREDENTIAL_LIST, index), entry)

    def find(self, name: object) -> tuple[KeyPath, Mapping[str, Any]] | None:
        """A credential's values, and where they stand."""
        return self._found.get(name) if isinstance(name, str) else None

    def meant_for(self, name: str) -> str:
        """The provider that a credential says that it is of, in lower case; empty where it says none."""
        info = self._document.data[CREDENTIAL_LIST][self._found[name][0][1]].get(_KIND[0])
        kind = info.get(_KIND[1]) if isinstance(info, dict) else None
        return kind.lower() if isinstance(kind, str) else ""

    def near(self, name: str) -> str:
        """`; did you mean X?` where a credential has nearly that name."""
        return did_you_mean(name, self._found)

    def _add(self, path: KeyPath, entry: Any) -> None:
        name = entry.get(_NAME) if isinstance(entry, dict) else None
        values = entry.get(_VALUES) if isinstance(entry, dict) else None
        if not isinstance(name, str) or not isinstance(values, dict):
            self._refuse(path, f"expected {_NAME}, a text, and {_VALUES}, keys with values")
            return
        for inner, word in within({key: value for key, value in entry.items() if key != _VALUES}):
            if inner != _KIND:
                self._refuse((*path, *inner), f"{word} belongs in {_VALUES}")
        if name in self._found:
            self._refuse((*path, _NAME), f"is that of {dotted(self._found[name][0][:2])} already")
        self._found.setdefault(name, ((*path, _VALUES), values))

    def _refuse(self, path: KeyPath, message: str) -> None:
        self.problems.append(Problem(dotted(path), message, self._document.where(path)))


def read_account(
    path: KeyPath, params: Mapping[str, Any], credentials: Credentials, resolved: Callable[[Any], Any]
) -> Account:
    """Reads the keys at `path`, and those of the credential that they name; `resolved` replaces references."""
    given = {key: value for key, value in params.items() if value is not None}
    account = Account({}, [], [])
    places = {key: (*path, key) for key in given}
    _judge(account, path, given, resolved)
    if CREDENTIAL in given:
        name = resolved(given[CREDENTIAL])
        found = credentials.find(name)
        if found is None:
            hint = credentials.near(name) if isinstance(name, str) else ""
            account.unread.append(((*path, CREDENTIAL), f"names no entry of {CREDENTIAL_LIST}{hint}"))
        else:
            account = account._replace(meant_for=credentials.meant_for(name))
            inner, values = found
            more = {key: value for key, value in values.items() if value is not None and key not in given}
            _judge(account, inner, more, resolved)
            given |= more
            places |= {key: (*inner, key) for key in more}
    _collect(account, given, places, resolved)
    return account


def foreign(provider: str, account: Account, path: KeyPath) -> Iterator[tuple[KeyPath, str]]:
    """Words that the provider has no use for, or that say half of an identity."""
    for key in OF_OTHERS.get(provider, ()):
        if key in account.values:
            yield (*path, key), f"means nothing to {provider}; is another custom_llm_provider meant?"
    if account.meant_for in OF_OTHERS and provider in OF_OTHERS and account.meant_for != provider:
        yield (*path, CREDENTIAL), f"names a credential of {account.meant_for}, and the entry is of {provider}"
    alone = "tenant_id" in account.values and not {"api_key", "azure_ad_token", "client_secret"} & set(account.values)
    if provider == "azure" and alone:
        yield (*path, "tenant_id"), "needs client_id and client_secret beside it"


def outside(path: KeyPath, entry: Mapping[str, Any]) -> Iterator[tuple[KeyPath, str]]:
    """Words of an account in an entry of `model_list` that stand beside or below where they belong."""
    beside = {key: value for key, value in entry.items() if key != PARAMS}
    for inner, word in within(beside):
        yield (*path, *inner), f"{word} belongs in {PARAMS}"
    for key, value in beside.items():
        if not is_harmless(key) and near(key) is None and (is_litellms(key) or could_be_one(value)):
            yield (*path, key), f"{_UNREAD}; what chooses an account belongs in {PARAMS}"


def named(places: Iterable[tuple[KeyPath, str]], path: KeyPath) -> str:
    """Why an entry can't be used, in a line: at most three of the places, relative to the entry's."""
    found = [(_relative(place, path), message) for place, message in places]
    told = "; ".join(f"{name} {message}" for name, message in found[:_MOST_NAMED])
    return told + (f"; and {len(found) - _MOST_NAMED} more" if len(found) > _MOST_NAMED else "")


def _relative(place: KeyPath, path: KeyPath) -> str:
    return dotted(place[len(path) :] if place[: len(path)] == path else place)


def _judge(account: Account, path: KeyPath, given: Mapping[str, Any], resolved: Callable[[Any], Any]) -> None:
    for key, value in given.items():
        place = (*path, key)
        if key in READ:
            if is_reference(resolved(value)):
                account.unread.append((place, "is a reference (oidc/) that is not read; give the token or key itself"))
            elif isinstance(value, list):  # LiteLLM makes an entry of each organization
                account.unread.append((place, "is a list, which is not read; make an entry for each"))
        elif is_harmless(key):
            account.faults.extend(((*place, *inner), f"{word} belongs one level up") for inner, word in within(value))
        elif is_litellms(key):
            account.unread.append((place, f"{_UNREAD}; {_INSTEAD}"))
        elif word := near(key):
            account.faults.append((place, f"unknown key; did you mean {word}?"))
        elif nested := list(within(value)):
            account.faults.extend(((*place, *inner), f"{word} belongs one level up") for inner, word in nested)
        else:
            account.unread.append((place, f"is unknown: it {_UNREAD}; {_INSTEAD}"))


def _collect(
    account: Account, given: Mapping[str, Any], places: Mapping[str, KeyPath], resolved: Callable[[Any], Any]
) -> None:
    """Puts the values together; two words for one thing must say the same."""
    for key in [key for key in given if key in READ or key == "model"]:
        word = SYNONYMS.get(key, key)
        first = account.values.setdefault(word, given[key])
        if _same(resolved(first)) != _same(resolved(given[key])):
            account.faults.append((places[key], f"differs from the other word for {word}; give one of them"))
        if key == "azure_endpoint":
            account.values[key] = given[key]
    account.values.pop(CREDENTIAL, None)


def _same(value: Any) -> Any:
    return value.rstrip("/") if isinstance(value, str) else value
