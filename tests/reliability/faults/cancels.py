"""Cancels: in every node, at every step, in the last step and after it."""

from __future__ import annotations

import time
from random import Random

from harness.server import Run

from . import graphs
from .bed import Bed
from .report import DEAD, RAW, WRONG, Trial
from .servers import Later, of_run
from .verdict import check_error, check_kept, check_told

STEPS = 6
# nodes that are at work for long enough to be cancelled in
NODES = (
    "prior", "prompts", "start", "optimize", "save", "mesh", "refine", "render", "score",
    "inspect", "view",
)  # fmt: skip
PATIENCE = 60.0


def in_a_node(bed: Bed, rng: Random, trial: Trial) -> None:
    """Some time after a node has begun; large ones, so that the cancel finds them at work."""
    target = rng.choice(NODES)
    graph = graphs.whole(bed.info, rng, STEPS, every=rng.choice((0, 1, 3)))
    if target in ("score", "inspect"):
        graph = graphs.measuring(bed.info, graph)
    _enlarge(graph, target)
    late = rng.uniform(0, 1.0 if target in ("mesh", "refine", "optimize") else 0.3)
    _cancelled(bed, graph, lambda run: run.started(target) is not None, late, trial)


def at_a_step(bed: Bed, rng: Random, trial: Trial) -> None:
    node, steps = rng.choice((("optimize", STEPS), ("optimize", STEPS), ("refine", 3)))
    step = rng.randint(1, steps)
    graph = graphs.whole(bed.info, rng, STEPS, every=rng.choice((0, 1, 3)))
    _cancelled(bed, graph, lambda run: len(run.progress(node)) >= step, 0.0, trial)


def in_the_last_step_or_after_it(bed: Bed, rng: Random, trial: Trial) -> None:
    node, steps = rng.choice((("optimize", STEPS), ("refine", 3)))
    graph = graphs.whole(bed.info, rng, STEPS, every=rng.choice((1, 3)))
    reached = steps - rng.randint(0, 1)
    late = rng.choice((0.0, rng.uniform(0, 0.05), rng.uniform(0, 0.5)))
    _cancelled(bed, graph, lambda run: len(run.progress(node)) >= reached, late, trial)


def _enlarge(graph: graphs.Graph, target: str) -> None:
    large = {
        "mesh": {"resolution": 160, "texture_size": 1024, "views": 48},
        "render": {"views": 60, "size": 256},
        "score": {"views": 24},
        "inspect": {"views": 8},
        "start": {"count": 20_000},
        "optimize": {"views": 2, "image_size": 64},
        "refine": {"views": 2, "image_size": 64},
    }
    graph[target]["inputs"] |= large.get(target, {})


def _cancelled(bed: Bed, graph, due, late: float, trial: Trial) -> None:
    server, asked = bed.server, list[str]()
    cancel = Later(lambda: server.interrupt(asked[0]))

    def follow(run: Run) -> None:
        if not asked:
            asked.append(run.prompt_id)
        if not cancel.asked and due(run):
            cancel.after(late)

    run = server.run(graph, timeout=300, on_event=follow)
    ended = time.monotonic()
    cancel.join()
    outcome = of_run(run)
    if outcome.status == "interrupted":
        trial.answer = max(0.0, ended - cancel.called)
    check_error(outcome, trial)
    check_told(outcome, bed.output, trial)
    if outcome.status == "error":
        trial.found(RAW, f"a cancel ended as an error: {outcome.message[:200]}")
    every = _every(graph)
    kept = bed.kept_of(run.prompt_id)
    for node, id in (("Optimize", "optimize"), ("Refine Mesh", "refine")):
        done = [value for value, _ in run.progress(id)]
        steps = graph[id]["inputs"]["steps"]
        kind = graph[id]["class_type"]
        ended_in = outcome.status == "interrupted" and outcome.node == kind
        # without autosaves what has ended is in ComfyUI's cache and in its own file
        if done and (every or (ended_in and done[-1] < steps)):
            check_kept(kept, node, done[-1], trial)
    if outcome.status == "success" and "save" not in (outcome.output or {}):
        trial.found(WRONG, "success without the file that was to be saved")
    if not server.answers(PATIENCE):
        trial.found(DEAD, "no answer after a cancel")


def _every(graph: graphs.Graph) -> int:
    return next(
        node["inputs"]["autosave_every"]
        for node in graph.values()
        if node["class_type"] == "Distill3D_RunOptions"
    )


FAULTS = {
    "cancel in a node": in_a_node,
    "cancel at a step": at_a_step,
    "cancel in the last step or after it": in_the_last_step_or_after_it,
}
