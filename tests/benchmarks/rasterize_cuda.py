"""Times the GPU rasterizers side by side, forward and backward, and prints one JSON object last.

    python tests/benchmarks/rasterize_cuda.py [--counts 10000,50000,200000,1000000] [--json FILE]
        [--depth] [--opacity 0.1] [--degree 0] [--tiles 16x8x1,16x16x2,8x8x1] [--kernels] [--rounds
        5] [--repeats 10]

Scene: a ball of radius 0.5 filled evenly, each Gaussian about as wide as the distance to its
neighbours; 4 views of 512 pixels. Opacity 0.1 is what a run starts from; with 0.9 most Gaussians
are hidden. Times are CUDA events, medians over all rounds, in which the backends take turns; memory
is the peak above what the cloud and the loss hold. Agreement: relative error |found - expected| /
|expected| against the backend torch in the same run, of the pictures and of each gradient.
``--tiles`` adds the Triton kernels with other tiles (width x height x warps); ``--kernels`` adds
the microseconds per iteration of each kernel on the device. With ``--device cpu`` it times numba,
to try the script out.
"""

from __future__ import annotations

import argparse
import json
import math
import statistics
import time

import arguments
import torch
from rasterize import VIEWS, ring
from torch import Tensor

from distill3d.kernels.gaussians.cloud import Gaussians
from distill3d.kernels.rasterizers.rasterize import available, choose, home, render

TORCH_LIMIT = 200_000  # Gaussians beyond which plain torch is left out: it takes seconds


def ball(count: int, degree: int, opacity: float, device: str) -> Gaussians:
    generator = torch.Generator().manual_seed(0)
    directions = torch.nn.functional.normalize(torch.randn(count, 3, generator=generator), dim=1)
    means = directions * 0.5 * torch.rand(count, 1, generator=generator) ** (1 / 3)
    # mean distance to the three nearest of points spread evenly in the ball
    spacing = 0.579 * count ** (-1 / 3)
    log_scales = math.log(spacing) + 0.3 * torch.randn(count, 3, generator=generator)
    quats = torch.randn(count, 4, generator=generator)
    logits = math.log(opacity / (1 - opacity)) + 0.3 * torch.randn(count, generator=generator)
    sh = 0.3 * torch.randn(count, (degree + 1) ** 2, 3, generator=generator)
    return Gaussians(means, log_scales, quats, logits, sh).map(
        lambda t: t.to(device).requires_grad_()
    )


class Case:
    """One cloud before its cameras, and the random loss on its pictures."""

    def __init__(self, count: int, options: argparse.Namespace) -> None:
        self.device, self.depth = options.device, options.depth
        self.cloud = ball(count, options.degree, options.opacity, options.device)
        self.cameras = ring(options.size, options.device)
        generator = torch.Generator().manual_seed(1)
        draw = (
            torch.randn(VIEWS, options.size, options.size, k, generator=generator)
            for k in (3, 1, 1)
        )
        self.upstream = [t.to(options.device) for t in draw][: 3 if options.depth else 2]

    def run(self, name: str) -> tuple[dict[str, Tensor], tuple[float, float]]:
        """Pictures and gradients by name, and the milliseconds of the forward and the backward
        pass.
        """
        for tensor in self.cloud.tensors().values():
            tensor.grad = None
        backend, _, tile = name.partition(":")
        with_tile(tile)
        marks = [self.mark()]
        rendering = render(self.cloud, self.cameras, 0.5, backend, depth=self.depth)
        pictures = [rendering.color, rendering.alpha, rendering.depth][: len(self.upstream)]
        marks.append(self.mark())
        torch.autograd.backward(pictures, self.upstream)
        marks.append(self.mark())
        with_tile("")
        results = dict(
            zip(("color", "alpha", "depth"), (p.detach() for p in pictures), strict=False)
        )
        results |= {
            f"gradient of {key}": t.grad
            for key, t in self.cloud.tensors().items()
            if t.grad is not None
        }
        return results, (self.between(*marks[:2]), self.between(*marks[1:]))

    def mark(self):
        if self.device == "cpu":
            return time.perf_counter()
        event = torch.cuda.Event(enable_timing=True)
        event.record()
        return event

    def between(self, first, second) -> float:
        if self.device == "cpu":
            return 1e3 * (second - first)
        second.synchronize()
        return first.elapsed_time(second)


def with_tile(tile: str) -> None:
    """Have the Triton kernels use this tile, or their own again."""
    if home("triton") != "cuda" or not available("triton"):
        return
    from distill3d.kernels.rasterizers.triton import compositing as kernels

    own = OWN_TILE.setdefault("own", (kernels.TILE_WIDTH, kernels.TILE_HEIGHT, kernels.WARPS))
    chosen = tuple(int(number) for number in tile.split("x")) if tile else own
    kernels.TILE_WIDTH, kernels.TILE_HEIGHT, kernels.WARPS = chosen


