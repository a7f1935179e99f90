"""Files that belong to a running process until it lets go: names it has taken, parts it writes.

A lock says whether the process still runs, also from another container or host that sees the same
folder: the system lets go of a dead process's locks, however it died.
"""

from __future__ import annotations

import os
import stat
import time
from contextlib import suppress
from pathlib import Path

try:
    import fcntl
except ImportError:  # Windows, where an open file cannot be deleted, which says the same
    fcntl = None  # type: ignore[assignment]

MARK = ".distill3d-"  # how the names of all of them begin: nobody else's are ever removed
GRACE = 10.0  # seconds between the making of a file and its lock, at most


class Held:
    """A new file of this process's own, to be let go with `release`.

    Raises FileExistsError if the file is there, OSError if the disk refuses.
    """

    def __init__(self, path: Path) -> None:
        flags = os.O_RDWR | os.O_CREAT | os.O_EXCL | getattr(os, "O_BINARY", 0)
        self.path, self.descriptor = path, os.open(path, flags, 0o666)
        if fcntl is not None:
            with suppress(OSError):  # some network folders have no locks
                fcntl.flock(self.descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)

    def release(self, remove: bool = True) -> None:
        """Let go; with ``remove`` the file goes too, if it is still there."""
        if remove and fcntl is not None:
            self.path.unlink(missing_ok=True)
        if self.descriptor >= 0:
            os.close(self.descriptor)
            self.descriptor = -1
        if remove and fcntl is None:
            with suppress(OSError):
                self.path.unlink(missing_ok=True)


def clean(folder: Path) -> list[Path]:
    """Remove from a folder what processes that have died held there; returns what was removed."""
    removed = []
    with suppress(OSError), os.scandir(folder) as entries:
        for entry in entries:
            if entry.name.startswith(MARK) and _left(Path(entry.path)):
                removed.append(Path(entry.path))
    return removed


def _left(path: Path) -> bool:
    """Whether the file was held by a process that has died; it is gone then."""
    try:
        found = os.lstat(path)
        if not stat.S_ISREG(found.st_mode) or time.time() - found.st_mtime < GRACE:
            return False
        if fcntl is None:
            path.unlink()
            return True
        descriptor = os.open(path, os.O_RDWR | os.O_NOFOLLOW | os.O_NONBLOCK)
        try:
            fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
            own = os.fstat(descriptor)
            now = os.lstat(path)
            # else another has taken the name meanwhile
            if (own.st_dev, own.st_ino) != (now.st_dev, now.st_ino):
                return False
            path.unlink()
            return True
        finally:
            os.close(descriptor)
    except OSError:
        return False
