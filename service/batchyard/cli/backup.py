"""`batchyard backup`: a copy of the data directory, also of one in use."""

import sys
from pathlib import Path

from batchyard.cli.errors import RunError
from batchyard.service.config.settings import Settings
from batchyard.service.datadir.backup import BackupError, back_up


def run(settings: Settings, destination: Path) -> None:
    """Copies the data directory of `settings` to a new folder and says so. Raises RunError."""
    if settings.database_url:
        raise RunError("batchyard.database_url is set: back that database up by its own means, before the store.")
    try:
        size = back_up(settings.data_dir, destination)
    except BackupError as error:
        raise RunError(str(error)) from None
    sys.stdout.write(f"{settings.data_dir} copied to {destination}: {size} bytes of files\n")
