"""Starts Triton kernels, also on memory that has an address but is not there yet."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import torch
from torch import Tensor


def launcher(kernel: Any, grid: Sequence[int]) -> Callable[..., None]:
    """``kernel[grid]``, for calls whose first argument is a tensor.

    Triton's own asks the driver about every tensor, and refuses what an asynchronous allocator hands out while a graph
    is recorded: such memory comes into being when the graph runs. It takes plain addresses as they are.
    """

    def launch(*args: Any, **options: Any) -> None:
        if not (args[0].is_cuda and torch.cuda.is_current_stream_capturing()):
            kernel[grid](*args, **options)
            return
        compiled = kernel.warmup(*args, grid=grid, **options)  # finds it: it has been compiled before a recording
        named = dict(zip(kernel.arg_names, args, strict=False)) | options
        values = [named[name] for name in kernel.arg_names]
        compiled[(*grid, 1, 1)[:3]](*[v.data_ptr() if isinstance(v, Tensor) else v for v in values])

    return launch
