"""Disks that are full, read-only or faulty, slow ones, and folders that go away."""

from __future__ import annotations

import errno
import shutil
import time
from random import Random

from harness.server import Run

from . import graphs
from .bed import Bed
from .report import LOST, Trial
from .servers import of_run
from .verdict import check_error, check_kept, check_told

STEPS = 6
OPERATIONS = 70
CODES = (errno.ENOSPC, errno.EROFS, errno.EIO, errno.EDQUOT, errno.EACCES)
# one of these tells the user which file or place it was
NAMES = ("Save Gaussians", "Export Mesh", "Refine Mesh", "Optimize")


def refuses(bed: Bed, rng: Random, trial: Trial) -> None:
    """From some operation on, for good or for a while; below output alone, or wherever a result
    could go.
    """
    own = bed.server.own
    folders = [bed.output] if rng.random() < 0.7 else [bed.output, bed.forks.base / "user", own]
    plan = {
        "folders": [str(folder) for folder in folders], "act": "errno", "code": rng.choice(CODES),
        "at": rng.randint(1, OPERATIONS), "count": rng.choice((0, 0, 1, 3, 20)),
    }  # fmt: skip
    _run(bed, rng, trial, plan, kept=len(folders) == 1)


def is_slow(bed: Bed, rng: Random, trial: Trial) -> None:
    plan = {"folders": [str(bed.output)], "act": "slow", "seconds": rng.choice((0.02, 0.1))}
    graph, slowest = graphs.whole(bed.info, rng, STEPS, every=2), 0.0
    server = bed.server
    server.sabotage(disk=plan)

    def follow(run: Run) -> None:
        nonlocal slowest
        if run.events[-1][1]["type"] == "executing":
            start = time.monotonic()
            server.get("/distill3d/live")
            slowest = max(slowest, time.monotonic() - start)

    outcome = of_run(server.run(graph, timeout=300, on_event=follow))
    server.sabotage(disk=None)
    trial.answer = slowest
    if outcome.status != "success":
        trial.found(LOST, f"a slow disk ended the run: {outcome.message}")
    check_told(outcome, bed.output, trial)


def folder_goes(bed: Bed, rng: Random, trial: Trial) -> None:
    """Somebody removes the folders that the run writes to."""
    graph, at, gone = graphs.whole(bed.info, rng, STEPS, every=1), rng.randint(1, STEPS), []

    def follow(run: Run) -> None:
        if not gone and len(run.progress("optimize")) >= at:
            gone.append(1)
            shutil.rmtree(bed.output, ignore_errors=True)

    run = bed.server.run(graph, timeout=300, on_event=follow)
    outcome = of_run(run)
    bed.output.mkdir(exist_ok=True)
    bed.files = {}
    check_error(outcome, trial, *NAMES)
    check_told(outcome, bed.output, trial)
    if outcome.status != "success":
        check_kept(bed.kept_of(run.prompt_id), "Optimize", STEPS, trial)


def _run(bed: Bed, rng: Random, trial: Trial, plan: dict, kept: bool) -> None:
    graph, server = graphs.whole(bed.info, rng, STEPS, every=rng.choice((1, 3))), bed.server
    server.sabotage(disk=plan)
    run = server.run(graph, timeout=300)
    outcome = of_run(run)
    server.sabotage(disk=None)
    check_error(outcome, trial, *NAMES)
    check_told(outcome, bed.output, trial)
    done = [value for value, _ in run.progress("optimize")]
    if done and outcome.status != "success":
        if kept:
            check_kept(bed.kept_of(run.prompt_id), "Optimize", done[-1], trial)
        elif not bed.kept_of(run.prompt_id) and "could not" not in outcome.message:
            trial.found(LOST, f"nothing is kept, and it is not said: {outcome.message}")


FAULTS = {"disk refuses": refuses, "disk is slow": is_slow, "folder goes": folder_goes}
