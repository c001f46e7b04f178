"""Model groups: entries of `model_list` with one `model_name`, over whose deployments batches are balanced.

LiteLLM's `enable_loadbalancing_on_batch_endpoints` makes them: an entry is then a member of a group, besides the
deployment that it makes anyway. Without it nothing of this is read.
"""

from collections.abc import Iterable, Iterator, Mapping, Sequence
from itertools import count
from typing import Annotated, Any, NamedTuple, get_type_hints

from batchyard.service.config.deployments import NAME, ModelEntry
from batchyard.service.config.entries import PARAMS
from batchyard.service.config.names import AZURE
from batchyard.service.config.parsing import UnfitError, begins_a_key, parse
from batchyard.service.config.settings import Deployment, Group, Member, Problem
from batchyard.service.config.sources import resolve, unset
from batchyard.service.config.types import TRILLION, Bounds
from batchyard.service.config.yaml_document import Document, KeyPath, dotted

FLAG = ("litellm_settings", "enable_loadbalancing_on_batch_endpoints")
_INFO = "model_info"
_BOUNDS = {"enqueued_tokens": "enqueued_tokens", "max_batch_lines": "max_lines", "max_batch_bytes": "max_bytes"}
_RATES = ("rpm", "tpm")
# The numbers of an entry: where they stand, and what they are called in a Member.
_NUMBERS: Mapping[str, Mapping[str, str]] = {
    PARAMS: {"order": "order", "weight": "weight", **{rate: rate for rate in _RATES}, **_BOUNDS},
    _INFO: _BOUNDS,
}
_HINTS = get_type_hints(Member, include_extras=True) | dict.fromkeys(_RATES, Annotated[int, Bounds(1, TRILLION)])
_AZURE_LINES = 100_000
_WITHOUT_MODE = (
    "no model_info.mode is given, so batches of the group go there, though LiteLLM takes it for chat; say mode: batch, "
    "or mode: chat to keep it out"
)
_WILDCARD = "a name with * stands for many models, and batches name one; give the model an entry of its own"
_NO_MODEL = "its model is a provider's name alone; batches need a model behind the slash"
KEYS: Mapping[str, set[str]] = {PARAMS: {*_NUMBERS[PARAMS]}, _INFO: {*_BOUNDS, "id", "mode", "base_model"}}
"""What counts of a member's entry, besides what its deployment is made of."""


class _Read(NamedTuple):
    """An entry that takes part, with the numbers that it has."""

    path: KeyPath
    deployment: Deployment
    model: str
    name: str | None
    numbers: Mapping[str, Any]


