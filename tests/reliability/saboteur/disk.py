"""A shim over the system calls of whoever writes below some folders: it counts them, and from one
of them on refuses, delays or ends the process.
"""

from __future__ import annotations

import builtins
import io
import os
import signal
import threading
import time
from dataclasses import dataclass
from typing import Any

REAL = {
    "builtins.open": builtins.open,
    "os.open": os.open,
    "os.fsync": os.fsync,
    "os.replace": os.replace,
    "os.mkdir": os.mkdir,
    "os.unlink": os.unlink,
}
WRITING = os.O_WRONLY | os.O_RDWR | os.O_CREAT


@dataclass(frozen=True)
class Plan:
    """What happens to the disk.

    Args:
        folders: below which it does
        act: "count" only; "kill" the process; "errno": refuse; "slow"
        at: the operation from which on, from 1; operations are open, write, sync, replace, mkdir
            and unlink
        count: for so many of them; 0: for all that follow
        code: of "errno"
        seconds: of "slow", each time
    """

    folders: list[str]
    act: str = "count"
    at: int = 1
    count: int = 0
    code: int = 0
    seconds: float = 0.0


class Disk:
    """A plan at work."""

    def __init__(self, plan: Plan) -> None:
        self.plan = plan
        self.roots = tuple(os.path.realpath(folder) + os.sep for folder in plan.folders)
        self.seen = 0
        self.lock = threading.Lock()

    def below(self, path: Any) -> bool:
        if isinstance(path, int):
            return False
        return (os.path.realpath(os.fspath(path)) + os.sep).startswith(self.roots)

    def due(self) -> bool:
        """Counts one more operation; whether the plan's act is due at it."""
        with self.lock:
            self.seen += 1
            late = self.seen - self.plan.at
        return late >= 0 and (not self.plan.count or late < self.plan.count)

    def operation(self, path: Any, half: Any = None) -> None:
        """Called before one; ``half``: does a part of it."""
        if not self.due() or self.plan.act == "count":
            return
        if self.plan.act == "slow":
            time.sleep(self.plan.seconds)
            return
        if half is not None:
            half()
        if self.plan.act == "kill":
            os.kill(os.getpid(), signal.SIGKILL)
        raise OSError(self.plan.code, os.strerror(self.plan.code), str(path))


class File(io.FileIO):
    """A file whose writes count."""

    def __init__(self, disk: Disk, path: Any, mode: str) -> None:
        super().__init__(path, mode)
        self._disk, self._path = disk, path

    def write(self, data: Any) -> int:
        view = memoryview(data).cast("B")
        self._disk.operation(self._path, lambda: super(File, self).write(view[: len(view) // 2]))
        return super().write(view)


_armed: list[Disk] = []  # one, or none


def arm(plan: Plan | None) -> None:
    """From now on; None puts everything right again."""
    _armed[:] = [] if plan is None else [Disk(plan)]
    builtins.open = io.open = _open if _armed else REAL["builtins.open"]
    for name in ("open", "fsync", "replace", "mkdir", "unlink"):
        setattr(os, name, globals()[f"_os_{name}"] if _armed else REAL[f"os.{name}"])


def seen() -> int:
    return _armed[0].seen if _armed else 0


def _concerned(path: Any) -> Disk | None:
    """Whose business an operation on that path is."""
    return next((disk for disk in _armed if disk.below(path)), None)


def _open(file: Any, mode: str = "r", buffering: int = -1, *rest: Any, **more: Any) -> Any:
    disk = _concerned(file) if set(mode) & set("wax+") else None
    if disk is None:
        return REAL["builtins.open"](file, mode, buffering, *rest, **more)
    disk.operation(file)
    raw = File(disk, file, mode.replace("b", "").replace("t", ""))
    if "b" in mode and buffering == 0:
        return raw
    buffered: Any = io.BufferedRandom(raw) if "+" in mode else io.BufferedWriter(raw)
    return buffered if "b" in mode else io.TextIOWrapper(buffered, *rest, **more)


def _os_open(path: Any, flags: int, *rest: Any, **more: Any) -> int:
    if flags & WRITING and (disk := _concerned(path)):
        disk.operation(path)
    return REAL["os.open"](path, flags, *rest, **more)


def _os_fsync(descriptor: int) -> None:
    path = os.readlink(f"/proc/self/fd/{descriptor}")
    if disk := _concerned(path):
        disk.operation(path)
    REAL["os.fsync"](descriptor)


def _os_replace(old: Any, new: Any, **more: Any) -> None:
    if disk := _concerned(new):
        disk.operation(new)
    REAL["os.replace"](old, new, **more)


def _os_mkdir(path: Any, *rest: Any, **more: Any) -> None:
    if disk := _concerned(path):
        disk.operation(path)
    REAL["os.mkdir"](path, *rest, **more)


def _os_unlink(path: Any, **more: Any) -> None:
    if disk := _concerned(path):
        disk.operation(path)
    REAL["os.unlink"](path, **more)
