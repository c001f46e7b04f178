"""How to go on: commands that somebody can paste, with the connection as it was given."""

import os
import shlex
import shutil
import sys
from argparse import Namespace
from collections.abc import Iterator
from contextlib import contextmanager

from batchyard.cli.client import CallError
from batchyard.cli.console import Console

_CONNECTION = ("server", "key_file", "ca_file", "client_cert_file", "client_key_file", "provider")
_RESULTS = ("output", "errors")
_SHORT = {"output": "-o"}


def command(given: Namespace, *words: str) -> str:
    """`batchyard` with these words, and with the options that say which service and which key."""
    return shlex.join([program(), *words, *_options(given, _CONNECTION)])


def results(given: Namespace, batch_id: str, *, wait: bool) -> str:
    """The command that writes a batch's results where these options say, after it has waited for its end."""
    words = ["results", batch_id, *(["--wait"] if wait else []), *_options(given, _RESULTS)]
    return command(given, *words)


def follow(given: Namespace, batch_id: str) -> list[str]:
    """That a batch goes on, and the commands that follow it and wait for its results."""
    lines = [f"{batch_id} goes on; to follow it: {command(given, 'watch', batch_id)}"]
    if given.command != "watch":
        lines.append(f"to wait for its results: {results(given, batch_id, wait=True)}")
    return lines


def same(given: Namespace, file_id: str, endpoint: str, idempotency_key: str) -> str:
    """The command that starts the batch of a stored file, if it was not started under this key already."""
    words = ["submit", file_id, "--endpoint", endpoint, "--idempotency-key", idempotency_key]
    words += ["--wait"] if given.wait else []
    words += [] if given.window == "24h" else ["--window", given.window]
    words += [word for name, value in given.metadata for word in ("--metadata", f"{name}={value}")]
    return command(given, *words, *_options(given, ("output_expires_after", *_RESULTS)))


def repeated() -> str:
    """The command as it was given."""
    return shlex.join([program(), *sys.argv[1:]])


def program() -> str:
    """How this command was called: by its name where the shell finds it, else by its path."""
    called = sys.argv[0]
    if os.path.basename(called) != "batchyard" or os.path.dirname(called) in {"", os.path.dirname(_on_path())}:
        return "batchyard"
    near = os.path.relpath(called)
    return called if near.startswith("..") else near


def _on_path() -> str:
    return shutil.which("batchyard") or ""


def _options(given: Namespace, names: tuple[str, ...]) -> list[str]:
    values = [(name, getattr(given, name, None)) for name in names]
    return [word for name, value in values if value for word in (_SHORT.get(name, _long(name)), str(value))]


def _long(name: str) -> str:
    return f"--{name.replace('_', '-')}"


class Standing:
    """What is stored by now and how to go on; `passing`: worth saying also where the network or the disk ends it."""

    def __init__(self) -> None:
        self.lines: tuple[str, ...] = ()
        self.passing = False

    def reached(self, *lines: str, passing: bool = True) -> None:
        self.lines = lines
        self.passing = passing


@contextmanager
def telling(console: Console) -> Iterator[Standing]:
    """Says how things stand, where Ctrl-C, the network or the disk ends what is inside."""
    standing = Standing()
    try:
        yield standing
    except BrokenPipeError:
        raise
    except (KeyboardInterrupt, OSError, CallError) as error:
        away = not isinstance(error, CallError) or error.passing or error.unsure
        if isinstance(error, KeyboardInterrupt) or (standing.passing and away):
            for line in standing.lines:
                console.complain(line)
        raise
