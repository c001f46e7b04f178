"""Inputs that can't be a batch's are found before anything of them is sent, and the command says what to do."""

import bz2
import gzip
import json
import lzma
import shlex
import subprocess
from collections.abc import AsyncIterator
from io import BytesIO
from pathlib import Path
from zipfile import ZipFile

import pytest
from tests.harness import chat_line, chat_lines, jsonl
from tests.people import Person, Ran
from tests.rest.conftest import Door, opened
from tests.scrapes import scrape

from batchyard.common.metrics import Metrics
from batchyard.service.config.settings import Limits

LINES = jsonl(chat_lines(3))
BOUND = 50


def zipped(**members: bytes) -> bytes:
    archive = BytesIO()
    with ZipFile(archive, "w") as made:
        for name, content in members.items():
            made.writestr(name.replace("__", "/"), content)
    return archive.getvalue()


def indented(*lines: object) -> bytes:
    return json.dumps(lines[0] if len(lines) == 1 else lines, indent=2).encode()


FORMS = {
    "gzip": (gzip.compress(LINES), "is compressed by gzip", "gunzip -c"),
    "bzip2": (bz2.compress(LINES), "is compressed by bzip2", "bunzip2 -c"),
    "xz": (lzma.compress(LINES), "is compressed by xz", "xz -dc"),
    "zip": (zipped(a=LINES), "is a ZIP archive", "unzip -p"),
    "xlsx": (zipped(xl__workbook=b"x"), "is an Office document", "Each line must be a request"),
    "pdf": (b"%PDF-1.7\n%\xe2\xe3", "is a PDF", "Each line must be a request"),
    "parquet": (b"PAR1\x15\x04", "is a Parquet file", "Each line must be a request"),
    "png": (b"\x89PNG\r\n\x1a\n\0\0\0\rIHDR", "is not", ""),
    "a byte order mark": (b"\xef\xbb\xbf" + LINES, "begins with a byte order mark", "tail -c +4"),
    "utf-16": (LINES.decode().encode("utf-16"), "is in UTF-16", "iconv -f UTF-16 -t UTF-8"),
    "utf-16 without a mark": (LINES.decode().encode("utf-16-le"), "is in UTF-16", "iconv -f UTF-16LE -t UTF-8"),
    "utf-32": (LINES.decode().encode("utf-32"), "is in UTF-32", "iconv -f UTF-32 -t UTF-8"),
    "latin-1": ('{"custom_id": "\xe9"}\n'.encode("latin-1"), "line 1 of FILE is not UTF-8", "iconv -f ISO-8859-1"),
    "csv": (b"custom_id,prompt\na,hello\nb,bye\n", "looks like CSV", "Each line must be a request"),
    "semicolons": (b'"custom_id";"prompt"\n"a";"hello"\n', "looks like CSV", "Each line must be a request"),
    "an array": (json.dumps(chat_lines(2)).encode(), "is one JSON array", "jq -c '.[]' "),
    "an indented array": (indented(*chat_lines(2)), "spreads JSON over several lines", "jq -c '.[]' "),
    "an indented object": (indented(*chat_lines(1)), "spreads JSON over several lines", "jq -c . "),
    "html": (b"<!DOCTYPE html><html></html>\n", "is HTML or XML", "Each line must be a request"),
    "text": (b"\n\nWrite me a poem\n", "line 3 of FILE is not JSON", "Each line must be a request"),
    "a number": (b"1\n2\n", "line 1 of FILE is JSON, but no object", "Each line must be a request"),
    "nothing": (b"", "is empty", "Each line must be a request"),
    "blank lines": (b"\n \n\n", "is empty", "Each line must be a request"),
}


@pytest.fixture
def metrics() -> Metrics:
    return Metrics()


@pytest.fixture
async def door(tmp_path: Path, metrics: Metrics) -> AsyncIterator[Door]:
    limits = Limits(max_batch_lines=BOUND, max_batch_file_bytes=100_000)
    async with opened(tmp_path / "served", metrics=metrics, limits=limits) as running:
        yield running


@pytest.fixture
def person(door: Door, tmp_path: Path) -> Person:
    return Person(door.server.grpc_port, tmp_path)


async def nothing_was_sent(door: Door, metrics: Metrics) -> bool:
    sent = (await scrape(metrics))("batchyard_upload_bytes_total")
    return not sent and not (await door.rest.get("/v1/files")).json()["data"]


def refused(ran: Ran, *words: str) -> None:
    assert (ran.code, ran.out, ran.err.count("\n")) == (1, "", 1), ran.err
    assert [word for word in words if word not in ran.err] == []


