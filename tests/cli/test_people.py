"""upload, submit, watch, results, cancel and list, as processes against a service: what they print and how they end."""

import json
import os
import re
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import pytest
from tests.harness import KEY, chat_line, chat_lines, jsonl
from tests.people import Person
from tests.rest.conftest import Door, opened

from batchyard.service.config.settings import LocalSettings

SLOW = LocalSettings(echo=True, echo_delay_ms=60_000)
MIXED = [chat_line("good"), chat_line("bad", messages="none")]  # the echo model refuses the second


@pytest.fixture
async def door(tmp_path: Path) -> AsyncIterator[Door]:
    async with opened(tmp_path / "served") as running:
        yield running


@pytest.fixture
def person(door: Door, tmp_path: Path) -> Person:
    (tmp_path / "mydata.jsonl").write_bytes(jsonl(chat_lines(3)))
    return Person(door.server.grpc_port, tmp_path)


async def rest(door: Door, path: str) -> Any:
    return (await door.rest.get(path)).json()


def custom_ids(path: Path) -> list[str]:
    return [json.loads(line)["custom_id"] for line in path.read_bytes().splitlines()]


class TestUpload:
    async def test_it_prints_the_id_alone(self, door: Door, person: Person) -> None:
        code, out, _ = await person.run("upload", "mydata.jsonl")
        (file,) = (await rest(door, "/v1/files"))["data"]
        assert (code, out) == (0, f"{file['id']}\n")
        assert (file["filename"], file["purpose"]) == ("mydata.jsonl", "batch")

    async def test_its_json_is_the_rest_apis(self, door: Door, person: Person) -> None:
        ran = await person.run("upload", "mydata.jsonl", "--purpose", "user_data", "--expires-after", "7200", "--json")
        (file,) = ran.objects()
        assert file == await rest(door, f"/v1/files/{file['id']}")
        assert file["expires_at"] == file["created_at"] + 7200

    async def test_stdin_is_a_file_too(self, door: Door, person: Person) -> None:
        content = jsonl(chat_lines(20_000))
        file_id = (await person.run("upload", "-", stdin=content)).out.strip()
        assert (await door.rest.get(f"/v1/files/{file_id}/content")).content == content

    @pytest.mark.parametrize(
        ("name", "words"), [("none.jsonl", "No such file"), ("served", "Is a directory"), ("/dev/null", "empty")]
    )
    async def test_what_is_no_file_is_one_line(self, person: Person, name: str, words: str) -> None:
        code, out, err = await person.run("upload", name)
        assert (code, out, err.count("\n")) == (1, "", 1)
        assert err.startswith("batchyard: ")
        assert words in err

    async def test_a_file_that_cant_be_read_to_its_end_leaves_nothing(self, door: Door, person: Person) -> None:
        code, _, err = await person.run("upload", "/proc/self/mem")
        assert (code, err) == (1, "batchyard: Input/output error\n")
        assert (await rest(door, "/v1/files"))["data"] == []


