"""YAML with positions: every key knows its line, keys that are written twice are errors.

PyYAML alone keeps the last of two equal keys and forgets where a value stood. Dates stay text, as LiteLLM's
`api_version: 2024-10-21` means one, and so do numbers to base 60, which are meant as times (`17:30`).

What a file may cost is bounded: its bytes, how deep it is nested, and its values, with those that aliases repeat.
"""

import re
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, TypeAlias

import yaml

from batchyard.service.config.parsing import begins_a_key
from batchyard.service.config.settings import Problem, SettingsError

KeyPath: TypeAlias = tuple[str | int, ...]
_MERGE = "tag:yaml.org,2002:merge"
_PLAIN = {f"tag:yaml.org,2002:{name}" for name in ("null", "bool", "int", "float", "str")}
_NUMBERS = {f"tag:yaml.org,2002:{name}" for name in ("int", "float")}
_COLLECTIONS: dict[type[yaml.Node], str] = {
    yaml.MappingNode: "tag:yaml.org,2002:map",
    yaml.SequenceNode: "tag:yaml.org,2002:seq",
}
_KEPT_AS_TEXT = "tag:yaml.org,2002:timestamp"
_MOST_BYTES = 1 << 20
_MOST_VALUES = 50_000
_MOST_DEPTH = 64
_MOST_PROBLEMS = 100
_LONGEST_NAME = 64
_MOST_WITH_DIGITS = 5  # characters of a word in a name that has digits
_NAMES_OF_OURS = ("tenants",)  # below these a key is a name that somebody gave


def dotted(path: Sequence[str | int]) -> str:
    """`("model_list", 0, "model_name")` as people write it: `model_list[0].model_name`.

    A key that may be a part of a secret, as where the space behind a colon is missing, is `?`.
    """
    parts = (f"[{key}]" if isinstance(key, int) else f".{_told(key, path[:at])}" for at, key in enumerate(path))
    return "".join(parts).removeprefix(".")


def _told(key: str, above: Sequence[str | int]) -> str:
    named = above and above[-1] in _NAMES_OF_OURS and re.fullmatch(r"[A-Za-z0-9. _-]{1,64}", key)
    return key if (named or _is_name(key)) and not begins_a_key(key) else "?"


def _is_name(key: str) -> bool:
    """Whether a key is made of words, as names of settings are: `api_base`, `s3_callback_params`."""
    words = re.split("[_.-]", key) if len(key) <= _LONGEST_NAME and key.isascii() else [""]
    plain = (not word or word.isalpha() or (word.isalnum() and len(word) <= _MOST_WITH_DIGITS) for word in words)
    return any(words) and all(plain)


@dataclass(slots=True)
class Document:
    """A file's mapping, the line of each key path, and what is wrong with the text itself."""

    name: str
    data: dict[str, Any] = field(default_factory=dict)
    lines: dict[KeyPath, int] = field(default_factory=dict)
    problems: list[Problem] = field(default_factory=list)

    def where(self, path: KeyPath) -> str:
        """Where `path` stands, or the nearest key above it: `config.yaml line 12`."""
        while path and path not in self.lines:
            path = path[:-1]
        return f"{self.name} line {self.lines[path]}" if path else self.name


def read(path: Path) -> Document:
    """Reads `path`. Raises SettingsError where it can't be read, isn't YAML, isn't a mapping or is beyond a bound."""
    try:
        with path.open("rb") as file:
            content = file.read(_MOST_BYTES + 1)
        text = content.decode("utf-8-sig")
    except OSError as error:
        raise SettingsError([Problem(str(path), f"can't be read: {error.strerror}")]) from None
    except UnicodeDecodeError as error:
        raise SettingsError([Problem(str(path), f"isn't UTF-8, at byte {error.start}")]) from None
    return parse(text, str(path))


def parse(text: str, name: str) -> Document:
    """Like `read`, for the text of a file called `name`."""
    document = Document(name)
    if len(text) > _MOST_BYTES:
        raise SettingsError([Problem(name, f"is larger than {_MOST_BYTES} bytes")])
    try:
        _check_bounds(text, name)
        loader = yaml.SafeLoader(text)
        try:
            root = loader.get_single_node()
            document.data = _Builder(loader, document).top(root)
        finally:
            loader.dispose()
    except yaml.MarkedYAMLError as error:
        raise SettingsError([_syntax(name, error)]) from None
    except yaml.reader.ReaderError as error:
        line = text.count("\n", 0, error.position) + 1
        raise SettingsError(
            [Problem(name, "holds a character that YAML doesn't allow", f"{name} line {line}")]
        ) from None
    return document


