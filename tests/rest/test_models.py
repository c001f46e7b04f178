"""A model group named in a header, in the query, in a form or in a body, as LiteLLM's callers name one."""

from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import httpx
import pytest
from grpc import StatusCode
from tests.groups.scene import GROUP, lines_of, settings_of
from tests.harness import jsonl, refused
from tests.upstream.openai import fake_openai

from batchyard.service.config.settings import LocalSettings
from batchyard.v1 import GetFileRequest, ListFilesRequest

from .conftest import FORM, Door, Part, batch_request, form, opened, refusal

CONTENT = jsonl(lines_of(2))
FILE = ("file", CONTENT, "in.jsonl")
PURPOSE = ("purpose", "batch")
HEADER = "x-litellm-model"
WAYS: dict[str, dict[str, Any]] = {
    HEADER: {"headers": {HEADER: GROUP}},
    "model": {"params": {"model": GROUP}},
    "target_model_names": {"params": {"target_model_names": f" {GROUP} ,{GROUP}"}},
}
"""How a request names the group, by what a refusal calls it."""


@pytest.fixture
async def yard(tmp_path: Path) -> AsyncIterator[Door]:
    """A front door whose default is `local`, with a model group beside it."""
    async with fake_openai() as fake:
        settings = settings_of([("openai", fake)]) | {"local": LocalSettings(echo=True), "default_provider": "local"}
        async with opened(tmp_path, **settings) as door:
            yield door


def moon(way: dict[str, Any]) -> dict[str, Any]:
    """The same way to name what is no group."""
    return {kind: dict.fromkeys(names, "moon") for kind, names in way.items()}


async def posted(door: Door, *parts: Part, **more: Any) -> httpx.Response:
    headers = FORM | more.pop("headers", {})
    return await door.rest.post("/v1/files", content=form(*parts), headers=headers, **more)


async def provider_of(door: Door, answer: httpx.Response) -> str:
    assert answer.status_code == 200, answer.text
    request = GetFileRequest(file_id=answer.json()["id"])
    return str((await door.grpc.stub.GetFile(request, metadata=door.grpc.metadata)).file.provider)


@pytest.mark.parametrize("way", WAYS)
async def test_an_upload_goes_to_the_groups(yard: Door, way: str) -> None:
    assert await provider_of(yard, await posted(yard, PURPOSE, FILE)) == "local"
    assert await provider_of(yard, await posted(yard, PURPOSE, FILE, **WAYS[way])) == "groups"


@pytest.mark.parametrize("name", ["model", "target_model_names", "target_model_names[]"])
async def test_an_uploads_form_may_name_it_too(yard: Door, name: str) -> None:
    assert await provider_of(yard, await posted(yard, PURPOSE, (name, GROUP), FILE)) == "groups"
    error = refusal(await posted(yard, PURPOSE, (name, "moon"), FILE), 400)
    assert (error["param"], error["code"]) == (name.removesuffix("[]"), "model_not_found")
    late = refusal(await posted(yard, PURPOSE, FILE, (name, GROUP)), 400)
    assert "after the file" in late["message"]
    assert await provider_of(yard, await posted(yard, PURPOSE, FILE, (name, GROUP), **WAYS["model"])) == "groups"
    twice = [(name, GROUP), ("target_model_names", GROUP)]
    assert await provider_of(yard, await posted(yard, PURPOSE, *twice, FILE)) == "groups"


@pytest.mark.parametrize("way", WAYS)
async def test_every_route_honours_it(yard: Door, way: str) -> None:
    here = (await posted(yard, PURPOSE, FILE, **WAYS[way])).json()["id"]
    elsewhere = (await yard.upload(CONTENT))["id"]
    rest, named = yard.rest, WAYS[way]
    batch = (await rest.post("/v1/batches", json=batch_request(here), **named)).json()
    assert batch["model"] == GROUP
    local = await yard.create(elsewhere)
    for kind, found, other in (("files", here, elsewhere), ("batches", batch["id"], local["id"])):
        listed = [one["id"] for one in (await rest.get(f"/v1/{kind}", **named)).json()["data"]]
        assert (found in listed, other in listed) == (True, False)
    for verb, path in calls(here, batch["id"]):
        assert (await rest.request(verb, path, **named)).status_code in {200, 409}, path
    for verb, path in calls(elsewhere, local["id"]):
        assert (await rest.request(verb, path, **named)).status_code == 404, path
    await yard.ended(batch["id"])


def calls(file_id: str, batch_id: str) -> list[tuple[str, str]]:
    return [
        ("GET", f"/v1/files/{file_id}"),
        ("GET", f"/v1/files/{file_id}/content"),
        ("GET", f"/v1/batches/{batch_id}"),
        ("POST", f"/v1/batches/{batch_id}/cancel"),
        ("GET", f"/v1/batches/{batch_id}/events"),
        ("DELETE", f"/v1/files/{file_id}"),
    ]


