"""Runs a command where another one of `smalldisk` sees its disk: `python -m tests.bad_input.samedisk PID COMMAND...`"""

import os
import sys

if __name__ == "__main__":
    pid, *command = sys.argv[1:]
    inside = ["nsenter", "--target", pid, "--user", "--preserve-credentials", "--mount", f"--wd={os.getcwd()}"]
    os.execvp("nsenter", [*inside, *command])  # noqa: S606
