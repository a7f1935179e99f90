"""What a user sees of a long run, and what is left of it when it does not end well."""

from __future__ import annotations

import logging
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import comfy.model_management
import comfy.utils

from ...kernels.files.ply import save_ply
from ...kernels.gaussians.cloud import Gaussians
from ...kernels.meshes.mesh import Mesh
from ...kernels.run.checkpoint import save_training
from ...kernels.run.step import Progress
from ..shared.images import to_pil
from ..shared.outputs import next_output, shown
from ..shared.progress import tell
from .live import Live

PREVIEW_PIXELS = 512


def _save_mesh(mesh: Mesh, path: Path) -> None:
    from ...kernels.files.glb import write_glb  # here, because trimesh takes seconds to import

    write_glb(mesh, path)


@dataclass(frozen=True)
class Kind:
    """What tells the runs of one node from those of another.

    Args:
        node: as messages call it
        noun: what it moves
        name: of the files in output/distill3d/autosave and partial
        onward: what may be said after where the partial result is
    """

    node: str
    noun: str
    name: str
    extension: str
    save: Callable[[Any, Path], None]
    onward: str


CLOUD = Kind(
    "Optimize", "cloud", "gaussians", "ply", save_ply,
    "; to go on from there, open the .safetensors beside it with Load Gaussians",
)  # fmt: skip
MESH = Kind("Refine Mesh", "mesh", "mesh", "glb", _save_mesh, "")


class Watch:
    """The callbacks of one run: progress bar, live preview, interrupt, Stop and keep, autosave,
    partial result.
    """

    def __init__(
        self, steps: int, autosave_every: int, workflow: str | None = None, kind: Kind = CLOUD
    ) -> None:
        self.kind = kind
        self.bar = comfy.utils.ProgressBar(steps)
        self.live = Live(steps, workflow)
        self.autosave_every = autosave_every
        self.autosave: Path | None = None
        self.partial: Path | None = None

    def step(self, progress: Progress[Any]) -> bool:
        """After every step: whether to stop and keep. Raises ComfyUI's interrupt, a BaseException,
        at a cancel.
        """
        comfy.model_management.throw_exception_if_processing_interrupted()
        stop = self.live.step(progress)
        preview = None
        if progress.preview_due and not self.live.watched:  # the viewer shows the same, and better
            preview = ("JPEG", to_pil(progress.preview(), PREVIEW_PIXELS), PREVIEW_PIXELS)
            tell(_summary(progress))
        self.bar.update_absolute(progress.step, progress.steps, preview)
        if (
            self.autosave_every
            and progress.done % self.autosave_every == 0
            and progress.step < progress.steps
        ):
            self.autosave = (
                self._saved(progress.result(), "autosave", self.autosave) or self.autosave
            )
        if stop:
            done, noun = f"{progress.step} of {progress.steps}", self.kind.noun
            logging.info("Distill3D: stopped at step %s; the %s is kept.", done, noun)
        return stop

    def keep(self, part: Gaussians | Mesh) -> None:
        """Save what an ended run leaves behind."""
        self.partial = self._saved(part, "partial")

    def _saved(self, part: Gaussians | Mesh, folder: str, path: Path | None = None) -> Path | None:
        """Write it as a file others read, and with its training state as .safetensors beside it, to
        ``path`` or the next free one.

        Returns where; None if that failed, since a full disk must neither end a run nor hide why
        one ended.
        """
        kind = self.kind
        try:
            path = path or next_output(f"distill3d/{folder}/{kind.name}", kind.extension).path
            kind.save(part, path)
            save_training(part, path.with_suffix(".safetensors"))
        except (OSError, ValueError) as error:
            logging.warning("Distill3D: the %s so far could not be saved: %s", kind.noun, error)
            return None
        return path

    def __enter__(self) -> Watch:
        self.live.__enter__()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: object
    ) -> None:
        """The run is over: drop the autosave unless it is all there is, and say where a partial
        result went.
        """
        if error is not None and self.partial is not None:
            self.live.partial = shown(self.partial)
        self.live.__exit__()
        if self.autosave is not None and (error is None or self.partial is not None):
            for path in (self.autosave, self.autosave.with_suffix(".safetensors")):
                path.unlink(missing_ok=True)
        if error is not None and self.partial is not None:
            _explain(error, self.partial, self.kind)


def _explain(error: BaseException, partial: Path, kind: Kind) -> None:
    """Say where the partial result is: in the log, and in the message a user gets to see."""
    where = f"The {kind.noun} so far is in {shown(partial)}{kind.onward}."
    logging.warning("Distill3D: %s ended early. %s", kind.node, where)
    if len(error.args) == 1 and isinstance(error.args[0], str):
        error.args = (f"{error.args[0]} {where}",)


def _summary(progress: Progress[Any]) -> str:
    pace = progress.seconds / progress.step
    left = pace * (progress.steps - progress.step)
    at = f"step {progress.step} of {progress.steps}"
    return f"{at}, {pace:.2f} s each, {left:.0f} s left, loss {float(progress.loss):.4g}"