@pytest.mark.parametrize("way", WAYS)
async def test_every_route_refuses_what_is_no_group(yard: Door, way: str) -> None:
    file, wrong = (await yard.upload(CONTENT))["id"], moon(WAYS[way])
    batch = await yard.create(file)
    answers = {path: await yard.rest.request(verb, path, **wrong) for verb, path in calls(file, batch["id"])}
    answers |= {path: await yard.rest.get(path, **wrong) for path in ("/v1/files", "/v1/batches", "/local/v1/files")}
    answers["upload"] = await posted(yard, PURPOSE, FILE, **wrong)
    answers["create"] = await yard.rest.post("/v1/batches", json=batch_request(file), **wrong)
    for path, answer in answers.items():
        error = refusal(answer, 400)
        assert (path, error["param"], error["code"]) == (path, way, "model_not_found")
        assert error["message"] == f"There is no model group 'moon' here. Configured: {GROUP}."


async def test_a_batchs_body_may_name_them(yard: Door) -> None:
    file = (await posted(yard, PURPOSE, FILE, **WAYS["model"])).json()["id"]
    targets: Any
    for targets in (GROUP, [GROUP]):
        made = await yard.rest.post("/v1/batches", json=batch_request(file, target_model_names=targets))
        assert (made.status_code, made.json()["model"]) == (200, GROUP)
    for targets, code in (("moon", "model_not_found"), ([GROUP, 1], "invalid_type"), ({}, "invalid_type")):
        answer = await yard.rest.post("/v1/batches", json=batch_request(file, target_model_names=targets))
        error = refusal(answer, 400)
        assert (error["param"], error["code"]) == ("target_model_names", code)


@pytest.mark.parametrize(
    ("path", "headers"),
    [
        (f"/v1/files?model={GROUP}&target_model_names=other", {}),
        (f"/v1/files?model={GROUP}&model=other", {}),
        (f"/v1/files?target_model_names={GROUP}", {HEADER: "other"}),
        (f"/local/v1/files?model={GROUP}", {}),
        (f"/v1/files?model={GROUP}&provider=local", {}),
        ("/local/v1/batches/batch_1", {HEADER: GROUP}),
    ],
)
async def test_two_that_disagree_are_refused(yard: Door, path: str, headers: dict[str, str]) -> None:
    assert refusal(await yard.rest.get(path, headers=headers), 400)["code"] == "invalid_value"


async def test_a_body_or_a_form_that_disagrees_is_refused(yard: Door) -> None:
    file = (await posted(yard, PURPOSE, FILE, **WAYS["model"])).json()["id"]
    body = batch_request(file, model="other")
    assert refusal(await yard.rest.post("/v1/batches", json=body, **WAYS[HEADER]), 400)["code"] == "invalid_value"
    for more in ([("model", GROUP), ("target_model_names", "other")], [("provider", "local"), ("model", GROUP)]):
        assert refusal(await posted(yard, PURPOSE, *more, FILE), 400)["code"] == "invalid_value"
    assert refusal(await posted(yard, PURPOSE, ("model", "other"), FILE, **WAYS[HEADER]), 400)


async def test_what_is_empty_names_nothing(yard: Door) -> None:
    empty = await yard.rest.get("/v1/files?model=&target_model_names=,", headers={HEADER: ""})
    assert empty.status_code == 200
    assert await provider_of(yard, await posted(yard, PURPOSE, ("model", ""), FILE)) == "local"


async def test_without_groups_each_is_refused(door: Door) -> None:
    error = refusal(await door.rest.get("/v1/files", headers={HEADER: "gpt"}), 400)
    assert (error["param"], error["message"]) == (HEADER, "There is no model group 'gpt' here. Configured: none.")


async def test_grpc_callers_name_it_in_a_field(yard: Door) -> None:
    file = await yard.grpc.upload(CONTENT)
    stub, metadata = yard.grpc.stub, yard.grpc.metadata
    assert [one.id for one in (await stub.ListFiles(ListFilesRequest(), metadata=metadata)).data] == [file.id]
    assert not (await stub.ListFiles(ListFilesRequest(models=[GROUP]), metadata=metadata)).data
    async with refused(StatusCode.INVALID_ARGUMENT):
        await stub.ListFiles(ListFilesRequest(models=["moon"]), metadata=metadata)


async def test_a_key_may_name_its_own_groups_alone(yard: Door) -> None:
    _, secret = await yard.grpc.new_key("team", providers=["local"])
    answer = await yard.rest.get("/v1/files", headers={"authorization": f"Bearer {secret}", HEADER: GROUP})
    assert refusal(answer, 403)["param"] == "provider"
