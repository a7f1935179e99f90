"""Times a step of the pack's loop on several GPUs of one host, and compares its gradients.

    python tests/benchmarks/devices.py --gpus 1,2 --cases sds:16,cds:8 --json devices.json
        [--prior sd21-shapes|mvdream-shapes|toybox] [--gaussians 50000] [--repeats 20] [--warm 8]
        [--render-backend auto] [--micro-batch N] [--no-gradients] [--trace trace.json]
    python tests/benchmarks/devices.py --gpus 1,2,4,8 --cases sds:8,sds:16,sds:32 --no-gradients
        --json scaling.json

Prints one JSON object last, and writes it after every row; rows that the file has are not measured
again. ``step_ms``: median by CUDA events on the first GPU, which ends a step when all have.
``ratio``: one GPU's step over it; ``efficiency``: that over the number of GPUs. Memory: the peak of
each GPU. ``gradients``: of four steps at fixed parameters (first moments of Adam), relative to
their norm: how far those of the most GPUs are from one GPU's, beside how far one GPU's own are
between two splits of the batch (micro_batch half the views), and whether each gives the same bits
twice; by a rasterizer that does (--gradient-backend), for gsplat adds in any order. --trace: two
steps of the most GPUs, for a viewer of traces. A row that takes more than --limit seconds ends the
call, with what each thread was at. On the CPU (--device cpu) a list of the CPU stands for GPUs, to
try the script.
"""

from __future__ import annotations

import argparse
import faulthandler
import json
import statistics
import subprocess
import time
import traceback
from itertools import pairwise
from pathlib import Path
from typing import Any

import arguments
import torch
from step_bench import LOSSES, PROMPT, Bench
from step_priors import KINDS
from torch import Tensor

from distill3d.kernels.files.notes import notes
from distill3d.kernels.priors.diffusers.latent_prior import DiffusersPrior
from distill3d.kernels.priors.prompts import view_prompts
from distill3d.kernels.rasterizers.rasterize import BACKENDS, choose
from distill3d.kernels.run.optimize import optimize
from distill3d.kernels.run.settings import OptimizeSettings
from distill3d.kernels.run.step import Progress

FROZEN = {f"lr_{name}": 0.0 for name in ("means", "scales", "quats", "opacities", "colors")}
GRADIENT_STEPS = 4  # by the second of which networks are graphs


