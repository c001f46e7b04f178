"""Where the command `batchyard` begins: with what Ctrl-C means, before anything else is imported."""

import os
import sys
from collections.abc import Mapping, Sequence
from importlib import import_module

from batchyard.cli import interrupts


def main(arguments: Sequence[str] | None = None, environ: Mapping[str, str] = os.environ) -> int:
    """Runs the command and returns its exit code, as `command.run` has it; 130 where Ctrl-C has ended it."""
    interrupts.leave_at_once()
    try:
        return int(import_module(".command", __package__).run(arguments, environ))
    except KeyboardInterrupt:
        # Else what is left goes to a reader who left too.
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        sys.stderr.write("batchyard: interrupted\n")
        return interrupts.CODE
    finally:
        interrupts.ignore()


if __name__ == "__main__":
    sys.exit(main())
