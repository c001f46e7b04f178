"""The parts of the file that are LiteLLM's: which of its keys count here, and a word about those that don't."""

import re
from collections.abc import Iterator, Mapping
from typing import Any

from batchyard.service.config import model_groups
from batchyard.service.config.account_words import READ, is_litellms, near, within
from batchyard.service.config.deployments import VARIABLES
from batchyard.service.config.entries import CREDENTIAL_LIST, PARAMS
from batchyard.service.config.settings import Problem
from batchyard.service.config.sources import (
    BLOCK,
    KEYS,
    MASTER_KEY,
    REFERENCE,
    SECTIONS,
    Found,
    Layer,
    did_you_mean,
    keys,
)
from batchyard.service.config.yaml_document import Document, KeyPath, dotted

_GENERAL = "general_settings"
_ENTRIES = ("model_list", "files_settings")
_LISTS = (*_ENTRIES, CREDENTIAL_LIST)
_OTHER_SECTIONS = {"finetune_settings", "assistant_settings", "callback_settings", "team_settings"}
_ENVIRONMENT = "environment_variables"
_OF_PROVIDERS = re.compile(r"(OPENAI|AZURE)_\w+")
_LIBRARY_KEYS = ("openai_key", "azure_key", "headers", "use_litellm_proxy")  # what LiteLLM's module takes for all calls
_SECTIONS = (_GENERAL, "litellm_settings", "router_settings")
_SINGLE = {(_GENERAL, "master_key"), model_groups.FLAG}
_NOTES = {"general_settings.database_url": "LiteLLM's own database; Batchyard's is batchyard.database_url"}
_ID = {"model_info": {"id"}}
_DEFAULTS = "default_litellm_params"
_FOR_ALL = (
    "is not read, and LiteLLM would use it for all entries; say it in the entries of files_settings and model_list"
)
_MOST_ENTRIES = 2_000
_MOST_NAMED = 100
# Keys that people who lost their file's indentation have at its top level.
_HOMES = {
    "an entry of model_list": ("model_name", "litellm_params", "model_info"),
    "litellm_params": ("model", "api_key", "api_base", "api_version"),
    "model_info": ("mode", "base_model"),
    model_groups.FLAG[0]: (model_groups.FLAG[1],),
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
    wrong = [*_wrong_sections(document), *_wrong_entries(document), *_accounts_elsewhere(document)]
    return [*_misplaced(document)] or wrong


def _misplaced(document: Document) -> Iterator[Problem]:
    ours = {path[0] for path in keys()} - {"database_url", "master_key"} | {*SECTIONS, KEYS}
    homes = {key: home for home, inside in _HOMES.items() for key in inside} | dict.fromkeys(ours, BLOCK)
    known = {BLOCK, *_LISTS, *_SECTIONS, *_OTHER_SECTIONS, _ENVIRONMENT}
    homes |= {key: f"{PARAMS} (as {word})" for key in document.data if (word := _account_word(key, {*homes, *known}))}
    lost = [key for key in document.data if key in homes]
    if lost:
        places = "; ".join(f"{key} belongs in {homes[key]}" for key in lost)
        message = f"not at the top level: {places}. Did the file lose its indentation?"
        yield Problem(", ".join(lost), message, document.where((lost[0],)))


def _account_word(key: str, known: set[str]) -> str | None:
    return None if key in known else near(key)


def _accounts_elsewhere(document: Document) -> Iterator[Problem]:
    """Sections by which LiteLLM chooses addresses, accounts and identities, and that are not read."""
    for path, message in _elsewhere(document.data):
        yield Problem(dotted(path), message, document.where(path))


def _elsewhere(data: Mapping[str, Any]) -> Iterator[tuple[KeyPath, str]]:
    for section in _SECTIONS:
        inside = data.get(section)
        for key, value in inside.items() if isinstance(inside, dict) else ():
            if key in _LISTS and value is not None:
                yield (section, key), "belongs at the top level"
            elif value not in (None, False) and (
                _is_ours(near(key)) or (section == "litellm_settings" and key in _LIBRARY_KEYS)
            ):
                yield (section, key), _FOR_ALL
            elif key == _DEFAULTS and isinstance(value, dict):
                yield from (((section, key, *inner), _FOR_ALL) for inner in _words_below(value))
    if data.get("include") is not None:
        yield ("include",), "other files are not read; put what they have into this one"
    yield from _set_variables(data)
    for key in data:
        if key not in {BLOCK, *_LISTS, *_SECTIONS, *_OTHER_SECTIONS} and (
            hint := did_you_mean(key.casefold().replace("-", "_"), _LISTS, 0.83)
        ):
            yield (key,), f"unknown section{hint}"


def _words_below(value: Any) -> Iterator[KeyPath]:
    """The paths of words in default parameters that choose the account of an entry here."""
    named = [inner for inner, word in within(value) if _is_ours(word)]
    unread = [(key,) for key, inner in value.items() if inner not in (None, False) and is_litellms(key)]
    yield from dict.fromkeys([*named, *(path for path in unread if _is_ours(path[0]))])


def _is_ours(word: str | None) -> bool:
    """Whether a word is of the providers that there are here."""
    return word is not None and not word.startswith(("aws_", "vertex_", "gcs_", "s3_", "watsonx_", "databricks_"))


def _set_variables(data: Mapping[str, Any]) -> Iterator[tuple[KeyPath, str]]:
    """Variables that LiteLLM would set from the file, and that say something of a provider or of an entry."""
    named = {name for variables in VARIABLES.values() for names in variables.names.values() for name in names}
    named |= {name for section in _LISTS for name in _references(data.get(section))}
    inside = data.get(_ENVIRONMENT)
    for name, value in inside.items() if isinstance(inside, dict) else ():
        if value is not None and (name in named or _OF_PROVIDERS.fullmatch(name)):
            yield (_ENVIRONMENT, name), "variables are not set from the file; set it where Batchyard is started"


def _references(value: Any) -> Iterator[str]:
    """The names of the variables that a value refers to, however deep."""
    if isinstance(value, dict | list):
        for inner in value.values() if isinstance(value, dict) else value:
            yield from _references(inner)
    elif isinstance(value, str):
        yield from REFERENCE.findall(value)


def _wrong_sections(document: Document) -> Iterator[Problem]:
    for section in _SECTIONS:
        value = document.data.get(section)
        if value is not None and not isinstance(value, dict):
            yield Problem(section, "expected keys with values", document.where((section,)))


def _wrong_entries(document: Document) -> Iterator[Problem]:
    for section in _ENTRIES:
        value = document.data.get(section)
        if isinstance(value, list) and len(value) > _MOST_ENTRIES:
            yield Problem(section, f"has more than {_MOST_ENTRIES} entries", document.where((section,)))
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
    paths = list(_unused(document, grouped))
    names = [_annotated(path) for path in paths[:_MOST_NAMED]]
    more = f" and {len(paths) - len(names)} more" if len(paths) > len(names) else ""
    if names:
        yield f"keys that are not used: {', '.join(names)}{more} ({document.name})"


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
        elif key not in (BLOCK, *_LISTS) and value is not None:
            yield (key,)
    for path, entry in _entries(document):
        read, inside = (READ, _ID) if path[0] == "files_settings" else ({"model_name"}, _inside(entry, grouped))
        yield from (path + inner for inner in _unused_of(entry, read, inside))


def _inside(entry: dict[str, Any], grouped: bool) -> Mapping[str, set[str]]:
    """What is read in the sections of an entry of `model_list`."""
    alone = _ID | {PARAMS: READ | {"model"}}
    if not grouped:
        return alone
    if not model_groups.takes_part(entry):
        return alone | {"model_info": {"id", "mode"}}
    return {section: known | model_groups.KEYS[section] for section, known in alone.items()}


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
