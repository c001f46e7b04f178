"""What may be in an input for a group, and what of it a deployment gets to see."""

import json
from pathlib import Path
from typing import Any

import pytest
from tests.harness import jsonl
from tests.rest.conftest import refusal

from .scene import GROUP, MODEL, Line, Yard, inputs_of, lines_of, post, scene

TRICKY = [
    b'{"custom_id":"a","method":"POST","url":"/v1/chat/completions","body":{"model":"%s","messages":[]}}',
    b' {"custom_id" : "b", "method": "POST","url":"/v1/chat/completions","body": {"messages": [{"role": "user",'
    b' "content": "\\"model\\": \\"%s\\""}], "metadata": {"model": "%s"}, "model" :  "%s", "n":1.50e0}}  ',
    '{"custom_id":"ü","method":"POST","url":"/v1/chat/completions","body":{"messages":[],"mod\\u0065l":"%s"}}'.encode(),
    b'{"body":{"tools":[{"model":"%s"}],"model":"%s","messages":[],"seed":12345678901234567890},'
    b'"url":"/v1/chat/completions","method":"POST","custom_id":"d"}\r',
    b"",
    b'{"custom_id":"e","method":"POST","url":"/v1/chat/completions","body":{"model":"x","messages":[],"model":"%s"}}',
]


def rewritten(line: bytes, model: str) -> bytes:
    """The line with a name for its own model, the last that it names; others are the group's, wherever they stand."""
    head, own, tail = line.rpartition(b"%s")
    return head.replace(b"%s", GROUP.encode()) + (model.encode() if own else b"") + tail


async def failed(yard: Yard, lines: list[Line], **members: Any) -> list[dict[str, Any]]:
    """The errors of a batch that must fail, and reach no deployment."""
    batch = await yard.run(lines, **members)
    assert batch["status"] == "failed", batch
    assert not any(fake.batches or fake.files for fake in yard.fakes)
    return list(batch["errors"]["data"])


class TestALine:
    async def test_reaches_a_deployment_with_nothing_changed_but_its_model(self, tmp_path: Path) -> None:
        async with scene(tmp_path, "azure") as yard:
            data = b"\n".join(rewritten(line, GROUP) for line in TRICKY)
            file = await yard.door.upload(data)
            await yard.door.ended((await yard.door.create(file["id"]))["id"])
            got = b"".join(inputs_of(yard.fakes[0]))
            assert got.strip(b"\n") == b"\n".join(rewritten(line, MODEL) for line in TRICKY)
            assert yard.fakes[0].executed == dict.fromkeys("abüde", 1)

    async def test_is_kept_as_it_came_in_our_own_file(self, tmp_path: Path) -> None:
        async with scene(tmp_path) as yard:
            data = b"\n".join(rewritten(line, GROUP) for line in TRICKY)
            file = await yard.door.upload(data)
            assert await yard.content(file["id"]) == data

    @pytest.mark.parametrize("kind", ["azure", "openai"])
    @pytest.mark.parametrize("url", ["/chat/completions", "/v1/chat/completions"])
    async def test_may_leave_out_the_version(self, tmp_path: Path, kind: Any, url: str) -> None:
        """OpenAI takes only urls with /v1."""
        lines = [{**line, "url": url} for line in lines_of(3)]
        async with scene(tmp_path, kind) as yard:
            batch = await yard.run(lines)
            assert batch["status"] == "completed"
            await yard.accounted(batch, lines)

    async def test_of_another_model_is_named_by_its_number(self, tmp_path: Path) -> None:
        lines = lines_of(6)
        for number in (1, 4):
            lines[number]["body"]["model"] = "gpt-4o"
        async with scene(tmp_path) as yard:
            errors = await failed(yard, lines)
            assert [(error["line"], error["param"]) for error in errors] == [(2, "body.model"), (5, "body.model")]
            assert all("gpt-4o" in error["message"] for error in errors)

    @pytest.mark.parametrize("model", ["gpt-4o", MODEL, f"azure-0/{MODEL}"])
    async def test_of_a_model_that_is_no_group_is_not_found(self, tmp_path: Path, model: str) -> None:
        """A deployment's own name for a model is none to callers."""
        async with scene(tmp_path) as yard:
            errors = await failed(yard, lines_of(2, model=model))
            assert [(error["code"], error["line"]) for error in errors] == [
                ("model_not_found", 1),
                ("model_not_found", 2),
            ]

    async def test_that_is_wrong_fails_the_batch_before_any_deployment(self, tmp_path: Path) -> None:
        lines = lines_of(3)
        lines[1]["custom_id"] = lines[0]["custom_id"]
        lines[2]["body"]["stream"] = True
        async with scene(tmp_path) as yard:
            errors = await failed(yard, lines)
            assert [(error["code"], error["line"]) for error in errors] == [
                ("duplicate_custom_id", 2),
                ("streaming_unsupported", 3),
            ]

    async def test_beyond_every_deployments_limit_fails_alone(self, tmp_path: Path) -> None:
        lines = lines_of(4)
        lines[2]["body"]["messages"][0]["content"] = "x" * 5000
        async with scene(tmp_path, members=[{"max_bytes": 2000}] * 2) as yard:
            batch = await yard.run(lines)
            _, errors = await yard.accounted(batch, lines)
            assert [line["custom_id"] for line in errors] == ["line-2"]
            assert batch["status"] == "completed"


