"""Long work that a cancel ends: at places it has reached, or in a thread of its own."""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from contextvars import copy_context
from typing import Any, Generic, TypeVar

import comfy.model_management
import comfy.utils
import torch

from ...kernels.devices.pace import paced

POLL = 0.1  # seconds between looks for a cancel
PATIENCE = 0.5  # seconds in which cancelled work may end in order
SCALE = 1000  # of the progress bar

Made = TypeVar("Made")
_earlier: list[_Work[Any]] = []  # cancelled, but in the middle of a call that cannot be ended


class Abandoned(BaseException):
    """Ends work that nobody waits for any more; no Exception, so that nothing on its way mends
    it.
    """


class _Work(Generic[Made]):
    """Work that is done once, in a thread."""

    def __init__(self, make: Callable[[], Made], parts: Mapping[str, float]) -> None:
        self.make, self.parts = make, parts
        self.done, self.abandoned = threading.Event(), False
        self.made: list[Made] = []
        self.error: BaseException | None = None
        self.share = 0.0
        device = torch.cuda.current_device() if torch.cuda.is_initialized() else None
        self.thread = threading.Thread(
            target=copy_context().run, args=(self._run, device), daemon=True, name="distill3d"
        )

    def _run(self, device: int | None) -> None:
        try:
            if device is not None:
                torch.cuda.set_device(device)
            with paced(self._reached):
                self.made.append(self.make())
        except BaseException as error:
            self.error = error
        finally:
            self.done.set()

    def _reached(self, part: str, share: float) -> None:
        if self.abandoned:
            raise Abandoned
        if part in self.parts:
            before = list(self.parts.values())[: list(self.parts).index(part)]
            self.share = max(self.share, sum(before) + self.parts[part] * share)


@contextmanager
def cancellable() -> Iterator[None]:
    """Inside, a cancel ends the work at the next place that it has `reached`."""

    def heed(part: str, share: float) -> None:
        comfy.model_management.throw_exception_if_processing_interrupted()

    with paced(heed):
        yield


def in_background(make: Callable[[], Made], parts: Mapping[str, float]) -> Made:
    """What ``make`` returns, in ordinary tensors, while the node's progress bar follows what it has
    `reached`.

    ``parts``: the names of its parts in their order, each with its share of the whole, together 1.
    A cancel comes through at once, whatever native call the work is in: the work then ends at the
    next place it has reached, and the next one waits for that.
    """
    bar = comfy.utils.ProgressBar(SCALE)
    work = _Work(make, parts)
    try:
        while _earlier:
            comfy.model_management.throw_exception_if_processing_interrupted()
            if _earlier[0].done.wait(POLL):
                _earlier.pop(0)
        work.thread.start()
        while not work.done.wait(POLL):
            comfy.model_management.throw_exception_if_processing_interrupted()
            bar.update_absolute(round(SCALE * work.share), SCALE)
    except BaseException:
        work.abandoned = True
        if work.thread.ident is not None and not work.done.wait(PATIENCE):
            _earlier.append(work)
        raise
    if work.error is not None:
        raise work.error
    bar.update_absolute(SCALE, SCALE)
    return work.made[0]
