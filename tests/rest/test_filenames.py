"""The names of files as real clients send them, from the form to the download."""

import pytest
from grpc import StatusCode
from tests.harness import chat_lines, jsonl, refused

from .conftest import FORM, Door, refusal

CONTENT = jsonl(chat_lines(2))
NAME = "日本 1.jsonl"
QUOTED = "%E6%97%A5%E6%9C%AC%201.jsonl"
DOTNET = (
    "Content-Type: text/plain; charset=utf-8\r\nContent-Disposition: form-data; name=purpose\r\n\r\nbatch",
    "Content-Disposition: form-data; name=file; "
    f"filename=\"=?utf-8?B?5pel5pysIDEuanNvbmw=?=\"; filename*=utf-8''{QUOTED}\r\n\r\n",
)
URLLIB3 = (
    'Content-Disposition: form-data; name="purpose"\r\n\r\nbatch',
    f"Content-Disposition: form-data; name=\"file\"; filename*=utf-8''{QUOTED}\r\n"
    "Content-Type: application/octet-stream\r\n\r\n",
)


def form_of(*parts: str) -> bytes:
    """A form of these parts, the last of which has the content."""
    head = "".join(f"--b0undary\r\n{part}\r\n" for part in parts)
    return head.encode()[:-2] + CONTENT + b"\r\n--b0undary--\r\n"


def part(disposition: str) -> tuple[str, str]:
    return URLLIB3[0], f'Content-Disposition: form-data; name="file"; {disposition}\r\n\r\n'


@pytest.mark.parametrize("parts", [DOTNET, URLLIB3], ids=[".NET", "urllib3"])
async def test_a_name_beyond_ascii_is_kept_as_it_is(door: Door, parts: tuple[str, str]) -> None:
    answer = await door.rest.post("/v1/files", content=form_of(*parts), headers=FORM)
    assert answer.status_code == 200, answer.text
    assert (answer.json()["filename"], answer.json()["bytes"]) == (NAME, len(CONTENT))
    download = await door.rest.get(f"/v1/files/{answer.json()['id']}/content")
    assert download.content == CONTENT
    assert download.headers["content-disposition"] == f"attachment; filename=\"__ 1.jsonl\"; filename*=UTF-8''{QUOTED}"


@pytest.mark.parametrize("charset", ["utf-8", "latin-1"])
async def test_a_name_in_the_charset_of_its_system_is_read(door: Door, charset: str) -> None:
    form = form_of(*part('filename="NAME"')).replace(b"NAME", "naïve à.jsonl".encode(charset))
    answer = await door.rest.post("/v1/files", content=form, headers=FORM)
    assert answer.status_code == 200, answer.text
    assert answer.json()["filename"] == "naïve à.jsonl"


@pytest.mark.parametrize(
    ("disposition", "name"),
    [
        ('filename="C:\\fakepath\\in.jsonl"', "in.jsonl"),
        ("filename*=utf-8''..%2F..%2Fin.jsonl", "in.jsonl"),
        ('filename="some.d/in"', "in"),
        ("filename*=utf-8''%FF.exe; filename=\"in.jsonl\"", "in.jsonl"),
        ('filename="a%22b.jsonl"', 'a"b.jsonl'),
        ('filename="../"', "upload"),
        (f"filename*=utf-8''{'%F0%9F%98%80' * 506}.jsonl", "😀" * 506 + ".jsonl"),
    ],
)
async def test_a_name_has_no_path_and_no_escapes(door: Door, disposition: str, name: str) -> None:
    answer = await door.rest.post("/v1/files", content=form_of(*part(disposition)), headers=FORM)
    assert answer.status_code == 200, answer.text
    assert answer.json()["filename"] == name


@pytest.mark.parametrize("escape", ["%0D%0A", "%00", "%C2%9B", "%E2%80%A9"])
async def test_a_name_with_a_control_character_is_refused(door: Door, escape: str) -> None:
    forms = form_of(*part(f"filename*=utf-8''a{escape}b.jsonl"))
    error = refusal(await door.rest.post("/v1/files", content=forms, headers=FORM), 400)
    assert error["param"] == "file"
    assert "control character" in error["message"]
    assert door.kept() == []


async def test_a_name_over_grpc_has_no_path_either(door: Door) -> None:
    assert (await door.grpc.upload(CONTENT, filename="C:\\some.dir/in.jsonl")).filename == "in.jsonl"
    async with refused(StatusCode.INVALID_ARGUMENT):
        await door.grpc.upload(CONTENT, filename="/in.jsonl/a.txt")
