"""What has to hold after a fault: files whole and untouched, results there, errors in sentences."""

from __future__ import annotations

import os
import re
from pathlib import Path
from typing import Any

import torch

from distill3d.kernels.files.formats import load_gaussians, may_hold_gaussians
from distill3d.kernels.files.mesh import load_shape
from distill3d.kernels.run.checkpoint import load_mesh_training, load_training, run_of

from .report import LOST, OVERWRITTEN, RAW, WRONG, Trial
from .servers import Outcome

PACK = "Distill3D_"
MARK = ".distill3d-"
AUTOSAVE = "distill3d/autosave"
MESHES = {".obj", ".stl", ".off"}
BESIDE = {".mtl", ".png", ".html", ".webp", ".json"}
# classes that sentences come in; any other was thrown by something that knew nothing of the user
SPOKEN = {
    "ValueError", "OSError", "RuntimeError", "MemoryError", "PromptRefused",
    "DivergedError", "NegativeScaleError",
}  # fmt: skip
BARE = re.compile(
    r"\[Errno|\w*(?:Error|Exception)\b|'[^']*'$|list index|tuple index|unsupported|invalid literal"
    r"|expected \w+, got|index \d+ is out|\S+ object |std::|bad allocation|math domain"
)
Files = dict[str, tuple[int, int, int]]


def files_in(folder: Path) -> Files:
    """Every file with what changes when somebody writes it: inode, time and size. Parts that are
    under way are left out.
    """
    found: Files = {}
    for top, _, names in os.walk(folder):
        for name in names:
            if name.startswith(MARK):
                continue
            path = os.path.join(top, name)
            try:
                status = os.stat(path)
            except OSError:
                continue
            key = os.path.relpath(path, folder)
            found[key] = (status.st_ino, status.st_mtime_ns, status.st_size)
    return found


def check_files(folder: Path, before: Files, trial: Trial) -> Files:
    """All that was there is as it was, autosaves aside, and all that is new can be read. Returns
    what there is now.
    """
    now = files_in(folder)
    for name, status in before.items():
        if name not in now:
            if not name.startswith(AUTOSAVE):
                trial.found(LOST, f"{name} is gone")
        elif now[name] != status:
            trial.found(OVERWRITTEN, f"{name} has changed")
    for name in now.keys() - before.keys():
        if problem := unreadable(folder / name):
            trial.found(LOST, f"{name}: {problem}")
    return now


def unreadable(path: Path) -> str:
    """Why a file that has its final name cannot be read, or does not agree with the one beside it;
    empty where it can.
    """
    try:
        if path.suffix == ".safetensors":
            return _disagreement(path)
        if path.suffix in BESIDE:
            return "" if path.stat().st_size else "it is empty"
        splat = path.suffix not in MESHES and may_hold_gaussians(path)
        load_gaussians(path) if splat else load_shape(path)
    except FileNotFoundError:
        return ""  # an autosave that the next one has replaced meanwhile
    except Exception as error:
        return f"{type(error).__name__}: {error}"
    return ""


def _disagreement(path: Path) -> str:
    run = run_of(path)
    if run is not None and run["mesh"]:
        load_mesh_training(path)
        return ""
    cloud, ply = load_training(path), path.with_suffix(".ply")
    if not all(bool(torch.isfinite(value).all()) for value in cloud.tensors().values()):
        return "it holds numbers that are none"
    if ply.is_file():
        other = load_gaussians(ply)
        if len(other.means) != len(cloud.means) or not torch.allclose(
            other.means, cloud.means, atol=1e-5
        ):
            return f"{ply.name} is of another step"
    return ""


def check_error(outcome: Outcome, trial: Trial, *names: str) -> None:
    """An error of the pack's nodes is a sentence that names one of these: file, folder, node or
    input.
    """
    if outcome.node and not outcome.node.startswith(PACK):
        return
    if outcome.status in ("error", "refused") and (why := raw(outcome, names)):
        trial.found(RAW, f"{why}: {outcome.kind} in {outcome.node}: {outcome.message}")


def raw(outcome: Outcome, names: tuple[str, ...]) -> str:
    """Why an error is no sentence; empty where it is one."""
    if outcome.kind.rpartition(".")[2] not in SPOKEN:
        return "another class of error"
    if BARE.match(outcome.message):
        return "bare"
    if len(outcome.message) < 30:
        return "short"
    if names and not any(name in outcome.message for name in names):
        return "names nothing"
    return ""


def check_kept(
    runs: list[dict[str, Any]], node: str, step: int, trial: Trial
) -> dict[str, Any] | None:
    """What `/distill3d/recover` lists of a prompt has that node's result of ``step`` or later.
    Returns the latest.
    """
    own = [run for run in runs if run.get("node") == node]
    latest = max(own, key=lambda run: run.get("step", -1), default=None)
    if step > 0 and (latest is None or latest["step"] < step):
        has = "nothing" if latest is None else f"step {latest['step']}"
        trial.found(LOST, f"{node} had reached step {step}, and {has} is kept")
    return latest


def check_told(outcome: Outcome, output: Path, trial: Trial) -> None:
    """Every file that a successful run tells of is there."""
    if outcome.status != "success":
        return
    for values in (outcome.output or {}).values():
        for kind, records in values.items():
            for record in records:
                if kind == "distill3d_run" and (record.get("kept") or "").startswith("output/"):
                    path = output / record["kept"].removeprefix("output/")
                elif isinstance(record, dict) and record.get("type") == "output":
                    path = output / record["subfolder"] / record["filename"]
                else:
                    continue
                if not path.is_file():
                    trial.found(WRONG, f"success tells of {path.name}, which is not there")
