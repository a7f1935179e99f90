"""What a user sees of a long run, and what is left of it when it does not end well."""

from __future__ import annotations

import logging
from pathlib import Path

import comfy.model_management
import comfy.utils
import torch
from comfy_execution.utils import get_executing_context
from server import PromptServer

from ..kernels.files.ply import save_ply
from ..kernels.gaussians.cloud import Gaussians
from ..kernels.gaussians.gsplat_raster import compile_beside
from ..kernels.gaussians.rasterize import compiles
from ..kernels.run.checkpoint import save_training
from ..kernels.run.optimize import Progress
from .live import Live
from .outputs import next_output, shown
from .pictures import picture

PREVIEW_PIXELS = 512
AUTOSAVES, PARTIALS = "distill3d/autosave/gaussians", "distill3d/partial/gaussians"


class Watch:
    """The callbacks of one run: progress bar, live preview, interrupt, Stop and keep, autosave, partial result."""

    def __init__(self, steps: int, autosave_every: int, workflow: str | None = None) -> None:
        self.bar = comfy.utils.ProgressBar(steps)
        self.live = Live(steps, workflow)
        self.autosave_every = autosave_every
        self.autosave: Path | None = None
        self.partial: Path | None = None

    def step(self, progress: Progress) -> bool:
        """After every step: whether to stop and keep. Raises ComfyUI's interrupt, a BaseException, at a cancel."""
        comfy.model_management.throw_exception_if_processing_interrupted()
        stop = self.live.step(progress)
        preview = None
        if progress.preview_due and not self.live.watched:  # the viewer shows the same, and better
            preview = ("JPEG", picture(progress.preview(), PREVIEW_PIXELS), PREVIEW_PIXELS)
            _tell(_summary(progress))
        self.bar.update_absolute(progress.step, progress.steps, preview)
        if self.autosave_every and progress.done % self.autosave_every == 0 and progress.step < progress.steps:
            self.autosave = _saved(progress.cloud(), AUTOSAVES, self.autosave) or self.autosave
        if stop:
            logging.info("Distill3D: stopped at step %d of %d; the cloud is kept.", progress.step, progress.steps)
        return stop

    def keep(self, cloud: Gaussians) -> None:
        """Save what an ended run leaves behind."""
        self.partial = _saved(cloud, PARTIALS)

    def __enter__(self) -> Watch:
        self.live.__enter__()
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, trace: object) -> None:
        """The run is over: drop the autosave unless it is all there is, and say where a partial result went."""
        if error is not None and self.partial is not None:
            self.live.partial = shown(self.partial)
        self.live.__exit__()
        if self.autosave is not None and (error is None or self.partial is not None):
            for path in (self.autosave, self.autosave.with_suffix(".safetensors")):
                path.unlink(missing_ok=True)
        if error is not None and self.partial is not None:
            _explain(error, self.partial)


def _saved(cloud: Gaussians, prefix: str, path: Path | None = None) -> Path | None:
    """Write the cloud as PLY, and with its training state as .safetensors beside it, to ``path`` or the next free one.

    Returns where; None if that failed, since a full disk must neither end a run nor hide why one ended.
    """
    try:
        path = path or next_output(prefix, "ply").path
        save_ply(cloud, path)
        save_training(cloud, path.with_suffix(".safetensors"))
    except (OSError, ValueError) as error:
        logging.warning("Distill3D: the cloud so far could not be saved: %s", error)
        return None
    return path


def _explain(error: BaseException, partial: Path) -> None:
    """Say where the partial result is: in the log, and in the message a user gets to see."""
    where = (
        f"The cloud so far is in {shown(partial)}; to go on from there, open the .safetensors beside it with "
        "Load Gaussians."
    )
    logging.warning("Distill3D: Optimize ended early. %s", where)
    if len(error.args) == 1 and isinstance(error.args[0], str):
        error.args = (f"{error.args[0]} {where}",)


def _summary(progress: Progress) -> str:
    pace = progress.seconds / progress.step
    left = pace * (progress.steps - progress.step)
    at = f"step {progress.step} of {progress.steps}"
    return f"{at}, {pace:.2f} s each, {left:.0f} s left, loss {float(progress.loss):.4g}"


def prepare_to_render(backend: str, device: torch.device) -> None:
    """Compile the rasterizer if its first use would, showing on the running node for how long; interruptible."""

    def wait(seconds: float) -> None:
        _tell(f"compiling gsplat for this GPU, once, in one to five minutes: {seconds:.0f} s so far")
        comfy.model_management.throw_exception_if_processing_interrupted()

    if compiles(backend, device):
        compile_beside(wait)


def _tell(text: str) -> None:
    """Show a line of text on the node that is running."""
    context, server = get_executing_context(), getattr(PromptServer, "instance", None)
    if context is not None and server is not None:
        server.send_progress_text(text, context.node_id)
