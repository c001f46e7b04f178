"""What the tests ask the system about sockets."""

import os
import socket
from collections.abc import Iterator
from contextlib import contextmanager


def sockets() -> int:
    """How many this process holds."""
    held = [f"/proc/self/fd/{name}" for name in os.listdir("/proc/self/fd")]
    return sum(os.path.islink(name) and os.readlink(name).startswith("socket:") for name in held)


@contextmanager
def held_port() -> Iterator[int]:
    """A port for servers that come and go: whoever asks for any port gets another, and without a server it refuses."""
    with socket.socket() as holder:
        holder.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)  # a server that says the same may listen here
        holder.bind(("127.0.0.1", 0))
        yield int(holder.getsockname()[1])
