"""What the command writes: whole or not at all, never over a file that it has nothing for; and what it says of each."""

import re
from collections.abc import AsyncIterator
from pathlib import Path

import pytest
from tests.harness import chat_line, chat_lines, jsonl
from tests.people import Person
from tests.rest.conftest import Door, opened

GOOD, BAD = chat_line("good"), chat_line("bad", messages="none")


@pytest.fixture
async def door(tmp_path: Path) -> AsyncIterator[Door]:
    async with opened(tmp_path / "served") as running:
        yield running


@pytest.fixture
def person(door: Door, tmp_path: Path) -> Person:
    return Person(door.server.grpc_port, tmp_path)


def lines_of(shown: str) -> list[str]:
    """What a terminal has got on stdout, line by line."""
    return [line for line in shown.splitlines() if not line.startswith("there are more")]


def columns_of(line: str) -> int:
    """How much of a terminal the line takes, of characters of which those beyond Latin are wide."""
    return sum(1 if character < "\u0100" else 2 for character in line)


def given(person: Person, *lines: object) -> None:
    (person.folder / "in.jsonl").write_bytes(jsonl(lines))  # type: ignore[arg-type]


class TestAFileThatIsThere:
    async def test_is_kept_where_the_batch_fails_validation(self, person: Person) -> None:
        given(person, GOOD, GOOD)
        (person.folder / "keep.jsonl").write_text("old")
        (person.folder / "errors.jsonl").write_text("older")
        ran = await person.run("submit", "in.jsonl", "--wait", "-o", "keep.jsonl", "--errors", "errors.jsonl")
        assert (ran.code, (person.folder / "keep.jsonl").read_text()) == (3, "old")
        assert (person.folder / "errors.jsonl").read_text() == "older"
        for name in ("keep.jsonl", "errors.jsonl"):
            assert f"{name} is left as it was: there is nothing for it\n" in ran.err

    async def test_is_kept_where_every_line_failed_and_the_other_is_replaced(self, person: Person) -> None:
        given(person, BAD)
        for name in ("keep.jsonl", "errors.jsonl"):
            (person.folder / name).write_text("old")
        ran = await person.run("submit", "in.jsonl", "--wait", "-o", "keep.jsonl", "--errors", "errors.jsonl")
        assert (ran.code, (person.folder / "keep.jsonl").read_text()) == (4, "old")
        assert '"custom_id":"bad"' in (person.folder / "errors.jsonl").read_text()
        assert "keep.jsonl is left as it was" in ran.err
        assert "errors.jsonl is left" not in ran.err

    async def test_keeps_its_permissions_when_it_is_replaced(self, person: Person) -> None:
        given(person, GOOD)
        (person.folder / "out.jsonl").write_text("old")
        (person.folder / "out.jsonl").chmod(0o600)
        await person.run("submit", "in.jsonl", "--wait", "-o", "out.jsonl")
        assert (person.folder / "out.jsonl").stat().st_mode & 0o777 == 0o600
        assert "old" not in (person.folder / "out.jsonl").read_text()


class TestAFileThatIsMade:
    async def test_for_nothing_is_told(self, person: Person) -> None:
        given(person, GOOD, GOOD)
        ran = await person.run("submit", "in.jsonl", "--wait", "-o", "out.jsonl")
        assert (ran.code, (person.folder / "out.jsonl").read_bytes()) == (3, b"")
        assert ran.err.endswith("out.jsonl is empty: there is nothing for it\n")


