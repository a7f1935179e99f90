"""Numba's compiler with its machine code kept on disk, safely for a package that has several names."""

from __future__ import annotations

import hashlib
from collections.abc import Callable
from typing import Any

from numba import njit


def compiled(**options: Any) -> Callable[[Callable[..., Any]], Any]:
    """``njit`` with a cache for each full name of the function's module.

    Numba names its cache files after the last part of the module's name, but what lies in them imports the module by
    its full name. ComfyUI derives that name from the folder's path; so after a move, or when the kernels also run as
    ``distill3d.kernels``, Numba would load a file that asks for a module nobody has.
    """

    def decorate(function: Callable[..., Any]) -> Any:
        function.__qualname__ += "_" + hashlib.sha256(function.__module__.encode()).hexdigest()[:8]
        return njit(error_model="numpy", nogil=True, cache=True, **options)(function)

    return decorate
