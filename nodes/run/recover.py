"""Recover: the node and the route that list what runs have left and go on with it."""

from __future__ import annotations

import asyncio
import time
from contextlib import suppress
from functools import lru_cache
from pathlib import Path
from typing import Any

from aiohttp import web
from comfy_api.latest import io
from comfy_execution.graph_utils import ExecutionBlocker
from server import PromptServer

from ...kernels.run.checkpoint import load_mesh_training, load_training, run_of
from ..priors.memory import autograd
from ..shared import types
from ..shared.outputs import places, shown
from .keep import AUTOSAVE, PARTIAL, TRAINING, kept_files

ROUTE = "/distill3d/recover"
NEWEST = "(the newest)"
LISTED, TOLD = 200, 10  # files in the list, and in the node's text
FOLDERS = f"output/{AUTOSAVE} and output/{PARTIAL}"


class Recover(io.ComfyNode):
    @classmethod
    def define_schema(cls) -> io.Schema:
        return io.Schema(
            node_id="Distill3D_Recover",
            display_name="Recover",
            category="Distill3D",
            description=(
                "Go on with what a run left that was cancelled, failed, or ended with ComfyUI: its"
                " autosave or partial result with its training state. The node lists what there is,"
                " with prompt, step and time. Link it to Optimize or Refine Mesh with the same"
                " prior, prompt and loss."
            ),
            search_aliases=["resume", "autosave", "partial", "restore", "crash", "continue"],
            is_output_node=True,
            inputs=[
                io.Combo.Input(
                    "file",
                    options=[NEWEST, *names()],
                    default=NEWEST,
                    tooltip=(
                        "What to go on with, the newest first; the newest of all where that is"
                        " chosen. Press R to look for new ones."
                    ),
                )
            ],
            outputs=[
                types.GaussianCloud.Output(
                    display_name="gaussians",
                    tooltip="The cloud of an Optimize, with its training state.",
                ),
                io.Mesh.Output(
                    display_name="mesh",
                    tooltip="The mesh of a Refine Mesh, with its training state.",
                ),
                io.Int.Output(display_name="step", tooltip="Steps that are done."),
                io.Int.Output(
                    display_name="steps_left",
                    tooltip="Steps that the run still had before it, for steps of the next node.",
                ),
                io.String.Output(
                    display_name="prompt", tooltip="The prompt of the run, for View Prompts."
                ),
            ],
        )

    @classmethod
    def validate_inputs(cls, file: str | None = None) -> bool | str:
        try:
            if file is not None:
                located(file)
        except ValueError as error:
            return str(error)
        return True

    @classmethod
    def fingerprint_inputs(cls, file: str | None) -> str:
        path = located(file or NEWEST)
        return f"{path} {path.stat().st_mtime_ns}"

    @classmethod
    def execute(cls, file: str) -> io.NodeOutput:
        path = located(file)
        run = run_of(path)
        if run is None:
            raise ValueError(f"Recover: {shown(path)} says nothing of a run. Use Load Gaussians.")
        with autograd():
            loaded: Any = load_mesh_training(path) if run["mesh"] else load_training(path)
        node = run.get("node", "a run")
        other = ExecutionBlocker(
            f"Recover: {shown(path)} is of {node}; use the {'mesh' if run['mesh'] else 'gaussians'}"
            " output."
        )
        cloud, mesh = (other, types.native_mesh(loaded)) if run["mesh"] else (loaded, other)
        training: Any = loaded.training
        steps = run.get("steps")
        left = max(0, steps - training.step) if isinstance(steps, int) else 0
        told = [f"Recover: {told_of(path, run)}"]
        others = [each for each in kept_files() if each[0] != path][:TOLD]
        told += [f"Also there: {told_of(*each)}" for each in others]
        prompt = run.get("prompt")
        return io.NodeOutput(
            *(cloud, mesh, training.step, left, prompt if isinstance(prompt, str) else ""),
            ui={"text": told, "distill3d_run": [entry(path, run)]},
        )


def names() -> list[str]:
    """The files there are as the list shows them, newest first; they are not opened."""
    found: list[tuple[float, str]] = []
    for root in places().values():
        for folder in (AUTOSAVE, PARTIAL):
            with suppress(OSError):  # it is not there
                found += _names_in(root / folder, (root / folder).stat().st_mtime_ns)
    return [name for _, name in sorted(found, reverse=True)][:LISTED]


@lru_cache(maxsize=16)
def _names_in(folder: Path, changed: int) -> tuple[tuple[float, str], ...]:
    """When each file was written, and its name; looked up anew once the folder has ``changed``."""
    found: list[tuple[float, str]] = []
    for path in folder.glob(f"*{TRAINING}"):
        with suppress(OSError):  # gone since
            found.append((path.stat().st_mtime, shown(path)))
    return tuple(found)


def located(file: str) -> Path:
    """The path behind a name in the list. Raises ValueError where there is none."""
    if file == NEWEST:
        newest = next(iter(kept_files()), None)
        if newest is None:
            raise ValueError(
                f"Recover: no run has left anything in {FOLDERS}. Runs that end in order are found"
                " in the files that they saved; see Load Gaussians."
            )
        return newest[0]
    for label, root in places().items():
        for folder in (AUTOSAVE, PARTIAL):
            path = root / folder / Path(file).name
            if file == f"{label}/{folder}/{path.name}":
                if path.suffix == TRAINING and path.is_file():
                    return path
                raise ValueError(
                    f"Recover: file {file!r} does not exist (any more); press R to refresh the list"
                    " and choose another."
                )
    raise ValueError(f"Recover: file {file!r} is not in {FOLDERS}; choose one from the list.")


def told_of(path: Path, run: dict[str, Any]) -> str:
    """One line for people."""
    when = run.get("time")
    clock = time.strftime("%Y-%m-%d %H:%M", time.localtime(when)) if when else "some time"
    end = " (finished)" if run.get("finished") is True else ""
    bad = run.get("bad_steps")
    skipped = f", {bad} steps skipped as NaN" if bad else ""
    return (
        f"{run.get('prompt', '')!r}, {run.get('node')}, step {run.get('step')} of"
        f" {run.get('steps')}{end}{skipped}, {clock}: {shown(path)}"
    )


def entry(path: Path, run: dict[str, Any]) -> dict[str, Any]:
    """The same for programs."""
    return {"file": shown(path), **run}


def add_route() -> None:
    """Once, when ComfyUI loads the pack; without a server there is nothing to do."""
    server = getattr(PromptServer, "instance", None)
    if server is None:
        return

    @server.routes.get(ROUTE)
    async def recover(request: web.Request) -> web.Response:
        """What runs have left, newest first: {runs: [{file, node, node_id, prompt_id, workflow,
        prompt, step, steps, finished, bad_steps, time, reason, mesh}]}; ``file`` is what the node
        takes. ?prompt_id= : those of one prompt."""
        wanted = request.query.get("prompt_id")
        # Headers of files are read, which must not keep the server from answering others.
        found = await asyncio.to_thread(kept_files)
        runs = [
            entry(path, run)
            for path, run in found
            if wanted is None or run.get("prompt_id") == wanted
        ]
        return web.json_response({"runs": runs[:LISTED]})