class TestAPlace:
    @pytest.mark.parametrize(("place", "words"), [("served", "it is a directory"), ("none/x", "there is no folder")])
    async def test_that_takes_no_file_is_found_before_the_upload(
        self, door: Door, person: Person, place: str, words: str
    ) -> None:
        given(person, GOOD)
        for option in ("-o", "--errors"):
            ran = await person.run("submit", "in.jsonl", "--wait", option, place)
            assert (ran.code, ran.err.count("\n"), words in ran.err) == (1, 1, True)
        assert (await door.rest.get("/v1/files")).json()["data"] == []

    async def test_on_a_file_system_that_is_only_to_be_read_is_found_too(self, door: Door, person: Person) -> None:
        given(person, GOOD)
        ran = await person.run("submit", "in.jsonl", "--wait", "-o", "/proc/results.jsonl")
        assert (ran.code, ran.err) == (1, "batchyard: can't write to /proc/results.jsonl: permission denied\n")
        assert (await door.rest.get("/v1/files")).json()["data"] == []

    @pytest.mark.parametrize("place", ["in.jsonl", "./in.jsonl", "soft.jsonl", "hard.jsonl"])
    async def test_that_is_the_input_itself_is_refused(self, person: Person, place: str) -> None:
        given(person, GOOD)
        (person.folder / "soft.jsonl").symlink_to("in.jsonl")
        (person.folder / "hard.jsonl").hardlink_to(person.folder / "in.jsonl")
        ran = await person.run("submit", "in.jsonl", "--wait", "-o", place)
        assert (ran.code, ran.err.splitlines()[-1]) == (
            2,
            f"batchyard submit: error: -o names the input itself, {place}",
        )
        assert (person.folder / "in.jsonl").read_bytes() == jsonl([GOOD])

    @pytest.mark.parametrize("option", ["-o", "--errors"])
    async def test_of_an_empty_name_is_refused(self, door: Door, person: Person, option: str) -> None:
        """As where a shell's variable is not set."""
        given(person, GOOD)
        ran = await person.run("submit", "in.jsonl", "--wait", option, "")
        assert (ran.code, ran.err.splitlines()[-1]) == (
            2,
            f"batchyard submit: error: {option} names no file; is a variable empty?",
        )
        assert (await door.rest.get("/v1/files")).json()["data"] == []

    @pytest.mark.parametrize(
        ("place", "words"),
        [("new/", "it is a directory"), ("old/", "it is a directory"), ("loop", "leads in a circle")],
    )
    async def test_where_no_file_can_be_is_found_before_the_work(
        self, door: Door, person: Person, place: str, words: str
    ) -> None:
        given(person, GOOD)
        (person.folder / "old").write_text("old")
        (person.folder / "loop").symlink_to("loop")
        ran = await person.run("submit", "in.jsonl", "--wait", "-o", place)
        assert ran.code == 1
        assert words in ran.err
        assert (person.folder / "old").read_text() == "old"
        assert not (person.folder / "new").exists()
        assert (await door.rest.get("/v1/files")).json()["data"] == []

    async def test_may_not_be_the_same_for_both_by_a_link_either(self, person: Person) -> None:
        given(person, GOOD)
        (person.folder / "a").write_text("old")
        (person.folder / "b").hardlink_to(person.folder / "a")
        ran = await person.run("submit", "in.jsonl", "--wait", "-o", "a", "--errors", "b")
        assert (ran.code, "name the same file" in ran.err) == (2, True)


class TestTheEnd:
    async def test_says_how_many_where_and_what_is_commonest(self, person: Person) -> None:
        given(person, *chat_lines(1200), *(chat_line(f"bad-{n}", messages="none") for n in range(3)))
        ran = await person.run("submit", "in.jsonl", "--wait", "-o", "r.jsonl", "--errors", "e.jsonl")
        last = ran.err.splitlines()[-1]
        told = r"1,200 ok, 3 failed in \d+ s -> r\.jsonl, e\.jsonl; commonest: invalid_type x3"
        assert (ran.code, bool(re.fullmatch(told, last))) == (4, True), last

    async def test_says_what_is_commonest_where_nobody_wants_the_errors(self, person: Person) -> None:
        given(person, GOOD, BAD)
        ran = await person.run("submit", "in.jsonl", "--wait", "-o", "r.jsonl")
        assert re.fullmatch(
            r"1 ok, 1 failed in \d+ s -> r\.jsonl; commonest: invalid_type x1", ran.err.splitlines()[-1]
        )

    async def test_is_not_told_where_quiet_is_wanted(self, person: Person) -> None:
        given(person, GOOD, BAD)
        ran = await person.run("submit", "in.jsonl", "--wait", "-o", "r.jsonl", "--quiet")
        assert (ran.code, ran.err) == (4, "")


