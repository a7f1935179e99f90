"""Distils held-out toys and scores them against the truth; prints a table and one JSON object last.

    python tests/benchmarks/quality.py --device cuda --losses vdm,cds,sds --prompts 12 --steps 600 --jobs 3 \\
        --json quality.json --sheet quality.png [--set loss.guidance=5 --set vdm.psi_lr=0] [--sweep configs.json]

Every object starts from a random ball and follows the embedded prior; its caption was never trained on. Settings not
given are those of `quality_plan.LOSSES` and `SETTINGS`. ``--set`` keys are dotted: loss.* (every loss), vdm.*, cds.*,
sds.* (that one), settings.*, init.*, cameras.*, prompts.*.
A sweep file is a list of {"name": str, "set": {key: value}, optional "losses": [..], optional "steps": n}.
Results are written after each object, and a call with the same file goes on where the last one stopped: a row is
done again only if its settings, the defaults in the code or the prior's weights have changed since.
"""

from __future__ import annotations

import argparse
import base64
import io
import json
import math
import multiprocessing
import os
import queue
import signal
import statistics
import sys
import time
import traceback
from collections.abc import Callable, Iterator
from dataclasses import asdict, replace
from pathlib import Path
from typing import Any

import torch
from quality_plan import Task, plan
from torch import Tensor

from distill3d.kernels.gaussians.cameras import Cameras, orbit
from distill3d.kernels.gaussians.cloud import Gaussians
from distill3d.kernels.gaussians.initialise import random_ball
from distill3d.kernels.gaussians.rasterize import render
from distill3d.kernels.optimize import DivergedError, optimize
from distill3d.kernels.priors.captured import capture
from distill3d.kernels.priors.diffusers_prior import load_diffusers
from distill3d.kernels.priors.prompts import view_prompts
from distill3d.kernels.toybox.captions import CATEGORIES, COLORS, FINISHES, SYMMETRIC, VIEWS, Caption, view_of
from distill3d.kernels.toybox.data import FOV_Y
from distill3d.kernels.toybox.evaluate import color_right, judged
from distill3d.kernels.toybox.metrics import BACKGROUND, compare
from distill3d.kernels.toybox.models import load_judge
from distill3d.kernels.toybox.render import render_truth

SIZE = 128
SHEET_AZIMUTHS = (0.0, 90.0, 180.0, 270.0)
# What the judge sees: azimuths and elevations in degrees, clear of the borders between two view words.
JUDGE_AZIMUTHS = (-20.0, 20.0, 75.0, 105.0, -75.0, -105.0, 160.0, 180.0, -160.0, 0.0, 180.0)
JUDGE_ELEVATIONS = (15.0,) * 9 + (75.0,) * 2
SCORES = ("iou", "psnr", "false_alpha", "judge_category", "judge_color", "judge_view", "janus", "seconds", "gaussians")


