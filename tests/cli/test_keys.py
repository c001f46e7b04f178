"""`batchyard keys`, as a process against a service: what it prints and how it ends."""

from collections.abc import AsyncIterator
from pathlib import Path

import pytest
from tests.harness import jsonl
from tests.people import Person, Ran
from tests.rest.conftest import Door, opened

from batchyard.service.config.settings import Key

CONFIGURED = Key(name="ci", key="sk-hunter2", tenant="builds", providers=("local",))


@pytest.fixture
async def door(tmp_path: Path) -> AsyncIterator[Door]:
    async with opened(tmp_path / "served", keys=(CONFIGURED,)) as running:
        yield running


@pytest.fixture
def person(door: Door, tmp_path: Path) -> Person:
    return Person(door.server.grpc_port, tmp_path)


async def created(person: Person, *more: str) -> tuple[str, str]:
    """The id of a new key of team-a, and its secret."""
    ran = await person.run("keys", "create", "--tenant", "team-a", "--name", "robot", *more)
    assert ran.code == 0, ran.err
    return ran.err.split()[3].removesuffix(","), ran.out.strip()


async def as_key(person: Person, secret: str, *arguments: str) -> Ran:
    return await person.run(*(arguments or ("list", "--files")), BATCHYARD_API_KEY=secret)


async def test_a_key_is_made_listed_rotated_and_revoked(door: Door, person: Person) -> None:
    more = ("--allow-provider", "local", "--expires-in", "90d", "--limit", "requests_per_minute=1000")
    key_id, secret = await created(person, *more)
    mine = (await as_key(person, secret, "upload", "-")).err
    assert "empty" in mine  # it was let in, and no file came
    head, configured, row = (await person.run("keys", "list")).out.splitlines()
    assert head.split() == ["ID", "TENANT", "NAME", "STATE", "EXPIRES", "MAY", "USE"]
    assert configured.split() == ["config:ci", "builds", "ci", "active", "never", "local"]
    assert row.startswith(f"{key_id}  team-a  robot  active  20")
    assert secret not in head + row

    other = (await person.run("keys", "rotate", key_id, "--grace", "1h")).out.strip()
    assert [(await as_key(person, one)).code for one in (secret, other)] == [0, 0]
    last = (await person.run("keys", "rotate", key_id)).out.strip()
    assert [(await as_key(person, one)).code for one in (secret, other, last)] == [1, 1, 0]

    ran = await person.run("keys", "revoke", key_id)
    assert (ran.code, ran.out) == (0, f"{key_id} revoked\n")
    assert "Incorrect API key" in (await as_key(person, last)).err
    assert (await person.run("keys", "revoke", key_id)).code == 0


async def test_its_json_is_an_object_a_line(person: Person) -> None:
    ran = await person.run("keys", "create", "--tenant", "a", "--name", "b", "--json")
    (made,) = ran.objects()
    assert ran.err == ""
    assert made["secret"].startswith("sk-by-")
    assert made["key"]["state"] == "active"
    (page,) = (await person.run("keys", "list", "--tenant", "a", "--json")).objects()
    assert page["data"] == [made["key"]]
    (revoked,) = (await person.run("keys", "revoke", made["key"]["id"], "--json")).objects()
    assert revoked["state"] == "revoked"


async def test_pages_follow_each_other(person: Person) -> None:
    made = [(await created(person))[0] for _ in range(2)]
    first = await person.run("keys", "list", "--limit", "2")
    assert [line.split()[0] for line in first.out.splitlines()[1:]] == ["config:ci", made[1]]
    assert first.err == f"there are more: --after {made[1]}\n"
    whole = await person.run("keys", "list", "--limit", "1", "--all")
    assert [line.split()[0] for line in whole.out.splitlines()[1:]] == ["config:ci", *made[::-1]]


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (["rotate", "config:ci"], "below batchyard.keys"),
        (["revoke", "key_none"], "No key found with id 'key_none'"),
        (["create", "--tenant", "a/b", "--name", "x"], "Invalid 'tenant'"),
        (["create", "--tenant", "a", "--name", "x", "--allow-provider", "moon"], "There is no provider 'moon'"),
    ],
)
async def test_what_cant_be_done_is_one_line(person: Person, arguments: list[str], words: str) -> None:
    code, out, err = await person.run("keys", *arguments)
    assert (code, out, err.count("\n")) == (1, "", 1)
    assert words in err


@pytest.mark.parametrize(
    "arguments",
    [
        ["create", "--tenant", "a"], ["create", "--tenant", "a", "--name", "b", "--limit", "calls=3"],
        ["create", "--tenant", "a", "--name", "b", "--expires-in", "soon"], ["rotate"], [], ["steal"],
        ["create", "--tenant", "a", "--name", "b", "--expires-in", "0d"],
    ],
)  # fmt: skip
async def test_another_use_ends_with_two(tmp_path: Path, arguments: list[str]) -> None:
    ran = await Person(1, tmp_path).run("keys", *arguments)
    assert (ran.code, ran.err.startswith("usage: batchyard keys")) == (2, True)


async def test_a_teams_key_makes_none(door: Door, person: Person) -> None:
    _, secret = await created(person)
    ran = await as_key(person, secret, "keys", "list")
    assert (ran.code, ran.out) == (1, "")
    assert ran.err.startswith("batchyard: This takes the master key.")
    assert (await door.upload(jsonl([{}])))["id"] not in (await as_key(person, secret)).out