class ModelGroupReader:
    """All that are found, in the order of the file. `on` says whether the flag is set."""

    def __init__(self, document: Document, environ: Mapping[str, str], entries: Iterable[ModelEntry]) -> None:
        self.problems: list[Problem] = []
        self.warnings: list[Problem] = []
        self._document = document
        self._environ = environ
        self._names: dict[str, KeyPath] = {}
        self._without_mode: list[KeyPath] = []
        self.on = self._flag()
        read = self._by_name(entry for entry in entries if takes_part(entry.content)) if self.on else {}
        self._found = tuple(self._group(name, members) for name, members in read.items() if members)

    def all(self) -> tuple[Group, ...]:
        return self._found

    def _flag(self) -> bool:
        value = _section(self._document.data, FLAG[0]).get(FLAG[1])
        return value is not None and bool(self._parsed(FLAG, bool, value))

    def _by_name(self, entries: Iterable[ModelEntry]) -> dict[str, list[_Read]]:
        """What takes part, by the name of its group; a group of which nothing does is warned of."""
        found: dict[str, list[_Read]] = {}
        first: dict[str, KeyPath] = {}
        for entry in entries:
            if _is_wildcard(entry):
                self._warn(entry.path, f"{dotted(entry.path)} is in no group", _WILDCARD)
            elif not entry.model.strip() and _mode(entry.content) is None:  # LiteLLM's own example has one
                self._warn(entry.path, f"{dotted(entry.path)} is in no group", _NO_MODEL)
            elif name := self._parsed((*entry.path, "model_name"), str, entry.content.get("model_name")):
                first.setdefault(name, entry.path)
                found.setdefault(name, []).extend(self._read(entry))
        for name in (name for name, members in found.items() if not members):
            shown = "?" if begins_a_key(name) else name
            self._warn(first[name], f"there is no group '{shown}'", "all its entries are disabled")
        if self._without_mode:
            subject = ", ".join(map(dotted, self._without_mode))
            self._warn(self._without_mode[0], subject, _WITHOUT_MODE)
        if not found:
            self._warn(FLAG, dotted(FLAG), "no entry of model_list is for batches, so there are no groups")
        return found

    def _read(self, entry: ModelEntry) -> Iterator[_Read]:
        """Nothing of an entry that is disabled, or that misses a variable."""
        if entry.deployment is None:
            return
        if missing := {name for *_, value in _numbers(entry) for name in self._missing(value)}:
            self._warn(entry.path, f"{dotted(entry.path)} is in no group", ", ".join(map(unset, sorted(missing))))
            return
        if _mode(entry.content) is None:
            self._without_mode.append(entry.path)
        if not entry.model.strip():
            self._refuse((*entry.path, PARAMS, "model"), "expected a model's name after the provider's")
        yield _Read(entry.path, entry.deployment, entry.model, self._own_name(entry), self._parsed_numbers(entry))

    def _own_name(self, entry: ModelEntry) -> str | None:
        name, path = _section(entry.content, _INFO).get("id"), (*entry.path, _INFO, "id")
        if name is None:
            return None
        if not isinstance(name, str) or not NAME.fullmatch(name):
            self._refuse(path, "expected a name of up to 64 letters, digits, '.', '_' and '-'")
        elif name in self._names:
            self._refuse(path, f"is that of {dotted(self._names[name])} already")
        else:
            self._names[name] = entry.path
        return str(name)

    def _parsed_numbers(self, entry: ModelEntry) -> dict[str, Any]:
        found: dict[str, Any] = {}
        for path, field, value in _numbers(entry):
            number = self._parsed(path, _HINTS[field], value)
            if number is not None and found.setdefault(field, number) != number:
                self._refuse(path, f"differs from that of {dotted((*entry.path, PARAMS))}")
        return found

    def _group(self, name: str, members: Sequence[_Read]) -> Group:
        seen: dict[tuple[str, str], KeyPath] = {}
        for one in members:
            first = seen.setdefault((one.deployment.name, one.model), one.path)
            if first != one.path:
                self._refuse(one.path, f"is the deployment and the model of {dotted(first)} again")
        weights = _weights([one.numbers for one in members])
        return Group(name, tuple(map(self._member, members, weights)))

    def _member(self, read: _Read, weight: float) -> Member:
        """An entry as a member. One that names none is called after its deployment and model."""
        usual = f"{read.deployment.name}/{read.model}"
        names = (usual if number == 1 else f"{usual}-{number}" for number in count(1))
        name = read.name or next(name for name in names if name not in self._names)
        self._names.setdefault(name, read.path)
        usually = {"max_lines": _AZURE_LINES} if read.deployment.provider == AZURE else {}
        numbers = usually | {key: number for key, number in read.numbers.items() if key not in (*_RATES, "weight")}
        return Member(name=name, deployment=read.deployment.name, model=read.model, weight=weight, **numbers)

    def _parsed(self, path: KeyPath, hint: Any, value: Any) -> Any:
        """The value without references; None, and a problem, where it doesn't fit."""
        try:
            if missing := self._missing(value):
                raise UnfitError(unset(missing[0]))
            text = resolve(value, self._environ)[0] if isinstance(value, str) else value
            return parse(hint, text, hidden=text != value)
        except UnfitError as unfit:
            self._refuse(path, str(unfit))
            return None

    def _missing(self, value: Any) -> list[str]:
        return resolve(value, self._environ)[1] if isinstance(value, str) else []

    def _refuse(self, path: KeyPath, message: str) -> None:
        self.problems.append(Problem(dotted(path), message, self._document.where(path)))

    def _warn(self, path: KeyPath, subject: str, message: str) -> None:
        self.warnings.append(Problem(subject, message, self._document.where(path)))


def takes_part(content: Mapping[str, Any]) -> bool:
    """Whether an entry of `model_list` is one for batches, as it is where it doesn't say what it is for."""
    return _mode(content) in (None, "batch")


def _mode(content: Mapping[str, Any]) -> Any:
    return _section(content, _INFO).get("mode")


def _is_wildcard(entry: ModelEntry) -> bool:
    """Whether an entry stands for any model that fits: `openai/*`."""
    return "*" in entry.model or "*" in str(entry.content.get("model_name"))


def _section(content: Mapping[str, Any], name: str) -> Mapping[str, Any]:
    inside = content.get(name)
    return inside if isinstance(inside, dict) else {}


def _numbers(entry: ModelEntry) -> Iterator[tuple[KeyPath, str, Any]]:
    """The path of each number that an entry has, what a Member calls it, and its value."""
    for section, fields in _NUMBERS.items():
        for key, value in _section(entry.content, section).items():
            if key in fields and value is not None:
                yield (*entry.path, section, key), fields[key], value


def _weights(members: Sequence[Mapping[str, Any]]) -> list[float]:
    """As LiteLLM picks: by weight where any has one, else by the first rate that all have."""
    shared = [rate for rate in _RATES if all(rate in numbers for numbers in members)]
    key = shared[0] if shared and not any("weight" in numbers for numbers in members) else "weight"
    return [float(numbers.get(key, 1)) for numbers in members]
