"""Times one optimization step, the pack's loop against a naive one in the same run, per part and in
all.

    python tests/benchmarks/step.py --device cuda [--loss sds,cds,vdm] [--prior sd21-shapes|toybox]
        [--views 1,2,4,8,16] [--gaussians 10000,50000,200000,1000000] [--pictures-at-once N]
        [--vae-dtype float16] [--profile] [--json FILE]
    python tests/benchmarks/step.py --device cuda --prior mvdream-shapes --views 4,8    (four views judged together)

Prints one JSON object last. The naive loop (step_naive.py) is eager diffusers with a batched
render. Times are medians in milliseconds, by CUDA events on a GPU. ``parts``: encoder forward and
backward, one guided U-Net call, splat render forward and backward; ``rest`` is what a step takes
besides. ``share``: FLOPs of the naive networks over time, as a share of the matrix products per
second that this device reached in the same run. ``cosine``: the gradients' agreement with the same
networks in float32, the least over the rendered pictures and the cloud's tensors. Memory: the peak
of a step, weights included. --profile adds what the GPU does in a step of the pack's loop: the
milliseconds that kernels run (the step less that is idle) and the longest of them. The first of
several --views or --gaussians counts is the one that the others are held against. A step
of Picture Loss, which often follows VDM, takes so many guided calls as it has steps.
"""

from __future__ import annotations

import argparse
import json
import platform
import statistics
import time
from collections.abc import Callable
from itertools import pairwise
from pathlib import Path
from typing import Any

import arguments
import torch
from step_agreement import agreement
from step_bench import GUIDANCE, LOSSES, PROMPT, Bench, rounded
from step_naive import NaiveLoop
from step_priors import KINDS
from torch import Tensor
from torch.utils.flop_counter import FlopCounterMode

from distill3d.kernels.gaussians.cloud import Gaussians
from distill3d.kernels.priors.diffusers.latent_prior import DiffusersPrior
from distill3d.kernels.priors.prompts import ViewPrompts, view_prompts
from distill3d.kernels.rasterizers.rasterize import BACKENDS, choose, render
from distill3d.kernels.run.optimize import optimize
from distill3d.kernels.run.step import Progress

CALLS = {"sds": 1, "cds": 2, "vdm": 1}  # guided U-Net calls per step


def ceiling(bench: Bench) -> float:
    """TFLOP/s of large matrix products in the U-Net's dtype, on random data."""
    size = 8192 if bench.cuda else 1024
    dtype = next(bench.modules["unet"].parameters()).dtype
    a, b = (torch.randn(size, size, device=bench.device, dtype=dtype) for _ in range(2))
    return 2e-9 * size**3 / bench.timed(lambda: a @ b)


def render_time(bench: Bench, cloud: Gaussians, views: int) -> float:
    params = {k: v.detach().requires_grad_() for k, v in cloud.tensors().items()}
    cameras = bench.cameras(views)

    def act() -> None:
        picture = render(Gaussians(**params), cameras, 0.5, bench.backend, depth=False).color
        torch.autograd.grad(picture.sum(), list(params.values()))

    return bench.timed(act)


def network_times(
    bench: Bench,
    encode: Callable[[Tensor], Tensor],
    predict: Callable[[Tensor, Tensor], Any],
    views: int,
) -> dict[str, float]:
    pictures = torch.rand(views, 3, bench.size, bench.size, device=bench.device, requires_grad=True)
    with torch.no_grad():
        latents = torch.randn_like(encode(pictures))
    t = torch.full((views,), 500, device=bench.device)

    def encoder() -> None:
        torch.autograd.grad(encode(pictures), pictures, latents)

    return {"encoder": bench.timed(encoder), "unet": bench.timed(lambda: predict(latents, t))}


def flops(bench: Bench, naive: NaiveLoop, views: int) -> dict[str, float]:
    """TFLOP of the naive networks' calls, as torch counts them."""
    pictures = torch.rand(views, 3, bench.size, bench.size, device=bench.device, requires_grad=True)
    with FlopCounterMode(display=False) as counter:
        latents = naive.encode(pictures)
        torch.autograd.grad(latents.sum(), pictures)
    counts = {"encoder": counter.get_total_flops() / 1e12}
    with FlopCounterMode(display=False) as counter:
        naive.predict(latents.detach(), torch.full((views,), 500, device=bench.device))
    return {**counts, "unet": counter.get_total_flops() / 1e12}


