"""A farm of many GPUs without them: the true driver, manifest and Ray, workers that only wait.

    python tests/benchmarks/farm_simulation.py --objects 100000 --gpus 512 --json farm.json

Each slot of a GPU waits for the time that an object takes and writes its record; some die or fail
on the way, as a share says. Many slots live in one actor, or a machine would have to start as many
processes. Afterwards the driver starts again over all that is finished. Prints one JSON object
last.

seconds: an object's time in a slot (``--seconds``), which is that of ``--per-gpu`` objects at once
on a GPU; 7 at 14.8 are the 1,700 objects an hour that 7 processes of quality.py made on an H200.
overhead: what slots waited for the driver between two objects, as a share of their work.
"""

from __future__ import annotations

import argparse
import asyncio
import json
import os
import platform
import random
import resource
import tempfile
import time
from collections import defaultdict, deque
from pathlib import Path
from typing import Any

from distill3d.farm.checks import checked
from distill3d.farm.graph import Graph, Job
from distill3d.farm.jobs import Row
from distill3d.farm.manifest import DONE, FILE, Manifest, write_record
from distill3d.farm.pool import Pool, Slot, connect
from distill3d.farm.store import Folder
from distill3d.farm.worker import BROKEN

GRAPH = {"1": {"class_type": "Stub", "inputs": {"prompt": "", "seed": 0}}}


class Machine:
    """Many slots in one process.

    Args:
        out: the store's folder
        seconds: an object's time, give or take a tenth
        failures: share of the attempts that end half way
    """

    def __init__(self, out: str, seconds: float, failures: float, seed: int) -> None:
        self.store, self.seconds, self.failures = Folder(out), seconds, failures
        self.chance, self.free_since = random.Random(seed), dict[int, float]()
        self.slots = defaultdict[int, asyncio.Lock](asyncio.Lock)
        self.waited, self.worked, self.late = 0.0, 0.0, 0.0

    async def start(self) -> dict:
        await asyncio.sleep(self.chance.uniform(0, self.seconds))  # as processes start, not at once
        return {"number": 0}

    async def run(self, number: int, job: Job, prompt: Any, attempt: int) -> dict:
        async with self.slots[number]:  # one after the other, as in a process of its own
            return await self._made(number, job, attempt)

    async def _made(self, number: int, job: Job, attempt: int) -> dict:
        begun = time.monotonic()
        if number in self.free_since:
            self.waited += begun - self.free_since[number]
        wanted = self.seconds * self.chance.uniform(0.9, 1.1)
        dies = self.chance.random() < self.failures
        await asyncio.sleep(wanted * (0.5 if dies else 1.0))
        took = time.monotonic() - begun
        self.late += took - wanted * (0.5 if dies else 1.0)
        self.worked += took
        entry = {
            "key": job.key, "name": job.name, "line": job.line, "prompt": job.prompt,
            "seed": job.values["seed"], "settings": dict(job.values), "machine": "simulated",
            "worker": number, "attempt": attempt, "seconds": round(took, 3),
            "gpu_seconds": round(took / 7, 3), "time": time.time(),
        }  # fmt: skip
        if dies:
            entry |= {"status": BROKEN, "error": "simulated", "log": ""}
        else:
            endings = (".glb", ".ply", ".webp")
            files = [
                {"name": f"{job.name}{ending}", "bytes": 1_000_000, "blake2b": job.key * 2}
                for ending in endings
            ]
            entry |= {
                "status": DONE, "files": files, "resumed": {}, "memory": 0,
                "metrics": {"7": {"steps": 400, "bad_steps": 0, "gaussians": 20_000}}, "notes": [],
            }  # fmt: skip
            await asyncio.to_thread(write_record, self.store, entry)
        self.free_since[number] = time.monotonic()
        return entry

    async def told(self) -> tuple[float, float, float]:
        return self.waited, self.worked, self.late


