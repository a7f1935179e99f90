"""Names of files below folders, remembered: ComfyUI asks for them on its event loop, where nothing
may take long, however many files there are and whatever they are.
"""

from __future__ import annotations

import logging
import os
import stat
import threading
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import suppress
from dataclasses import dataclass, field
from pathlib import Path

WAIT = 0.25  # seconds that a caller waits for a look at the disk; then it gets what is known
# seconds: what changes within them may leave a folder's time as it is (FAT counts by 2)
UNSURE = 2.0
# seconds after which a folder is read again whatever its time: a file written to in its place does
# not change it
AGAIN = 60.0


@dataclass
class File:
    """One ordinary file; ``kinds``: what it was found to hold."""

    identity: tuple[int, int, int]  # time of change in ns, bytes, number on the disk
    kinds: dict[str, bool] = field(default_factory=dict)


@dataclass
class Folder:
    """What a folder held when it was last read."""

    changed: int  # its own time of change, ns
    read: float  # when that was
    folders: list[str]
    files: dict[str, File]

    def fresh(self, changed: int, now: float) -> bool:
        return (
            changed == self.changed
            and self.read - changed / 1e9 > UNSURE
            and now - self.read < AGAIN
        )


class Listing:
    """Files below some folders by what they hold, newest first.

    Links are followed. Pipes, devices and sockets are left out, unopened, and so is what is hidden.
    The disk is looked at in a thread of its own: of folders whose own time of change stays the same
    nothing is read again.
    """

    def __init__(
        self, suffixes: tuple[str, ...], kinds: Mapping[str, Callable[[Path], bool]]
    ) -> None:
        """suffixes: of files worth asking about, lower case. kinds: by name, whether a file is one;
        called in the thread, it may open the file."""
        self.suffixes, self.kinds = suffixes, kinds
        self._folders: dict[str, Folder] = {}
        self._names: dict[str, list[str]] = {}
        self._roots: dict[str, Path] = {}
        self._state = threading.Condition()
        self._wanted = self._done = 0
        self._thread: threading.Thread | None = None
        self._late = False  # somebody has waited in vain for the look that goes on

    def names(self, kind: str, roots: Mapping[str, Path]) -> list[str]:
        """Names of the files of that kind, each after its root's label: as they are now, or as they
        were at the last look where this one takes longer than `WAIT`."""
        with self._state:
            if dict(roots) != self._roots:
                self._roots, self._names = dict(roots), {}
            self._wanted += 1
            ticket = self._wanted
            if self._thread is None or not self._thread.is_alive():
                self._thread = threading.Thread(
                    target=self._looks, name="distill3d listing", daemon=True
                )
                self._thread.start()
            self._state.notify_all()
            if not self._late:
                self._late = not self._state.wait_for(lambda: self._done >= ticket, WAIT)
            return list(self._names.get(kind, []))

    def _looks(self) -> None:
        while True:
            with self._state:
                # ends when nobody asks: a server that is idle keeps no thread for this
                if not self._state.wait_for(lambda: self._wanted > self._done, 1.0):
                    self._thread = None
                    return
                ticket, roots = self._wanted, self._roots
            found: dict[str, list[str]] | None = None
            try:
                found = self._look(roots)
            except Exception as error:  # the next caller should not wait for a thread that is gone
                logging.warning("Distill3D: files cannot be listed: %s", error)
            with self._state:
                if found is not None and roots == self._roots:
                    self._names = found
                self._done, self._late = ticket, False
                self._state.notify_all()

    def _look(self, roots: Mapping[str, Path]) -> dict[str, list[str]]:
        places = [
            (f"{label}/{below}", path, folder)
            for label, root in roots.items()
            for path, below, folder in self._walk(str(root))
        ]
        seen = {path: folder for _, path, folder in places}
        same = seen.keys() == self._folders.keys() and all(
            folder is self._folders[path] for path, folder in seen.items()
        )
        if same and self._names:
            return self._names
        self._folders = seen
        found: dict[str, list[str]] = {}
        for kind in self.kinds:
            files = [
                (-file.identity[0], place + name)
                for place, path, folder in places
                for name, file in folder.files.items()
                if self._is(kind, os.path.join(path, name), file)
            ]
            found[kind] = [name for _, name in sorted(files)]
        return found

    def _is(self, kind: str, path: str, file: File) -> bool:
        if kind not in file.kinds:
            file.kinds[kind] = False
            with suppress(OSError, ValueError):  # gone, or not to be read
                file.kinds[kind] = self.kinds[kind](Path(path))
        return file.kinds[kind]

    def _walk(self, root: str) -> Iterator[tuple[str, str, Folder]]:
        """Every folder with its path below the root, "" or ending in a slash; each once, however
        links lead."""
        waiting, known = [(root, "")], set[tuple[int, int]]()
        while waiting:
            path, below = waiting.pop()
            with suppress(OSError):  # gone since it was listed, or not to be read
                status = os.stat(path)
                if (status.st_dev, status.st_ino) in known or not stat.S_ISDIR(status.st_mode):
                    continue
                known.add((status.st_dev, status.st_ino))
                folder = self._folders.get(path)
                if folder is None or not folder.fresh(status.st_mtime_ns, time.time()):
                    folder = self._read(path, status.st_mtime_ns, folder)
                yield path, below, folder
                waiting += [(os.path.join(path, n), f"{below}{n}/") for n in folder.folders]

    def _read(self, path: str, changed: int, before: Folder | None) -> Folder:
        now, folders, files = time.time(), list[str](), dict[str, File]()
        known = {} if before is None else before.files
        with os.scandir(path) as entries:
            for entry in entries:
                if entry.name.startswith("."):
                    continue
                with suppress(OSError):
                    if entry.is_dir():
                        folders.append(entry.name)
                    elif entry.name.lower().endswith(self.suffixes):
                        status = entry.stat()
                        if stat.S_ISREG(status.st_mode):
                            identity = status.st_mtime_ns, status.st_size, status.st_ino
                            old = known.get(entry.name)
                            same = old is not None and old.identity == identity
                            files[entry.name] = old if same and old else File(identity)
        return Folder(changed, now, folders, files)
