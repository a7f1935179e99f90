"""Files that appear whole or not at all."""

from __future__ import annotations

import os
import uuid
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from contextvars import ContextVar
from pathlib import Path
from typing import BinaryIO

from .held import MARK, Held


@contextmanager
def atomic_write(path: str | os.PathLike[str]) -> Iterator[BinaryIO]:
    """A binary file to write to; it takes the place of ``path`` at the end of the block, if nothing
    went wrong, or at the end of the `appearing_together` around it.

    Written under a temporary name in the same folder (a rename is only atomic inside one file
    system) and flushed to the disk first, so after a full disk, an exception or a power cut the old
    file is still there, complete. Raises ValueError if the folder does not exist, OSError if the
    disk refuses.
    """
    with _gathered() as parts:
        part = _Part(path)
        try:
            with part.opened() as file:
                yield file
        except BaseException:
            part.held.release()
            raise
        parts.append(part)


@contextmanager
def appearing_together() -> Iterator[None]:
    """Files that are written inside appear together at the end of the block, in the order they were
    finished in, or, if anything went wrong, none of them.

    Only a crash between two renames leaves some of them, each complete. Raises as `atomic_write`.
    """
    with _gathered():
        yield


@contextmanager
def appearing_at_once() -> Iterator[None]:
    """Files that are written inside appear as they are finished, whatever is around: they are read
    again there.
    """
    token = _around.set(None)
    try:
        yield
    finally:
        _around.reset(token)


def write_together(contents: Mapping[Path, bytes]) -> None:
    """Several files that belong together; the one that refers to the others comes last in
    ``contents``.

    See `appearing_together`.
    """
    with _gathered():
        for path, data in contents.items():
            with atomic_write(path) as file:
                file.write(data)


class _Part:
    """A file on its way: its temporary name is held until it has its own."""

    def __init__(self, path: str | os.PathLike[str]) -> None:
        self.final = _target(path)
        self.held = Held(self.final.parent / f"{MARK}{uuid.uuid4().hex}.part")

    @contextmanager
    def opened(self) -> Iterator[BinaryIO]:
        with open(self.held.path, "r+b") as file:
            yield file
            file.flush()
            os.fsync(file.fileno())

    def appear(self) -> bool:
        """Take the place of the final name; whether nothing was there before."""
        new = not self.final.exists()
        if os.name == "nt":  # where an open file cannot be renamed
            self.held.release(remove=False)
        os.replace(self.held.path, self.final)
        self.held.release(remove=False)
        return new


_around: ContextVar[list[_Part] | None] = ContextVar("_around", default=None)


@contextmanager
def _gathered() -> Iterator[list[_Part]]:
    """The parts of the outermost block around, which appear at its end."""
    around = _around.get()
    if around is not None:
        yield around
        return
    parts: list[_Part] = []
    appeared: list[Path] = []
    token = _around.set(parts)
    try:
        yield parts
        for part in parts:
            if part.appear():
                appeared.append(part.final)
    except BaseException:
        for path in appeared:
            path.unlink(missing_ok=True)
        for part in parts:
            part.held.release()
        raise
    finally:
        _around.reset(token)


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
