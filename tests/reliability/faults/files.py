"""Damaged files of every reader, and workflows whose inputs are anything at all."""

from __future__ import annotations

import copy
import shutil
from collections.abc import Callable, Sequence
from functools import partial
from pathlib import Path
from random import Random
from typing import Any

from harness.nodes import node
from harness.server import PromptRefused, Run
from mutations import ANYTHING

from . import graphs, samples
from .bed import Bed
from .report import DEAD, RAW, WRONG, Trial
from .servers import BROKEN, Later, Outcome, of_run, outcomes
from .verdict import check_error

BATCH = 40  # files of one kind that are there at a time
LONGEST = 4.0  # seconds that a changed workflow may run before it is cancelled
PRIOR = "damaged folder"


def damaged(bed: Bed, kind: samples.Kind, wanted: int) -> None:
    """Files of one kind in batches, until the report has as many as are wanted."""
    folder = bed.forks.base / kind.folder
    folder.mkdir(parents=True, exist_ok=True)
    names = [f"{i:02}_{kind.file}" for i in range(BATCH)]

    def make(name: str, rng: Random) -> graphs.Graph:
        (folder / name).write_bytes(kind.damage(kind.content, rng))
        return kind.graph(bed.info, name, rng)

    for name in names:  # lists know them from now on
        (folder / name).write_bytes(kind.content)
    bed.stop()
    _in_batches(bed, kind.name, wanted, names, make)
    for name in names:
        (folder / name).unlink(missing_ok=True)


def damaged_folders(bed: Bed, wanted: int) -> None:
    """Folders of a diffusers pipeline, of which one file is damaged."""
    root = bed.forks.base / "models" / "diffusers"
    sound, names = samples.folder(root / "sound"), [f"damaged{i:02}" for i in range(BATCH)]
    for name in names:
        shutil.copytree(sound, root / name, dirs_exist_ok=True)
    bed.stop()

    def make(name: str, rng: Random) -> graphs.Graph:
        samples.damage_folder(sound, root / name, rng)
        return {
            "read": node(bed.info, "LoadDiffusionPrior", model=name),
            "check": {"class_type": "SaboteurCheck", "inputs": {"prior": ["read", 0]}},
        }

    _in_batches(bed, PRIOR, wanted, names, make)
    for name in names:
        shutil.rmtree(root / name, ignore_errors=True)


def _in_batches(
    bed: Bed,
    fault: str,
    wanted: int,
    names: Sequence[str],
    make: Callable[[str, Random], graphs.Graph],
) -> None:
    while (done := bed.report.done(fault)) < wanted:
        seeds = [f"{bed.seed} {fault} {done + i}" for i in range(min(len(names), wanted - done))]
        asked = [make(name, Random(seed)) for name, seed in zip(names, seeds, strict=False)]
        for seed, name, outcome in zip(seeds, names, _asked(bed, asked), strict=False):
            trial = Trial(seed)
            if outcome is None:
                trial.found(DEAD, f"the server has ended: {bed.server.log_tail(6)}")
            else:
                trial.answer = outcome.seconds
                check_error(outcome, trial, name)
                checked = (outcome.output or {}).get("check", {}).get("finite", [True])
                if outcome.node == "SaboteurCheck" or not checked[0]:
                    trial.found(WRONG, "numbers that are none were taken")
            bed.report.add(fault, trial, save=False)
            if trial.problems:
                print(seed, trial.problems, flush=True)
        bed.report.save()
        bed.server.free()  # a sound one is not answered from the cache the next time
        print(f"{fault}: {bed.report.done(fault)}", flush=True)


def _asked(bed: Bed, asked: list[graphs.Graph]) -> list[Outcome | None]:
    """All at once; where that ends the server, one after the other, so as to know which it was."""
    try:
        return list(outcomes(bed.server, asked))
    except BROKEN:
        found: list[Outcome | None] = []
        for graph in asked:
            try:
                found += outcomes(bed.server, [graph])
            except BROKEN:
                found.append(None)
                bed.stop()
        return found


def workflows(bed: Bed, rng: Random, trial: Trial) -> None:
    """A workflow with one to three inputs of the pack's nodes that are anything."""
    graph = copy.deepcopy(graphs.whole(bed.info, rng, 2, every=1))
    for _ in range(rng.randint(1, 3)):
        inputs = graph[rng.choice(list(graph))]["inputs"]
        name = rng.choice(list(inputs))
        kind = rng.random()
        if kind < 0.2:
            del inputs[name]
        elif kind < 0.4:
            inputs[name] = [rng.choice(list(graph)), rng.choice((0, 1, 2, 9, -1))]
        elif kind < 0.6 and isinstance(inputs[name], (int, float)):
            inputs[name] = inputs[name] * rng.choice((-1, 2, 10, 0.5, 1e6)) + rng.choice((-1, 0, 1))
        else:
            inputs[name] = rng.choice(ANYTHING)
        if not inputs:
            break
    server, asked = bed.server, list[str]()
    cancel = Later(lambda: server.interrupt(asked[0]))

    def follow(run: Run) -> None:
        asked[:] = asked or [run.prompt_id]
        cancel.after(LONGEST)

    try:
        run = server.run(graph, timeout=200, on_event=follow)
    except PromptRefused as refused:
        if "validate_inputs()" in str(refused):  # else it is ComfyUI's own
            trial.found(RAW, str(refused))
        return
    outcome = of_run(run)
    if outcome.node.startswith("Distill3D_"):
        check_error(outcome, trial)


def families(work: Path) -> dict[str, Callable[[Bed, int], Any]]:
    """What damages files of each kind, by the kind's name."""
    found = {kind.name: partial(_damaged, kind=kind) for kind in samples.kinds(work)}
    return {**found, PRIOR: damaged_folders}


def _damaged(bed: Bed, wanted: int, kind: samples.Kind) -> None:
    damaged(bed, kind, wanted)


FAULTS = {"changed workflow": workflows}
