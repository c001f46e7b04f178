"""YAML with positions: every key knows its line, keys that are written twice are errors.

PyYAML alone keeps the last of two equal keys and forgets where a value stood. Dates stay text, as LiteLLM's
`api_version: 2024-10-21` means one.
"""

import re
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, TypeAlias

import yaml

from batchyard.service.settings import Problem, SettingsError

KeyPath: TypeAlias = tuple[str | int, ...]
_MERGE = "tag:yaml.org,2002:merge"
_PLAIN = {f"tag:yaml.org,2002:{name}" for name in ("null", "bool", "int", "float", "str")}
_KEPT_AS_TEXT = "tag:yaml.org,2002:timestamp"


def dotted(path: Sequence[str | int]) -> str:
    """`("model_list", 0, "model_name")` as people write it: `model_list[0].model_name`."""
    return "".join(f"[{key}]" if isinstance(key, int) else f".{key}" for key in path).removeprefix(".")


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
    """Reads `path`. Raises SettingsError where it can't be read, isn't YAML or isn't a mapping."""
    try:
        text = path.read_bytes().decode("utf-8-sig")
    except OSError as error:
        raise SettingsError([Problem(str(path), f"can't be read: {error.strerror}")]) from None
    except UnicodeDecodeError as error:
        raise SettingsError([Problem(str(path), f"isn't UTF-8, at byte {error.start}")]) from None
    return parse(text, str(path))


def parse(text: str, name: str) -> Document:
    """Like `read`, for the text of a file called `name`."""
    document = Document(name)
    try:
        loader = yaml.SafeLoader(text)
        try:
            root = loader.get_single_node()
            document.data = _Builder(loader, document).top(root)
        finally:
            loader.dispose()
    except yaml.MarkedYAMLError as error:
        raise SettingsError([_syntax(name, error)]) from None
    except yaml.YAMLError:
        raise SettingsError([Problem(name, "holds a character that YAML doesn't allow")]) from None
    except RecursionError:
        raise SettingsError([Problem(name, "is nested too deeply")]) from None
    return document


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
        self._open.add(id(node))
        try:
            return self._of_kind(node, path)
        finally:
            self._open.discard(id(node))

    def _of_kind(self, node: yaml.Node, path: KeyPath) -> Any:
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
            if key_node.tag == _MERGE:
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
        where = f"{self._document.name} line {node.start_mark.line + 1}"
        self._document.problems.append(Problem(dotted(path) or "the top level", message, where))