def completed(
    timed: dict[str, float], step: float, loss: str, work: dict[str, float], top: float
) -> dict[str, Any]:
    """The record of one loop: parts, what is left of the step, and how near the networks come to
    the ceiling.
    """
    rest = step - timed["encoder"] - CALLS[loss] * timed["unet"] - timed["render"]
    shares = {name: round(1e3 * work[name] / timed[name] / top, 3) for name in work}
    return {
        "step_ms": round(step, 3),
        "parts_ms": rounded({**timed, "rest": rest}),
        "share": shares,
    }


def measure_naive(
    bench: Bench, loss: str, cloud: Gaussians, views: int, prompts: ViewPrompts
) -> dict[str, Any]:
    bench.arrange(torch.contiguous_format)
    bench.fresh_peak()
    abar = torch.linspace(0.00085**0.5, 0.012**0.5, 1000, dtype=torch.float64).square()
    abar = torch.cumprod(1 - abar, 0).float().to(bench.device)
    texts = prompts.base.embeddings, prompts.null.embeddings
    networks = bench.modules["unet"], bench.modules["vae"]
    camera = bench.condition_on_views(bench.ours(), prompts.base.repeat(views))[0].camera
    naive = NaiveLoop(*networks, abar, cloud, *texts, loss, GUIDANCE[loss], bench.backend, camera)
    generator = torch.Generator().manual_seed(0)

    def act() -> None:
        naive.step(
            bench.sampler.sample(
                views, bench.size, generator, views_per_group=bench.views_per_group
            ).to(bench.device)
        )

    step = bench.timed(act)
    return {"step": step, "memory": bench.peak(), "loop": naive}


def measure_ours(
    bench: Bench,
    ours: DiffusersPrior,
    loss: str,
    cloud: Gaussians,
    views: int,
    prompts: ViewPrompts,
) -> dict[str, Any]:
    bench.arrange(torch.channels_last)
    bench.fresh_peak()
    steps, marks = bench.warm + bench.repeats + 1, list[Any]()
    settings = bench.settings(views, len(cloud))

    def mark(_: Any) -> None:
        if bench.cuda:
            marks.append(torch.cuda.Event(enable_timing=True))
            marks[-1].record()
        else:
            marks.append(time.perf_counter())

    optimize(cloud, LOSSES[loss], ours, prompts, bench.sampler, steps, settings, on_step=mark)
    if bench.cuda:
        torch.cuda.synchronize()
    pairs = list(pairwise(marks))[bench.warm :]
    gaps = [a.elapsed_time(b) if bench.cuda else 1e3 * (b - a) for a, b in pairs]
    return {"step": statistics.median(gaps), "memory": bench.peak()}


def profile(
    bench: Bench,
    ours: DiffusersPrior,
    loss: str,
    cloud: Gaussians,
    views: int,
    prompts: ViewPrompts,
) -> dict[str, Any]:
    """Milliseconds per step that kernels run on the GPU, over the steps after the warm-up, and the
    ten longest.
    """
    tracer = torch.profiler.profile(activities=[torch.profiler.ProfilerActivity.CUDA])

    def watch(progress: Progress) -> None:
        if progress.step == bench.warm:
            torch.cuda.synchronize()
            tracer.start()
        elif progress.step == progress.steps:
            torch.cuda.synchronize()
            tracer.stop()

    steps = bench.warm + bench.repeats
    optimize(
        cloud,
        LOSSES[loss],
        ours,
        prompts,
        bench.sampler,
        steps,
        bench.settings(views, len(cloud)),
        watch,
    )
    found = [
        (event.key[:90], event.self_device_time_total / 1e3 / bench.repeats)
        for event in tracer.key_averages()
    ]
    longest = sorted(found, key=lambda row: -row[1])[:10]
    return {"busy_ms": round(sum(ms for _, ms in found), 2), "kernels_ms": rounded(dict(longest))}


