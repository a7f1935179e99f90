"""Work for several devices at once, in one process: a thread for each, for a device is kept busy by
whoever launches its kernels, and one thread would get to the last of eight devices late.

Threads share the weights' files, the interpreter's caches and the allocator's peer access;
processes would each load the prior, and gradients would have to go through a library of their own.
What a thread does to all of the process (recording a CUDA graph, trying convolutions) it does
`alone`.
"""

from __future__ import annotations

import os
import threading
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import ExitStack, contextmanager
from contextvars import copy_context
from functools import cache
from typing import TypeVar

import torch

T = TypeVar("T")

# calls of a team, in which libraries compile and choose, one device after the other
FIRST = 4


class Team:
    """One thread for each of several devices, the caller's for the first.

    Args:
        devices: the first is where the caller works; of equal ones one thread serves all
    """

    def __init__(self, devices: Sequence[torch.device]) -> None:
        self.devices, self._calls = list(devices), 0

    def each(self, work: Callable[[int], T], count: int) -> list[T]:
        """work(0), work(1), ... for the first ``count`` devices, in the caller's grad mode and on
        its stream of the first device. Raises what the first of those raised that did, when all
        have ended.
        """
        self._calls += 1
        with _current(self.devices[0]):
            stream, gradients = _stream(self.devices[0]), torch.is_grad_enabled()
            waiting: dict[int, Future[T]] = {}

            def there(index: int) -> T:
                with (
                    torch.inference_mode(False),
                    torch.set_grad_enabled(gradients),
                    ExitStack() as at,
                ):
                    if stream is not None:
                        at.enter_context(torch.cuda.stream(stream))
                    at.enter_context(_current(self.devices[index]))
                    at.enter_context(_gate.beside())
                    return work(index)

            for index in range(1, count):
                if self.devices[index] != self.devices[0]:
                    thread = _thread(self.devices[index], os.getpid())
                    waiting[index] = thread.submit(copy_context().run, there, index)
                    if self._calls <= FIRST:
                        waiting[index].exception()
            results, errors = dict[int, T](), list[BaseException]()
            for index in range(count):
                try:
                    results[index] = waiting[index].result() if index in waiting else there(index)
                except BaseException as error:
                    errors.append(error)
        if errors:
            raise errors[0]
        return [results[index] for index in range(count)]


@cache
def _thread(device: torch.device, process: int) -> ThreadPoolExecutor:
    """The one of a device, for good: cuDNN remembers for each thread which algorithms it chose, and
    with them go the bits. Keyed by the process too: a fork inherits it without its thread."""
    return ThreadPoolExecutor(1, thread_name_prefix=f"distill3d-{device}")


class _Gate:
    """Threads beside one another, any of which may ask to be alone for a while."""

    def __init__(self) -> None:
        self._changed, self._beside, self._taken = threading.Condition(), 0, False
        self._own = threading.local()

    @contextmanager
    def beside(self) -> Iterator[None]:
        with self._changed:
            self._changed.wait_for(lambda: not self._taken)
            self._beside += 1
        self._own.beside = True
        try:
            yield
        finally:
            self._own.beside = False
            with self._changed:
                self._beside -= 1
                self._changed.notify_all()

    @contextmanager
    def alone(self) -> Iterator[None]:
        if getattr(self._own, "alone", False):
            yield
            return
        # Steps aside first: two that ask would else wait for each other.
        counted = int(getattr(self._own, "beside", False))
        with self._changed:
            self._beside -= counted
            self._changed.notify_all()
            self._changed.wait_for(lambda: not self._taken and not self._beside)
            self._taken = True
        self._own.alone = True
        try:
            yield
        finally:
            self._own.alone = False
            with self._changed:
                self._beside += counted
                self._taken = False
                self._changed.notify_all()


_gate = _Gate()
alone = _gate.alone


@contextmanager
def _current(device: torch.device) -> Iterator[None]:
    if device.type != "cuda":
        yield
        return
    with torch.cuda.device(device):
        yield


def _stream(device: torch.device) -> torch.cuda.Stream | None:
    return torch.cuda.current_stream(device) if device.type == "cuda" else None