class TestSubmit:
    async def test_one_command_does_the_whole_job(self, door: Door, person: Person) -> None:
        code, out, err = await person.run("submit", "mydata.jsonl", "--wait", "-o", "results.jsonl")
        (batch,) = (await rest(door, "/v1/batches"))["data"]
        assert (code, out) == (0, f"{batch['id']}\n")
        assert custom_ids(person.folder / "results.jsonl") == ["request-0", "request-1", "request-2"]
        assert f"{batch['id']} completed: 3 of 3 lines\n" in err
        assert re.fullmatch(r"3 ok, 0 failed in \d+ s -> results\.jsonl", err.splitlines()[-1])

    async def test_without_a_place_the_results_go_to_stdout_alone(self, person: Person) -> None:
        ran = await person.run("submit", "-", "--wait", "--quiet", stdin=jsonl(chat_lines(2)))
        assert [line["custom_id"] for line in ran.objects()] == ["request-0", "request-1"]
        assert ran.err == ""

    async def test_stdout_by_name_has_the_results_alone_too(self, person: Person) -> None:
        ran = await person.run("submit", "mydata.jsonl", "--wait", "-o", "-")
        assert len(ran.objects()) == 3

    async def test_its_options_reach_the_batch(self, door: Door, person: Person) -> None:
        options = ["--metadata", "a=b=c", "--metadata", "d=", "--endpoint", "/v1/chat/completions", "--window", "24h"]
        ran = await person.run("submit", "mydata.jsonl", *options, "--output-expires-after", "3600", "--json")
        (batch,) = ran.objects()
        assert batch["metadata"] == {"a": "b=c", "d": ""}
        ended = await door.ended(batch["id"])
        output = await rest(door, f"/v1/files/{ended['output_file_id']}")
        assert output["expires_at"] == output["created_at"] + 3600

    async def test_an_uploaded_file_is_named_by_its_id(self, door: Door, person: Person) -> None:
        line = {"custom_id": "a", "method": "POST", "url": "/v1/embeddings", "body": {"model": "m", "input": "x"}}
        file_id = (await door.upload(b"\n \n" + jsonl([line])))["id"]
        code, out, _ = await person.run("submit", file_id, "--wait", "--json")
        states = [json.loads(line) for line in out.splitlines()]
        assert (code, states[-1]["endpoint"], states[-1]["input_file_id"]) == (0, "/v1/embeddings", file_id)
        assert states[-1] == await rest(door, f"/v1/batches/{states[-1]['id']}")

    async def test_a_file_that_names_no_endpoint_is_not_uploaded(self, door: Door, person: Person) -> None:
        code, _, err = await person.run("submit", "-", stdin=b'{"custom_id": "a"}\n')
        assert (code, "--endpoint" in err) == (1, True)
        assert (await rest(door, "/v1/files"))["data"] == []

    @pytest.mark.parametrize(
        "wrong", [["--window", "1h"], ["--endpoint", "/v1/nope"], ["--metadata", "a=" + "b" * 600]]
    )
    async def test_one_that_is_refused_says_what_is_stored(self, door: Door, person: Person, wrong: list[str]) -> None:
        code, out, err = await person.run("submit", "mydata.jsonl", *wrong)
        (file,) = (await rest(door, "/v1/files"))["data"]
        *_, said, advice = err.splitlines()
        assert (code, out, said.startswith("batchyard: ")) == (1, "", True)
        by_id = f"can be submitted by its id: batchyard submit {file['id']}"
        assert advice == f"No batch was started. {file['id']} is stored, and {by_id}"
        again = await person.run("submit", file["id"], *wrong)
        assert (again.code, "is stored" in again.err) == (1, False)

    @pytest.mark.parametrize(
        "command", ["upload", "submit", "watch", "results", "cancel", "keys rotate", "keys revoke"]
    )
    async def test_an_argument_that_is_empty_is_another_use(self, person: Person, command: str) -> None:
        code, _, err = await person.run(*command.split(), "")
        assert (code, bool(re.search(r"error: argument [A-Z]+: it is empty$", err))) == (2, True)

    async def test_two_runs_are_two_batches_and_one_key_is_one(self, door: Door, person: Person) -> None:
        file_id = (await person.run("upload", "mydata.jsonl")).out.strip()
        keyed = [(await person.run("submit", file_id, "--idempotency-key", "k")).out for _ in range(2)]
        free = [(await person.run("submit", file_id)).out for _ in range(2)]
        assert keyed[0] == keyed[1]
        assert len({*keyed, *free}) == 3

    async def test_a_refused_input_ends_with_three_and_its_reasons(self, person: Person) -> None:
        lines = jsonl([chat_line("same")] * 30)
        code, _, err = await person.run("submit", "-", "--wait", "-o", "out.jsonl", stdin=lines)
        assert (code, err.count("line ")) == (3, 10)
        assert "and 19 more" in err
        assert (person.folder / "out.jsonl").read_bytes() == b""

    async def test_failed_lines_end_with_four(self, person: Person) -> None:
        code, out, err = await person.run("submit", "-", "--wait", "-o", "out.jsonl", stdin=jsonl(MIXED))
        assert (code, custom_ids(person.folder / "out.jsonl")) == (4, ["good"])
        assert f"batchyard results {out.strip()} --errors FILE" in err

    @pytest.mark.parametrize(
        "arguments",
        [
            ["-o", "results.jsonl"], ["--errors", "errors.jsonl"], ["--wait", "-o", "same", "--errors", "./same"],
            ["--metadata", "novalue"], ["--expires-after", "soon"], ["--expires-after", "99999999999"],
            ["--server", "nowhere"], ["--patience", "nan"], ["--patience", "long"], ["--expires-after", "1_0"],
            ["--wait", "-o", "mydata.jsonl"], ["--wait", "--errors", "./mydata.jsonl"],
        ],
    )  # fmt: skip
    async def test_another_use_ends_with_two(self, door: Door, person: Person, arguments: list[str]) -> None:
        code, _, err = await person.run("submit", "mydata.jsonl", *arguments)
        assert (code, err.startswith("usage: batchyard submit")) == (2, True)
        assert not re.search(r" _\w+ value|invalid \w+ value", err)
        assert (await rest(door, "/v1/files"))["data"] == []

    async def test_a_place_that_cant_be_written_is_found_before_the_work(self, door: Door, person: Person) -> None:
        code, _, err = await person.run("submit", "mydata.jsonl", "--wait", "-o", "none/results.jsonl")
        assert (code, err.startswith("batchyard: can't write to none/results.jsonl: there is no folder")) == (1, True)
        assert (await rest(door, "/v1/files"))["data"] == []


