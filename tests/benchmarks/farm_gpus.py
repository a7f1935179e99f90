"""Objects an hour of the farm on GPUs: held-out captions, the preset "high", a splat file of each.

    python tests/benchmarks/farm_gpus.py --work FOLDER --json farm_gpus.json --per-gpu 1,4,8
        [--gpus 1] [--objects 12] [--seconds 60] [--engine python|comfyui] [--comfyui FOLDER]
        [--runner processes|ray] [--no-mps] [--quality high]

``--runner ray`` is the farm itself, as ``python -m distill3d.farm`` (--per-gpu 0: it looks for the
number); ``processes`` has its workers (farm/worker.py) in processes of their own with a queue in
place of Ray, where Ray is not installed: the same engines, files and records. --objects: for each
worker; --seconds: no object is begun after so many of a row. Prints one JSON object last, and adds
each row to the file. ``objects_an_hour``: those that ended while all workers were at work and had
made one before, over that time; ``whole``: all over all the time, starting included.
``gpu_seconds``: a GPU's time over its objects in that window. What the GPUs did meanwhile is
nvidia-smi's, once a second.
"""

from __future__ import annotations

import argparse
import csv
import io
import json
import multiprocessing
import os
import shutil
import statistics
import subprocess
import sys
import time
import traceback
from collections import deque
from pathlib import Path
from queue import Empty
from typing import Any

import arguments

from distill3d.farm.graph import SHIPPED, Graph, is_link, read_graph
from distill3d.farm.jobs import read_jobs
from distill3d.farm.manifest import DONE
from distill3d.farm.run import _place
from distill3d.farm.store import open_store
from distill3d.farm.worker import Options, Worker
from distill3d.kernels.toybox.captions import all_captions, held_out

SAVES = "Distill3D_SaveGaussians"
START = 240.0  # seconds that workers may take to start


def write_graph(path: Path, quality: str, steps: int) -> Graph:
    """The quickstart's way to its splat file."""
    nodes = json.loads((SHIPPED / "quickstart.json").read_text(encoding="utf-8"))
    wanted = deque(id for id, node in nodes.items() if node["class_type"] == SAVES)
    kept: dict[str, Any] = {}
    while wanted:
        id = wanted.popleft()
        kept[id] = nodes[id]
        wanted += [value[0] for value in nodes[id]["inputs"].values() if is_link(value)]
    for node in kept.values():
        if node["class_type"] == "Distill3D_QualityPreset":
            node["inputs"]["quality"] = quality
        if steps and node["class_type"] == "Distill3D_Optimize":
            node["inputs"]["steps"] = steps
    path.write_text(json.dumps(kept), encoding="utf-8")
    return read_graph(str(path))


def captions(count: int) -> list[str]:
    """Held-out ones, spread over all of them."""
    known = [caption.text for caption in all_captions() if held_out(caption)]
    return [known[place * 7919 % len(known)] for place in range(count)]


def write_jobs(path: Path, count: int) -> Path:
    text = io.StringIO()
    rows = csv.writer(text)
    rows.writerow(["prompt", "seed"])
    rows.writerows([caption, place] for place, caption in enumerate(captions(count)))
    path.write_text(text.getvalue(), encoding="utf-8")
    return path


def serve(options: Options, number: int, gpu: str, jobs: Any, answers: Any, errors: str) -> None:
    """A worker in a process of its own."""
    if gpu:
        os.environ["CUDA_VISIBLE_DEVICES"] = gpu
    with open(errors, "w", encoding="utf-8") as log:
        try:
            worker = Worker(options, number)
            answers.put(("started", number, worker.start(), time.time()))
            while (given := jobs.get()) is not None:
                job, prompt = given
                answers.put(("made", number, worker.run(job, prompt, 1), time.time()))
            worker.stop()
        except BaseException:
            log.write(traceback.format_exc())
            answers.put(("died", number, {"error": traceback.format_exc()[-3000:]}, time.time()))


