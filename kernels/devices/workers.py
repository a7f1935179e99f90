"""Runs compiled kernels that release the interpreter's lock on as many threads as torch uses.

On torch's own OpenMP threads where its GNU runtime can be reached: after each of torch's parallel
operations these spin for milliseconds in wait of more work, and would keep the cores from any other
thread. Elsewhere on plain threads. Not on numba's: those abort the process where only its fallback
layer exists and two threads enter it, and compile several times slower.
"""

from __future__ import annotations

import ctypes
import os
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from functools import lru_cache
from pathlib import Path
from typing import Any

import torch

PROCESS = os.getpid()
BODY = ctypes.CFUNCTYPE(None, ctypes.c_void_p)


def spread(kernel: Callable[..., None], limit: int, *arguments: Any) -> None:
    """Call kernel(worker, workers, *arguments) for each worker, at most ``limit`` of them, and wait
    for all.
    """
    threads, workers, runtime = torch.get_num_threads(), team(limit), openmp()
    if workers == 1:
        kernel(0, 1, *arguments)
    elif (
        runtime is not None and runtime.omp_get_max_threads() == threads and os.getpid() == PROCESS
    ):
        # Not in a fork, which inherits the runtime without its threads and would wait for them.
        _on_team(runtime, threads, kernel, workers, arguments)
    else:
        _on_pool(kernel, workers, arguments)


def team(limit: int) -> int:
    """How many workers `spread` would call."""
    return max(1, min(torch.get_num_threads(), limit))


def _on_team(
    runtime: Any,
    threads: int,
    kernel: Callable[..., None],
    workers: int,
    arguments: tuple[Any, ...],
) -> None:
    """All of torch's threads are asked, though not all may be needed: a smaller team would end the
    others.
    """
    errors: list[BaseException] = []

    def body(_: Any) -> None:
        worker = runtime.omp_get_thread_num()
        try:
            # The runtime may give fewer threads than it is asked for.
            for share in range(worker, workers, runtime.omp_get_num_threads()):
                kernel(share, workers, *arguments)
        except BaseException as error:  # else ctypes would print and drop it
            errors.append(error)

    runtime.GOMP_parallel(BODY(body), None, threads, 0)
    if errors:
        raise errors[0]


def _on_pool(kernel: Callable[..., None], workers: int, arguments: tuple[Any, ...]) -> None:
    pool = _pool(workers - 1, os.getpid())
    futures = [pool.submit(kernel, worker, workers, *arguments) for worker in range(1, workers)]
    try:
        kernel(0, workers, *arguments)
    finally:
        for future in futures:
            future.result()


@lru_cache(maxsize=1)
def _pool(threads: int, process: int) -> ThreadPoolExecutor:
    # Keyed by the process too: a fork inherits the pool without its threads.
    return ThreadPoolExecutor(threads, thread_name_prefix="distill3d-raster")


@lru_cache(maxsize=1)
def openmp() -> ctypes.CDLL | None:
    """The GNU OpenMP runtime that torch brought along and loaded, or None."""
    for file in sorted(Path(torch.__file__).parent.joinpath("lib").glob("libgomp*.so*")):
        try:
            runtime = ctypes.CDLL(str(file), mode=os.RTLD_NOLOAD)
            runtime.GOMP_parallel.argtypes = [BODY, ctypes.c_void_p, ctypes.c_uint, ctypes.c_uint]
            runtime.GOMP_parallel.restype = None
        except (AttributeError, OSError):
            continue
        return runtime
    return None
