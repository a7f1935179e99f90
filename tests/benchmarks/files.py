"""Times loading splat files against reading their bytes with numpy, and prints one JSON object
last.

    python tests/benchmarks/files.py [--count 5000000] [--degree 0] [--rounds 5] [--threads N]
    [--json FILE]

Per format: a file of random Gaussians is written, then np.fromfile and the loader take turns, round
by round, so that a busy machine slows both; the fastest rounds count. "Warm" files are in the page
cache, the harder comparison; "cold" ones were put out of it (Linux only) and come from the disk.
"Plain" is the loader without numba and isal. Of SPZ, most of which is decompression, that alone
too. First of all, what no loader can go below: writing the cloud's numbers once.
"""

from __future__ import annotations

import argparse
import json
import os
import platform
import tempfile
import time
import zlib
from collections.abc import Callable
from pathlib import Path

import numpy as np
import torch

from distill3d.kernels.files import assembly, spz_streams
from distill3d.kernels.files.formats import FORMATS
from distill3d.kernels.gaussians.cloud import Gaussians

COLD_ROUNDS = 2


def random_cloud(count: int, degree: int) -> Gaussians:
    generator = torch.Generator().manual_seed(0)
    return Gaussians(
        means=torch.randn(count, 3, generator=generator) * 0.3,
        log_scales=torch.randn(count, 3, generator=generator) * 0.5 - 4,
        quats=torch.nn.functional.normalize(torch.randn(count, 4, generator=generator), dim=-1),
        opacity_logits=2 * torch.randn(count, generator=generator),
        sh=torch.randn(count, (degree + 1) ** 2, 3, generator=generator) * 0.3,
    )


def seconds(function: Callable[[], object]) -> float:
    begin = time.perf_counter()
    result = function()  # freed after the clock stops
    end = time.perf_counter()
    del result
    return end - begin


def forget(path: Path) -> None:
    """Puts the file out of the page cache."""
    with open(path, "rb") as file:
        os.fsync(file.fileno())
        os.posix_fadvise(file.fileno(), 0, 0, os.POSIX_FADV_DONTNEED)


def plainly(function: Callable[[], object]) -> object:
    """What the function gives where neither numba nor isal is installed."""
    least, inflate = assembly.WORTH_COMPILING, spz_streams.inflate
    assembly.WORTH_COMPILING, spz_streams.inflate = 1 << 62, zlib
    try:
        return function()
    finally:
        assembly.WORTH_COMPILING, spz_streams.inflate = least, inflate


def unpack(path: Path) -> None:
    """Decompress an SPZ as its loader does, and do nothing with it."""
    with spz_streams.open_spz(path, path.name) as planes:
        for key, size in planes.sizes.items():
            for start in range(0, planes.count, 65536):
                planes.read(key, min(65536, planes.count - start) * size)


def compare(
    actions: dict[str, Callable[[], object]], rounds: int, before: Callable[[], None]
) -> dict[str, float]:
    """Milliseconds of the fastest round of every action."""
    times: dict[str, list[float]] = {key: [] for key in actions}
    for _ in range(rounds):
        for key, action in actions.items():
            before()
            times[key].append(seconds(action))
    return {key: round(1e3 * min(found), 1) for key, found in times.items()}


def measure(format: str, cloud: Gaussians, folder: Path, rounds: int) -> dict:
    kind = FORMATS[format]
    path = folder / f"cloud.{kind.extension}"
    save = seconds(lambda: kind.save(cloud, path))
    actions: dict[str, Callable[[], object]] = {
        "read_ms": lambda: np.fromfile(path, np.uint8),
        "load_ms": lambda: kind.load(path),
        "plain_ms": lambda: plainly(lambda: kind.load(path)),
    }
    if format == "spz":
        actions["unpack_ms"] = lambda: unpack(path)
    kind.load(path)  # compiles
    result: dict = {"bytes": path.stat().st_size, "save_s": round(save, 2)}
    result |= compare(actions, rounds, lambda: None)
    result["plain_ratio"] = round(result["plain_ms"] / result["read_ms"], 2)
    result["ratio"] = round(result["load_ms"] / result["read_ms"], 2)
    if "unpack_ms" in result:
        result["unpack_ratio"] = round(result["unpack_ms"] / result["read_ms"], 2)
        result["note"] = "gzip decompression alone takes unpack_ms"
    if hasattr(os, "posix_fadvise"):
        cold = compare(dict(list(actions.items())[:2]), COLD_ROUNDS, lambda: forget(path))
        result |= {f"cold_{key}": value for key, value in cold.items()}
        result["cold_ratio"] = round(cold["load_ms"] / cold["read_ms"], 2)
    path.unlink()
    return result


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--json", type=Path, help="also write the result to this file")
    parser.add_argument("--count", type=int, default=5_000_000)
    parser.add_argument("--degree", type=int, default=0, choices=range(4))
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument(
        "--threads",
        type=int,
        default=0,
        help="torch threads, which the loaders use; 0: torch's choice",
    )
    # a page is not read, and text of millions of Gaussians is for nobody
    timed = [name for name in FORMATS if name not in ("html", "usda", "sog folder")]
    parser.add_argument("--formats", nargs="+", default=timed, choices=timed)
    parser.add_argument(
        "--folder", type=Path, help="where the files go (default: a temporary folder)"
    )
    options = parser.parse_args()
    if options.threads:
        torch.set_num_threads(options.threads)
    result: dict = {
        "numpy": np.__version__,
        "torch": torch.__version__,
        "cpus": os.cpu_count(),
        "threads": torch.get_num_threads(),
        "machine": platform.machine(),
        "count": options.count,
        "degree": options.degree,
        "numba": assembly.compiled_decoders(1 << 30) is not None,
        "inflate": spz_streams.inflate.__name__,
        "formats": {},
    }
    if hasattr(os, "getloadavg"):
        # of others: a busy machine's ratios scatter
        result["load_before"] = round(os.getloadavg()[0], 1)
    cloud = random_cloud(options.count, options.degree)
    ones = [(value.shape, value.numpy().dtype) for value in cloud.tensors().values()]
    floor = {"write_ms": lambda: [np.ones(shape, kind) for shape, kind in ones]}
    result |= compare(floor, options.rounds, lambda: None)
    print(
        f"{'format':16} {'MB':>7} {'save s':>7} {'read ms':>8} {'load ms':>8} {'ratio':>6}"
        f" {'cold ratio':>10}"
    )
    with tempfile.TemporaryDirectory(dir=options.folder) as folder:
        for format in options.formats:
            result["formats"][format] = row = measure(format, cloud, Path(folder), options.rounds)
            print(
                f"{format:16} {row['bytes'] / 1e6:7.1f} {row['save_s']:7.2f} {row['read_ms']:8.1f}"
                f" {row['load_ms']:8.1f} {row['ratio']:6.2f}"
                f" {row.get('cold_ratio', float('nan')):10.2f}",
                flush=True,
            )
    text = json.dumps(result)
    if options.json:
        options.json.write_text(text + "\n")
    print(text)


if __name__ == "__main__":
    main()