def by_processes(
    graph: Graph, jobs: Path, out: Path, options: argparse.Namespace, per_gpu: int
) -> dict[str, Any]:
    """Entries of all objects, and when workers were ready."""
    store = open_store(str(out))
    shared = Options(
        store.address, _place(store), options.engine, str(options.comfyui or ""), threads=1,
        gpu=0.0 if options.cpu else 1.0 if options.no_mps or per_gpu == 1 else 1 / per_gpu,
        scratch=str(options.work),
    )  # fmt: skip
    context = multiprocessing.get_context("spawn")
    todo, answers = context.Queue(), context.Queue()
    work = graph.jobs(read_jobs(jobs))
    places = [str(gpu) for _ in range(per_gpu) for gpu in range(options.gpus)]
    begun = time.time()
    processes = [
        context.Process(
            target=serve,
            args=(
                shared, number, "" if options.cpu else gpu, todo, answers,
                str(options.work / f"worker-{number}.log"),
            ),
        )
        for number, gpu in enumerate(places)
    ]  # fmt: skip
    for process in processes:
        process.start()
    entries, ready, errors, waiting = [], {}, [], 0
    pending = deque(work)
    end = begun + options.seconds + START
    while time.time() < end:
        late = ready and time.time() - max(ready.values()) > options.seconds
        while pending and waiting < len(ready) + 2 and not late:
            job = pending.popleft()
            todo.put((job, graph.filled(job.values)))
            waiting += 1
        if (late or not pending) and not waiting:
            break
        if len(errors) >= len(places):
            break
        try:
            kind, number, entry, now = answers.get(timeout=1)
        except Empty:
            continue
        if kind == "started":
            ready[number] = now
        elif kind == "died":
            errors.append(entry["error"])
        else:
            waiting -= 1
            entries.append({**entry, "worker": number, "ended": now})
    for _ in processes:
        todo.put(None)
    for process in processes:
        process.join(20)
        if process.is_alive():
            process.kill()
    return {"entries": entries, "begun": begun, "ready": ready, "errors": errors}


def by_ray(jobs: Path, out: Path, options: argparse.Namespace, per_gpu: int) -> dict[str, Any]:
    command = [
        sys.executable, "-m", "distill3d.farm", str(jobs), "--graph",
        str(options.work / "graph.json"), "--out", str(out), "--engine", options.engine,
        "--scratch", str(options.work),
    ]  # fmt: skip
    command += ["--comfyui", str(options.comfyui)] if options.comfyui else []
    command += ["--workers", str(per_gpu)] if options.cpu else ["--per-gpu", str(per_gpu)]
    begun = time.time()
    seen = ",".join(map(str, range(options.gpus)))
    told = subprocess.run(
        command, capture_output=True, text=True, check=False,
        env=os.environ | {"CUDA_VISIBLE_DEVICES": seen}, timeout=options.seconds + START,
        cwd=options.work,
    )  # fmt: skip
    manifest = out / "manifest.jsonl"
    lines = manifest.read_text(encoding="utf-8").splitlines() if manifest.exists() else []
    entries = [{**entry, "ended": entry["time"]} for entry in map(json.loads, lines)]
    text = (told.stdout + told.stderr)[-6000:]
    return {"entries": entries, "begun": begun, "ready": {}, "errors": [], "said": text}


def rates(found: dict[str, Any], gpus: int) -> dict[str, Any]:
    """Of the window in which all workers were at work; from the first object of the slowest to the
    last of the one that ended first."""
    made = [entry for entry in found["entries"] if entry["status"] == DONE]
    by_worker: dict[int, list[float]] = {}
    for entry in sorted(made, key=lambda entry: entry["ended"]):
        by_worker.setdefault(entry["worker"], []).append(entry["ended"])
    if not made:
        return {"made": 0}
    start = max(times[0] for times in by_worker.values())
    end = min(times[-1] for times in by_worker.values())
    count = sum(start < entry["ended"] <= end for entry in made)
    whole = max(entry["ended"] for entry in made) - found["begun"]
    inside = [entry["seconds"] for entry in made if entry["ended"] > start]
    span = end - start
    return {
        "made": len(made),
        "workers": len(by_worker),
        "window_seconds": round(span, 1),
        "window_objects": count,
        "objects_an_hour": round(3600 * count / span) if span > 0 else None,
        "gpu_seconds": round(gpus * span / count, 3) if count else None,
        "seconds_an_object": round(statistics.median(inside), 3) if inside else None,
        "first_object_seconds": round(start - found["begun"], 1),
        "whole_objects_an_hour": round(3600 * len(made) / whole),
        "memory_gb": round(max(entry.get("memory", 0) for entry in made) / 1e9, 2),
        "bad_steps": sum(
            int(values.get("bad_steps", 0))
            for entry in made
            for values in entry["metrics"].values()
            if isinstance(values, dict)
        ),
    }


