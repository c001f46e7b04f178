"""A chunk's results while it runs: an append-only file in which a line counts once it is synced.

Each record carries a checksum, so that after a crash the torn tail is cut and only missing lines run again; what is
damaged in its midst is a `Gap`. Appends share syncs: while one is under way, all that come wait for the next.
"""

import asyncio
import logging
import os
from collections.abc import Iterator, Sequence
from contextlib import suppress
from pathlib import Path

from batchyard.service.background import to_the_end
from batchyard.service.datadir.disk import Disk
from batchyard.service.domain.records import Counts, Kind
from batchyard.service.engine.records import HEAD, Gap, is_whole, packed, records
from batchyard.service.errors import Unavailable
from batchyard.service.jsonl.results import Result, Tokens
from batchyard.service.workers import Run

_BACKLOG = 4 << 20  # bytes that may wait for a sync before appends wait too
_PIECE = 256 << 10

_log = logging.getLogger("batchyard.engine")


class Journal:
    """Open with `Journal.open`; `append` results, `drain`, read them back with `texts`, `close`, `remove`.

    `gaps` are the places where earlier journals were damaged.
    """

    def __init__(self, path: Path, disk: Disk, run: Run = asyncio.to_thread) -> None:
        self.path = path
        self.counts = Counts()
        self.gaps: list[Gap] = []
        self._disk = disk
        self._run = run
        self._file = path.open("x+b", buffering=0)
        self._size = 0
        self._places: dict[int, tuple[int, int, Kind]] = {}
        self._waiting: list[Result] = []
        self._backlog = 0
        self._flusher: asyncio.Task[None] | None = None

    @classmethod
    async def open(cls, path: Path, disk: Disk, earlier: Sequence[Path], run: Run = asyncio.to_thread) -> "Journal":
        """A new journal at `path` that starts with what earlier ones of the same chunk hold; those are removed.

        `run` has the threads in which it writes and syncs.
        """

        def work() -> Journal:
            journal = cls(path, disk, run)
            try:
                for older in earlier:
                    journal._adopt(older)
                disk.sync_data(journal._file, site="journal.adopted")
                disk.sync_dir(path.parent, site="journal.dir")
            except BaseException:
                journal._file.close()
                raise
            for older in earlier:
                older.unlink()
            return journal

        opening = asyncio.create_task(run(work))
        try:
            return await asyncio.shield(opening)
        except asyncio.CancelledError:  # the thread goes on, and its file must not stay open
            with suppress(OSError):
                (await opening)._file.close()
            raise

    def __contains__(self, line: int) -> bool:
        return line in self._places

    async def append(self, result: Result) -> None:
        """Takes a result; it is durable, and in `counts`, some time after. Raises what an earlier sync raised."""
        if self._flusher and self._flusher.done():
            self._flusher.result()  # a journal that failed once stays failed
            self._flusher = None
        self._waiting.append(result)
        self._backlog += len(result.text)
        if self._flusher is None:
            self._flusher = asyncio.create_task(self._flush())
        if self._backlog > _BACKLOG:
            await asyncio.shield(self._flusher)

    async def drain(self) -> None:
        """Returns when all that was appended is durable. Raises what a sync raised."""
        if self._flusher:
            await asyncio.shield(self._flusher)

    def texts(self, *kinds: Kind) -> Iterator[bytes]:
        """The texts of some kinds in the order of the input, in pieces of about 256 KiB. Reads the file.

        Raises Unavailable where a record is not what was written: a journal that adopts this one finds out which.
        """
        piece: list[bytes] = []
        size = 0
        for line, (offset, length, kind) in sorted(self._places.items()):
            if kind in kinds:
                data = os.pread(self._file.fileno(), length, offset)
                if len(data) < length or not is_whole(data):
                    _log.error("a result can't be read back", extra={"journal": self.path.name, "line": line})
                    raise Unavailable("A result on its way can't be read back.")
                piece.append(data[HEAD.size :])
                size += length
                if size >= _PIECE:
                    yield b"".join(piece)
                    piece, size = [], 0
        if piece:
            yield b"".join(piece)

    async def close(self) -> None:
        """Waits for the sync that is under way, if any; never raises what it raises."""
        try:
            if self._flusher:
                with suppress(Exception):  # whoever appended or drained was told
                    await to_the_end(self._flusher)
        finally:
            self._file.close()

    def remove(self) -> None:
        self.path.unlink(missing_ok=True)

    async def _flush(self) -> None:
        while self._waiting:
            group, self._waiting = self._waiting, []
            await self._run(self._write, group)
            self._backlog -= sum(len(result.text) for result in group)

    def _write(self, group: Sequence[Result]) -> None:
        self._put(b"".join(packed(result) for result in group))
        self._disk.sync_data(self._file, site="journal.data")
        for result in group:
            self._place(result.line, result.kind, result.tokens, len(result.text))

    def _put(self, data: bytes) -> None:
        """Writes all of `data` behind what counts; a file that may not grow takes a part without a word."""
        written = 0
        while written < len(data):
            written += os.pwrite(self._file.fileno(), data[written:], self._size + written)

    def _place(self, line: int, kind: Kind, tokens: Tokens, length: int) -> None:
        self._places[line] = (self._size, HEAD.size + length, kind)
        self._size += HEAD.size + length
        ran = (int(kind is Kind.COMPLETED), int(kind is Kind.FAILED))
        self.counts += Counts(*ran, *tokens)

    def _adopt(self, path: Path) -> None:
        with path.open("rb") as file:
            for found in records(file):
                if isinstance(found, Gap):
                    self.gaps.append(found)
                    told = {"journal": path.name, "at": found.start, "bytes": found.size, "lines": sorted(found.lines)}
                    _log.error("a journal is damaged: results were lost", extra=told)
                elif found.line not in self._places:
                    self._put(found.data)
                    self._place(found.line, found.kind, found.tokens, len(found.data) - HEAD.size)
