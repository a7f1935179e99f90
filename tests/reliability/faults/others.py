"""Others beside a run: a second server on the same folder, a second client, long queues, /free, a
clock that jumps.
"""

from __future__ import annotations

import random
import threading
import time
from collections.abc import Callable
from pathlib import Path
from random import Random
from typing import Any

from harness.nodes import node
from harness.server import Run

from distill3d.kernels.files.formats import load_gaussians

from . import graphs
from .bed import Bed
from .report import DEAD, LOST, OVERWRITTEN, WRONG, Trial
from .servers import Forked, Outcome, of_run, outcomes
from .verdict import check_error, check_kept, check_told

SAVES = 4
QUEUED = 20
_second: list[Forked] = []


def two_servers(bed: Bed, rng: Random, trial: Trial) -> None:
    """Both save splats and meshes under the same names at the same time; each file holds what its
    own server was asked for.
    """
    servers = [bed.server, _beside(bed)]
    counts = rng.sample(range(300, 900), 2 * SAVES)
    shares = [counts[:SAVES], counts[SAVES:]]
    found: list[Any] = [None, None]

    def save(which: int) -> None:
        graph = graphs.started(bed.info, count=counts[0])
        for i, count in enumerate(shares[which]):
            graph[f"start{i}"] = node(bed.info, "InitGaussians", count=count, scale=0.1)
            graph[f"save{i}"] = node(
                bed.info, "SaveGaussians", gaussians=[f"start{i}", 0],
                filename_prefix="race/cloud", format=("ply", "spz")[i % 2],
            )  # fmt: skip
        graph["start"]["inputs"]["seed"] = rng.randrange(1 << 30)
        found[which] = servers[which].run(
            graphs.exporting(bed.info, graph, "start", filename_prefix="race/mesh"), timeout=300
        )

    _at_once(lambda: save(0), lambda: save(1))
    names = set()
    for run, own in zip(found, shares, strict=True):
        outcome = of_run(run)
        check_error(outcome, trial)
        if outcome.status != "success":
            trial.found(LOST, f"beside another server: {outcome.message}")
            continue
        check_told(outcome, bed.output, trial)
        records = [file for file in run.files if file["type"] == "output"]
        if len(records) != SAVES + 1:
            trial.found(WRONG, f"{len(records)} files are told of, not {SAVES + 1}")
        for record in records:
            path = bed.output / record["subfolder"] / record["filename"]
            if path in names:
                trial.found(OVERWRITTEN, f"{path.name} is both servers'")
            names.add(path)
            cloud = record["node"].startswith("save")
            if cloud and _count(path) != own[int(record["node"].removeprefix("save"))]:
                trial.found(OVERWRITTEN, f"{path.name} holds another cloud")
    if not servers[1].answers():
        trial.found(DEAD, "the second server answers no more")
        _second.clear()


def two_clients(bed: Bed, rng: Random, trial: Trial) -> None:
    """Two people queue runs; one cancels one of theirs, which the other's do not notice."""
    server, results = bed.server, list[list[Outcome]]()
    mine, theirs = ([_small(bed, rng) for _ in range(3)] for _ in range(2))
    cancelled = graphs.optimizing(bed.info, rng, 100_000)
    kept: list[Run] = []

    def cancel(run: Run) -> None:
        if len(run.progress("optimize")) >= 2 and not kept:
            kept.append(run)
            server.interrupt(run.prompt_id)

    def one() -> None:
        results.append(outcomes(server, mine))

    def other() -> None:
        run = server.run(cancelled, timeout=300, on_event=cancel)
        if of_run(run).status != "interrupted":
            trial.found(WRONG, f"a cancel ended as {of_run(run).status}")
        check_kept(bed.kept_of(run.prompt_id), "Optimize", 2, trial)
        results.append(outcomes(server, theirs))

    _at_once(one, other)
    for outcome in (each for some in results for each in some):
        check_error(outcome, trial)
        if outcome.status != "success":
            trial.found(LOST, f"another's run: {outcome.status} {outcome.message}")


def long_queue(bed: Bed, rng: Random, trial: Trial) -> None:
    """Many prompts at once, some of which are refused; all of the others end well."""
    queued = [_small(bed, rng) for _ in range(QUEUED)]
    for graph in rng.sample(queued, 3):
        graph["save"]["inputs"]["filename_prefix"] = "../outside"
    found = outcomes(bed.server, queued)
    for graph, outcome in zip(queued, found, strict=True):
        refused = graph["save"]["inputs"]["filename_prefix"] == "../outside"
        check_error(outcome, trial, "filename_prefix")
        if outcome.status != ("refused" if refused else "success"):
            trial.found(WRONG if refused else LOST, f"{outcome.status}: {outcome.message}")


def free_meanwhile(bed: Bed, rng: Random, trial: Trial) -> None:
    """Models are asked to be unloaded in the middle of a run."""
    graph, at = graphs.whole(bed.info, rng, 6), rng.randint(1, 6)
    asked: list[int] = []

    def follow(run: Run) -> None:
        if len(run.progress("optimize")) >= at and not asked:
            asked.append(1)
            bed.server.free()

    _ends_well(bed, graph, trial, follow)


def clock_jumps(bed: Bed, rng: Random, trial: Trial) -> None:
    """An hour, a day or ten years back or ahead, in the middle of a run."""
    seconds = rng.choice((3600, 86_400, 315_000_000)) * rng.choice((-1, 1))
    graph, at = graphs.whole(bed.info, rng, 6), rng.randint(1, 6)
    asked: list[int] = []

    def follow(run: Run) -> None:
        if len(run.progress("optimize")) >= at and not asked:
            asked.append(1)
            bed.server.sabotage(clock=seconds)

    try:
        _ends_well(bed, graph, trial, follow)
    finally:
        bed.server.sabotage(clock=0)


def stop_second() -> None:
    while _second:
        _second.pop().kill()


def _ends_well(bed: Bed, graph: graphs.Graph, trial: Trial, follow: Callable) -> None:
    start = time.monotonic()
    run = bed.server.run(graph, timeout=300, on_event=follow)
    outcome = of_run(run)
    trial.figures["seconds"] = round(time.monotonic() - start, 2)
    check_error(outcome, trial)
    check_told(outcome, bed.output, trial)
    if outcome.status != "success":
        trial.found(LOST, f"{outcome.status}: {outcome.message}")
    check_kept(bed.kept_of(run.prompt_id), "Optimize", 6, trial)


def _small(bed: Bed, rng: Random) -> graphs.Graph:
    return graphs.optimizing(bed.info, rng, 1, loss="SDSLoss", every=0)


def _beside(bed: Bed) -> Forked:
    if not _second or not _second[0].alive:
        _second[:] = [bed.forks.server()]
        _second[0].start()
    return _second[0]


def _count(path: Path) -> int:
    return len(load_gaussians(path).means)


def _at_once(*acts: Callable[[], None]) -> None:
    errors: list[BaseException] = []

    def guarded(act: Callable[[], None]) -> None:
        try:
            act()
        except BaseException as error:
            errors.append(error)

    threads = [threading.Thread(target=guarded, args=(act,)) for act in acts]
    for thread in random.sample(threads, len(threads)):
        thread.start()
    for thread in threads:
        thread.join()
    if errors:
        raise errors[0]


FAULTS = {
    "two servers on one folder": two_servers,
    "two clients": two_clients,
    "long queue": long_queue,
    "models freed in a run": free_meanwhile,
    "clock jumps": clock_jumps,
}
