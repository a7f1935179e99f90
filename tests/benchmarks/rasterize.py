"""Times forward + backward of the CPU rasterizers side by side and prints one JSON object last.

    python tests/benchmarks/rasterize.py [--json FILE] [--rounds 5] [--repeats 9] [--device cuda]
    [--threads N]

Scene: a ball of radius 0.5 filled evenly, each Gaussian as wide as the distance to its neighbours,
opacity 0.1 (what a run starts from, where no pixel saturates); 4 views, colour and alpha. Within a
case the backends take turns, round by round, so that a busy machine slows all of them; the ratios
compare the fastest rounds.
"""

from __future__ import annotations

import argparse
import json
import math
import os
import platform
import statistics
import time

import arguments
import torch
from torch import Tensor

from distill3d.kernels.cameras.pinhole import Cameras
from distill3d.kernels.gaussians.cloud import Gaussians
from distill3d.kernels.rasterizers.rasterize import available, render

VIEWS = 4
CASES = ((2000, 64), (5000, 128), (20000, 128))
DENSE_CASES = ((2000, 64),)  # the dense reference needs gigabytes beyond this


def ball(count: int, device: str) -> Gaussians:
    generator = torch.Generator().manual_seed(0)
    directions = torch.nn.functional.normalize(torch.randn(count, 3, generator=generator), dim=1)
    means = directions * 0.5 * torch.rand(count, 1, generator=generator) ** (1 / 3)
    nearest = [
        torch.cdist(part, means).topk(4, largest=False).values[:, 1:].mean(1)
        for part in means.split(2000)
    ]
    log_scales = torch.cat(nearest).log()[:, None] + 0.2 * torch.randn(
        count, 3, generator=generator
    )
    quats = torch.randn(count, 4, generator=generator)
    logits = torch.full((count,), math.log(0.1 / 0.9))
    sh = torch.randn(count, 1, 3, generator=generator)
    return Gaussians(means, log_scales, quats, logits, sh).map(
        lambda t: t.to(device).requires_grad_()
    )


def ring(size: int, device: str) -> Cameras:
    """VIEWS cameras at distance 2 and elevation 15 degrees, field of view 40 degrees."""
    azimuths, elevation = torch.arange(VIEWS) * 360.0 / VIEWS, math.radians(15)
    a = torch.deg2rad(azimuths)
    back = torch.stack(
        (a.sin() * math.cos(elevation), torch.full_like(a, math.sin(elevation)), a.cos()), 1
    )
    back[:, 2] *= math.cos(elevation)
    right = torch.stack((a.cos(), torch.zeros_like(a), -a.sin()), 1)
    rotation = torch.stack((right, torch.linalg.cross(right, back), -back), 1)
    viewmats = torch.eye(4).repeat(VIEWS, 1, 1)
    viewmats[:, :3, :3] = rotation
    viewmats[:, :3, 3] = -(rotation @ (2 * back)[..., None])[..., 0]
    focal = 0.5 * size / math.tan(math.radians(20))
    intrinsics = torch.tensor([[focal, 0, size / 2], [0, focal, size / 2], [0, 0, 1]]).repeat(
        VIEWS, 1, 1
    )
    rest = (
        azimuths.to(device),
        torch.full((VIEWS,), 15.0, device=device),
        torch.full((VIEWS,), 2.0, device=device),
    )
    return Cameras(viewmats.to(device), intrinsics.to(device), size, size, *rest)


def iteration(
    cloud: Gaussians, cameras: Cameras, target: Tensor, backend: str, depth: bool
) -> float:
    """Seconds of one forward and backward pass."""
    for tensor in cloud.tensors().values():
        tensor.grad = None
    synchronise(cloud)
    begin = time.perf_counter()
    rendering = render(cloud, cameras, 0.5, backend, depth=depth)
    loss = (rendering.color - target).square().sum() + rendering.alpha.sum()
    if depth:
        loss = loss + rendering.depth.sum()
    loss.backward()
    synchronise(cloud)
    return time.perf_counter() - begin


def synchronise(cloud: Gaussians) -> None:
    if cloud.device.type == "cuda":
        torch.cuda.synchronize()


def measure(
    count: int, size: int, backends: list[str], rounds: int, repeats: int, device: str, depth: bool
) -> dict[str, dict]:
    """Milliseconds per backend: minimum and median over all iterations of all rounds."""
    cloud, cameras = ball(count, device), ring(size, device)
    target = torch.rand(VIEWS, size, size, 3, generator=torch.Generator().manual_seed(1)).to(device)
    times: dict[str, list[float]] = {name: [] for name in backends}
    for name in backends:
        iteration(cloud, cameras, target, name, depth)
    for _ in range(rounds):
        for name in backends:
            time.sleep(0.05)  # lets the other backend's idle threads go to sleep
            if name != "reference":
                iteration(cloud, cameras, target, name, depth)
            for _ in range(1 if name == "reference" else repeats):
                times[name].append(1e3 * iteration(cloud, cameras, target, name, depth))
    return {
        name: {"min_ms": round(min(t), 2), "median_ms": round(statistics.median(t), 2)}
        for name, t in times.items()
    }


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--json", type=arguments.file, help="also write the result to this file")
    parser.add_argument("--rounds", type=arguments.whole(1), default=5)
    parser.add_argument(
        "--repeats",
        type=arguments.whole(1),
        default=9,
        help="iterations per round (the dense reference does one)",
    )
    parser.add_argument("--device", type=arguments.device, default="cpu")
    parser.add_argument(
        "--threads",
        type=arguments.whole(0),
        default=0,
        help="torch threads; 0 leaves torch's choice",
    )
    parser.add_argument(
        "--depth", action="store_true", help="render depth too and let the loss use it"
    )
    options = parser.parse_args()
    if options.threads:
        torch.set_num_threads(options.threads)
    fast = [name for name in ("torch", "numba", "gsplat") if usable(name, options.device)]
    result: dict = {
        "torch": torch.__version__,
        "threads": torch.get_num_threads(),
        "cpus": os.cpu_count(),
        "machine": torch.cuda.get_device_name() if options.device == "cuda" else platform.machine(),
        "depth": options.depth,
        "cases": {},
        "ratios": {},
    }
    for count, size in CASES:
        backends = (["reference"] if (count, size) in DENSE_CASES else []) + fast
        key = f"{VIEWS}x{count}x{size}"
        result["cases"][key] = case = measure(
            count, size, backends, options.rounds, options.repeats, options.device, options.depth
        )
        for slow, quick in (
            ("reference", "torch"),
            ("reference", "numba"),
            ("torch", "numba"),
            ("torch", "gsplat"),
        ):
            if slow in case and quick in case:
                result["ratios"][f"{key} {slow}/{quick}"] = round(
                    case[slow]["min_ms"] / case[quick]["min_ms"], 2
                )
    text = json.dumps(result)
    if options.json:
        options.json.write_text(text + "\n")
    print(text)


def usable(backend: str, device: str) -> bool:
    fits = {"torch": True, "numba": device == "cpu", "gsplat": device == "cuda"}
    return fits[backend] and available(backend)


if __name__ == "__main__":
    main()
