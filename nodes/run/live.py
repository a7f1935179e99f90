"""Running Optimize nodes as pages see them: pictures of the cloud on request, and a wish to stop.

A page that shows a node asks for its cloud over HTTP (see `routes`); that leaves a wish, which the
loop meets after its next step, telling all pages so with one small event. So nothing is packed
while nobody asks, and no page gets more than it can draw. Packing never takes more than `SHARE` of
the time, at no part of a run.
"""

from __future__ import annotations

import itertools
import logging
import time
from typing import Any

import torch
from comfy_execution.utils import get_executing_context
from server import PromptServer
from torch import Tensor

from ...kernels.files.compact import pack
from ...kernels.run.step import Progress

SHARE = 0.02  # of the time that packing pictures may take: after one, the next waits for so long
# seconds from one picture to the next on a CPU, whose cores sending and drawing share with the loop
PAUSE = 2.0
LIMIT = 50_000  # Gaussians in a picture of a running cloud: 0.85 MB
POINTS = 240  # of the loss curve
ATTENTION = 30.0  # seconds after which a page that asked for a picture counts as gone

RUNS: dict[str, Live] = {}  # by node id; ComfyUI runs one prompt at a time


class Losses:
    """The loss of every step, read from the device in batches, since each reading waits for it."""

    BATCH = 256

    def __init__(self) -> None:
        self.waiting: list[Tensor] = []
        self.values: list[float] = []

    def add(self, loss: Tensor) -> None:
        self.waiting.append(loss)
        if len(self.waiting) >= self.BATCH:
            self.read()

    def read(self) -> list[float]:
        if self.waiting:
            self.values += torch.stack(self.waiting).tolist()
            self.waiting = []
        return self.values

    def curve(self) -> list[float | None]:
        """At most `POINTS` means over equal stretches; None where none was finite."""
        values = self.read()
        count = min(POINTS, len(values))
        edges = [len(values) * i // count for i in range(count + 1)] if count else []
        return [_mean(values[a:b]) for a, b in itertools.pairwise(edges)]


class Live:
    """One run of one node. Use as a context manager around the run."""

    def __init__(self, steps: int, workflow: str | None = None) -> None:
        context = get_executing_context()
        self.node = str(context.node_id) if context is not None else None
        self.prompt = context.prompt_id if context is not None else None
        # the id of the graph that was queued: other graphs have nodes of the same ids
        self.workflow = workflow
        self.steps = steps
        self.losses = Losses()
        self.stopped = False  # set by a page
        self.message: bytes | None = None  # the newest picture
        self.step_shown = 0
        self.about: dict[str, Any] = {}
        self.partial: str | None = None  # where the cloud of a run that did not end well is
        self._wanted = False
        self._asked: float | None = None
        self._spent = 0.0  # seconds on pictures so far
        self._next = 0.0  # second of the run from which on there may be another

    def __enter__(self) -> Live:
        if self.node is not None:
            RUNS[self.node] = self
            self._tell("start")
        return self

    def __exit__(self, *_: object) -> None:
        if self.node is not None and RUNS.get(self.node) is self:
            del RUNS[self.node]
            self._tell("end", partial=self.partial)

    @property
    def watched(self) -> bool:
        """Whether a page draws this run."""
        return self._asked is not None and time.monotonic() - self._asked < ATTENTION

    def ask(self, after: int) -> bytes | None:
        """The newest picture if it is of a later step than ``after``; either way the next step
        leaves another.
        """
        self._asked = time.monotonic()
        self._wanted = True
        return self.message if self.step_shown > after else None

    def step(self, progress: Progress[Any]) -> bool:
        """After every step; whether the run should end here."""
        self.losses.add(progress.loss)
        self.about = {
            "step": progress.step,
            "steps": progress.steps,
            "seconds": round(progress.seconds, 3),
        }
        if self._wanted and progress.seconds >= self._next:
            self._wanted = False
            try:
                self._picture(progress)
            # hours of work do not end for a picture
            except (RuntimeError, ValueError, NotImplementedError) as error:
                logging.warning("Distill3D: no picture of step %d: %s", progress.step, error)
        return self.stopped

    def _picture(self, progress: Progress[Any]) -> None:
        self.losses.read()  # waits for the device, which is the step's time and not the picture's
        start = time.perf_counter()
        self.message = pack(progress.viewer_cloud(), LIMIT, **self.told())
        self.step_shown = progress.step
        self._tell("frame", step=progress.step)
        took = time.perf_counter() - start
        self._spent += took
        self._next = progress.seconds + max(
            took / SHARE, PAUSE if progress.loss.device.type == "cpu" else 0.0
        )

    def _tell(self, event: str, **data: Any) -> None:
        server = getattr(PromptServer, "instance", None)
        if server is not None:
            server.send_sync(f"distill3d.{event}", {**self.name(), **data})

    def name(self) -> dict[str, Any]:
        """What tells a page whether this run is of one of its nodes."""
        return {
            "node": self.node,
            "prompt": self.prompt,
            "workflow": self.workflow,
            "steps": self.steps,
        }

    def told(self) -> dict[str, Any]:
        """What a page says beside the picture."""
        spent = {"packing_seconds": round(self._spent, 4)}
        return {**self.about, **spent, "stopped": self.stopped, "losses": self.losses.curve()}


def _mean(values: list[float]) -> float | None:
    finite = [value for value in values if abs(value) < 1e30]  # false for NaN too
    return float(f"{sum(finite) / len(finite):.4g}") if finite else None
