"""Where settings come from: the file's `batchyard:` block, BATCHYARD_* variables, the command line; merged by key.

A key path of this module is the one below `batchyard`: ("local", "api_base") is `batchyard.local.api_base` in the file
and BATCHYARD_LOCAL__API_BASE in the environment.
"""

import difflib
import re
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass, replace
from functools import cache
from typing import Any, TypeAlias, get_type_hints

from batchyard.service.config.settings import (
    GroupSettings,
    Limits,
    LocalSettings,
    Problem,
    Quotas,
    RetentionSettings,
    Settings,
    Tls,
    UpstreamSettings,
)
from batchyard.service.config.yaml_document import Document, dotted

Path: TypeAlias = tuple[str, ...]
BLOCK = "batchyard"
PREFIX = "BATCHYARD_"
MASTER_KEY = ("master_key",)
SECTIONS: Mapping[str, type] = {
    "local": LocalSettings,
    "groups": GroupSettings,
    "upstream": UpstreamSettings,
    "limits": Limits,
    "tenant_limits": Quotas,
    "retention": RetentionSettings,
    "tls": Tls,
}
KEYS, TENANTS = "keys", "tenants"
_APART = (KEYS, TENANTS)  # what `configured` reads
_LOADED = {"deployments", "model_groups", *_APART, "warnings"}  # what the loader itself makes
_LONGEST = 64  # characters of a word that is worth comparing
_TESTS = "BATCHYARD_TEST_"
_CALLERS_KEY = "BATCHYARD_API_KEY"  # the commands that call a service read it
_FLAGS = {"service_address": "--service"}
REFERENCE = re.compile(r"os\.environ/((?<=\Aos\.environ/)[\w.-]+\Z|\w*)")  # a whole value is any name, as with LiteLLM


@dataclass(frozen=True, slots=True)
class Found:
    """A value as it was written, and where; `hidden` values are never shown."""

    value: Any
    where: str
    hidden: bool = False


Layer: TypeAlias = dict[Path, Found]


@cache
def keys() -> Mapping[Path, Any]:
    """Every key path with its annotated type."""
    hints: dict[Path, Any] = {}
    for name, hint in get_type_hints(Settings, include_extras=True).items():
        if name in SECTIONS:
            inner = get_type_hints(SECTIONS[name], include_extras=True)
            hints |= {(name, key): kind for key, kind in inner.items()}
        elif name not in _LOADED:
            hints[(name,)] = hint
    return hints


def variable(path: Path) -> str:
    """The variable of a key path: BATCHYARD_LOCAL__API_BASE."""
    return PREFIX + "__".join(path).upper()


def key_name(path: Path) -> str:
    """The key path as it stands in the file. The master key stands where LiteLLM has it."""
    return dotted(("general_settings" if path == MASTER_KEY else BLOCK, *path))


def did_you_mean(word: str, known: Iterable[str], cutoff: float = 0.7) -> str:
    """`; did you mean X?`, or nothing where no known word is so near, of 1."""
    near = difflib.get_close_matches(word, list(known), 1, cutoff) if len(word) <= _LONGEST else []
    return f"; did you mean {near[0]}?" if near else ""


def from_file(document: Document, problems: list[Problem]) -> tuple[Layer, set[str]]:
    """The `batchyard:` block and the sections it opens; a key without a value counts as absent."""
    layer: Layer = {}
    sections: set[str] = set()
    for path, value in _spread(document.data.get(BLOCK)):
        if path and path[0] in _APART:
            continue
        where = document.where((BLOCK, *path))
        if message := _refusal(path, value):
            problems.append(Problem(dotted((BLOCK, *path)), message, where))
        elif isinstance(value, dict) and len(path) == 1 and path[0] in SECTIONS:
            sections.add(path[0])
        elif value is not None:
            layer[path] = Found(value, where)
    return layer, sections


def _spread(block: Any) -> Iterator[tuple[Path, Any]]:
    """Each key of the block, and each key below a section."""
    if block is not None and not isinstance(block, dict):
        yield (), block
        return
    for key, value in (block or {}).items():
        yield (key,), value
        if key in SECTIONS and isinstance(value, dict):
            yield from (((key, inner), below) for inner, below in value.items())


def _refusal(path: Path, value: Any) -> str | None:
    """Why nothing can stand at `path`, or not this kind of value."""
    known = keys()
    if not path or path in {(section,) for section in SECTIONS}:
        return None if value is None or isinstance(value, dict) else "expected keys with values"
    if path == MASTER_KEY:
        return "unknown key; set general_settings.master_key instead"
    if path in known:
        return None
    siblings = [other[-1] for other in known if other[:-1] == path[:-1]]
    return "unknown key" + did_you_mean(path[-1], [*siblings, *([*SECTIONS, *_APART] if len(path) == 1 else ())])


def from_variables(environ: Mapping[str, str], problems: list[Problem]) -> Layer:
    """BATCHYARD_* variables; an empty one counts as not set, an unknown one is a problem."""
    layer: Layer = {}
    known = {variable(path): path for path in keys()}
    for name in sorted(environ):
        if not name.startswith(PREFIX) or name.startswith(_TESTS) or name == _CALLERS_KEY:
            continue
        if name not in known:
            problems.append(Problem(name, "unknown variable" + did_you_mean(name, known)))
        elif environ[name]:
            layer[known[name]] = Found(environ[name], name)
    return layer


def from_options(options: Mapping[str, object]) -> Layer:
    """The command line's options, by the name of their key; None is an option that wasn't given."""
    given = {name: value for name, value in options.items() if value is not None}
    return {(name,): Found(value, _FLAGS.get(name, "--" + name.replace("_", "-"))) for name, value in given.items()}


def resolve(text: str, environ: Mapping[str, str]) -> tuple[str, list[str]]:
    """`text` with each os.environ/NAME replaced, and the names that are not set (or empty)."""
    missing = [name for name in REFERENCE.findall(text) if not environ.get(name)]
    return REFERENCE.sub(lambda match: environ.get(match[1], ""), text), missing


def resolved(path: Path, found: Found, environ: Mapping[str, str], problems: list[Problem]) -> Found | None:
    """`found` without references, and hidden if it had one; None and a problem where a variable is missing."""
    if not isinstance(found.value, str) or not REFERENCE.search(found.value):
        return found
    text, missing = resolve(found.value, environ)
    problems += [Problem(key_name(path), unset(name), found.where) for name in missing]
    return None if missing else replace(found, value=text, hidden=True)


def unset(name: str) -> str:
    """What is wrong with a reference to the variable `name`."""
    return f"the variable {name} is not set" if name else "os.environ/ names no variable"
