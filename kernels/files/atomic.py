"""Files that appear whole or not at all."""

from __future__ import annotations

import os
import uuid
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import BinaryIO


@contextmanager
def atomic_write(path: str | os.PathLike[str]) -> Iterator[BinaryIO]:
    """A binary file to write to; it takes the place of ``path`` at the end of the block, if nothing went wrong.

    Written under a temporary name in the same folder (a rename is only atomic inside one file system) and flushed to
    the disk first, so after a full disk, an exception or a power cut the old file is still there, complete. Raises
    ValueError if the folder does not exist, OSError if the disk refuses.
    """
    final = Path(os.path.realpath(path))  # through a symbolic link: replace what it points to, not the link
    if not final.parent.is_dir():
        raise ValueError(f"Cannot write {path}: the folder {final.parent} does not exist. Create it first.")
    if final.is_dir():
        raise ValueError(f"Cannot write {path}: that is a folder. Give a file name.")
    part = final.parent / f".{uuid.uuid4().hex}.part"
    try:
        with open(part, "xb") as file:
            yield file
            file.flush()
            os.fsync(file.fileno())
        os.replace(part, final)
    except BaseException:
        part.unlink(missing_ok=True)
        raise