class TestWatch:
    async def test_json_is_a_line_a_change_in_the_rest_apis_form(self, door: Door, person: Person) -> None:
        batch = await door.run(chat_lines(2))
        ran = await person.run("watch", batch["id"], "--json", "--quiet")
        assert (ran.code, ran.objects(), ran.err) == (0, [batch], "")

    async def test_a_batch_without_a_good_end_ends_with_three(self, door: Door, person: Person) -> None:
        batch = await door.create("file-none")
        await door.ended(batch["id"])
        ran = await person.run("watch", batch["id"])
        assert (ran.code, ran.out) == (3, "")
        assert f"{batch['id']} failed\n" in ran.err


class TestResults:
    async def test_both_files_are_written_with_ordinary_permissions(self, door: Door, person: Person) -> None:
        batch = await door.run(MIXED)
        code, out, _ = await person.run("results", batch["id"], "-o", "out.jsonl", "--errors", "errors.jsonl")
        assert (code, out) == (4, "")
        assert custom_ids(person.folder / "out.jsonl") == ["good"]
        assert custom_ids(person.folder / "errors.jsonl") == ["bad"]
        ordinary = person.folder / "mydata.jsonl"
        assert (person.folder / "out.jsonl").stat().st_mode == ordinary.stat().st_mode

    async def test_a_link_stays_and_a_device_is_written_to(self, door: Door, person: Person) -> None:
        batch = await door.run(chat_lines(1))
        (person.folder / "link").symlink_to(person.folder / "mydata.jsonl")
        code, out, _ = await person.run("results", batch["id"], "-o", "link", "--errors", "/dev/null")
        assert (code, out) == (0, "")
        assert (person.folder / "link").is_symlink()
        assert (person.folder / "mydata.jsonl").read_bytes().startswith(b'{"id":"batch_req_')

    async def test_without_a_place_they_go_to_stdout(self, door: Door, person: Person) -> None:
        batch = await door.run(chat_lines(2))
        ran = await person.run("results", batch["id"])
        assert ran.out == (await door.rest.get(f"/v1/files/{batch['output_file_id']}/content")).text

    async def test_with_json_stdout_has_the_batch(self, door: Door, person: Person) -> None:
        batch = await door.run(chat_lines(2))
        ran = await person.run("results", batch["id"], "--json", "-o", "out.jsonl")
        assert (ran.objects(), len(custom_ids(person.folder / "out.jsonl"))) == ([batch], 2)

    async def test_a_batch_that_runs_ends_with_five(self, tmp_path: Path) -> None:
        async with opened(tmp_path / "served", local=SLOW) as door:
            file = await door.upload(jsonl(chat_lines(1)))
            batch = await door.create(file["id"])
            ran = await Person(door.server.grpc_port, tmp_path).run("results", batch["id"], "-o", "out.jsonl")
        assert (ran.code, ran.out) == (5, "")
        assert f"batchyard watch {batch['id']}\n" in ran.err
        assert f"batchyard results {batch['id']} --wait -o out.jsonl\n" in ran.err
        assert not (tmp_path / "out.jsonl").exists()


