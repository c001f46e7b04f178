"""Configurations of any make: each loads or is refused, shows no secret, and uses no account that it doesn't name."""

import dataclasses
import json
import re
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

from hypothesis import given
from hypothesis import strategies as st

from batchyard.cli import report
from batchyard.service.config.loader import load_settings
from batchyard.service.config.settings import Deployment, Problem, Settings, SettingsError
from batchyard.service.config.sources import keys, variable

from .inputs import bounded, mutated

SECRET = "sk-hunter2-0123456789abcdef"
MOST_TOLD = 100_000  # characters of all that is told about one configuration
GOOD = [
    f"""\
general_settings: {{master_key: {SECRET}}}
files_settings:
- custom_llm_provider: azure
  api_base: https://east.openai.azure.com
  api_key: {SECRET}
  model_info: {{id: east}}
batchyard:
  default_provider: azure
  limits: {{max_file_bytes: 1000, max_batches_per_hour: 5}}
  keys: [{{name: one, key: {SECRET}-2, tenant: t, providers: [east], expires_at: 2030-01-31}}]
  tenants: {{t: {{limits: {{lines_per_day: 5}}}}}}
""",
    f"""\
credential_list:
- credential_name: shared
  credential_values: &values {{api_key: {SECRET}, api_base: 'https://ours.example/v1'}}
model_list:
- &first
  model_name: batch-gpt
  litellm_params: {{model: openai/gpt, litellm_credential_name: shared, rpm: 5}}
  model_info: {{mode: batch, id: one, enqueued_tokens: 5}}
- model_name: batch-gpt
  litellm_params: {{<<: *values, model: openai/other, base_url: os.environ/OURS, weight: 2}}
- {{<<: *first, model_name: 'openai/*', model_info: {{mode: chat}}}}
litellm_settings: {{enable_loadbalancing_on_batch_endpoints: true}}
""",
    "".join(json.dumps({"batchyard": {"local": {"api_base": "http://h/v1", "api_key": SECRET}, "port": 4000}})),
]
FILES = mutated(st.sampled_from([text.encode() for text in GOOD]), 6)
ENVIRON = {
    "OPENAI_API_KEY": f"{SECRET}-openai",
    "AZURE_API_BASE": "https://theirs.openai.azure.com",
    "AZURE_API_KEY": f"{SECRET}-azure",
    "OURS": "https://ours.example/v1",
}
LOCATED = re.compile(r"config\.yaml|^[A-Z_]+|^batchyard\.|^general_settings\.|^the settings$")
TEXTS = st.one_of(
    st.sampled_from(
        ["", "1", "true", "-1", "1e309", "nan", "9" * 400, "9" * 5_000, "a,b,,c", "[" * 2_000, "http://[", "~x/y"]
    ),
    st.sampled_from(
        ['{"a": ' * 500, '["a"]', "os.environ/OURS", "oidc/x", "\udcff", "\u0130", "http://h:99999/v1", "17:30"]
    ),
    st.text(st.characters(exclude_characters="\0"), max_size=12),
)


def load(folder: Path, content: bytes, environ: Mapping[str, str]) -> Settings | None:
    """The settings, or None where they are refused. What is told of either is located, not long and shows no secret."""
    path = folder / "config.yaml"
    path.write_bytes(content)
    found, told = None, ""
    problems: tuple[Problem, ...] = ()
    try:
        found = load_settings(path, environ)
        told = "\n".join(found.warnings)
    except SettingsError as error:
        told, problems = str(error), error.problems
    assert found or problems
    for problem in problems:
        place = problem.where or problem.subject
        assert LOCATED.search(place), problem
    assert SECRET not in told
    assert len(told) < MOST_TOLD
    if found:
        assert report.settings(found)
        assert SECRET not in repr(found) + report.settings(found) or SECRET in "\n".join(shown(found))
    return found


def shown(found: Settings) -> Iterator[str]:
    """What is shown by design, wherever it comes from."""
    for group in found.model_groups:
        yield from (group.name, *(f"{member.name} {member.model}" for member in group.members))
    yield from (f"{one.name} {one.organization} {one.project} {one.client_id}" for one in found.deployments)
    yield from (f"{key.name} {key.tenant} {key.providers} {key.model_groups}" for key in found.keys)
    yield from (str(value) for value in dataclasses.astuple(found) if isinstance(value, str | Path))
    yield str((found.tls, found.local and found.local.models, found.upstream.azure_blob_prefixes))


@bounded(300)
@given(content=FILES, more=st.dictionaries(st.sampled_from(sorted(ENVIRON)), TEXTS, max_size=2))
def test_any_file_loads_or_is_refused(tmp_path: Path, content: bytes, more: dict[str, str]) -> None:
    load(tmp_path, content, ENVIRON | more)


@bounded(300)
@given(
    values=st.dictionaries(st.sampled_from(sorted(map(variable, keys()))), TEXTS, max_size=4), name=st.text(max_size=8)
)
def test_any_variables_load_or_are_refused(tmp_path: Path, values: dict[str, str], name: str) -> None:
    load(tmp_path, b"batchyard: {local: {echo: true}}", {**ENVIRON, **values, f"BATCHYARD_{name}": "x"})