OWN_TILE: dict[str, tuple[int, int, int]] = {}


def measure(case: Case, names: list[str], options: argparse.Namespace) -> dict[str, dict]:
    """By backend: milliseconds, memory, and agreement with the first."""
    table: dict[str, dict] = {}
    expected: dict[str, Tensor] = {}
    for name in names:
        case.run(name)  # compiles
        before = torch.cuda.memory_allocated() if options.device == "cuda" else 0
        if options.device == "cuda":
            torch.cuda.reset_peak_memory_stats()
        found, _ = case.run(name)
        table[name] = row = {}
        if options.device == "cuda":
            row["peak_mb"] = round((torch.cuda.max_memory_allocated() - before) / 2**20, 1)
        again = case.run(name)[0]
        row["repeats"] = all(torch.equal(found[key], again[key]) for key in found)
        expected = expected or found
        row["error"] = {
            key: float(f"{((found[key] - value).norm() / value.norm()).item():.2e}")
            for key, value in expected.items()
        }
        del found, again
    times: dict[str, list[tuple[float, float]]] = {name: [] for name in names}
    for _ in range(options.rounds):
        for name in names:
            case.run(name)
            times[name] += [case.run(name)[1] for _ in range(options.repeats)]
    for name, pairs in times.items():
        forward, backward = zip(*pairs, strict=True)
        total = [sum(pair) for pair in pairs]
        for key, values in (("forward", forward), ("backward", backward), ("total", total)):
            table[name][f"{key}_ms"] = round(statistics.median(values), 3)
        table[name]["least_ms"] = round(min(total), 3)
    return table


def kernel_times(case: Case, name: str, repeats: int = 10) -> dict[str, float]:
    """Microseconds per iteration of each kernel on the device, longest first."""
    from torch.profiler import ProfilerActivity, profile

    case.run(name)
    with profile(activities=[ProfilerActivity.CPU, ProfilerActivity.CUDA]) as recorded:
        for _ in range(repeats):
            case.run(name)
        torch.cuda.synchronize()
    events = [
        event
        for event in recorded.key_averages()
        if event.device_type == torch.autograd.DeviceType.CUDA
    ]
    spent = {event.key[:80]: round(event.self_device_time_total / repeats, 1) for event in events}
    return dict(sorted(spent.items(), key=lambda item: -item[1])[:24])


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--counts", type=arguments.numbers, default="10000,50000,200000,1000000")
    parser.add_argument("--size", type=arguments.whole(1), default=512)
    parser.add_argument("--degree", type=int, default=0, help="of the spherical harmonics")
    parser.add_argument("--opacity", type=float, default=0.1)
    parser.add_argument("--depth", action="store_true", help="render depth too, with a loss on it")
    parser.add_argument(
        "--tiles", default="", help="further tiles for the Triton kernels, such as 16x16x2,8x8x1"
    )
    parser.add_argument("--kernels", action="store_true", help="add the time of each kernel")
    parser.add_argument("--rounds", type=arguments.whole(1), default=5)
    parser.add_argument(
        "--repeats", type=arguments.whole(1), default=10, help="iterations per round"
    )
    parser.add_argument("--device", type=arguments.device, default="cuda")
    parser.add_argument("--json", type=arguments.file, help="also write the result to this file")
    options = parser.parse_args()
    fast = [
        name
        for name in ("gsplat", "triton", "numba")
        if available(name) and home(name) == options.device
    ]
    if "triton" in fast:
        fast += [f"triton:{tile}" for tile in options.tiles.split(",") if tile]
    result: dict = {
        "torch": torch.__version__,
        "machine": torch.cuda.get_device_name() if options.device == "cuda" else options.device,
        "auto": choose(options.device),
        "views": VIEWS,
        **{name: getattr(options, name) for name in ("size", "degree", "opacity", "depth")},
        "cases": {},
        "triton/gsplat": {},
    }
    for count in options.counts:
        case = Case(count, options)
        names = (["torch"] if count <= TORCH_LIMIT else []) + fast
        result["cases"][str(count)] = table = measure(case, names, options)
        if "gsplat" in table and "triton" in table:
            ratio = table["triton"]["total_ms"] / table["gsplat"]["total_ms"]
            result["triton/gsplat"][str(count)] = round(ratio, 2)
        if options.kernels and options.device == "cuda":
            for name in fast:
                table[name]["kernels_us"] = kernel_times(case, name)
        for name, row in table.items():
            print(
                count,
                name,
                {key: value for key, value in row.items() if key.endswith("_ms")},
                flush=True,
            )
    text = json.dumps(result)
    if options.json:
        options.json.write_text(text + "\n")
    print(text)


if __name__ == "__main__":
    main()
