"""How much memory there is to be had, and giving back what nobody uses."""

from __future__ import annotations

import ctypes
import os
import sys
from contextlib import suppress
from functools import cache
from pathlib import Path
from typing import Any

import torch

MEMINFO = Path("/proc/meminfo")
# of a container: limit, use, and what of that is only cached; both generations of Linux's groups
GROUPS = (
    ("/sys/fs/cgroup/memory.max", "/sys/fs/cgroup/memory.current", "/sys/fs/cgroup/memory.stat"),
    (
        "/sys/fs/cgroup/memory/memory.limit_in_bytes",
        "/sys/fs/cgroup/memory/memory.usage_in_bytes",
        "/sys/fs/cgroup/memory/memory.stat",
    ),
)


def available_bytes(device: torch.device) -> int | None:
    """Bytes that can still be had on the device, swap space of the machine included; None where
    that is not known, or where more than there is may be asked for.
    """
    if device.type == "cuda":
        if os.name == "nt":  # whose driver lends main memory
            return None
        free, _ = torch.cuda.mem_get_info(device)
        return free + torch.cuda.memory_reserved(device) - torch.cuda.memory_allocated(device)
    return _main_memory() if device.type == "cpu" else None


def trim_heap() -> None:
    """Give back to the system what the C library keeps of memory that is free (glibc). It does so
    by itself at the heap's end alone; between blocks that stay, holes of a hundred MiB come
    together.
    """
    if (library := _glibc()) is not None:
        library.malloc_trim(0)


@cache
def _glibc() -> Any:
    with suppress(OSError, AttributeError):
        library = ctypes.CDLL("libc.so.6")
        library.malloc_trim.argtypes = [ctypes.c_size_t]
        return library
    return None


def _main_memory() -> int | None:
    known = [value for value in (_machine(), *map(_group, GROUPS)) if value is not None]
    return min(known, default=None)


def _machine() -> int | None:
    try:
        lines = (line.split() for line in MEMINFO.read_text().splitlines())
        kilobytes = {words[0].rstrip(":"): int(words[1]) for words in lines}
        return 1024 * (kilobytes["MemAvailable"] + kilobytes.get("SwapFree", 0))
    except (OSError, ValueError, KeyError, IndexError):
        pass
    if sys.platform == "linux":
        return None
    try:
        import psutil  # which ComfyUI brings along

        return int(psutil.virtual_memory().available + psutil.swap_memory().free)
    except Exception:  # it is missing, or the system says nothing
        return None


def _group(files: tuple[str, str, str]) -> int | None:
    """What a container's limit leaves; None without one."""
    try:
        limit, used = (int(Path(file).read_text()) for file in files[:2])
        lines = (line.split() for line in Path(files[2]).read_text().splitlines())
        cached = {words[0]: int(words[1]) for words in lines}
    except (OSError, ValueError, IndexError):  # "max" is no number
        return None
    return max(0, limit - used + cached.get("inactive_file", 0))
