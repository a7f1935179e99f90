"""The process may take no more memory: from before the run on, from a step on, from a node on."""

from __future__ import annotations

from random import Random

from harness.server import Run

from . import graphs
from .bed import Bed
from .report import DEAD, LOST, Trial
from .servers import BROKEN, of_run
from .verdict import check_error, check_kept, check_told

STEPS = 6
MEGA = 1 << 20
NODES = ("prior", "start", "optimize", "save", "mesh", "refine", "render")


def limited(bed: Bed, rng: Random, trial: Trial) -> None:
    node, step = rng.choice(NODES), rng.randint(0, STEPS)
    more = int(rng.choice((0.2, 1, 5, 20, 60, 150, 400)) * rng.uniform(0.5, 1.5) * MEGA)
    graph = graphs.whole(bed.info, rng, STEPS, every=rng.choice((1, 3)))
    graph["start"]["inputs"]["count"] = rng.choice((300, 30_000))
    graph["optimize"]["inputs"] |= {"image_size": rng.choice((64, 128)), "views": 4}
    server, limits = bed.server, list[int]()
    seen: list[Run] = []

    def follow(run: Run) -> None:
        seen[:] = [run]
        due = run.started(node) is not None
        if node == "optimize":
            due = due and len(run.progress(node)) >= step
        if due and not limits:
            limits.append(more)
            server.limit_memory(more)

    try:
        run = server.run(graph, timeout=300, on_event=follow)
    except BROKEN as error:
        if server.alive:
            server.limit_memory(None)
            trial.found(DEAD, f"the prompt has no end: {str(error)[:300]}")
        else:
            trial.found(DEAD, f"the process has ended: {server.log_tail(8)}")
        bed.stop()
        if seen and (done := seen[0].progress("optimize")):
            check_kept(bed.kept_of(seen[0].prompt_id), "Optimize", done[-1][0] - 3, trial)
        return
    server.limit_memory(None)
    outcome = of_run(run)
    check_error(outcome, trial)
    check_told(outcome, bed.output, trial)
    done = [value for value, _ in run.progress("optimize")]
    if done and outcome.status != "success":
        check_kept(bed.kept_of(run.prompt_id), "Optimize", done[-1], trial)
    if outcome.status == "interrupted":
        trial.found(LOST, "memory ended as a cancel")


FAULTS = {"memory is limited": limited}
