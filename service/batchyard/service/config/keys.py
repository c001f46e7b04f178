"""`batchyard.keys` and `batchyard.tenants`: keys of tenants, and tenants with limits of their own, of the file."""

import re
from collections.abc import Collection, Iterator, Mapping
from datetime import UTC, datetime
from typing import Annotated, Any, get_type_hints

from batchyard.service.config.parsing import UnfitError, begins_a_key, parse
from batchyard.service.config.settings import Key, Problem, Quotas, Tenant
from batchyard.service.config.sources import BLOCK, KEYS, TENANTS, did_you_mean, resolve, unset
from batchyard.service.config.types import Bounds, Words
from batchyard.service.config.yaml_document import Document, KeyPath, dotted

_NAME = re.compile(r"[A-Za-z0-9._-]{1,64}")
_UNNAMED = "expected up to 64 letters, digits, '.', '_' and '-'"
_HINTS = get_type_hints(Key, include_extras=True) | dict.fromkeys(("providers", "model_groups"), Words)
_QUOTAS = get_type_hints(Quotas, include_extras=True)
_OF_TENANT = {"limits": Quotas}
_REQUIRED = ("name", "key", "tenant")
_MOST_TIME = 253_402_300_799  # the end of the year 9999
_TIME = "expected a time: 2030-01-31, 2030-01-31T12:00:00Z, or Unix seconds"


class _Configured:
    """What both have in common: entries of a file as values."""

    def __init__(self, document: Document, environ: Mapping[str, str]) -> None:
        self.problems: list[Problem] = []
        self._document = document
        self._environ = environ

    def _below(self, name: str) -> Any:
        block = self._document.data.get(BLOCK)
        return block.get(name) if isinstance(block, dict) else None

    def _values(self, path: KeyPath, hints: Mapping[str, Any], entry: Mapping[str, Any]) -> dict[str, Any]:
        found: dict[str, Any] = {}
        for name, value in entry.items():
            inner = (*path, name)
            try:
                if name not in hints:
                    raise UnfitError("unknown key" + did_you_mean(name, hints))
                if value is not None:
                    found[name] = self._value(inner, name, hints[name], value)
            except UnfitError as unfit:
                self._refuse(inner, str(unfit))
        return found

    def _value(self, path: KeyPath, name: str, hint: Any, value: Any) -> Any:
        if name == "limits":
            if not isinstance(value, dict):
                raise UnfitError("expected keys with values")
            return Quotas(**self._values(path, _QUOTAS, value))
        text, missing = resolve(value, self._environ) if isinstance(value, str) else (value, [])
        if missing:
            raise UnfitError(unset(missing[0]))
        if name == "expires_at":
            return _time(text)
        parsed = parse(hint, text, hidden=text != value)
        if name in ("name", "tenant") and not _NAME.fullmatch(str(parsed)):
            raise UnfitError(_UNNAMED)
        return parsed

    def _refuse(self, path: KeyPath, message: str) -> None:
        self.problems.append(self._problem(path, message))

    def _problem(self, path: KeyPath, message: str) -> Problem:
        return Problem(dotted(path), message, self._document.where(path))


class ConfiguredKeys(_Configured):
    """All that are found, in the order of the file."""

    def __init__(self, document: Document, environ: Mapping[str, str]) -> None:
        super().__init__(document, environ)
        self.warnings: list[Problem] = []
        self._found: list[tuple[KeyPath, Key]] = []
        self._taken: dict[tuple[str, str], KeyPath] = {}
        for path, entry in self._entries():
            known = len(self.problems)
            values = self._values(path, _HINTS, entry)
            for name in _REQUIRED:
                if name not in values and entry.get(name) is None:
                    self._refuse((*path, name), "is missing")
            if len(self.problems) == known:
                self._add(path, Key(**values))

    def all(self) -> tuple[Key, ...]:
        return tuple(key for _, key in self._found)

    def check(self, master_key: str | None, weak: str | None, places: Collection[str], groups: Collection[str]) -> None:
        """Finds a key that is the master's, or is `weak`, and warns of places and groups that there are not."""
        for path, key in self._found:
            if key.key == master_key:
                self._refuse((*path, "key"), "is the master key")
            elif key.key == weak:
                self._refuse((*path, "key"), f"is the well-known {weak}, and other machines reach this one")
            for field, known in (("providers", places), ("model_groups", groups)):
                for name in getattr(key, field):
                    if name not in known:
                        shown = "?" if begins_a_key(name) else name
                        self.warnings.append(self._problem((*path, field), f"'{shown}' is not configured"))

    def _entries(self) -> Iterator[tuple[KeyPath, dict[str, Any]]]:
        entries = self._below(KEYS)
        if entries is not None and not isinstance(entries, list):
            self._refuse((BLOCK, KEYS), "expected a list (- name: ...)")
        for index, entry in enumerate(entries if isinstance(entries, list) else ()):
            path = (BLOCK, KEYS, index)
            if isinstance(entry, dict):
                yield path, entry
            else:
                self._refuse(path, "expected keys with values")

    def _add(self, path: KeyPath, key: Key) -> None:
        for field in ("name", "key"):
            first = self._taken.setdefault((field, getattr(key, field)), path)
            if first != path:
                self._refuse((*path, field), f"is that of {dotted(first)} already")
        self._found.append((path, key))


class ConfiguredTenants(_Configured):
    """All that are found, in the order of the file."""

    def __init__(self, document: Document, environ: Mapping[str, str]) -> None:
        super().__init__(document, environ)
        self._found: list[Tenant] = []
        entries = self._below(TENANTS)
        if entries is not None and not isinstance(entries, dict):
            self._refuse((BLOCK, TENANTS), "expected tenants' names with values")
        for name, entry in (entries if isinstance(entries, dict) else {}).items():
            path = (BLOCK, TENANTS, name)
            if not _NAME.fullmatch(str(name)):
                self._refuse(path, _UNNAMED)
            elif entry is not None and not isinstance(entry, dict):
                self._refuse(path, "expected keys with values")
            else:
                self._found.append(Tenant(name=str(name), **self._values(path, _OF_TENANT, entry or {})))

    def all(self) -> tuple[Tenant, ...]:
        return tuple(self._found)


def _time(value: Any) -> int:
    try:
        if isinstance(value, str) and not value.isdecimal():
            time = datetime.fromisoformat(value)
            return int((time if time.tzinfo else time.replace(tzinfo=UTC)).timestamp())
        return int(str(parse(Annotated[int, Bounds(1, _MOST_TIME)], value)))
    except (ValueError, OverflowError, UnfitError):
        raise UnfitError(_TIME) from None
