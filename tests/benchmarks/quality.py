"""Distils held-out toys and scores them against the truth; prints a table and one JSON object last.

    python tests/benchmarks/quality.py --device cuda --losses vdm,cds,sds --prompts 12 --jobs 3 \\
        --json quality.json --sheet quality.png --curves curves.png \\
        [--set loss.guidance=5 --set vdm.psi_lr=0] [--sweep configs.json]

Every object starts from a random ball and follows the embedded prior; its caption was never trained
on. Settings not given are those of `quality_plan.LOSSES` and `SETTINGS`, of runs of up to 300 steps
of their `SHORT_` forms. ``--set`` keys are dotted: loss.* (every loss), vdm.*, cds.*, sds.* (that
one), settings.*, init.*, cameras.*, prompts.*. A sweep file is a list of {"name": str, "set": {key:
value}, optional "losses": [..], optional "steps": n}. Results are written after each object, and a
call with the same file goes on where the last one stopped: a row is done again only if its
settings, the defaults in the code, the prior's weights or the measures have changed since.

A row holds the scores of `metrics.Score` and `judgement.Judgement`; seconds and evaluations (rows
that passed the denoiser, all views and texts counted; _trained: with a gradient through it),
without what measuring takes; the curve of IoU and PSNR over 8 views at a dozen steps; and
consistency, the cosine between a loss's gradients at two neighbouring steps on the same render
(_fresh: with a loss's fixed noise drawn anew for each).
"""

from __future__ import annotations

import argparse
import base64
import json
import math
import multiprocessing
import os
import queue
import signal
import sys
import time
import traceback
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import arguments
import torch
from quality_plan import Task, plan
from quality_score import Bench
from quality_sheet import save_curves, save_sheet
from quality_statistics import SHOWN, Row, summary, table
from results_files import read

DTYPES = ("float32", "float16", "bfloat16")
MEASURED = ("views", "dtype", "vae_dtype")  # change the scores, but are no part of a task


