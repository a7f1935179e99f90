"""What a user sees of a long run, and what is left of it however it ends."""

from __future__ import annotations

import logging
from collections.abc import Callable
from contextlib import ExitStack
from typing import Any, TypeVar

import comfy.model_management
import comfy.utils
import torch

from ...kernels.files.notes import notes
from ...kernels.gaussians.cloud import Gaussians
from ...kernels.meshes.mesh import Mesh
from ...kernels.run.kept import skipped_note
from ...kernels.run.step import Progress
from ..shared.images import to_pil
from ..shared.outputs import shown
from ..shared.progress import tell
from .keep import CLOUD, Keeper, Kind
from .live import Live

log = logging.getLogger(__name__)

PREVIEW_PIXELS = 512
NO_PREVIEW = torch.full((1, 64, 64, 3), 0.5)  # in place of one that failed
TEMP = "temp/"  # how places begin that do not last
Made = TypeVar("Made")


class Watch:
    """The callbacks of one run: progress bar, live preview, interrupt, Stop and keep, autosave,
    partial result. Use as a context manager around the run and what is made of its result.

    ``start``: what the run goes on from. ``prompt``: its text, for whoever looks for it later.
    """

    def __init__(
        self,
        steps: int,
        autosave_every: int,
        start: Gaussians | Mesh,
        prompt: str,
        workflow: str | None = None,
        kind: Kind = CLOUD,
    ) -> None:
        self.kind = kind
        self.bar = comfy.utils.ProgressBar(steps)
        self.live = Live(steps, workflow)
        before: Any = start.training
        self.start_step: int = 0 if before is None else before.step
        self.start_bad = 0 if before is None else int(before.bad_steps)
        about = {
            "node": kind.node,
            "node_id": self.live.node,
            "prompt_id": self.live.prompt,
            "workflow": workflow,
            "prompt": prompt,
            "steps": self.start_step + steps,
        }
        self.keeper = Keeper(kind, autosave_every, about)
        self.result: Gaussians | Mesh | None = None
        self.notes: list[str] = []
        self._exit = ExitStack()

    def step(self, progress: Progress[Any]) -> bool:
        """After every step: whether to stop and keep. Raises ComfyUI's interrupt, a BaseException,
        at a cancel.
        """
        comfy.model_management.throw_exception_if_processing_interrupted()
        stop = self.live.step(progress)
        preview = None
        if progress.preview_due and not self.live.watched:  # the viewer shows the same, and better
            preview = attempted(
                lambda: ("JPEG", to_pil(progress.preview(), PREVIEW_PIXELS), PREVIEW_PIXELS), None
            )
            tell(_summary(progress))
        self.bar.update_absolute(progress.step, progress.steps, preview)
        self.keeper.step(progress)
        if stop:
            done, noun = f"{progress.step} of {progress.steps}", self.kind.noun
            log.info("Distill3D: stopped at step %s; the %s is kept.", done, noun)
        return stop

    def keep(self, part: Gaussians | Mesh) -> None:
        """Save what an ended run leaves behind."""
        self.keeper.part(part)

    def finish(self, result: Gaussians | Mesh) -> None:
        """The steps are done: keep the result, whatever becomes of what is made of it."""
        self.result = result
        bad = self._bad_steps()
        if bad:
            self.say(skipped_note(self.kind.node, bad, self._steps_taken()))
        self.keeper.end(result)
        if self.keeper.every and not self.keeper.ended:
            self.say(
                f"{self.kind.node}: no copy of the {self.kind.noun} could be kept on the disk, so"
                f" save it: {self.keeper.problem}"
            )

    def say(self, text: str) -> None:
        """To the log, the node and the history."""
        log.warning("Distill3D: %s", text)
        self.notes.append(text)

    def told(self) -> dict[str, list[Any]]:
        """A node's ui entries that say how the run went: what to know of it as text, and all of it
        for programs.
        """
        place = self.keeper.place
        about = {
            "steps": self._steps_taken(),
            "step": self.start_step + self._steps_taken(),
            "returned_step": None if self.result is None else self.result.training.step,
            "bad_steps": self._bad_steps(),
            "stopped": self.live.stopped,
            "kept": None if place is None else shown(place),
            "notes": list(self.notes),
        }
        return {"distill3d_run": [about]} | ({"text": list(self.notes)} if self.notes else {})

    def _steps_taken(self) -> int:
        return int(self.live.about.get("step", 0))

    def _bad_steps(self) -> int:
        training: Any = None if self.result is None else self.result.training
        return 0 if training is None else int(training.bad_steps) - self.start_bad

    def __enter__(self) -> Watch:
        with ExitStack() as stack:
            self.notes = stack.enter_context(notes())
            stack.enter_context(self.live)
            self._exit = stack.pop_all()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: object
    ) -> None:
        """The run is over; after an exception say where its result is."""
        if error is not None and self.result is not None and self.keeper.place is None:
            self.keeper.part(self.result)
        place = self.keeper.place
        if error is not None and place is not None:
            self.live.partial = shown(place)
        self._exit.close()
        if error is not None:
            self._explain(error)

    def _explain(self, error: BaseException) -> None:
        """Say where the result is: in the log, and in the message a user gets to see."""
        noun, place = self.kind.noun, self.keeper.place
        if place is None:
            if not self.keeper.problem:
                return
            where = f"The {noun} so far could not be saved: {self.keeper.problem}"
        else:
            what = f"The {noun} so far" if self.result is None else f"The finished {noun}"
            where = f"{what} is in {shown(place)}; to go on from there, choose it in Recover."
            if shown(place).startswith(TEMP):
                where += " Copy it before ComfyUI starts again, which empties that folder."
        log.warning("Distill3D: %s ended early. %s", self.kind.node, where)
        if len(error.args) == 1 and isinstance(error.args[0], str):
            error.args = (f"{error.args[0]} {where}",)


def attempted(make: Callable[[], Made], otherwise: Made) -> Made:
    """What is made only to be looked at; a run does not end for it."""
    try:
        return make()
    except Exception as error:  # of any kind: renderers and encoders have their own
        log.warning("Distill3D: a preview could not be made: %s", error)
        return otherwise


def _summary(progress: Progress[Any]) -> str:
    pace = progress.seconds / progress.step
    left = pace * (progress.steps - progress.step)
    at = f"step {progress.step} of {progress.steps}"
    return f"{at}, {pace:.2f} s each, {left:.0f} s left, loss {float(progress.loss):.4g}"
