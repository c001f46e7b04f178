"""Unix sockets: a listener that is a file, which only those reach who may write to it."""

import os
import socket
import stat
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Literal, NamedTuple
from urllib.parse import quote

MOST_BYTES = 107
"""Of a path: what the kernel takes."""

Access = Literal["owner", "group", "all"]
_MODES: dict[Access, int] = {"owner": 0o600, "group": 0o660, "all": 0o666}


class SocketError(Exception):
    """There can't be a socket at the path; the text says why."""


class UnixSocket(NamedTuple):
    """Where a server listens, and whose processes on this machine may connect."""

    path: Path
    access: Access = "owner"

    def __str__(self) -> str:
        return f"unix:{self.path}"

    @property
    def target(self) -> str:
        """As gRPC has it."""
        return f"unix:{quote(os.fsencode(self.path))}"

    @contextmanager
    def bound(self) -> Iterator[str]:
        """Its path, to bind in the context. Replaces a socket that nobody listens on any more.

        Raises SocketError where somebody does, and where another kind of file is in the way.
        """
        self._make_way()
        mask = os.umask(0o177)  # from the first moment on nobody else may connect
        try:
            yield str(self.path)
        finally:
            os.umask(mask)
        self.path.chmod(_MODES[self.access])

    def _make_way(self) -> None:
        try:
            if not stat.S_ISSOCK(self.path.lstat().st_mode):
                raise SocketError(f"{self.path} is there and is no socket")
            with socket.socket(socket.AF_UNIX) as probe:
                probe.setblocking(False)  # one that is too busy to answer is alive too
                probe.connect(str(self.path))
        except FileNotFoundError:
            pass
        except ConnectionRefusedError:
            self.path.unlink(missing_ok=True)
        except OSError as error:
            raise SocketError(f"{self.path} can't be a socket: {error.strerror or error}") from None
        else:
            raise SocketError(f"another process listens on {self.path}")


def listener(at: UnixSocket, backlog: int) -> socket.socket:
    """A socket that listens. Raises SocketError."""
    made = socket.socket(socket.AF_UNIX)
    try:
        with at.bound() as path:
            made.bind(path)
        made.listen(backlog)
    except OSError as error:
        made.close()
        raise SocketError(f"{at.path} can't be a socket: {error.strerror or error}") from None
    except SocketError:
        made.close()
        raise
    return made
