"""Ctrl-C, from the first import on: no traceback, and exit code 130."""

import os
import signal
from types import FrameType

CODE = 130
_NUMBER = signal.SIGINT


def leave_at_once() -> None:
    """From now on Ctrl-C ends the process on the spot: while nothing was begun, and what is imported is half there.

    A process that was started deaf to it stays so, and another thread than the main one changes nothing.
    """
    if signal.getsignal(_NUMBER) is signal.default_int_handler:
        _hear(leaves=True)


def catch() -> None:
    """From now on the first Ctrl-C raises KeyboardInterrupt, for what was begun to be put in order; a third ends it."""
    if signal.getsignal(_NUMBER) is _leave:
        signal.signal(_NUMBER, _Once())


def ignore() -> None:
    """From now on Ctrl-C does nothing: all is done, and the interpreter is ending."""
    _hear(leaves=False)


def _hear(*, leaves: bool) -> None:
    """Does nothing in another thread than the main one."""
    try:
        signal.signal(_NUMBER, _leave if leaves else signal.SIG_IGN)
    except ValueError:
        return


class _Once:
    def __init__(self) -> None:
        self._heard = 0

    def __call__(self, number: int, frame: FrameType | None) -> None:
        self._heard += 1
        if self._heard == 1:
            raise KeyboardInterrupt
        if self._heard > 2:
            _leave(number, frame)


def _leave(_: int, __: FrameType | None) -> None:
    os.write(2, b"batchyard: interrupted\n")
    os._exit(CODE)
