"""How far something is, in words and as a bar."""

from collections.abc import Callable
from time import monotonic

from batchyard.cli.client import ENDED
from batchyard.cli.console import Console
from batchyard.common.jsonmap import writer
from batchyard.v1 import Batch

_WIDTH, _LEAST = 24, 6
_WRITE = writer(Batch)
_PLAIN_SECONDS = 10.0  # between two lines where no bar can be drawn


def status(batch: Batch) -> str:
    """The status as the REST API spells it."""
    return str(_WRITE(batch)["status"])


def counts(batch: Batch) -> str:
    """`12 of 20 lines, 2 failed`; nothing where the lines are not counted, as of a batch that is not validated."""
    lines = batch.request_counts
    if not lines.total:
        return ""
    failed = f", {lines.failed:,} failed" if lines.failed else ""
    return f"{lines.completed + lines.failed:,} of {lines.total:,} lines{failed}"


def standing(batch: Batch) -> str:
    """`batch_abc123 in_progress: 12 of 20 lines`."""
    return ": ".join(filter(None, [f"{batch.id} {status(batch)}", counts(batch)]))


def waiting(batch: Batch) -> str:
    """Why lines of the batch wait, in the service's words; nothing where none do."""
    return next((one.reason for one in batch.placements if not one.deployment), "")


def transferred(verb: str, done: int, total: int | None) -> str:
    """A line for bytes that move; `total` None: nobody knows how many."""
    unit, size = ("KB", 1e3) if (done if total is None else total) < 1e6 else ("MB", 1e6)
    if total is None:
        return f"{verb} {done / size:.1f} {unit}"
    return f"{verb} {_bar(done, total)}{done / size:.1f} of {total / size:.1f} {unit}"


class Follower:
    """Tells how a batch moves: a bar on a terminal, elsewhere a line at each new status and every ten seconds.

    Both get a line for each new reason for which it waits.
    """

    def __init__(self, console: Console, draw: Callable[[str], None], clock: Callable[[], float] = monotonic) -> None:
        self._console = console
        self._draw = draw
        self._clock = clock
        self._began: tuple[float, int] | None = None
        self._said = ""
        self._why = ""
        self._next = 0.0

    def tell(self, batch: Batch) -> None:
        """The batch is like this now."""
        lines, now = batch.request_counts, self._clock()
        done = lines.completed + lines.failed
        self._began = self._began or (now, done)
        seconds, moved = now - self._began[0], done - self._began[1]
        rate = f", {moved / seconds:,.0f} lines/s" if moved and seconds else ""
        if (why := waiting(batch)) and why != self._why:
            self._console.say(f"{batch.id} is {why}")
            self._why = why
        if self._console.live:
            told = f"{counts(batch)}{rate}"
            room = self._console.columns - len(f"{status(batch)} [] {told}")
            bar = _bar(done, lines.total, min(room, _WIDTH)) if told else ""
            self._draw(f"{status(batch)} {bar}{told}")
        elif batch.status not in ENDED and (status(batch) != self._said or now >= self._next):
            self._console.say(f"{standing(batch)}{rate}")
            self._said, self._next = status(batch), now + _PLAIN_SECONDS


def _bar(done: int, total: int, width: int = _WIDTH) -> str:
    """A bar and a space after it; nothing where there is no room for one."""
    if width < _LEAST:
        return ""
    filled = width * done // total if total else 0
    return f"[{'#' * filled}{'.' * (width - filled)}] "
