"""What is left of a run on the disk: autosaves on its way, its end, its partial result.

| folder below distill3d/ | what | how long |
|---|---|---|
| autosave | of a run under way, or that was when ComfyUI ended | until its next, or for good |
| autosave | of a run that has ended in order | the newest `KEPT`, within `KEPT_BYTES` |
| partial | of a run that was cancelled or failed | for good |
"""

from __future__ import annotations

import logging
import sys
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from ...kernels.files.ply import save_ply
from ...kernels.gaussians.cloud import Gaussians
from ...kernels.meshes.mesh import Mesh
from ...kernels.run.checkpoint import run_of, save_training
from ...kernels.run.kept import is_out_of_memory
from ...kernels.run.step import Progress
from ..shared.outputs import new_output, places, shown

log = logging.getLogger(__name__)

AUTOSAVE, PARTIAL = "distill3d/autosave", "distill3d/partial"
TRAINING = ".safetensors"
KEPT, KEPT_BYTES = 20, 2 << 30  # of ended runs
FIRST, AGAIN = 20.0, 120.0  # seconds until the first autosave, and from one to the next, at most
SHARE = 0.02  # of the time that autosaves by the clock may take
RESERVE = 8 << 20  # bytes that keeping a result may have when memory has run out


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
    """

    node: str
    noun: str
    name: str
    extension: str
    save: Callable[[Any, Path], None]


CLOUD = Kind("Optimize", "cloud", "gaussians", "ply", save_ply)
MESH = Kind("Refine Mesh", "mesh", "mesh", "glb", _save_mesh)


class Keeper:
    """Where the results of one run are kept.

    Args:
        every: steps between autosaves; 0: none, and no end is kept unless something fails
        about: what is said of the run in its files, see `checkpoint.run_of`
    """

    def __init__(self, kind: Kind, every: int, about: dict[str, Any]) -> None:
        self.kind, self.every, self.about = kind, every, about
        self.path: Path | None = None  # of the autosave
        self.ended = False  # whether that is of the run's end
        self.partial: Path | None = None
        self.problem = ""  # why the last one could not be kept
        self._last, self._pause = 0.0, FIRST
        self._reserve: bytearray | None = bytearray(RESERVE)

    @property
    def place(self) -> Path | None:
        """Where what there is of the run can be found, once it is over."""
        return self.partial or (self.path if self.ended else None)

    def step(self, progress: Progress[Any]) -> None:
        """Autosave where one is due: by the steps, and sooner where steps are slow."""
        if not self.every or progress.step >= progress.steps:
            return
        if progress.done % self.every and progress.seconds - self._last < self._pause:
            return
        start = time.perf_counter()
        self._autosave(progress.result(), finished=False)
        took = time.perf_counter() - start
        self._last, self._pause = progress.seconds, max(AGAIN, took / SHARE)

    def end(self, result: Gaussians | Mesh) -> None:
        """Keep the end of a run that has done all it was asked for."""
        if self.every:
            self.ended = self._autosave(result, finished=True)
            if self.path is not None:
                _prune(self.kind, self.path.with_suffix(TRAINING))

    def part(self, part: Gaussians | Mesh) -> None:
        """Keep what a run leaves behind that an exception ends, which is being handled."""
        self._reserve = None
        error = sys.exc_info()[1]
        reason = "" if error is None else f"{type(error).__name__}: {error}".strip(": ")
        self.partial = self._saved(part, PARTIAL, finished=False, reason=reason)
        if self.partial is not None:
            if self.path is not None:
                _remove(self.path)
            self.path = None

    def _autosave(self, part: Gaussians | Mesh, finished: bool) -> bool:
        # Under a new name, and the old one goes afterwards: killed in between, either is whole.
        path, old = self._saved(part, AUTOSAVE, finished=finished), self.path
        if path is not None:
            self.path = path
            if old not in (None, path):  # the same where somebody has emptied the folder
                _remove(old)
        return path is not None

    def _saved(self, part: Gaussians | Mesh, folder: str, **about: Any) -> Path | None:
        """Write it as a file others read, and with its training state as .safetensors beside it, in
        the first place that takes them.

        Returns where; None if that failed, since a full disk must neither end a run nor hide why
        one ended.
        """
        training: Any = part.training
        reached = {"step": training.step, "bad_steps": int(training.bad_steps)}
        run = {**self.about, **reached, "time": time.time(), **about}
        for root in places().values():
            try:
                return self._written(part, folder, root, run)
            except (OSError, ValueError, MemoryError, RuntimeError) as error:
                self.problem = str(error) or type(error).__name__
                log.warning("Distill3D: no copy of the %s: %s", self.kind.noun, self.problem)
        return None

    def _written(
        self, part: Gaussians | Mesh, folder: str, root: Path, run: dict[str, Any]
    ) -> Path:
        kind, prefix = self.kind, f"{folder}/{self.kind.name}"
        kinds = (kind.extension, TRAINING[1:])
        try:
            with new_output(kind.node, prefix, *kinds, root=root) as file:
                kind.save(part, file.path)
                save_training(part, file.path.with_suffix(TRAINING), run)
            return file.path
        except (MemoryError, RuntimeError) as error:
            if not isinstance(error, MemoryError) and not is_out_of_memory(error):
                raise
        # The training state takes no memory to write, and holds all there is.
        self._reserve = None
        with new_output(kind.node, prefix, *reversed(kinds), root=root) as file:
            save_training(part, file.path, run)
        return file.path


def kept_files(folders: Sequence[str] = (AUTOSAVE, PARTIAL)) -> list[tuple[Path, dict[str, Any]]]:
    """What runs have left in these folders, the newest first: each file with training state, and
    what it says of its run.
    """
    found = []
    for root in places().values():
        for name in folders:
            for path in (root / name).glob(f"*{TRAINING}"):
                if path.is_file() and (run := run_of(path)) is not None:
                    found.append((path, run))
    return sorted(found, key=lambda each: _time(each[1]), reverse=True)


def _time(run: dict[str, Any]) -> float:
    time = run.get("time")
    return float(time) if isinstance(time, int | float) else 0.0


def _prune(kind: Kind, own: Path) -> None:
    """Remove of the ended runs' autosaves those that are too old or too many to be looked for, but
    not the one that has just been written: by their numbers, as a clock may have been set back.
    """
    try:
        count = size = 0
        found = (path for path, run in kept_files([AUTOSAVE]) if run.get("finished") is True)
        for path in sorted(found, key=lambda path: (path == own, path.name), reverse=True):
            if not path.name.startswith(f"{kind.name}_"):
                continue
            count += 1
            size += path.stat().st_size
            if count > 1 and (count > KEPT or size > KEPT_BYTES):
                _remove(path)
    except OSError as error:
        log.warning("Distill3D: old autosaves could not be removed: %s", error)


def _remove(path: Path) -> None:
    """A result's files: the one that others read, and its training state."""
    for suffix in (".ply", ".glb", TRAINING):
        try:
            path.with_suffix(suffix).unlink(missing_ok=True)
        except OSError as error:
            log.warning("Distill3D: %s could not be removed: %s", shown(path), error)