class TestCancel:
    async def test_it_prints_what_the_batch_is_now(self, tmp_path: Path) -> None:
        async with opened(tmp_path / "served", local=SLOW) as door:
            file = await door.upload(jsonl(chat_lines(1)))
            batch = await door.create(file["id"])
            ran = await Person(door.server.grpc_port, tmp_path).run("cancel", batch["id"], "--provider", "local")
        assert (ran.code, ran.out) == (0, f"{batch['id']} cancelling\n")

    async def test_an_ended_batch_is_refused_with_the_services_words(self, door: Door, person: Person) -> None:
        batch = await door.run(chat_lines(1))
        code, out, err = await person.run("cancel", batch["id"], "--json")
        assert (code, out) == (1, "")
        assert err.startswith("batchyard: Cannot cancel a batch with status 'completed'. (request id req_")


class TestList:
    async def test_batches_are_a_table(self, door: Door, person: Person) -> None:
        batch = await door.run(MIXED)
        head, row = (await person.run("list")).out.splitlines()
        assert head.split() == ["ID", "STATUS", "PROGRESS", "CREATED", "ENDPOINT"]
        assert row.startswith(f"{batch['id']}  completed  2 of 2 lines, 1 failed  20")
        assert row.index("/v1/chat/completions") == head.index("ENDPOINT")

    async def test_files_are_a_table_without_control_characters(self, door: Door, person: Person) -> None:
        file = await door.upload(b"x", "a\u200fm\u202eb.jsonl", "user_data")
        _, row = (await person.run("list", "--files")).out.splitlines()
        assert row.split() == [file["id"], "user_data", "1", row.split()[3], "a\ufffdm\ufffdb.jsonl"]

    async def test_its_json_is_the_rest_apis(self, door: Door, person: Person) -> None:
        await door.run(chat_lines(1))
        assert (await person.run("list", "--json")).objects() == [await rest(door, "/v1/batches")]
        assert (await person.run("list", "--files", "--json")).objects() == [await rest(door, "/v1/files")]

    async def test_pages_follow_each_other(self, door: Door, person: Person) -> None:
        ids = [(await door.upload(b"x", purpose="user_data"))["id"] for _ in range(5)][::-1]
        first = await person.run("list", "--files", "--limit", "2")
        assert [line.split()[0] for line in first.out.splitlines()[1:]] == ids[:2]
        assert first.err == f"there are more: --after {ids[1]}\n"
        rest_of_it = await person.run("list", "--files", "--limit", "2", "--after", ids[1], "--all", "--json")
        assert [file["id"] for page in rest_of_it.objects() for file in page["data"]] == ids[2:]

    async def test_a_reader_that_leaves_ends_it_quietly(self, door: Door, person: Person) -> None:
        for _ in range(3):
            await door.create("file-none")
        reader, writer = os.pipe()
        os.close(reader)
        with open(writer, "wb") as out:
            ran = await person.run("list", "--all", "--limit", "1", "--json", stdout=out.fileno())
        assert (ran.code, ran.err) == (141, "")


class TestKey:
    async def test_a_file_has_it(self, person: Person) -> None:
        (person.folder / "key").write_text(f"{KEY}\n")
        assert (await person.run("list", "--key-file", "key", BATCHYARD_API_KEY="wrong")).code == 0

    async def test_the_master_key_of_the_environment_will_do(self, person: Person) -> None:
        assert (await person.run("list", BATCHYARD_API_KEY="", BATCHYARD_MASTER_KEY=KEY)).code == 0

    @pytest.mark.parametrize(
        ("key", "words"),
        [("hunter2", "Incorrect API key"), ("hunter2 é", "BATCHYARD_API_KEY: expected a key"), ("", "")],
    )
    async def test_a_wrong_one_is_one_line_without_it(self, person: Person, key: str, words: str) -> None:
        code, _, err = await person.run("list", BATCHYARD_API_KEY=key)
        assert (code, err.count("\n"), "hunter2" in err) == (1, 1, False)
        assert words in err

    async def test_a_server_with_it_in_its_environment_starts(self, person: Person) -> None:
        code, _, err = await person.run("check-config", BATCHYARD_LOCAL__ECHO="true")
        assert (code, err) == (0, "")