def row(graph: Graph, jobs: Path, options: argparse.Namespace, per_gpu: int) -> dict[str, Any]:
    out = options.work / "out"
    shutil.rmtree(out, ignore_errors=True)
    watch = None
    if shutil.which("nvidia-smi") and not options.cpu:
        fields = "index,utilization.gpu,memory.used"
        watch = subprocess.Popen(
            ["nvidia-smi", f"--query-gpu={fields}", "--format=csv,noheader,nounits", "-l", "1"],
            stdout=subprocess.PIPE, text=True,
        )  # fmt: skip
    try:
        found = (
            by_ray(jobs, out, options, per_gpu)
            if options.runner == "ray"
            else by_processes(graph, jobs, out, options, per_gpu)
        )
    finally:
        told = ""
        if watch is not None:
            watch.terminate()
            told = watch.communicate()[0]
    samples = [line.split(", ") for line in told.splitlines() if line.count(", ") == 2]
    busy = [int(use) for _, use, _ in samples if use.isdigit()]
    held = [int(use) for _, _, use in samples if use.isdigit()]
    wrong = [entry for entry in found["entries"] if entry["status"] != DONE]
    ready = [time - found["begun"] for time in found["ready"].values()]
    return {
        "engine": options.engine, "runner": options.runner, "gpus": options.gpus,
        "per_gpu": per_gpu, "quality": options.quality, "mps": mps(options),
        **rates(found, options.gpus),
        "ready_seconds": round(max(ready), 1) if ready else None,
        "gpu_use_percent": statistics.median(busy) if busy else None,
        "gpu_memory_mb": max(held, default=None),
        "failed": len(wrong),
        "errors": [*found["errors"], *(entry.get("log", "")[-1500:] for entry in wrong)][:3],
        "said": found.get("said", ""),
    }  # fmt: skip


def mps(options: argparse.Namespace) -> bool:
    """Whether workers share the GPU by NVIDIA's Multi-Process Service."""
    return bool(shutil.which("nvidia-cuda-mps-control")) and not options.no_mps


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--work", type=Path, required=True, help="a folder for files on their way")
    parser.add_argument("--json", type=arguments.file)
    parser.add_argument("--per-gpu", default="1,4,8", help="numbers with commas between")
    parser.add_argument("--gpus", type=arguments.whole(1), default=1)
    parser.add_argument("--objects", type=arguments.whole(1), default=12, help="for each worker")
    parser.add_argument("--seconds", type=arguments.whole(1), default=60)
    parser.add_argument("--engine", choices=("python", "comfyui"), default="python")
    parser.add_argument("--comfyui", type=Path)
    parser.add_argument("--runner", choices=("processes", "ray"), default="processes")
    parser.add_argument("--quality", default="high")
    parser.add_argument("--steps", type=arguments.whole(0), default=0, help="0: the preset's")
    parser.add_argument("--no-mps", action="store_true")
    parser.add_argument("--cpu", action="store_true", help="to try the script")
    options = parser.parse_args()
    options.work = options.work.resolve()
    options.work.mkdir(parents=True, exist_ok=True)
    graph = write_graph(options.work / "graph.json", options.quality, options.steps)
    result: dict[str, Any] = {"rows": []}
    if options.json is not None and options.json.exists():
        result |= json.loads(options.json.read_text(encoding="utf-8"))
    for per_gpu in map(int, options.per_gpu.split(",")):
        count = options.objects * max(1, per_gpu) * options.gpus
        jobs = write_jobs(options.work / "jobs.csv", count)
        try:
            result["rows"].append(row(graph, jobs, options, per_gpu))
        except Exception:
            result["rows"].append({"per_gpu": per_gpu, "error": traceback.format_exc()[-4000:]})
        if options.json is not None:
            options.json.write_text(json.dumps(result, indent=1) + "\n", encoding="utf-8")
    print(json.dumps(result))


if __name__ == "__main__":
    main()
