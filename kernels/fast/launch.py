"""Starts Triton kernels, also on memory that has an address but is not there yet."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import torch
from torch import Tensor

from ..devices.streams import uses_async_allocator


def launcher(kernel: Any, grid: Sequence[int]) -> Callable[..., None]:
    """``kernel[grid]``, for calls whose first argument is a tensor.

    Triton's own asks the driver about every tensor, and refuses what an asynchronous allocator
    hands out while a graph is recorded: such memory comes into being when the graph runs. It takes
    plain addresses as they are.
    """

    def launch(*args: Any, **options: Any) -> None:
        if args[0].is_cuda and torch.cuda.is_current_stream_capturing() and uses_async_allocator():
            launch_by_address(kernel, grid, *args, **options)
        else:
            kernel[grid](*args, **options)

    return launch


def launch_by_address(kernel: Any, grid: Sequence[int], *args: Any, **options: Any) -> None:
    """``kernel[grid](*args, **options)``, of a kernel that has been compiled for such arguments
    before.
    """
    import triton

    compiled = kernel.warmup(*args, grid=grid, **options)
    named = dict(zip(kernel.arg_names, args, strict=False)) | options
    # Until 3.2 the compiled kernel has no place for constants, later ones pass them by.
    constants_too = tuple(map(int, triton.__version__.split(".")[:2])) >= (3, 3)
    values = [
        named[parameter.name]
        for parameter in kernel.params
        if constants_too or not parameter.is_constexpr
    ]
    compiled[(*grid, 1, 1)[:3]](
        *[value.data_ptr() if isinstance(value, Tensor) else value for value in values]
    )
