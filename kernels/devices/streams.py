"""Getting small tensors to a device without waiting for it, work there beside other work, and
giving memory back.
"""

from __future__ import annotations

import ctypes
import logging
import os
import weakref
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from functools import cache

import torch
from torch import Tensor

log = logging.getLogger(__name__)

# what holds CUDA graphs, which use cuBLAS's workspaces
graphs_alive: weakref.WeakSet[object] = weakref.WeakSet()
# torch's name for the driver's allocator, ComfyUI's choice on NVIDIA GPUs
ASYNCHRONOUS = "cudaMallocAsync"


def send(value: Tensor, device: torch.device) -> Tensor:
    """``value`` [any] from the CPU on ``device``, without waiting for what the device is busy
    with.
    """
    if device.type == "cuda" and value.device.type == "cpu":
        return value.pin_memory().to(device, non_blocking=True)
    return value.to(device)


@cache
def side_stream(device: torch.device) -> torch.cuda.Stream:
    """The one stream of a CUDA device for work beside the main one: each keeps a workspace of
    cuBLAS's for good.
    """
    return torch.cuda.Stream(device)


@cache
def recording_stream(device: torch.device) -> torch.cuda.Stream:
    """The stream on which CUDA graphs are recorded, and on which nothing else runs: a graph goes on
    using the workspace that cuBLAS has for the stream of its recording."""
    return torch.cuda.Stream(device)


def uses_async_allocator() -> bool:
    """Whether torch takes a CUDA device's memory from the driver's own allocator."""
    return torch.cuda.get_allocator_backend() == ASYNCHRONOUS


def is_out_of_memory(error: BaseException) -> bool:
    """Whether it is want of device memory that an error tells of; not all of torch's have the type
    for it.
    """
    return isinstance(error, torch.cuda.OutOfMemoryError) or "error: out of memory" in str(error)


def first_line(error: BaseException) -> str:
    """What CUDA's errors say before their paragraphs of advice; of one without words its type."""
    return (str(error).splitlines() or [type(error).__name__])[0]


def release_memory(device: torch.device) -> None:
    """Return to the driver what torch and its libraries keep of a CUDA device's memory for later,
    and the pinned memory of the host: caches, cuBLAS's workspaces, what CUDA graphs that are gone
    have used."""
    if device.type != "cuda":
        return
    torch.cuda.synchronize(device)
    forget_workspaces()
    getattr(torch._C, "_host_emptyCache", lambda: None)()
    torch.cuda.empty_cache()
    if uses_async_allocator():
        _trim_graph_memory(torch.cuda.current_device() if device.index is None else device.index)


def forget_workspaces() -> None:
    """Give what cuBLAS keeps for its next calls, 32 MiB a stream, to torch's cache, which others
    empty when they need the memory.
    """
    if torch.cuda.is_initialized() and not graphs_alive:
        getattr(torch._C, "_cuda_clearCublasWorkspaces", lambda: None)()


def give_back(device: torch.device) -> None:
    """`release_memory` at the end of a run, whose own error should be the one that is told."""
    try:
        release_memory(device)
    except RuntimeError as error:
        log.warning("What torch keeps of %s's memory cannot be given back (%s).", device, error)


def _trim_graph_memory(index: int) -> None:
    """What graphs allocate while they run stays with the driver, in a pool that torch does not
    empty.
    """
    try:
        driver = ctypes.CDLL("nvcuda.dll" if os.name == "nt" else "libcuda.so.1")
        if code := driver.cuDeviceGraphMemTrim(index):
            raise OSError(f"the driver answers {code}")
    except (OSError, AttributeError) as error:
        log.warning("The memory of CUDA graphs cannot be given back here (%s).", error)


class SideStream:
    """Work on a CUDA device beside what else is asked of it; on another device one after the other,
    as usual.
    """

    def __init__(self, device: torch.device) -> None:
        self.stream = side_stream(device) if device.type == "cuda" else None
        self.main = self.stream

    @contextmanager
    def running(self, given: Iterable[Tensor]) -> Iterator[None]:
        """Inside, kernels run beside, once all that was asked for before is done; ``given``: the
        tensors they read.
        """
        if self.stream is None:
            yield
            return
        self.main = torch.cuda.current_stream(self.stream.device)
        self.stream.wait_stream(self.main)
        for tensor in given:
            if tensor.is_cuda:
                tensor.record_stream(self.stream)
        with torch.cuda.stream(self.stream):
            yield

    def wait_for(self, made: Iterable[Tensor]) -> None:
        """What comes next outside waits for what was asked for inside so far; ``made``: the tensors
        it reads of it.
        """
        if self.stream is not None and self.main is not None:
            self.main.wait_stream(self.stream)
            for tensor in made:
                if tensor.is_cuda:
                    tensor.record_stream(self.main)