def _check_bounds(text: str, name: str) -> None:
    """Looks through the text before anything is built of it. Raises SettingsError and YAMLError."""
    depth = values = 0
    for event in yaml.parse(text, Loader=yaml.SafeLoader):
        if isinstance(event, yaml.CollectionEndEvent):
            depth -= 1
        elif isinstance(event, yaml.NodeEvent):
            depth += isinstance(event, yaml.CollectionStartEvent)
            values += 1
            if depth > _MOST_DEPTH:
                raise _beyond(name, f"is nested too deeply: more than {_MOST_DEPTH} levels", event)
            if values > _MOST_VALUES:
                raise _beyond(name, f"has more than {_MOST_VALUES} values", event)


def _beyond(name: str, message: str, at: yaml.NodeEvent | yaml.Node) -> SettingsError:
    where = f"{name} line {at.start_mark.line + 1}" if at.start_mark else name
    return SettingsError([Problem(name, message, where)])


def _syntax(name: str, error: yaml.MarkedYAMLError) -> Problem:
    mark = error.problem_mark or error.context_mark
    where = f"{name} line {mark.line + 1}, column {mark.column + 1}" if mark else name
    # PyYAML quotes words of the file, which may be a part of a secret; <names> of its tokens are its own.
    said = re.sub(r"'(?!<|\\.')[^']{2,}'", "'...'", error.problem or error.context or "can't be read")
    return Problem("not valid YAML", f"{said}; check the indentation and the quotes", where)


class _Builder:
    """Turns nodes into plain values."""

    def __init__(self, loader: yaml.SafeLoader, document: Document) -> None:
        self._loader = loader
        self._document = document
        self._open: set[int] = set()
        self._values = 0

    def top(self, root: yaml.Node | None) -> dict[str, Any]:
        value = None if root is None else self._value(root, ())
        if value is None:
            return {}
        if not isinstance(value, dict):
            raise SettingsError([Problem(self._document.name, "expected keys with values at the top level")])
        return value

    def _value(self, node: yaml.Node, path: KeyPath) -> Any:
        if id(node) in self._open:
            self._refuse(path, node, "an alias that contains itself")
            return None
        self._values += 1
        if self._values > _MOST_VALUES:
            raise _beyond(self._document.name, f"has more than {_MOST_VALUES} values, with those of aliases", node)
        self._open.add(id(node))
        try:
            return self._of_kind(node, path)
        finally:
            self._open.discard(id(node))

    def _of_kind(self, node: yaml.Node, path: KeyPath) -> Any:
        if node.tag != _COLLECTIONS.get(type(node), node.tag):
            self._refuse(path, node, "has a YAML tag that isn't supported")
            return None
        if isinstance(node, yaml.MappingNode):
            return self._mapping(node, path)
        if isinstance(node, yaml.SequenceNode):
            return [self._item(item, (*path, index)) for index, item in enumerate(node.value)]
        if node.tag in _PLAIN:
            return self._scalar(node, path)
        if node.tag != _KEPT_AS_TEXT:
            self._refuse(path, node, "has a YAML tag that isn't supported")
        return node.value

    def _scalar(self, node: yaml.Node, path: KeyPath) -> Any:
        if node.tag in _NUMBERS and ":" in node.value:
            return node.value
        try:
            return self._loader.construct_object(node)
        except (ValueError, LookupError, OverflowError):
            self._refuse(path, node, "has a value that doesn't fit its YAML tag")
            return None

    def _item(self, node: yaml.Node, path: KeyPath) -> Any:
        self._document.lines[path] = node.start_mark.line + 1
        return self._value(node, path)

    def _mapping(self, node: yaml.MappingNode, path: KeyPath) -> dict[str, Any]:
        own: dict[str, Any] = {}
        merged: dict[str, Any] = {}
        for key_node, value_node in node.value:
            if key_node.tag == _MERGE and isinstance(key_node, yaml.ScalarNode):
                merged.update(self._merged(value_node, path))
            elif not isinstance(key_node, yaml.ScalarNode):
                self._refuse(path, key_node, "has a key that isn't a word")
            elif key_node.value in own:
                self._refuse((*path, key_node.value), key_node, "is written twice")
            else:
                self._document.lines[(*path, key_node.value)] = key_node.start_mark.line + 1
                own[key_node.value] = self._value(value_node, (*path, key_node.value))
        return merged | own

    def _merged(self, node: yaml.Node, path: KeyPath) -> dict[str, Any]:
        """The value of `<<`: a mapping, or a list of them of which the first wins."""
        value = self._value(node, path)
        result: dict[str, Any] = {}
        for mapping in reversed(value if isinstance(value, list) else [value]):
            if isinstance(mapping, dict):
                result.update(mapping)
            else:
                self._refuse(path, node, "merges (<<) something that isn't a mapping")
        return result

    def _refuse(self, path: KeyPath, node: yaml.Node, message: str) -> None:
        if len(self._document.problems) >= _MOST_PROBLEMS:
            return
        where = f"{self._document.name} line {node.start_mark.line + 1}"
        self._document.problems.append(Problem(dotted(path) or "the top level", message, where))
