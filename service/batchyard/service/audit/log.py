"""The audit log's file: a thread of its own appends lines, in order; none is lost while the process lives."""

import asyncio
import logging
import os
import stat
import threading
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager, suppress
from pathlib import Path

from batchyard.service.errors import Unavailable

_RETRY_SECONDS = 1.0
_WAIT_SECONDS = 10.0
_MODE = 0o600

_log = logging.getLogger("batchyard.audit")


class AuditError(Exception):
    """The log can't be opened; the text says why."""


class AuditLog:
    """A file that this user alone reads, if it is new. One that was moved away is left, and another begun in its place.

    While it can't be written, `ready` lets nobody through, and what came before is held until it can. A line counts as
    written when the system has it: a power cut may take the last seconds.
    """

    def __init__(
        self,
        path: Path,
        failing: Callable[[bool], None],
        loop: asyncio.AbstractEventLoop,
        most: int,
        wait_seconds: float,
    ) -> None:
        """`failing` is told when it can't be written, and when it can again.

        `most` lines are held before callers wait, up to `wait_seconds`. Raises AuditError.
        """
        self._path = path
        self._tell = failing
        self._loop = loop
        self._most = most
        self._wait_seconds = wait_seconds
        self._changed = threading.Condition()
        self._lines: list[bytes] = []
        self._held = 0
        self._waiting: list[asyncio.Future[None]] = []
        self._failing = False
        self._closing = threading.Event()
        try:
            self._file = _opened(path)
        except OSError as error:
            raise AuditError(f"The audit log {path} can't be opened: {error.strerror}.") from None
        self._writer = threading.Thread(target=self._write_groups, name="audit-write")
        self._writer.start()

    @property
    def behind(self) -> bool:
        """Whether a line would have to wait: none can be written, or too many are held."""
        return self._failing or self._held >= self._most

    async def ready(self) -> None:
        """Waits until there is room for a line. Raises Unavailable while none can be written, or for too long."""
        if self.behind:
            with suppress(TimeoutError):
                async with asyncio.timeout(self._wait_seconds):
                    await self._room()
        if self.behind:
            raise Unavailable("The audit log of this service can't be written right now. Nothing was changed.")

    def append(self, line: bytes) -> None:
        """Takes a line, its end included, to be written soon."""
        with self._changed:
            self._lines.append(line)
            self._held += 1
            self._changed.notify()

    async def _room(self) -> None:
        """Returns when there is room, or nothing can be written."""
        while not self._failing and self._held >= self._most:
            waiting = self._loop.create_future()
            with self._changed:
                self._waiting.append(waiting)
                self._changed.notify()
            try:
                await waiting
            finally:
                with self._changed:
                    if waiting in self._waiting:  # it gave up: a disk that hangs must not gather them
                        self._waiting.remove(waiting)

    def close(self) -> None:
        """Writes what is left, or says how much was lost."""
        self._closing.set()
        with self._changed:
            self._changed.notify()
        self._writer.join()
        os.close(self._file)

    def _write_groups(self) -> None:
        while True:
            with self._changed:
                self._changed.wait_for(lambda: self._lines or self._waiting or self._closing.is_set())
                lines, self._lines = self._lines, []
            if lines and not self._written(b"".join(lines)):
                _log.error("lines of the audit log were lost", extra={"lines": self._held})
                return
            with self._changed:
                self._held -= len(lines)
            self._wake()
            if self._closing.is_set() and not self._lines:
                return

    def _written(self, group: bytes) -> bool:
        """Whether the lines were written: it tries again until they are, or the log is closed."""
        done = 0
        while done < len(group):
            try:
                if self._moved():
                    done = group.rfind(b"\n", 0, done) + 1  # what the other file has half of
                done += os.write(self._file, group[done:])
            except OSError as error:
                self._set_failing(str(error.strerror))
                if self._closing.wait(_RETRY_SECONDS):
                    return False
            else:
                self._set_failing(None)
        return True

    def _moved(self) -> bool:
        """Whether the path led elsewhere, and was opened again."""
        ours = os.fstat(self._file)
        try:
            there = self._path.stat()
            if (there.st_dev, there.st_ino) == (ours.st_dev, ours.st_ino):
                return False
        except FileNotFoundError:
            pass
        new = _opened(self._path)
        os.close(self._file)
        self._file = new
        return True

    def _set_failing(self, why: str | None) -> None:
        if self._failing is (why is not None):
            return
        self._failing = why is not None
        self._tell(self._failing)
        if why is None:
            _log.warning("the audit log is written again")
        else:
            _log.error("the audit log can't be written: calls are refused", extra={"error": why})
        self._wake()

    def _wake(self) -> None:
        with self._changed:
            waiting, self._waiting = self._waiting, []
        if waiting:
            self._loop.call_soon_threadsafe(_let_go, waiting)


@asynccontextmanager
async def opened(
    path: Path, failing: Callable[[bool], None], *, most: int = 10_000, wait_seconds: float = _WAIT_SECONDS
) -> AsyncIterator[AuditLog]:
    """The log at `path`, closed at the end of the context. Raises AuditError."""
    log = await asyncio.to_thread(AuditLog, path, failing, asyncio.get_running_loop(), most, wait_seconds)
    try:
        yield log
    finally:
        await asyncio.to_thread(log.close)


def _let_go(waiting: list[asyncio.Future[None]]) -> None:
    for one in waiting:
        if not one.done():
            one.set_result(None)


def _opened(path: Path) -> int:
    """Opened for appending, behind a whole line. Raises OSError."""
    file = os.open(path, os.O_RDWR | os.O_APPEND | os.O_CREAT | os.O_CLOEXEC | os.O_NONBLOCK, _MODE)
    try:
        found = os.fstat(file)
        if not stat.S_ISREG(found.st_mode):
            raise OSError(0, "it is not a regular file")
        if found.st_size and os.pread(file, 1, found.st_size - 1) != b"\n":
            os.write(file, b"\n")
    except OSError:
        os.close(file)
        raise
    return file