class TestATerminal:
    async def test_gets_no_results_but_a_file_beside_the_input(self, person: Person) -> None:
        given(person, GOOD, BAD)
        for name in ("in.jsonl", "in.jsonl.2"):
            results = name.replace("in.jsonl", "in.jsonl.results").removesuffix(".2")
            results = f"{results}.2.jsonl" if name.endswith(".2") else f"{results}.jsonl"
            shown = await person.run_on_terminal("submit", "in.jsonl", "--wait", both=True, code=4)
            assert '"custom_id"' not in shown
            assert f"-> {results}, {results.replace('results', 'errors')}; commonest" in shown
            assert '"custom_id":"good"' in (person.folder / results).read_text()

    async def test_gets_a_file_named_for_the_batch_where_there_is_no_input_file(
        self, door: Door, person: Person
    ) -> None:
        batch = await door.run([GOOD])
        shown = await person.run_on_terminal("results", batch["id"], both=True)
        assert f"-> {batch['id']}.results.jsonl" in shown
        assert [path.name for path in person.folder.glob("batch_*")] == [f"{batch['id']}.results.jsonl"]

    async def test_fits_in_eighty_columns(self, person: Person) -> None:
        given(person, *chat_lines(2000))
        shown = await person.run_on_terminal("submit", "in.jsonl", "--wait", both=True, COLUMNS="80")
        drawn = [line for piece in shown.split("\x1b[K") for line in piece.splitlines()]
        assert [
            line for line in drawn if line.startswith(("upload", "in_progress", "download")) and len(line) > 79
        ] == []

    async def test_gets_small_transfers_in_kilobytes(self, person: Person) -> None:
        given(person, GOOD)
        shown = await person.run_on_terminal("submit", "in.jsonl", "--wait", both=True)
        assert re.search(r"upload \[#{24}\] 0\.\d of 0\.\d KB", shown)
        assert "0.0 MB" not in shown

    async def test_has_room_for_tables_of_batches_with_their_ids_whole(self, door: Door, person: Person) -> None:
        batch = await door.run([*chat_lines(1100), BAD])
        failed = await door.create("file-none")
        await door.ended(failed["id"])
        table = lines_of(await person.run_on_terminal("list", both=True))
        assert table[0].split() == ["ID", "STATUS", "LINES", "FAILED", "AGE"]
        assert re.fullmatch(rf"{failed['id']}  failed     -            0       \d+[sm]", table[1])
        assert re.fullmatch(rf"{batch['id']}  completed  1,101/1,101  1       \d+[sm]", table[2])
        roomy = lines_of(await person.run_on_terminal("list", both=True, columns=130))
        assert roomy[0].split() == ["ID", "STATUS", "PROGRESS", "CREATED", "ENDPOINT"]
        assert roomy[1].split()[2] == "-"

    async def test_leaves_out_what_fits_it_least(self, door: Door, person: Person) -> None:
        batch = await door.run(chat_lines(1))
        head, row = lines_of(await person.run_on_terminal("list", both=True, columns=64))
        assert head.split() == ["ID", "STATUS", "LINES", "AGE"]
        assert row.startswith(f"{batch['id']}  completed  1/1    ")
        for line in lines_of(await person.run_on_terminal("list", both=True, columns=45)):
            assert line.endswith("...")
            assert len(line) <= 45

    async def test_has_room_for_tables_of_files_whatever_their_names(self, door: Door, person: Person) -> None:
        files = [await door.upload(b"x", name, "user_data") for name in ("n" * 90 + ".txt", "\u540d" * 60, "a.txt")]
        table = lines_of(await person.run_on_terminal("list", "--files", both=True))
        assert table[0].split() == ["ID", "PURPOSE", "BYTES", "AGE", "NAME"]
        assert [line.split()[0] for line in table[1:]] == [file["id"] for file in reversed(files)]
        assert [columns_of(line) <= 80 for line in table] == [True] * 4
        assert [line.endswith("...") for line in table] == [False, False, True, True]
        assert table[1].endswith("  a.txt")

    async def test_has_room_for_tables_of_keys(self, person: Person) -> None:
        names = ("--tenant", "t" * 64, "--name", "n" * 64, "--allow-provider", "local", "--expires-in", "90d")
        await person.run("keys", "create", *names)
        for line in (table := lines_of(await person.run_on_terminal("keys", "list", both=True))):
            assert len(line) <= 80
        assert f"  {'t' * 11}...  {'n' * 11}...  active  " in table[-1]
        assert table[-1].endswith("  local")

    @pytest.mark.parametrize(
        "command", ["", "serve", "shim", "backup", "submit", "upload", "watch", "results", "list", "keys create"]
    )
    async def test_shows_help_in_eighty_columns(self, person: Person, command: str) -> None:
        shown = await person.run_on_terminal(*command.split(), "--help", both=True, COLUMNS="80")
        assert [line for line in shown.splitlines() if len(line) > 80] == []
