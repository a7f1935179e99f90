"""Runs compiled kernels that release the interpreter's lock on as many threads as torch uses.

Plain threads instead of numba's own: those abort the process where only its fallback layer exists and two threads
enter it, and compile several times slower.
"""

from __future__ import annotations

import os
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from functools import lru_cache
from typing import Any

import torch


def spread(kernel: Callable[..., None], limit: int, *arguments: Any) -> None:
    """Call kernel(worker, workers, *arguments) for each worker, at most ``limit`` of them, and wait for all."""
    workers = max(1, min(torch.get_num_threads(), limit))
    futures = [
        _pool(workers - 1, os.getpid()).submit(kernel, worker, workers, *arguments) for worker in range(1, workers)
    ]
    try:
        kernel(0, workers, *arguments)
    finally:
        for future in futures:
            future.result()


@lru_cache(maxsize=1)
def _pool(threads: int, process: int) -> ThreadPoolExecutor:
    # Keyed by the process too: a fork inherits the pool without its threads.
    return ThreadPoolExecutor(threads, thread_name_prefix="distill3d-raster")
