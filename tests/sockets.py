"""What the tests ask the system about this process's sockets."""

import os


def sockets() -> int:
    """How many this process holds."""
    held = [f"/proc/self/fd/{name}" for name in os.listdir("/proc/self/fd")]
    return sum(os.path.islink(name) and os.readlink(name).startswith("socket:") for name in held)