class TestTheModelOfACreate:
    async def test_may_be_left_out_or_agree(self, tmp_path: Path) -> None:
        async with scene(tmp_path) as yard:
            assert (await yard.run(lines_of(1, "a")))["status"] == "completed"
            assert (await yard.run(lines_of(1, "b"), model=GROUP))["status"] == "completed"

    async def test_that_is_no_group_is_refused(self, tmp_path: Path) -> None:
        async with scene(tmp_path) as yard:
            error = refusal(await post(yard, await yard.upload(lines_of(1)), model="gpt-4o"), 400)
            assert (error["param"], error["code"]) == ("model", "model_not_found")
            assert "gpt-4o" in error["message"]

    async def test_that_disagrees_with_the_lines_names_them(self, tmp_path: Path) -> None:
        async with scene(tmp_path) as yard:
            errors = await failed(yard, lines_of(2, model="gpt-4o"), model=GROUP)
            assert [(error["line"], error["param"]) for error in errors] == [(1, "body.model"), (2, "body.model")]


class TestABatch:
    async def test_beyond_the_limit_of_lines_fails(self, tmp_path: Path) -> None:
        async with scene(tmp_path, groups={"max_batch_lines": 5}) as yard:
            (error,) = await failed(yard, lines_of(6))
            assert "5" in error["message"]
            assert (await yard.run(lines_of(5)))["status"] == "completed"

    async def test_beyond_the_limit_of_bytes_is_refused_at_its_upload(self, tmp_path: Path) -> None:
        async with scene(tmp_path, groups={"max_batch_file_bytes": 2000}) as yard:
            files = {"file": ("input.jsonl", jsonl(lines_of(40)))}
            answer = await yard.door.rest.post("/v1/files", data={"purpose": "batch"}, files=files)
            assert refusal(answer, 413)["type"] == "invalid_request_error"

    async def test_has_its_outputs_life_where_it_is_asked_for(self, tmp_path: Path) -> None:
        async with scene(tmp_path) as yard:
            life = {"anchor": "created_at", "seconds": 7200}
            batch = await yard.run(lines_of(1), output_expires_after=life)
            file = (await yard.door.rest.get(f"/v1/files/{batch['output_file_id']}")).json()
            assert file["expires_at"] == file["created_at"] + 7200
            for fake in yard.fakes:
                for seen in fake.requests:
                    assert not (isinstance(seen.body, dict) and "output_expires_after" in seen.body)

    async def test_shows_no_model_but_the_groups(self, tmp_path: Path) -> None:
        async with scene(tmp_path, "azure", "openai", members=[{"max_lines": 2}] * 2) as yard:
            lines = lines_of(8)
            batch = await yard.run(lines)
            output, _ = await yard.accounted(batch, lines)
            assert {line["response"]["body"]["model"] for line in output} == {GROUP}
            text = json.dumps([batch, *output])
            assert MODEL not in text.replace(GROUP, "")
            assert all(fake.key not in text for fake in yard.fakes)


class TestAStoredInput:
    async def test_that_changed_on_the_disk_is_sent_nowhere(self, tmp_path: Path) -> None:
        async with scene(tmp_path) as yard:
            data = jsonl(lines_of(40))
            file = await yard.door.upload(data)
            (yard.door.store / "files" / file["id"]).write_bytes(data.replace(b'"custom_id"', b'"Custom_id"', 1))
            batch = await yard.door.ended((await yard.door.create(file["id"]))["id"])
            assert batch["status"] == "failed"
            assert [error["code"] for error in batch["errors"]["data"]] == ["input_lost"]
            assert not any(fake.batches for fake in yard.fakes)