class Handle:
    """One slot of a `Machine`, with an actor's methods."""

    def __init__(self, actor: Any, number: int) -> None:
        self.actor, self.number = actor, number
        self.start, self.run = actor.start, _Bound(actor.run, number)


class _Bound:
    def __init__(self, method: Any, number: int) -> None:
        self.method, self.number = method, number

    def remote(self, *arguments: Any) -> Any:
        return self.method.remote(self.number, *arguments)


def made_jobs(count: int) -> tuple[Graph, list[Job]]:
    """So many lines, read as the farm reads them."""
    graph = Graph("simulated", GRAPH)
    rows = [
        Row(line, {"prompt": f"a red mug number {line}", "seed": line}) for line in range(count)
    ]
    return graph, checked(graph, graph.jobs(rows))


def simulate(given: argparse.Namespace, out: Path) -> dict[str, Any]:
    graph, jobs = made_jobs(given.objects)
    # here they are other machines, which Ray would have give way to the driver
    os.environ["RAY_worker_niceness"] = "0"  # noqa: SIM112 - Ray's spelling
    ray, _ = connect("local", max(4, given.machines), False)
    kind = ray.remote(Machine).options(num_cpus=0, max_concurrency=100_000)
    machines = [
        kind.remote(str(out), given.seconds, given.failures, seed) for seed in range(given.machines)
    ]
    ray.get([machine.told.remote() for machine in machines])
    slots = [
        Slot(Handle(machines[number % given.machines], number), number)
        for number in range(given.gpus * given.per_gpu)
    ]
    manifest = Manifest(Folder(out))
    pool = Pool(slots, lambda job: graph.filled(job.values), lambda job: None, manifest.add)
    before, start = os.times(), time.monotonic()
    pool.run(deque(jobs), manifest.flush)
    seconds = time.monotonic() - start
    manifest.flush(now=True)
    after = os.times()
    told = ray.get([machine.told.remote() for machine in machines])
    waited, worked, late = (sum(column) for column in zip(*told, strict=True))
    ray.shutdown()
    return {
        "seconds": round(seconds, 1),
        "objects_per_second": round(given.objects / seconds, 1),
        "overhead": round(waited / worked, 5),
        "late_timers": round(late / worked, 5),
        "driver_cpu_ms_per_object": round(
            1e3 * (after.user + after.system - before.user - before.system) / given.objects, 3
        ),
        "driver_peak_mb": round(resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024),
        "manifest_mb": round((out / FILE).stat().st_size / 1e6, 1),
        "states": dict(manifest.counts()),
    }


def resume(given: argparse.Namespace, out: Path) -> float:
    """Seconds in which a driver finds out that nothing is left."""
    start = time.monotonic()
    _, jobs = made_jobs(given.objects)
    manifest = Manifest(Folder(out))
    manifest.load()
    assert all(manifest.states.get(job.key) == DONE for job in jobs)
    return round(time.monotonic() - start, 2)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--objects", type=int, default=100_000)
    parser.add_argument("--gpus", type=int, default=512)
    parser.add_argument("--per-gpu", type=int, default=7)
    parser.add_argument("--seconds", type=float, default=14.8)
    parser.add_argument("--failures", type=float, default=0.002)
    parser.add_argument("--machines", type=int, default=2, help="actors that hold the slots")
    parser.add_argument("--json", type=Path)
    given = parser.parse_args()
    with tempfile.TemporaryDirectory() as folder:
        out = Path(folder)
        row = simulate(given, out) | {"resume_seconds": resume(given, out)}
    names = ("objects", "gpus", "per_gpu", "seconds", "failures")
    row |= {name: getattr(given, name) for name in names} | {
        "object_seconds": given.seconds, "seconds": row["seconds"], "cores": os.cpu_count(),
        "python": platform.python_version(),
    }  # fmt: skip
    text = json.dumps(row, indent=2)
    if given.json:
        given.json.write_text(text + "\n")
    print(text)


if __name__ == "__main__":
    main()
