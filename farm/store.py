"""OUT: a folder, or any address that fsspec knows. Files appear in it whole or not at all."""

from __future__ import annotations

import os
import shutil
from contextlib import suppress
from pathlib import Path, PurePosixPath
from typing import Any, Protocol

from ..kernels.files.atomic import atomic_write
from ..kernels.files.held import clean
from .errors import FarmError, needed

OWN = ".farm"  # the folder in OUT of what people need not look at


class Store(Protocol):
    """Names are relative, with / between folders."""

    address: str

    def write(self, name: str, data: bytes) -> None:
        """Raises OSError where the disk refuses."""

    def put(self, file: Path, name: str) -> None:
        """A file's contents under that name. Raises OSError where the disk refuses."""

    def read(self, name: str) -> bytes:
        """Raises FileNotFoundError."""

    def get(self, name: str, file: Path) -> None:
        """The contents of that name as a file here. Raises FileNotFoundError."""

    def names(self, folder: str) -> list[str]:
        """Of the files right in a folder, sorted, without it; none where there is no folder."""

    def mark(self, folder: str) -> Any:
        """Differs when a file of the folder is replaced."""

    def remove(self, name: str) -> None:
        """A file or a folder with all in it, if it is there."""

    def sweep(self, folder: str) -> None:
        """Remove halves of files, which killed processes have left right in a folder."""


class Folder:
    """On a disk that every machine of the farm sees under the same path."""

    def __init__(self, path: str | os.PathLike[str]) -> None:
        self.path = Path(path)
        self.address = str(self.path)

    def write(self, name: str, data: bytes) -> None:
        with atomic_write(self._made(name)) as file:
            file.write(data)

    def put(self, file: Path, name: str) -> None:
        with open(file, "rb") as source, atomic_write(self._made(name)) as target:
            shutil.copyfileobj(source, target, 1 << 20)

    def read(self, name: str) -> bytes:
        return (self.path / name).read_bytes()

    def get(self, name: str, file: Path) -> None:
        shutil.copyfile(self.path / name, file)

    def names(self, folder: str) -> list[str]:
        with (
            suppress(FileNotFoundError, NotADirectoryError),
            os.scandir(self.path / folder) as entries,
        ):
            return sorted(
                entry.name
                for entry in entries
                if not entry.name.startswith(".") and entry.is_file()
            )
        return []

    def mark(self, folder: str) -> Any:
        stats = [(name, (self.path / folder / name).stat()) for name in self.names(folder)]
        return tuple((name, found.st_mtime_ns, found.st_size) for name, found in stats)

    def remove(self, name: str) -> None:
        path = self.path / name
        if path.is_dir() and not path.is_symlink():
            shutil.rmtree(path, ignore_errors=True)
        else:
            path.unlink(missing_ok=True)

    def sweep(self, folder: str) -> None:
        clean(self.path / folder)

    def _made(self, name: str) -> Path:
        path = self.path / name
        path.parent.mkdir(parents=True, exist_ok=True)
        return path


class Remote:
    """By fsspec; object stores show an upload when it is complete."""

    def __init__(self, address: str) -> None:
        self.address = address.rstrip("/")
        self._files: Any
        try:
            self._files, self._root = needed("fsspec.core").url_to_fs(self.address)
        except (ImportError, ValueError) as error:
            raise FarmError(f"OUT {address}: {error}") from error

    def write(self, name: str, data: bytes) -> None:
        self._files.pipe_file(self._made(name), data)

    def put(self, file: Path, name: str) -> None:
        self._files.put_file(str(file), self._made(name))

    def read(self, name: str) -> bytes:
        return bytes(self._files.cat_file(self._path(name)))

    def get(self, name: str, file: Path) -> None:
        self._files.get_file(self._path(name), str(file))

    def names(self, folder: str) -> list[str]:
        try:
            listed = self._files.ls(self._path(folder), detail=True, refresh=True)
        except FileNotFoundError:
            return []
        files = (each for each in listed if each["type"] == "file")
        return sorted(PurePosixPath(each["name"]).name for each in files)

    def mark(self, folder: str) -> Any:
        try:
            listed = self._files.ls(self._path(folder), detail=True, refresh=True)
        except FileNotFoundError:
            return ()
        return tuple(sorted(str(each) for each in listed))

    def remove(self, name: str) -> None:
        with suppress(FileNotFoundError):
            self._files.rm(self._path(name), recursive=True)

    def sweep(self, folder: str) -> None:
        pass  # there are no halves

    def _path(self, name: str) -> str:
        return f"{self._root}/{name}"

    def _made(self, name: str) -> str:
        path = self._path(name)
        self._files.makedirs(path.rpartition("/")[0], exist_ok=True)
        return path


def open_store(address: str) -> Folder | Remote:
    """OUT by its address. Raises FarmError for one that cannot be used."""
    if "://" in address and not address.startswith("file://"):
        return Remote(address)
    return Folder(Path(address.removeprefix("file://")).expanduser().absolute())
