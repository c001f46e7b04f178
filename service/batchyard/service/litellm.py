"""The parts of the file that are LiteLLM's: which of its keys count here, and a word about those that don't."""

from collections.abc import Iterator, Mapping
from typing import Any

from batchyard.service import deployments, groups
from batchyard.service.layers import BLOCK, KEYS, MASTER_KEY, SECTIONS, Found, Layer, did_you_mean, keys
from batchyard.service.settings import Problem
from batchyard.service.yamlfile import Document, KeyPath, dotted

_GENERAL = "general_settings"
_ENTRIES = ("model_list", "files_settings")
_SECTIONS = (_GENERAL, "litellm_settings", "router_settings")
_SINGLE = {(_GENERAL, "master_key"), groups.FLAG}
_NOTES = {"general_settings.database_url": "LiteLLM's own database; Batchyard's is batchyard.database_url"}
_ID = {"model_info": {"id"}}
# Keys that people who lost their file's indentation have at its top level.
_HOMES = {
    "an entry of model_list": ("model_name", "litellm_params", "model_info"),
    "litellm_params": ("model", "api_key", "api_base", "api_version"),
    "model_info": ("mode", "base_model"),
    groups.FLAG[0]: (groups.FLAG[1],),
    "an entry of files_settings": ("custom_llm_provider",),
    _GENERAL: ("master_key", "database_url"),
}


def master_key(document: Document) -> Layer:
    """`general_settings.master_key`, if the file has it."""
    general = document.data.get(_GENERAL)
    value = general.get("master_key") if isinstance(general, dict) else None
    if value is None:
        return {}
    return {MASTER_KEY: Found(value, document.where((_GENERAL, "master_key")))}


def shape(document: Document) -> list[Problem]:
    """What is wrong with the file's outline: lost indentation, sections and entries of the wrong kind."""
    return [*_misplaced(document)] or [*_wrong_sections(document), *_wrong_entries(document)]


def _misplaced(document: Document) -> Iterator[Problem]:
    ours = {path[0] for path in keys()} - {"database_url", "master_key"} | {*SECTIONS, KEYS}
    homes = {key: home for home, inside in _HOMES.items() for key in inside} | dict.fromkeys(ours, BLOCK)
    lost = [key for key in document.data if key in homes]
    if lost:
        places = "; ".join(f"{key} belongs in {homes[key]}" for key in lost)
        message = f"not at the top level: {places}. Did the file lose its indentation?"
        yield Problem(", ".join(lost), message, document.where((lost[0],)))


def _wrong_sections(document: Document) -> Iterator[Problem]:
    for section in _SECTIONS:
        value = document.data.get(section)
        if value is not None and not isinstance(value, dict):
            yield Problem(section, "expected keys with values", document.where((section,)))


def _wrong_entries(document: Document) -> Iterator[Problem]:
    for section in _ENTRIES:
        value = document.data.get(section)
        if value is not None and not isinstance(value, list):
            yield Problem(section, "expected a list (- key: value)", document.where((section,)))
    for path, entry in _entries(document):
        if not isinstance(entry, dict):
            yield Problem(dotted(path), "expected keys with values", document.where(path))
        elif path[0] == "model_list":
            yield from _wrong_model(document, path, entry)


def _wrong_model(document: Document, path: KeyPath, entry: dict[str, Any]) -> Iterator[Problem]:
    if not isinstance(entry.get("model_name"), str):
        yield Problem(dotted((*path, "model_name")), "expected a text", document.where((*path, "model_name")))
    params = entry.get("litellm_params")
    if not isinstance(params, dict) or not isinstance(params.get("model"), str):
        inner = (*path, "litellm_params", "model")
        yield Problem(dotted(inner), "expected a text, such as azure/my-deployment", document.where(inner))


def warnings(document: Document, *, grouped: bool) -> Iterator[str]:
    """One warning that names every key that isn't used; `grouped` says whether model groups are made."""
    names = [_annotated(path) for path in _unused(document, grouped)]
    if names:
        yield f"keys that are not used: {', '.join(names)} ({document.name})"


def _entries(document: Document) -> Iterator[tuple[KeyPath, Any]]:
    for section in _ENTRIES:
        entries = document.data.get(section)
        if isinstance(entries, list):
            yield from (((section, index), entry) for index, entry in enumerate(entries))


def _unused(document: Document, grouped: bool) -> Iterator[KeyPath]:
    """Every key that nothing reads; a section of which nothing is read stands for its keys."""
    for key, value in document.data.items():
        if key in _SECTIONS and isinstance(value, dict):
            yield from ((key, inner) for inner in value if (key, inner) not in _SINGLE)
        elif key not in (BLOCK, *_ENTRIES) and value is not None:
            yield (key,)
    for path, entry in _entries(document):
        read, inside = (
            (deployments.KEYS, _ID) if path[0] == "files_settings" else ({"model_name"}, _inside(entry, grouped))
        )
        yield from (path + inner for inner in _unused_of(entry, read, inside))


def _inside(entry: dict[str, Any], grouped: bool) -> Mapping[str, set[str]]:
    """What is read in the sections of an entry of `model_list`."""
    alone = _ID | {"litellm_params": deployments.KEYS | {"model"}}
    if not grouped:
        return alone
    if not groups.takes_part(entry):
        return alone | {"model_info": {"id", "mode"}}
    return {section: known | groups.KEYS[section] for section, known in alone.items()}


def _unused_of(entry: dict[str, Any], read: set[str], inside: Mapping[str, set[str]]) -> Iterator[KeyPath]:
    for key, value in entry.items():
        if key in inside and isinstance(value, dict):
            yield from ((key, inner) for inner in value if inner not in inside[key])
        elif key not in read:
            yield (key,)


def _annotated(path: KeyPath) -> str:
    name = dotted(path)
    if name in _NOTES:
        return f"{name} ({_NOTES[name]})"
    if path[0] in (*_SECTIONS, *_ENTRIES) and path[0] != _GENERAL:
        return name
    hint = did_you_mean(str(path[-1]), [BLOCK, *_SECTIONS, *_ENTRIES] if len(path) == 1 else ["master_key"])
    return name + (f" ({hint.removeprefix('; ')})" if hint else "")
