"""Run after run in one server: memory, threads and open files stay as they are."""

from __future__ import annotations

from random import Random

from . import graphs
from .bed import Bed
from .report import LOST, Trial
from .servers import of_run
from .verdict import check_error, check_told

EVERY = 5  # runs between two looks


def run_after_run(bed: Bed, rng: Random, trial: Trial) -> None:
    graph = graphs.whole(bed.info, rng, 4, every=2)
    if rng.random() < 0.2:
        graph = graphs.measuring(bed.info, graph)
    outcome = of_run(bed.server.run(graph, timeout=300))
    check_error(outcome, trial)
    check_told(outcome, bed.output, trial)
    if outcome.status != "success":
        trial.found(LOST, f"{outcome.status}: {outcome.message}")
    number = bed.report.done("run after run")
    if number % EVERY == 0:
        found = bed.server.figures()
        looks = bed.report.content.setdefault("endurance", [])
        looks.append(
            {
                "run": number,
                "resident_mb": round(found["resident"] / 1e6),
                "threads": found["threads"],
                "files": found["files"],
            }
        )


FAULTS = {"run after run": run_after_run}