class Bench:
    """The prior and the judge on one device, and what is known of each caption's truth."""

    def __init__(self, options: argparse.Namespace, device: str) -> None:
        self.device, self.views = torch.device(device), options.views
        cuda = self.device.type == "cuda"
        if cuda:
            torch.cuda.set_device(self.device)
            torch.backends.cudnn.benchmark = True  # every step has the same shapes
        dtype = torch.float16 if options.dtype == "auto" and cuda else getattr(torch, options.dtype, torch.float32)
        self.prior = load_diffusers(options.prior, self.device, dtype, getattr(torch, options.vae_dtype))
        if cuda and not options.eager:
            capture(self.prior)
        has_judge = (options.judge / "judge.safetensors").is_file()
        self.judge = load_judge(options.judge, self.device) if has_judge else None
        self.sheet = orbit(torch.tensor(SHEET_AZIMUTHS), 15.0, 2.0, FOV_Y, SIZE).to(self.device)
        angles = torch.tensor(JUDGE_AZIMUTHS), torch.tensor(JUDGE_ELEVATIONS)
        self.judge_cameras = orbit(*angles, 2.0, FOV_Y, SIZE).to(self.device)
        self.truths: dict[str, dict[str, Any]] = {}
        self.warm = False

    def run(self, task: Task) -> tuple[dict[str, Any], dict[str, bytes]]:
        """One object: its row, and JPEG strips of it and of its caption's truth."""
        setup, caption, error = task.setup, task.caption, None
        cloud = random_ball(**asdict(setup.init), generator=torch.Generator().manual_seed(task.seed))
        prompts = view_prompts(self.prior, caption.text, **asdict(setup.prompts))
        settings = replace(setup.settings, seed=task.seed)
        if not self.warm:  # what is compiled, tuned and allocated once is no object's time
            optimize(cloud, setup.loss, self.prior, prompts, setup.cameras, 2, settings)
            self.warm = True
        start = time.perf_counter()
        try:
            result = optimize(cloud, setup.loss, self.prior, prompts, setup.cameras, setup.steps, settings)
        except DivergedError as stop:
            result, error = stop.cloud, str(stop)
        seconds = time.perf_counter() - start  # the result is on the CPU: nothing is pending
        bad_steps = int(result.training.bad_steps)
        result = replace(result, training=None).to(self.device)
        score = compare(result, caption, self.views)
        row: dict[str, Any] = {
            "config": task.config, "loss": task.loss, "caption": caption.text, "seed": task.seed,
            "steps": setup.steps, "fingerprint": task.fingerprint, **asdict(score),
            **self.judgement(self.pictures(result, self.judge_cameras), caption),
            "seconds": seconds, "gaussians": len(result), "bad_steps": bad_steps,
        }  # fmt: skip
        if self.device.type == "cuda":
            row["peak_mib"] = torch.cuda.max_memory_allocated() // 2**20  # of this process so far
        if error:
            row["diverged"] = error
        truth = self.truth(caption)
        row["truth"] = truth["judgement"]
        strips = {task.key: strip(self.pictures(result, self.sheet)), f"truth|{caption.text}": truth["strip"]}
        return {k: None if isinstance(v, float) and not math.isfinite(v) else v for k, v in row.items()}, strips

    def truth(self, caption: Caption) -> dict[str, Any]:
        if caption.text not in self.truths:
            with torch.no_grad():
                shown = render_truth(caption, self.sheet, BACKGROUND).color
                seen = render_truth(caption, self.judge_cameras, BACKGROUND).color if self.judge else shown
            self.truths[caption.text] = {"strip": strip(shown), "judgement": self.judgement(seen, caption)}
        return self.truths[caption.text]

    def pictures(self, cloud: Gaussians, cameras: Cameras) -> Tensor:
        with torch.no_grad():
            return render(cloud, cameras, BACKGROUND, depth=False).color.clamp(0, 1)

    def judgement(self, pictures: Tensor, caption: Caption) -> dict[str, float]:
        """Shares of the judge's views [V,H,W,3]: category, colour and view as said; side and back taken for front."""
        if self.judge is None:
            return {}
        seen = judged(self.judge, pictures.permute(0, 3, 1, 2).contiguous())
        scores = {"judge_category": float((seen["category"] == CATEGORIES.index(caption.category)).float().mean())}
        if caption.color:
            names = (caption.color, caption.second or caption.color)
            color, second = (torch.full((len(pictures),), list(COLORS).index(name)) for name in names)
            finish = torch.full((len(pictures),), FINISHES.index(caption.finish))
            scores["judge_color"] = float(color_right(seen, color, second, finish).float().mean())
        if caption.category not in SYMMETRIC:
            words = [view_of(a, e) for a, e in zip(JUDGE_AZIMUTHS, JUDGE_ELEVATIONS, strict=True)]
            wanted = torch.tensor([VIEWS.index(word) for word in words])
            away = torch.tensor([word in ("side", "back") for word in words])
            scores["judge_view"] = float((seen["view"] == wanted).float().mean())
            scores["janus"] = float((seen["view"] == VIEWS.index("front"))[away].float().mean())
        return scores


def strip(pictures: Tensor) -> bytes:
    """Pictures [V,H,W,3] 0..1 side by side as a JPEG."""
    from PIL import Image

    row = torch.cat(list(pictures.clamp(0, 1)), 1)
    stream = io.BytesIO()
    Image.fromarray((row * 255).round().byte().cpu().numpy()).save(stream, "JPEG", quality=92)
    return stream.getvalue()


