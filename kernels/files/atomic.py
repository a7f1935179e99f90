"""Files that appear whole or not at all."""

from __future__ import annotations

import os
import uuid
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import BinaryIO


@contextmanager
def atomic_write(path: str | os.PathLike[str]) -> Iterator[BinaryIO]:
    """A binary file to write to; it takes the place of ``path`` at the end of the block, if nothing
    went wrong.

    Written under a temporary name in the same folder (a rename is only atomic inside one file
    system) and flushed to the disk first, so after a full disk, an exception or a power cut the old
    file is still there, complete. Raises ValueError if the folder does not exist, OSError if the
    disk refuses.
    """
    final = _target(path)
    part = _part(final)
    try:
        with open(part, "xb") as file:
            yield file
            file.flush()
            os.fsync(file.fileno())
        os.replace(part, final)
    except BaseException:
        part.unlink(missing_ok=True)
        raise


def write_together(contents: Mapping[Path, bytes]) -> None:
    """Several files that belong together; the one that refers to the others comes last in
    ``contents``.

    All are written under temporary names and flushed first, then renamed one after the other. If
    writing or renaming fails, files that did not exist before do not exist afterwards. Only a crash
    between two renames leaves some of them, each complete, and never the last without the others.
    Raises as `atomic_write`.
    """
    targets = [_target(path) for path in contents]
    parts = [_part(target) for target in targets]
    appeared: list[Path] = []
    try:
        for part, data in zip(parts, contents.values(), strict=True):
            with open(part, "xb") as file:
                file.write(data)
                file.flush()
                os.fsync(file.fileno())
        for part, target in zip(parts, targets, strict=True):
            new = [] if target.exists() else [target]
            os.replace(part, target)
            appeared += new
    except BaseException:
        for path in [*parts, *appeared]:
            path.unlink(missing_ok=True)
        raise


def _target(path: str | os.PathLike[str]) -> Path:
    # through a symbolic link: replace what it points to, not the link
    final = Path(os.path.realpath(path))
    if not final.parent.is_dir():
        raise ValueError(
            f"Cannot write {path}: the folder {final.parent} does not exist. Create it first."
        )
    if final.is_dir():
        raise ValueError(f"Cannot write {path}: that is a folder. Give a file name.")
    return final


def _part(final: Path) -> Path:
    return final.parent / f".{uuid.uuid4().hex}.part"