def work(
    options: argparse.Namespace,
    index: int,
    take: Callable[[], Task | None],
    put: Callable[[Any], None],
) -> None:
    """One worker: load the prior once, then object after object; reports (row or None, strips,
    message).

    ``options.bench``: what makes an object of a task, where it is not this script's `Bench`.
    """
    device = options.device
    if device == "cuda":
        device = f"cuda:{index % max(1, torch.cuda.device_count())}"
    threads = options.threads or (1 if device != "cpu" else (os.cpu_count() or 1) // options.jobs)
    if options.threads or device != "cpu" or options.jobs > 1:
        torch.set_num_threads(max(1, threads))
    try:
        bench = getattr(options, "bench", Bench)(options, device)
        while (task := take()) is not None:
            try:
                put((*bench.run(task), f"{task.key}"))
            except Exception:
                put((None, {}, f"{task.key}: {traceback.format_exc()}"))
    except Exception:
        put((None, {}, f"worker {index}: {traceback.format_exc()}"))
    put(None)


def spawned(
    options: argparse.Namespace, index: int, tasks: Any, results: Any, deadline: float
) -> None:
    group: list[Task] = []

    def take() -> Task | None:
        if not group and time.time() < deadline:
            group.extend(tasks.get() or ())
        return group.pop(0) if group and time.time() < deadline else None

    work(options, index, take, results.put)


def outcomes(options: argparse.Namespace, tasks: list[Task], deadline: float) -> Iterator[Any]:
    """What the workers report, as it comes."""
    context = multiprocessing.get_context("spawn")  # CUDA does not survive a fork
    todo, results = context.Queue(), context.Queue()
    # else an interrupted run waits for ever to hand out what nobody takes any more
    todo.cancel_join_thread()
    jobs = max(1, min(options.jobs, len(tasks)))
    for group in [*grouped(tasks, jobs), *[None] * jobs]:
        todo.put(group)
    workers = [
        context.Process(target=spawned, args=(options, i, todo, results, deadline), daemon=True)
        for i in range(jobs)
    ]
    for worker in workers:
        worker.start()
    left = jobs
    while left:
        try:
            report = results.get(timeout=5.0)
        except queue.Empty:
            if not any(worker.is_alive() for worker in workers) and results.empty():
                yield None, {}, "all workers are gone"
                break
            continue
        if report is None:
            left -= 1
        else:
            yield report


def grouped(tasks: list[Task], jobs: int) -> list[list[Task]]:
    """One caption's tasks together, for the worker that takes them traces its truth once; of few
    captions in parts, so that every worker has some. A call that runs out of time has done all of
    the first captions."""
    groups: dict[Any, list[Task]] = {}
    for task in tasks:
        groups.setdefault((task.seed, task.caption.text), []).append(task)
    parts = max(1, math.ceil(2 * jobs / len(groups))) if len(groups) < 2 * jobs else 1
    return [group[i::parts] for group in groups.values() for i in range(parts) if group[i::parts]]


def rows_of(file: Path | None, measured: dict[str, str]) -> list[Row]:
    """The rows of an earlier call that wrote to ``file``; none if there is no such file. Raises
    ValueError if it is no such file's, or its rows were measured otherwise."""
    if file is None or not file.is_file():
        return []
    try:
        known = read(file)
        rows: list[Row] = known["rows"]
    except (ValueError, KeyError, TypeError) as error:
        raise ValueError(
            f"--json {file} is there, but no result of this script. Give another file."
        ) from error
    for name, value in known.get("measured", measured).items():
        if measured[name] != value:
            option = "--" + name.replace("_", "-")
            raise ValueError(
                f"--json {file} has rows of {option} {value}, not {measured[name]}. Give another"
                " file."
            )
    return rows


def write(file: Path | None, value: Any) -> None:
    if file:
        file.parent.mkdir(parents=True, exist_ok=True)
        part = file.with_name(file.name + ".part")
        part.write_text(json.dumps(value, indent=1) + "\n")
        os.replace(part, file)


def main(words: list[str] | None = None) -> None:
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument(
        "--device", type=arguments.device, default="cuda" if torch.cuda.is_available() else "cpu"
    )
    parser.add_argument("--losses", default="vdm,cds,sds")
    parser.add_argument("--prompts", type=arguments.whole(1), default=12, help="held-out captions")
    parser.add_argument("--caption-seed", type=arguments.whole(0), default=0)
    parser.add_argument("--captions", help='these instead, for example "a red mug;a green car"')
    parser.add_argument("--seeds", type=arguments.whole(1), default=1)
    parser.add_argument("--first-seed", type=arguments.whole(0), default=0)
    parser.add_argument("--steps", type=arguments.whole(1), default=267)
    parser.add_argument("--views", type=arguments.whole(1), default=24, help="views of the metrics")
    parser.add_argument("--set", action="append", default=[], metavar="KEY=VALUE")
    parser.add_argument(
        "--sweep",
        type=Path,
        help="configs: a list of objects with name and, as wanted, set, losses, steps",
    )
    parser.add_argument(
        "--jobs",
        type=arguments.whole(1),
        default=1,
        help="processes; they share the device, so seconds grow",
    )
    parser.add_argument(
        "--threads", type=arguments.whole(0), default=0, help="torch threads per process; 0: chosen"
    )
    parser.add_argument("--backend", default="auto", help="of the renders during the run")
    parser.add_argument(
        "--max-seconds", type=float, default=math.inf, help="no new object is begun after these"
    )
    parser.add_argument("--prior", type=Path, default=Path("models/toybox"))
    parser.add_argument("--judge", type=Path, default=Path("models/judge"))
    parser.add_argument(
        "--dtype",
        default="auto",
        choices=("auto", *DTYPES),
        help="of the U-Net; auto: float16 on CUDA, else float32",
    )
    parser.add_argument("--vae-dtype", default="float32", choices=DTYPES)
    parser.add_argument("--eager", action="store_true", help="no CUDA graphs")
    parser.add_argument("--json", type=Path)
    parser.add_argument(
        "--sheet", type=Path, help="picture of the results beside the truth (.png or .jpg)"
    )
    parser.add_argument(
        "--sheet-captions", type=arguments.whole(1), default=8, help="captions shown on it"
    )
    parser.add_argument(
        "--sheet-views", type=int, choices=(2, 4), default=4, help="views of each object on it"
    )
    parser.add_argument("--curves", type=Path, help="picture of IoU and PSNR over the steps")
    options = parser.parse_args(words)
    signal.signal(signal.SIGTERM, signal.default_int_handler)  # as Ctrl-C: the processes end too
    began = time.time()
    measured = {name: str(getattr(options, name)) for name in MEASURED}
    try:
        tasks = plan(options)
        old = rows_of(options.json, measured)
    except ValueError as error:
        parser.error(str(error))
    strips_file = options.json.with_suffix(".strips.json") if options.json else None
    strips = json.loads(strips_file.read_text()) if strips_file and strips_file.is_file() else {}
    wanted = {task.key: task.fingerprint for task in tasks}
    rows = {f"{r['config']}|{r['loss']}|{r['caption']}|{r['seed']}": r for r in old}
    rows = {
        key: row
        for key, row in rows.items()
        if wanted.get(key, row["fingerprint"]) == row["fingerprint"]
    }
    todo = [task for task in tasks if task.key not in rows]
    facts = {
        "torch": torch.__version__, "measured": measured, "device": options.device, "jobs": options.jobs,
        "prior": tasks[0].prior,
        "machine": torch.cuda.get_device_name() if options.device.startswith("cuda") else f"{os.cpu_count()} CPUs",
    }  # fmt: skip
    failures: list[str] = []

    def state() -> dict[str, Any]:
        return {
            **facts,
            "summary": summary(list(rows.values())),
            "failures": failures,
            "rows": list(rows.values()),
        }

    for row, more, message in outcomes(options, todo, began + options.max_seconds) if todo else ():
        if row is None:
            failures.append(message)
        else:
            rows[message] = row
            strips.update({key: base64.b64encode(value).decode() for key, value in more.items()})
            message += "".join(f"  {n} {row[n]:.3g}" for n in SHOWN if row.get(n) is not None)
        print(
            f"[{time.time() - began:.0f} s, {len(rows)} rows] {message}",
            file=sys.stderr,
            flush=True,
        )
        write(options.json, state())
        write(strips_file, strips)
    if options.sheet and any(task.key in rows for task in tasks):
        save_sheet(
            options.sheet,
            list(rows.values()),
            strips,
            tasks,
            options.sheet_captions,
            options.sheet_views,
        )
    if options.curves and any(task.key in rows for task in tasks):
        save_curves(options.curves, list(rows.values()))
    result = state() | {
        "missing": sum(task.key not in rows for task in tasks),
        "total_seconds": time.time() - began,
    }
    write(options.json, result)
    print(table(result["summary"]))
    print(json.dumps(result))
    if failures:
        sys.exit(1)


if __name__ == "__main__":
    main()
