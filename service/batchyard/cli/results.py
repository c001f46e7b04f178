"""The results of a batch: written where they are wanted, and told in a line."""

import json
from collections import Counter
from collections.abc import Iterable, Iterator
from os.path import lexists

from batchyard.cli import again
from batchyard.cli.client import Client
from batchyard.cli.console import Console
from batchyard.cli.outputs import STDIO, Places, replacing
from batchyard.cli.progress import standing, transferred
from batchyard.v1 import Batch, File

_COMMONEST = 3
_MOST_READ = 16 << 20  # bytes of an error file that are fetched only to say what is commonest in it
_MOST_LINE = 1 << 20  # of a line that is looked into


class _Kinds:
    """Counts the errors of an error file's lines by their codes."""

    def __init__(self) -> None:
        self.counts: Counter[str] = Counter()
        self._rest = b""

    def add(self, piece: bytes) -> None:
        *lines, rest = (self._rest + piece).split(b"\n")
        self._rest = rest[: _MOST_LINE + 1]
        self.counts.update(_kind(line) for line in lines if line)

    def told(self) -> str:
        """`invalid_type x109`, the commonest first."""
        return ", ".join(f"{kind} x{count:,}" for kind, count in self.counts.most_common(_COMMONEST))


def _kind(line: bytes) -> str:
    try:
        found = json.loads(line) if len(line) <= _MOST_LINE else {}
        error, response = found.get("error") or {}, found.get("response") or {}
        theirs = (response.get("body") or {}).get("error") or {}
        return str(error.get("code") or theirs.get("code") or theirs.get("type") or f"status {response['status_code']}")
    except (ValueError, LookupError, AttributeError, TypeError, RecursionError):
        return "other"


def write(client: Client, batch: Batch, places: Places, hint: str, console: Console) -> None:
    """Writes what there is, and says what became of each file; `hint` is how to have the lines that failed.

    A file is replaced when there is something to write. One that is named and isn't there is made, empty for no lines.
    """
    written, left = [], []
    kinds = _Kinds()
    for file_id, path in ((batch.output_file_id, places.output), (batch.error_file_id, places.errors)):
        counted = [kinds] if file_id and file_id == batch.error_file_id else []
        if path and (file_id or not (lexists(path) or places.chosen or path == STDIO)):
            _save(client, file_id, path, counted, console)
            written += [path] if path != STDIO else []
        elif path and path != STDIO and lexists(path):
            left.append(path)
        elif counted and console.talks:
            _read(client, file_id, kinds)
    for path in left:
        console.say(f"{path} is left as it was: there is nothing for it")
    if batch.error_file_id and not places.errors:
        console.say(f"some lines failed or never ran; to have them: {hint}")
    if batch.request_counts.total:
        console.say(_summary(batch, written, kinds))
        return
    for path in written:
        console.say(f"{path} is empty: there is nothing for it")


def _save(client: Client, file_id: str, path: str, counted: Iterable[_Kinds], console: Console) -> None:
    file = client.file(file_id) if file_id else File()
    if path == STDIO:
        with console.bytes_out() as out:
            for piece in _counted(client.download(file), counted):
                out.write(piece)
        return
    done = 0
    with replacing(path) as out, console.moving() as draw:
        for piece in _counted(client.download(file), counted):
            done += out.write(piece)
            draw(transferred("download", done, file.bytes))


def _counted(pieces: Iterable[bytes], counted: Iterable[_Kinds]) -> Iterator[bytes]:
    for piece in pieces:
        for kinds in counted:
            kinds.add(piece)
        yield piece


def _read(client: Client, file_id: str, kinds: _Kinds) -> None:
    file = client.file(file_id)
    if file.bytes <= _MOST_READ:
        for piece in client.download(file):
            kinds.add(piece)


def _summary(batch: Batch, written: list[str], kinds: _Kinds) -> str:
    """`3,891 ok, 109 failed in 8 s -> r.jsonl, e.jsonl; commonest: invalid_type x109`."""
    lines = batch.request_counts
    not_run = lines.total - lines.completed - lines.failed
    rest = f", {not_run:,} not run" if not_run else ""
    ends = (batch.completed_at, batch.expired_at, batch.cancelled_at, batch.failed_at)
    taken = _span(max(0, max(ends) - batch.created_at))
    where = f" -> {', '.join(written)}" if written else ""
    commonest = f"; commonest: {kinds.told()}" if kinds.counts else ""
    return f"{lines.completed:,} ok, {lines.failed:,} failed{rest} in {taken}{where}{commonest}"


def _span(seconds: int) -> str:
    if seconds < 120:
        return f"{seconds} s"
    minutes = seconds // 60
    return f"{minutes} min" if minutes < 120 else f"{minutes // 60} h {minutes % 60} min"


def tell_end(batch: Batch, console: Console) -> None:
    """How the batch has ended, and why where it failed."""
    console.say(standing(batch))
    reasons = batch.errors.data
    for reason in reasons[:10]:
        console.say(f"  line {reason.line}: {reason.message}" if reason.HasField("line") else f"  {reason.message}")
    if len(reasons) > 10:
        console.say(f"  and {len(reasons) - 10} more; {again.program()} watch {batch.id} --json has them all")
