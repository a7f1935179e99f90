"""The server's process is ended, as the system's killer or a power cut would, at any moment and
inside every write; another then finds what it left.
"""

from __future__ import annotations

from collections.abc import Callable
from contextlib import suppress
from random import Random

from harness.server import Run

from . import graphs
from .bed import Bed
from .report import LOST, Trial
from .servers import BROKEN, Later
from .verdict import check_kept

STEPS = 6
RESUMED = 4  # every so manieth is gone on with
LATER = 0.5  # seconds from a step, or from a later node's beginning, to the kill, at most
OPERATIONS = 70  # of a graph on the disk, about


def at_any_moment(bed: Bed, rng: Random, trial: Trial) -> None:
    """From the first step to some while after the last node."""
    every = rng.choice((1, 2, 5))
    graph = _graph(bed, rng, every)
    server = bed.server
    kill = Later(server.kill)
    seconds, step = rng.uniform(0, LATER), rng.randint(1, STEPS)
    later = rng.choice(("", "", "save", *(id for id in ("mesh", "refine") if id in graph)))

    def follow(run: Run) -> None:
        if later:
            due = run.started(later) is not None
        else:
            due = len(run.progress("optimize")) >= step
        if due:
            kill.after(seconds)

    _follow(bed, graph, every, kill, follow, trial, rng)


def inside_a_write(bed: Bed, rng: Random, trial: Trial) -> None:
    """At one of the disk's operations, of a write the half of which is done."""
    graph = _graph(bed, rng, 1)
    at = rng.randint(1, OPERATIONS)
    bed.server.sabotage(disk={"folders": [str(bed.output)], "act": "kill", "at": at})
    _follow(bed, graph, 1, Later(bed.server.kill), lambda run: None, trial, rng)


def _graph(bed: Bed, rng: Random, every: int) -> graphs.Graph:
    graph = graphs.optimizing(
        bed.info, rng, STEPS, every=every, format=rng.choice(("ply", "spz", "glb"))
    )
    return graphs.refining(bed.info, graph, 4, rng) if rng.random() < 0.6 else graph


def _follow(
    bed: Bed,
    graph: graphs.Graph,
    every: int,
    kill: Later,
    follow: Callable[[Run], None],
    trial: Trial,
    rng: Random,
) -> None:
    seen: list[Run] = []

    def on_event(run: Run) -> None:
        seen[:] = [run]
        follow(run)

    server = bed.server
    with suppress(*BROKEN):
        seen[:] = [server.run(graph, timeout=120, on_event=on_event)]
    kill.join()
    if kill.asked:
        server.wait()
    elif server.alive:  # the graph has had fewer operations
        server.kill()
    if not seen:
        return
    run = seen[0]
    kept = bed.kept_of(run.prompt_id)
    latest = check_kept(kept, "Optimize", _saved_step(run, "optimize", STEPS, every), trial)
    check_kept(kept, "Refine Mesh", _saved_step(run, "refine", 4, every), trial)
    if latest is not None and rng.randrange(RESUMED) == 0:
        left = max(1, STEPS - latest["step"])
        again = bed.server.run(graphs.resumed(bed.info, graph, latest["file"], left), timeout=120)
        if again.status != "success":
            trial.found(LOST, f"{latest['file']} cannot be gone on with: {again.error[:300]}")


def _saved_step(run: Run, id: str, steps: int, every: int) -> int:
    """The step that must have been saved by what the server has told: all of them once the node is
    over, else the last multiple before the step that is told of.
    """
    done = [value for value, _ in run.progress(id)]
    if not done:
        return 0
    others = [
        message["data"]["node"]
        for _, message in run.events
        if message["type"] == "executing" and message["data"].get("prompt_id") == run.prompt_id
    ]
    if id in others and others.index(id) < len(others) - 1 and done[-1] >= steps:
        return steps
    return (min(done[-1], steps) - 1) // every * every


FAULTS = {"kill at any moment": at_any_moment, "kill inside a write": inside_a_write}
