"""Numba's compiler with its machine code kept on disk, safely for a package that has several names
and is updated.
"""

from __future__ import annotations

import hashlib
from collections.abc import Callable
from functools import lru_cache
from pathlib import Path
from typing import Any

from numba import njit


def compiled(**options: Any) -> Callable[[Callable[..., Any]], Any]:
    """``njit`` with a cache for each full name of the function's module and each state of its
    folder and the one above.

    Numba names its cache files after the last part of the module's name, but what lies in them
    imports the module by its full name. ComfyUI derives that name from the folder's path; so after
    a move, or when the kernels also run as ``distill3d.kernels``, Numba would load a file that asks
    for a module nobody has. And it compiles anew only when the function's own file is younger than
    the cache, though functions and constants of other files are part of it.
    """

    def decorate(function: Callable[..., Any]) -> Any:
        folder = Path(function.__code__.co_filename).parent
        function.__qualname__ += (
            "_" + hashlib.sha256(function.__module__.encode() + sources(folder)).hexdigest()[:8]
        )
        return njit(error_model="numpy", nogil=True, cache=True, **options)(function)

    return decorate


@lru_cache
def sources(folder: Path) -> bytes:
    """A digest of the Python files of a folder and of those of the folder it lies in."""
    digest = hashlib.sha256()
    for file in [*sorted(folder.glob("*.py")), *sorted(folder.parent.glob("*.py"))]:
        digest.update(file.name.encode() + file.read_bytes())
    return digest.digest()