def case(
    bench: Bench, ours: DiffusersPrior, loss: str, views: int, count: int, top: float
) -> dict[str, Any]:
    """One row: both loops at one number of views and Gaussians."""
    cloud = bench.cloud(count)
    prompts = view_prompts(ours, PROMPT)
    naive = measure_naive(bench, loss, cloud, views, prompts)
    loop: NaiveLoop = naive["loop"]
    work = flops(bench, loop, views)
    drawn = render_time(bench, cloud, views)
    timed = {**network_times(bench, loop.encode, loop.predict, views), "render": drawn}
    row: dict[str, Any] = {"loss": loss, "views": views, "gaussians": count, "tflop": rounded(work)}
    row["naive"] = {**completed(timed, naive["step"], loss, work, top), "memory": naive["memory"]}
    del naive, loop

    fast = measure_ours(bench, ours, loss, cloud, views, prompts)
    text, null = bench.condition_on_views(
        ours, prompts.base.repeat(views), prompts.null.repeat(views)
    )
    with ours.running(True, bench.at_once):
        timed = network_times(
            bench, ours.encode, lambda z, t: ours.predict(z, t, [text, null]), views
        )
    row["ours"] = {
        **completed({**timed, "render": drawn}, fast["step"], loss, work, top),
        "memory": fast["memory"],
    }
    if bench.profiling:
        row["ours"]["profile"] = profile(bench, ours, loss, cloud, views, prompts)
    row["speedup"] = round(row["naive"]["step_ms"] / row["ours"]["step_ms"], 3)
    return row


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument(
        "--device", type=arguments.device, default="cuda" if torch.cuda.is_available() else "cpu"
    )
    parser.add_argument(
        "--loss",
        type=arguments.names(LOSSES),
        default="sds,cds,vdm",
        help=f"of {', '.join(LOSSES)}, with commas between",
    )
    parser.add_argument("--prior", choices=KINDS, default="sd21-shapes")
    parser.add_argument(
        "--views", type=arguments.numbers, default="4", help="numbers of views, with commas between"
    )
    parser.add_argument(
        "--gaussians",
        type=arguments.numbers,
        default="50000",
        help="numbers of Gaussians, with commas between",
    )
    parser.add_argument(
        "--pictures-at-once",
        type=arguments.whole(0),
        default=0,
        help="of the pack's prior; 0 = all",
    )
    parser.add_argument("--render-backend", default="auto", choices=BACKENDS)
    parser.add_argument(
        "--vae-dtype", default="bfloat16", choices=("bfloat16", "float16"), help="on a GPU"
    )
    parser.add_argument(
        "--profile", action="store_true", help="on a GPU: what it does in a step of the pack's loop"
    )
    parser.add_argument("--repeats", type=arguments.whole(1), default=20)
    parser.add_argument("--warm", type=arguments.whole(0), default=8)
    parser.add_argument(
        "--no-gradients", action="store_true", help="leave out the comparison with float32"
    )
    parser.add_argument(
        "--json", type=arguments.file, help="also write the result to this file, after every case"
    )
    options = parser.parse_args()
    result = run(options, options.views, options.gaussians)
    print(json.dumps(result))


def run(options: argparse.Namespace, views: list[int], counts: list[int]) -> dict[str, Any]:
    """All cases: every loss at the first counts, the first loss at the others too."""
    bench = Bench(options)
    top, losses = ceiling(bench), options.loss
    result: dict[str, Any] = {
        "device": (
            torch.cuda.get_device_name()
            if bench.cuda
            else platform.processor() or platform.machine()
        ),
        "torch": torch.__version__,
        "prior": options.prior,
        "image_size": bench.size,
        "renderer": (
            choose(bench.device) if options.render_backend == "auto" else options.render_backend
        ),
        "ceiling_tflops": round(top, 1),
        "micro_batch": options.micro_batch,
        "cases": [],
        "cosine": {},
    }
    todo = [(loss, views[0], counts[0]) for loss in losses]
    todo += [(losses[0], v, counts[0]) for v in views[1:]] + [
        (losses[0], views[0], n) for n in counts[1:]
    ]
    for loss, v, n in todo:
        torch.manual_seed(0)
        result["cases"].append(case(bench, bench.ours(), loss, v, n, top))
        save(options.json, result)
    if not options.no_gradients:
        ours = bench.ours()
        for loss in losses:
            result["cosine"][loss] = agreement(bench, ours, loss, bench.cloud(counts[0]), views[0])
            save(options.json, result)
    return result


def save(path: Path | None, result: dict[str, Any]) -> None:
    if path is not None:
        path.write_text(json.dumps(result) + "\n")


if __name__ == "__main__":
    main()