class Devices:
    """What all rows are measured with."""

    def __init__(self, options: argparse.Namespace) -> None:
        self.bench, self.options = Bench(options), options
        self.prior: DiffusersPrior = self.bench.ours()
        self.cloud = self.bench.cloud(options.gaussians)
        self.prompts = view_prompts(self.prior, PROMPT)

    def settings(self, views: int, gpus: int, **changes: Any) -> OptimizeSettings:
        names = [f"cuda:{index}" if self.bench.cuda else "cpu" for index in range(gpus)]
        given = {
            "views": views,
            "image_size": self.bench.size,
            "densify": None,
            "preview_every": 0,
            "max_gaussians": len(self.cloud),
            "render_backend": self.options.render_backend,
            "accelerate": self.bench.cuda,
            "micro_batch": self.options.micro_batch,
            "devices": ",".join(names) if gpus > 1 else "one",
        }
        return OptimizeSettings(**{**given, **changes})

    def run(self, loss: str, steps: int, settings: OptimizeSettings, on_step: Any = None) -> Any:
        return optimize(
            self.cloud, LOSSES[loss], self.prior, self.prompts, self.bench.sampler, steps, settings,
            on_step,
        )  # fmt: skip

    def timed(self, loss: str, views: int, gpus: int) -> dict[str, Any]:
        marks: list[Any] = []
        _fresh_peaks(gpus, self.bench.cuda)

        def mark(_: Any) -> None:
            if self.bench.cuda:
                marks.append(torch.cuda.Event(enable_timing=True))
                marks[-1].record()
            else:
                marks.append(time.perf_counter())

        begun = time.perf_counter()
        with notes() as told:
            steps = self.bench.warm + self.bench.repeats + 1
            self.run(loss, steps, self.settings(views, gpus), mark)
        _synchronize(gpus, self.bench.cuda)
        seconds = time.perf_counter() - begun
        pairs = list(pairwise(marks))[self.bench.warm :]
        gaps = [a.elapsed_time(b) if self.bench.cuda else 1e3 * (b - a) for a, b in pairs]
        return {
            "step_ms": round(statistics.median(gaps), 3),
            "fastest_ms": round(min(gaps), 3),
            "slowest_ms": round(max(gaps), 3),
            "run_seconds": round(seconds, 1),
            "peak_gb": _peaks(gpus, self.bench.cuda),
            "told": told,
        }

    def gradients(self, loss: str, views: int, gpus: int) -> dict[str, Any]:
        """How near those of so many GPUs are to one GPU's."""
        backend = self.options.gradient_backend

        def moments(count: int, micro: int = 0) -> dict[str, Tensor]:
            settings = self.settings(
                views, count, render_backend=backend, micro_batch=micro, **FROZEN
            )
            training = self.run(loss, GRADIENT_STEPS, settings).training
            return {name: value.double().cpu() for name, value in training.first.items()}

        one, again = moments(1), moments(1)
        several, several_again = moments(gpus), moments(gpus)
        split = moments(1, max(1, views // 2))
        return {
            "loss": loss,
            "views": views,
            "gpus": gpus,
            "backend": backend,
            "steps": GRADIENT_STEPS,
            "several_from_one": _differences(several, one),
            "one_from_its_split": _differences(split, one),
            "one_from_itself": _differences(again, one),
            "several_from_itself": _differences(several_again, several),
            "one_same_bits": _same(one, again),
            "several_same_bits": _same(several, several_again),
        }

    def trace(self, loss: str, views: int, gpus: int, path: Path) -> dict[str, float]:
        """Milliseconds that kernels run on each GPU in a step; the steps themselves to ``path``."""
        steps, traced = 8, 2
        tracer = torch.profiler.profile(
            activities=[
                torch.profiler.ProfilerActivity.CPU, torch.profiler.ProfilerActivity.CUDA
            ]
        )  # fmt: skip

        def watch(progress: Progress[Any]) -> None:
            if progress.step == steps - traced:
                _synchronize(gpus, True)
                tracer.start()
            elif progress.step == steps:
                _synchronize(gpus, True)
                tracer.stop()

        self.run(loss, steps, self.settings(views, gpus), watch)
        tracer.export_chrome_trace(str(path))
        busy: dict[str, float] = {}
        for event in json.loads(_text(path))["traceEvents"]:
            if event.get("cat") in ("kernel", "gpu_memcpy", "gpu_memset"):
                name = f"{event['cat']} {event.get('args', {}).get('device')}"
                busy[name] = busy.get(name, 0.0) + float(event.get("dur", 0)) / 1e3 / traced
        return {name: round(value, 2) for name, value in busy.items()}


def _text(path: Path) -> str:
    if path.suffix != ".gz":
        return path.read_text(encoding="utf-8")
    import gzip

    return gzip.decompress(path.read_bytes()).decode()


def _differences(found: dict[str, Tensor], expected: dict[str, Tensor]) -> dict[str, float]:
    """By name, and of all together."""
    squares = {name: float((found[name] - expected[name]).square().sum()) for name in expected}
    norms = {name: float(expected[name].square().sum()) for name in expected}
    # a round Gaussian's rotation has no gradient worth comparing
    result = {
        name: (squares[name] / max(norms[name], 1e-300)) ** 0.5
        for name in expected
        if name != "quats"
    }
    result["all"] = (sum(squares.values()) / max(sum(norms.values()), 1e-300)) ** 0.5
    return {name: float(f"{value:.3g}") for name, value in result.items()}


def _same(one: dict[str, Tensor], other: dict[str, Tensor]) -> bool:
    return all(torch.equal(value, other[name]) for name, value in one.items())


def _synchronize(gpus: int, cuda: bool) -> None:
    if cuda:
        for index in range(gpus):
            torch.cuda.synchronize(index)


def _fresh_peaks(gpus: int, cuda: bool) -> None:
    if cuda:
        torch.cuda.empty_cache()
        for index in range(gpus):
            torch.cuda.reset_peak_memory_stats(index)


def _peaks(gpus: int, cuda: bool) -> list[float]:
    return [
        round(torch.cuda.max_memory_reserved(index) / 1e9, 2)
        for index in range(gpus if cuda else 0)
    ]


def links(gpus: int) -> dict[str, Any]:
    """How GPUs are joined: what the driver says, and a copy of 256 MiB and of 4 KiB from the first
    to the second."""
    told = subprocess.run(
        ["nvidia-smi", "topo", "-m"], capture_output=True, text=True, check=False
    ).stdout
    result: dict[str, Any] = {"topology": told.splitlines()[: gpus + 1]}
    if gpus < 2:
        return result
    result["peer_access"] = torch.cuda.can_device_access_peer(0, 1)
    for name, size in (("large", 256 << 20), ("small", 4 << 10)):
        value = torch.empty(size, dtype=torch.uint8, device="cuda:0")
        value.to("cuda:1")
        _synchronize(2, True)
        begun = time.perf_counter()
        for _ in range(10):
            value.to("cuda:1")
        _synchronize(2, True)
        seconds = (time.perf_counter() - begun) / 10
        result[f"{name}_copy_us"] = round(1e6 * seconds, 1)
        result[f"{name}_copy_gb_s"] = round(size / seconds / 1e9, 1)
    return result


def cases(text: str) -> list[tuple[str, int]]:
    """Losses and views, ``sds:16,cds:8``."""
    found = []
    for part in text.split(","):
        loss, _, views = part.partition(":")
        if loss not in LOSSES:
            raise argparse.ArgumentTypeError(f"{loss!r} is not one of {', '.join(LOSSES)}.")
        found.append((loss, arguments.whole(1)(views)))
    return found


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument(
        "--device", type=arguments.device, default="cuda" if torch.cuda.is_available() else "cpu"
    )
    parser.add_argument("--gpus", type=arguments.numbers, default="1,2", help="1 first")
    parser.add_argument("--cases", type=cases, default="sds:16,cds:8")
    parser.add_argument("--prior", choices=KINDS, default="sd21-shapes")
    parser.add_argument("--gaussians", type=arguments.whole(1), default=50_000)
    parser.add_argument("--render-backend", default="auto", choices=BACKENDS)
    parser.add_argument("--gradient-backend", choices=BACKENDS)
    parser.add_argument("--micro-batch", type=arguments.whole(0), default=0)
    parser.add_argument("--vae-dtype", default="bfloat16", choices=("bfloat16", "float16"))
    parser.add_argument("--repeats", type=arguments.whole(1), default=20)
    parser.add_argument("--warm", type=arguments.whole(0), default=8)
    parser.add_argument("--no-gradients", action="store_true")
    parser.add_argument("--trace", type=arguments.file, help=".json or .json.gz")
    parser.add_argument(
        "--limit", type=arguments.whole(1), default=200, help="seconds of a row, which then hangs"
    )
    parser.add_argument("--json", type=arguments.file)
    options = parser.parse_args()
    options.profile = False
    if options.gradient_backend is None:
        options.gradient_backend = "triton" if options.device == "cuda" else "torch"
    print(json.dumps(run(options)))


def run(options: argparse.Namespace) -> dict[str, Any]:
    """All rows that the file has not got yet."""
    result: dict[str, Any] = {"rows": [], "gradients": [], "errors": []}
    if options.json is not None and options.json.exists():
        result |= json.loads(options.json.read_text())
    cuda = options.device == "cuda"
    there = torch.cuda.device_count() if cuda else max(options.gpus)
    counts, work = [count for count in options.gpus if count <= there], Devices(options)
    most = max(counts)
    result |= {
        "device": torch.cuda.get_device_name() if cuda else "cpu",
        "torch": torch.__version__,
        "prior": options.prior,
        "image_size": work.bench.size,
        "gaussians": options.gaussians,
        "renderer": choose(work.bench.device)
        if options.render_backend == "auto"
        else options.render_backend,
        "links": links(most) if cuda else {},
    }

    def tried(what: str, act: Any) -> Any:
        faulthandler.dump_traceback_later(options.limit, exit=True)
        try:
            return act()
        except Exception:
            result["errors"].append({"what": what, "error": traceback.format_exc()[-4000:]})
            return None
        finally:
            faulthandler.cancel_dump_traceback_later()
            save(options.json, result)

    for loss, views in options.cases:
        for gpus in counts:
            key = {"loss": loss, "views": views, "gpus": gpus}
            if any(key.items() <= row.items() for row in result["rows"]):
                continue
            row = tried(f"time {key}", lambda k=key: work.timed(k["loss"], k["views"], k["gpus"]))
            if row is None:
                continue
            one = next((r for r in result["rows"] if {**key, "gpus": 1}.items() <= r.items()), row)
            ratio = one["step_ms"] / row["step_ms"]
            row |= {"ratio": round(ratio, 3), "efficiency": round(ratio / gpus, 3)}
            result["rows"].append(key | row)
            save(options.json, result)
        key = {"loss": loss, "views": views}
        known = any(key.items() <= row.items() for row in result["gradients"])
        if most > 1 and not options.no_gradients and not known:
            row = tried(f"gradients {key}", lambda k=key: work.gradients(**k, gpus=most))
            result["gradients"] += [] if row is None else [row]
            save(options.json, result)
    if options.trace is not None and cuda:
        loss, views = options.cases[0]
        busy = tried("trace", lambda: work.trace(loss, views, most, options.trace))
        result["busy_ms"] = busy
    save(options.json, result)
    return result


def save(path: Path | None, result: dict[str, Any]) -> None:
    if path is not None:
        path.write_text(json.dumps(result, indent=1) + "\n")


if __name__ == "__main__":
    main()