def work(options: argparse.Namespace, index: int, take: Callable[[], Task | None], put: Callable[[Any], None]) -> None:
    """One worker: load the prior once, then object after object; reports (row or None, strips, message)."""
    device = options.device
    if device == "cuda":
        device = f"cuda:{index % max(1, torch.cuda.device_count())}"
    threads = options.threads or (1 if device != "cpu" else (os.cpu_count() or 1) // options.jobs)
    if options.threads or device != "cpu" or options.jobs > 1:
        torch.set_num_threads(max(1, threads))
    try:
        bench = Bench(options, device)
        while (task := take()) is not None:
            try:
                put((*bench.run(task), f"{task.key}"))
            except Exception:
                put((None, {}, f"{task.key}: {traceback.format_exc()}"))
    except Exception:
        put((None, {}, f"worker {index}: {traceback.format_exc()}"))
    put(None)


def spawned(options: argparse.Namespace, index: int, tasks: Any, results: Any, deadline: float) -> None:
    work(options, index, lambda: tasks.get() if time.time() < deadline else None, results.put)


def outcomes(options: argparse.Namespace, tasks: list[Task], deadline: float) -> Iterator[Any]:
    """What the workers report, as it comes."""
    context = multiprocessing.get_context("spawn")  # CUDA does not survive a fork
    todo, results = context.Queue(), context.Queue()
    jobs = max(1, min(options.jobs, len(tasks)))
    for task in [*tasks, *[None] * jobs]:
        todo.put(task)
    workers = [
        context.Process(target=spawned, args=(options, i, todo, results, deadline), daemon=True) for i in range(jobs)
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
    todo.cancel_join_thread()


def summary(rows: list[dict[str, Any]]) -> list[dict[str, Any]]:
    """Per config and loss: number of objects, and of each score its mean and spread (standard deviation)."""
    groups: dict[tuple[str, str], list[dict[str, Any]]] = {}
    for row in rows:
        groups.setdefault((row["config"], row["loss"]), []).append(row)
    result = []
    for (config, loss), members in groups.items():
        entry: dict[str, Any] = {"config": config, "loss": loss, "objects": len(members), "steps": members[0]["steps"]}
        for name in SCORES:
            values = [r[name] for r in members if r.get(name) is not None]
            if values:
                entry[name] = round(statistics.fmean(values), 4)
                entry[f"{name}_spread"] = round(statistics.stdev(values), 4) if len(values) > 1 else None
            if truths := [r["truth"][name] for r in members if r.get("truth", {}).get(name) is not None]:
                entry[f"{name}_truth"] = round(statistics.fmean(truths), 4)
        entry["diverged"] = sum("diverged" in r for r in members)
        result.append(entry)
    return result


def table(entries: list[dict[str, Any]]) -> str:
    columns = ("config", "loss", "objects", "steps", *SCORES)
    lines = [[*columns]] + [
        [f"{e[c]:.3f}" if isinstance(e.get(c), float) else str(e.get(c, "-")) for c in columns] for e in entries
    ]
    widths = [max(len(line[i]) for line in lines) for i in range(len(columns))]
    return "\n".join("  ".join(cell.ljust(w) for cell, w in zip(line, widths, strict=True)) for line in lines)


def save_sheet(file: Path, rows: list[dict[str, Any]], strips: dict[str, str], tasks: list[Task]) -> None:
    """A line per caption: the truth from four sides, then each config and loss (lowest seed)."""
    from PIL import Image, ImageDraw

    def picture(key: str) -> Any:
        return Image.open(io.BytesIO(base64.b64decode(strips[key])))

    seed = min(t.seed for t in tasks)
    captions = list(dict.fromkeys(t.caption.text for t in tasks))
    columns = list(dict.fromkeys((t.config, t.loss) for t in tasks))
    by_key = {f"{r['config']}|{r['loss']}|{r['caption']}|{r['seed']}": r for r in rows}
    width, band, gap = SIZE * len(SHEET_AZIMUTHS), 16, 8
    sheet = Image.new("RGB", ((width + gap) * (len(columns) + 1), (SIZE + band) * len(captions)), "white")
    draw = ImageDraw.Draw(sheet)
    for i, caption in enumerate(captions):
        y = i * (SIZE + band)
        draw.text((4, y + 2), f"truth: {caption}", "black")
        if f"truth|{caption}" in strips:
            sheet.paste(picture(f"truth|{caption}"), (0, y + band))
        for j, (config, loss) in enumerate(columns, 1):
            key = f"{config}|{loss}|{caption}|{seed}"
            if key in by_key and key in strips:
                x, row = j * (width + gap), by_key[key]
                scores = " ".join(f"{n} {row[n]:.3g}" for n in SCORES if row.get(n) is not None)
                draw.text((x + 4, y + 2), f"{config} {loss}: {scores}"[:84], "black")
                sheet.paste(picture(key), (x, y + band))
    file.parent.mkdir(parents=True, exist_ok=True)
    sheet.save(file)


def write(file: Path | None, value: Any) -> None:
    if file:
        file.parent.mkdir(parents=True, exist_ok=True)
        part = file.with_name(file.name + ".part")
        part.write_text(json.dumps(value, indent=1) + "\n")
        os.replace(part, file)


def main(arguments: list[str] | None = None) -> None:
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--device", default="cuda" if torch.cuda.is_available() else "cpu")
    parser.add_argument("--losses", default="vdm,cds,sds")
    parser.add_argument("--prompts", type=int, default=12, help="held-out captions")
    parser.add_argument("--caption-seed", type=int, default=0)
    parser.add_argument("--captions", help='these instead, for example "a red mug;a green car"')
    parser.add_argument("--seeds", type=int, default=1)
    parser.add_argument("--first-seed", type=int, default=0)
    parser.add_argument("--steps", type=int, default=600)
    parser.add_argument("--views", type=int, default=24, help="views of the metrics")
    parser.add_argument("--set", action="append", default=[], metavar="KEY=VALUE")
    parser.add_argument("--sweep", type=Path)
    parser.add_argument("--jobs", type=int, default=1, help="processes; they share the device, so seconds grow")
    parser.add_argument("--threads", type=int, default=0, help="torch threads per process; 0: chosen")
    parser.add_argument("--backend", default="auto", help="of the renders during the run")
    parser.add_argument("--max-seconds", type=float, default=math.inf, help="no new object is begun after these")
    parser.add_argument("--prior", type=Path, default=Path("models/toybox"))
    parser.add_argument("--judge", type=Path, default=Path("models/judge"))
    parser.add_argument("--dtype", default="auto", help="of the U-Net; auto: float16 on CUDA, else float32")
    parser.add_argument("--vae-dtype", default="float32")
    parser.add_argument("--eager", action="store_true", help="no CUDA graphs")
    parser.add_argument("--json", type=Path)
    parser.add_argument("--sheet", type=Path)
    options = parser.parse_args(arguments)
    signal.signal(signal.SIGTERM, signal.default_int_handler)  # as Ctrl-C: the processes end too
    began = time.time()
    try:
        tasks = plan(options)
    except ValueError as error:
        parser.error(str(error))
    strips_file = options.json.with_suffix(".strips.json") if options.json else None
    old = json.loads(options.json.read_text())["rows"] if options.json and options.json.is_file() else []
    strips = json.loads(strips_file.read_text()) if strips_file and strips_file.is_file() else {}
    wanted = {task.key: task.fingerprint for task in tasks}
    rows = {f"{r['config']}|{r['loss']}|{r['caption']}|{r['seed']}": r for r in old}
    rows = {key: row for key, row in rows.items() if wanted.get(key, row["fingerprint"]) == row["fingerprint"]}
    todo = [task for task in tasks if task.key not in rows]
    facts = {
        "torch": torch.__version__, "device": options.device, "jobs": options.jobs, "prior": tasks[0].prior,
        "machine": torch.cuda.get_device_name() if options.device.startswith("cuda") else f"{os.cpu_count()} CPUs",
    }  # fmt: skip
    failures: list[str] = []

    def state() -> dict[str, Any]:
        return {**facts, "summary": summary(list(rows.values())), "failures": failures, "rows": list(rows.values())}

    for row, more, message in outcomes(options, todo, began + options.max_seconds) if todo else ():
        if row is None:
            failures.append(message)
        else:
            rows[message] = row
            strips.update({key: base64.b64encode(value).decode() for key, value in more.items()})
            message += "".join(f"  {n} {row[n]:.3g}" for n in SCORES if row.get(n) is not None)
        print(f"[{time.time() - began:.0f} s, {len(rows)} rows] {message}", file=sys.stderr, flush=True)
        write(options.json, state())
        write(strips_file, strips)
    if options.sheet and any(task.key in rows for task in tasks):
        save_sheet(options.sheet, list(rows.values()), strips, tasks)
    result = state() | {"missing": sum(task.key not in rows for task in tasks), "total_seconds": time.time() - began}
    write(options.json, result)
    print(table(result["summary"]))
    print(json.dumps(result))
    if failures:
        sys.exit(1)


if __name__ == "__main__":
    main()
