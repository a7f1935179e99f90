"""Getting small tensors to a device without waiting for it, and work there beside other work."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from functools import cache

import torch
from torch import Tensor


def sent(value: Tensor, device: torch.device) -> Tensor:
    """``value`` [any] from the CPU on ``device``, without waiting for what the device is busy with."""
    if device.type == "cuda" and value.device.type == "cpu":
        return value.pin_memory().to(device, non_blocking=True)
    return value.to(device)


@cache
def side_stream(device: torch.device) -> torch.cuda.Stream:
    """The one stream of a CUDA device for work beside the main one: each keeps a workspace of cuBLAS's for good."""
    return torch.cuda.Stream(device)


class Aside:
    """Work on a CUDA device beside what else is asked of it; on another device one after the other, as usual."""

    def __init__(self, device: torch.device) -> None:
        self.stream = side_stream(device) if device.type == "cuda" else None
        self.main = self.stream

    @contextmanager
    def running(self, given: Iterable[Tensor]) -> Iterator[None]:
        """Inside, kernels run beside, once all that was asked for before is done; ``given``: the tensors they read."""
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

    def awaited(self, made: Iterable[Tensor]) -> None:
        """What comes next outside waits for what was asked for inside so far; ``made``: the tensors it reads of it."""
        if self.stream is not None and self.main is not None:
            self.main.wait_stream(self.stream)
            for tensor in made:
                if tensor.is_cuda:
                    tensor.record_stream(self.main)