class TestForms:
    @pytest.mark.parametrize("form", FORMS)
    async def test_that_are_not_json_lines_are_named_before_the_upload(
        self, door: Door, person: Person, metrics: Metrics, form: str
    ) -> None:
        content, *words = FORMS[form]
        (person.folder / "in.jsonl").write_bytes(content)
        for ran in (await person.run("submit", "in.jsonl"), await person.run("upload", "in.jsonl")):
            refused(ran, "in.jsonl", *(word.replace("FILE", "in.jsonl") for word in words))
        refused(await person.run("submit", "-", "--wait", stdin=content), "stdin", words[0].replace("FILE", "stdin"))
        assert await nothing_was_sent(door, metrics)

    @pytest.mark.parametrize("form", ["gzip", "a byte order mark", "utf-16", "utf-16 without a mark"])
    async def test_have_a_command_that_mends_them(self, person: Person, form: str) -> None:
        (person.folder / "my in.jsonl").write_bytes(FORMS[form][0])
        said = (await person.run("submit", "my in.jsonl")).err
        subprocess.run(["sh", "-c", said.partition("JSON Lines: ")[2]], check=True, cwd=person.folder)
        assert (person.folder / "NEW.jsonl").read_bytes() == LINES
        assert (await person.run("submit", "NEW.jsonl", "--wait")).code == 0

    async def test_of_other_files_are_nobodys_business(self, person: Person) -> None:
        (person.folder / "in.pdf").write_bytes(FORMS["pdf"][0])
        assert (await person.run("upload", "in.pdf", "--purpose", "user_data")).code == 0

    async def test_that_the_service_judges_line_by_line_get_there(self, person: Person) -> None:
        (person.folder / "in.jsonl").write_bytes(b'{"custom_id": 1}\n')
        assert (await person.run("upload", "in.jsonl")).code == 0

    async def test_include_the_name(self, door: Door, person: Person, metrics: Metrics) -> None:
        (person.folder / "my data.json").write_bytes(LINES)
        ran = await person.run("submit", "my data.json")
        refused(ran, "ends in .jsonl", "mv 'my data.json' 'my data.jsonl'")
        assert await nothing_was_sent(door, metrics)


class TestSizes:
    async def test_lines_beyond_the_bound_are_found_before_the_upload(
        self, door: Door, person: Person, metrics: Metrics
    ) -> None:
        (person.folder / "in.jsonl").write_bytes(jsonl(chat_lines(BOUND + 1)))
        ran = await person.run("submit", "in.jsonl", "--wait")
        refused(ran, "in.jsonl has more than 50 lines", "Nothing is stored")
        assert await nothing_was_sent(door, metrics)
        subprocess.run(shlex.split(ran.err.partition("inputs of it: ")[2]), check=True, cwd=person.folder)
        parts = sorted(person.folder.glob("part-*"))
        assert len(parts) == 2
        assert [(await person.run("submit", part.name, "--wait", "--quiet")).code for part in parts] == [0, 0]

    async def test_bytes_beyond_the_bound_are_found_before_the_upload(
        self, door: Door, person: Person, metrics: Metrics
    ) -> None:
        (person.folder / "in.jsonl").write_bytes(jsonl([chat_line("a", "x" * 100_000)]))
        refused(
            await person.run("submit", "in.jsonl", "--provider", "local"), "is larger than 100,000 bytes", "split -C"
        )
        assert await nothing_was_sent(door, metrics)

    async def test_of_stdin_end_the_upload_where_they_show(self, door: Door, person: Person) -> None:
        ran = await person.run("submit", "-", stdin=jsonl(chat_lines(BOUND + 1)))
        refused(ran, "stdin has more than 50 lines")
        assert (await door.rest.get("/v1/files")).json()["data"] == []

    async def test_count_no_blank_lines(self, person: Person) -> None:
        (person.folder / "in.jsonl").write_bytes(b"\n \r\n".join(jsonl([line]) for line in chat_lines(BOUND)))
        assert (await person.run("submit", "in.jsonl", "--wait")).code == 0

    async def test_are_no_matter_for_other_purposes(self, person: Person) -> None:
        (person.folder / "in.jsonl").write_bytes(b"\n" * 200_000)
        assert (await person.run("upload", "in.jsonl", "--purpose", "user_data")).code == 0


async def test_the_echo_model_says_that_it_answers(person: Person) -> None:
    (person.folder / "in.jsonl").write_bytes(jsonl([chat_line("a", model="gpt-40-mini")]))
    file = (await person.run("upload", "in.jsonl")).out.strip()
    for source in ("in.jsonl", file):
        ran = await person.run("submit", source)
        assert "The echo model answers; nothing is sent to a provider.\n" in ran.err
        assert ran.out.startswith("batch_")
