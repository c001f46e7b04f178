"""Ctrl-C, from the first import on: no traceback, and exit code 130."""

import os
import signal
import sys
from types import FrameType

CODE = 130
_NUMBER = signal.SIGINT
_AGAIN_SECONDS = 0.05  # until what swallowed it has returned


def leave_at_once() -> None:
    """From now on Ctrl-C ends the process on the spot: while nothing was begun, and what is imported is half there.

    A process that was started deaf to it stays so, and another thread than the main one changes nothing.
    """
    if signal.getsignal(_NUMBER) is signal.default_int_handler:
        _hear(leaves=True)


def catch() -> None:
    """From now on the first Ctrl-C raises KeyboardInterrupt, for what was begun to be put in order; a third ends it."""
    if signal.getsignal(_NUMBER) is _leave:
        once = _Once()
        signal.signal(_NUMBER, once)
        sys.unraisablehook = once.swallowed


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
    """Raises KeyboardInterrupt once, and again where it came in a place that may raise nothing, as a `__del__`."""

    def __init__(self) -> None:
        self._heard = 0
        self._raises = False

    def __call__(self, number: int, frame: FrameType | None) -> None:
        again, self._raises = self._raises, False
        if not again:
            self._heard += 1
        if again or self._heard == 1:
            raise KeyboardInterrupt
        if self._heard > 2:
            _leave(number, frame)

    def swallowed(self, lost: "sys.UnraisableHookArgs") -> None:
        """Python's hook for exceptions that nobody can catch, which it else writes to stderr and forgets."""
        if not isinstance(lost.exc_value, KeyboardInterrupt):
            sys.__unraisablehook__(lost)
            return
        from threading import Timer  # noqa: PLC0415 - not before Ctrl-C is heard

        self._raises = True
        Timer(_AGAIN_SECONDS, os.kill, (os.getpid(), _NUMBER)).start()


def _leave(_: int, __: FrameType | None) -> None:
    os.write(2, b"batchyard: interrupted\n")
    os._exit(CODE)