@bounded(100)
@given(path=st.sampled_from(sorted(keys())), before=st.sampled_from(["", " ", "x", "\n"]))
def test_a_secret_in_the_place_of_any_value_shows_nowhere(tmp_path: Path, path: tuple[str, ...], before: str) -> None:
    load(tmp_path, b"batchyard: {local: {echo: true}}", {variable(path): before + SECRET})


ADDRESS, KEY = "https://mine.example/v1", "mine-key"
VALUES = {
    "api_base": ADDRESS,
    "base_url": ADDRESS,
    "azure_endpoint": ADDRESS,
    "api_key": KEY,
    "organization": "mine-org",
    "project": "mine-project",
    "azure_ad_token": "mine-token",
    "tenant_id": "mine-tenant",
    "client_id": "mine-client",
    "client_secret": "mine-secret",
    "azure_scope": "mine-scope",
    "azure_username": "mine-user",
    "azure_password": "mine-password",
    "azure_deployment": "mine-deployment",
    "vertex_project": "mine-vertex",
    "extra_headers": {"x-account": "mine-header"},
    "region_name": "mine-region",
    "gateway": "mine-gateway",
}
EVERYWHERE = set(VALUES) - {"extra_headers", "region_name", "gateway"}  # words of an account wherever they stand
OWN = {
    "openai": ["api_base", "base_url", "api_key", "api_key", "organization", "project"],
    "azure": ["api_base", "base_url", "azure_endpoint", "api_key", "azure_ad_token", "client_id", "azure_scope"],
}
PLACES = ("params", "params", "params", "credential", "beside", "info", "nested", "top")


@st.composite
def misspelt(draw: st.DrawFn, word: str) -> str:
    """The word, or another spelling that is one edit away."""
    at = draw(st.integers(0, len(word) - 1))
    other = draw(st.sampled_from("aeioxyz_-. A"))
    return draw(
        st.sampled_from(
            [
                word,
                word,
                word.upper(),
                word.replace("_", "-"),
                word.replace("_", ""),
                word[:at] + word[at + 1 :],
                word[:at] + other + word[at:],
                word[:at] + word[at : at + 2][::-1] + word[at + 2 :],
            ]
        )
    )


@st.composite
def entries(draw: st.DrawFn) -> tuple[dict[str, Any], dict[str, Any]]:
    """A file whose one account is called `mine`, and what it says of it, by the key that says it."""
    provider, section = (
        draw(st.sampled_from(["openai", "azure"])),
        draw(st.sampled_from(["model_list", "files_settings"])),
    )
    params: dict[str, Any] = {"rpm": 5} if draw(st.booleans()) else {}
    info: dict[str, Any] = {"id": "mine"}
    beside, nested, top, credential = (dict[str, Any]() for _ in range(4))
    places = {"params": params, "beside": beside, "info": info, "nested": nested, "top": top, "credential": credential}
    said: dict[str, Any] = {}
    for word in draw(st.lists(st.sampled_from(OWN[provider]), max_size=3, unique=True)):
        places[draw(st.sampled_from(["params", "params", "credential"]))][word] = said[word] = VALUES[word]
    for word in draw(st.lists(st.sampled_from(sorted(VALUES)), max_size=2, unique=True)):
        place = draw(st.sampled_from(PLACES if word in EVERYWHERE else PLACES[:4]))
        key = draw(misspelt(word))
        places[place][key] = said[key] = VALUES[word]
    if nested:
        params["metadata"] = nested
    if credential:
        params["litellm_credential_name"] = "shared"
        top["credential_list"] = [{"credential_name": "shared", "credential_values": credential}]
    if section == "model_list":
        entry = {
            "model_name": "m",
            "litellm_params": {"model": f"{provider}/m", **params},
            "model_info": info,
            **beside,
        }
    else:
        entry = {"custom_llm_provider": provider, **params, "model_info": info, **beside}
    return {section: [entry], "batchyard": {"local": {"echo": True}, "default_provider": "local"}, **top}, said


@bounded(500)
@given(made=entries())
def test_an_account_that_is_used_is_the_one_that_was_named(
    tmp_path: Path, made: tuple[dict[str, Any], dict[str, Any]]
) -> None:
    content, said = made
    found = load(tmp_path, json.dumps(content).encode(), ENVIRON)
    mine = [one for one in found.deployments if one.name == "mine"] if found else []
    for one in mine:
        known = values(one)
        used = {key: value for key, value in said.items() if not isinstance(value, str) or value not in known}
        assert not used or set(used) <= outranked(said), (one, said)
        if ADDRESS in said.values():
            assert (
                one.api_base == ADDRESS.removesuffix("/v1" if one.provider == "azure" else "")
                or one.api_base == ADDRESS
            )
        if "api_key" in said:
            assert one.api_key == KEY


def values(one: Deployment) -> set[Any]:
    return {getattr(one, name) for name in one.__slots__}


def outranked(said: Mapping[str, Any]) -> set[str]:
    """What a key makes needless, a token of an identity, and any key of the tokens' scope."""
    identity = {"tenant_id", "client_id", "client_secret", "azure_scope"}
    if "api_key" in said:
        return {*identity, "azure_ad_token"}
    return identity if "azure_ad_token" in said else {"azure_scope"}
