"""Only ordinary files are opened: to read a pipe can mean to wait for ever, a device is no file."""

from __future__ import annotations

import os
import stat
from pathlib import Path


def check_ordinary(path: str | os.PathLike[str]) -> None:
    """Raises ValueError for a folder, pipe, device or socket, OSError for what is not there."""
    if not stat.S_ISREG(os.stat(path).st_mode):
        raise ValueError(
            f"{Path(path).name} is no ordinary file (a folder, pipe, device or socket), and is not"
            " opened. Choose a file."
        )
