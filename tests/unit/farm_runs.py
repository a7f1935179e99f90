"""Small farms: a graph that takes no time, and what becomes of it undisturbed."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

from distill3d.farm.graph import Graph, read_graph
from distill3d.farm.jobs import read_jobs
from distill3d.farm.worker import digest_of

STEPS, AUTOSAVE = 20, 3


def small_graph(model: str = "tiny", steps: int = STEPS) -> dict:
    """The quickstart's nodes up to the splat, with a random prior of 32 pixels."""
    nodes = {id: node for id, node in read_graph("quickstart").nodes.items() if int(id) < 8}
    nodes["11"] = read_graph("quickstart").nodes["11"]
    values = {
        "2": {"model": model},
        "5": {"count": 400, "opacity": 0.3},
        "7": {"steps": steps, "views": 2, "options": ["20", 0]},
    }
    for id, changes in values.items():
        inputs = nodes[id]["inputs"] | changes
        kept = {
            name: value
            for name, value in inputs.items()
            if not (isinstance(value, list) and value[0] not in {*nodes, "20"})
        }
        nodes[id] = nodes[id] | {"inputs": kept}
    options = {
        "preset": "custom", "background": "auto", "sample_posterior": False, "micro_batch": 0,
        "render_backend": "auto", "preview_every": 0, "autosave_every": AUTOSAVE,
        "max_bad_steps": 50,
    }  # fmt: skip
    nodes["20"] = {"class_type": "Distill3D_RunOptions", "inputs": options}
    return nodes


def stub_graph(steps: int, seconds: float) -> dict:
    """One node that takes its time and makes a digest."""
    inputs = {"prompt": "", "seed": 0, "steps": steps, "seconds": seconds}
    return {"1": {"class_type": "Stub", "inputs": inputs}}


def write_jobs(path: Path, count: int) -> Path:
    lines = [
        json.dumps({"prompt": f"a red {('mug', 'chair')[number % 2]}", "seed": number // 2})
        for number in range(count)
    ]
    path.write_text("\n".join(lines) + "\n")
    return path


def undisturbed(engine, graph: dict, jobs: Path) -> dict[str, str]:
    """The digests of the files by name, made one after the other in this process."""
    made, whole = {}, Graph("small", graph)
    for job in whole.jobs(read_jobs(jobs)):
        files = engine.make(whole.filled(job.values), job.key, {}, lambda node, path: None).files
        made[f"{job.name}{files[0].suffix}"] = digest_of(files[0])
    return made


def command(folder: Path, *words: str) -> list[str]:
    return [
        sys.executable, "-m", "distill3d.farm", str(folder / "jobs.jsonl"), "--graph",
        str(folder / "graph.json"), "--out", str(folder / "out"),
        "--scratch", str(folder / "scratch"), *words,
    ]  # fmt: skip


def start(folder: Path, *words: str) -> subprocess.Popen:
    log = (folder / "log.txt").open("ab")
    (folder / "scratch").mkdir(exist_ok=True)
    environment = os.environ | {"OMP_NUM_THREADS": "1"}
    return subprocess.Popen(
        command(folder, *words), cwd=folder, env=environment, stdout=log, stderr=subprocess.STDOUT
    )


def entries(folder: Path) -> list[dict]:
    text = (folder / "out" / "manifest.jsonl").read_text()
    return [json.loads(line) for line in text.splitlines()]
