"""Runs a command with a small file system of its own mounted on a folder: `python -m tests.bad_input.smalldisk ...`

    python -m tests.bad_input.smalldisk FOLDER BYTES MODULE [ARGUMENT...]

The mount is in a namespace of the command alone, for which Linux asks no special rights, and ends with it. Others see
it as /proc/PID/root/FOLDER.
"""

import os
import shutil
import subprocess
import sys

_ALONE = ["unshare", "--user", "--map-root-user", "--mount"]
_MOUNT = 'mount -t tmpfs -o "size=$1" tmpfs "$0" && shift && exec "$@"'


def possible() -> bool:
    """Whether this system lets us."""
    if not shutil.which("unshare"):
        return False
    tried = [*_ALONE, "mount", "-t", "tmpfs", "tmpfs", "/mnt"]
    return not subprocess.run(tried, check=False, capture_output=True).returncode


if __name__ == "__main__":
    folder, size, module, *arguments = sys.argv[1:]
    os.execvp("unshare", [*_ALONE, "sh", "-c", _MOUNT, folder, size, sys.executable, "-m", module, *arguments])  # noqa: S606
