"""How long a newcomer waits: README's first command in a fresh clone, from nothing to an object.

``python tests/benchmarks/first_run.py [--prompt "a red mug"] [--steps N] [--json FILE]`` prints one
JSON object last: seconds for everything, for each part of the set-up and for each phase of the run,
the object's measures, and the seconds that the denoiser takes for four guided views.
"""

from __future__ import annotations

import argparse
import json
import os
import platform
import re
import shlex
import statistics
import subprocess
import sys
import tempfile
import time
from pathlib import Path

ROOT = Path(__file__).resolve().parents[2]


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--prompt", default="a red mug")
    parser.add_argument("--steps", type=int, help="fewer or more than the workflow's")
    parser.add_argument("--json", type=Path, help="file for the result")
    arguments = parser.parse_args()
    command = first_command(
        ROOT.joinpath("README.md").read_text(encoding="utf-8"), arguments.prompt, arguments.steps
    )

    with tempfile.TemporaryDirectory(prefix="distill3d-first-run-") as folder:
        clone = Path(folder) / "distill3d"
        subprocess.run(["git", "clone", "--quiet", str(ROOT), str(clone)], check=True)
        start = time.monotonic()
        done = subprocess.run(command, shell=True, cwd=clone)
        wall = round(time.monotonic() - start, 1)
        if done.returncode:
            print(f"{command}\nended with code {done.returncode} after {wall} s.", file=sys.stderr)
            return 1
        (metrics,) = clone.glob("output/*/metrics.json")
        result = report(
            wall,
            json.loads(metrics.read_text()),
            json.loads((clone / ".comfyui/setup.json").read_text()),
        )

    result |= {
        "denoiser_seconds": guided_views(),
        "command": command,
        "commit": git("rev-parse", "HEAD"),
        "uncommitted": bool(git("status", "--porcelain")),
    }
    text = json.dumps(result)
    if arguments.json:
        arguments.json.write_text(text + "\n")
    print(text)
    return 0


def guided_views(views: int = 4, repeats: int = 10) -> float:
    """Median seconds of one guided call of the embedded prior's denoiser for so many views, on the
    CPU.
    """
    import torch

    from distill3d.kernels.priors.diffusers.loading import load_diffusers

    prior = load_diffusers(ROOT / "models" / "toybox")
    size = prior.image_size // prior.downscale
    latents = torch.randn(
        views, prior.latent_channels, size, size, generator=torch.Generator().manual_seed(0)
    )
    texts = [prior.embed([text] * views) for text in ("a red mug, front view", "")]
    seconds = []
    for _ in range(repeats + 2):
        start = time.perf_counter()
        prior.predict(latents, torch.full((views,), 500), texts)
        seconds.append(time.perf_counter() - start)
    return round(statistics.median(seconds[2:]), 3)  # the first two warm up


def first_command(readme: str, prompt: str, steps: int | None) -> str:
    """The line of README that makes an object, with another prompt and more options."""
    (line,) = re.findall(r"^\S.*nox -s object -- .*$", readme, re.MULTILINE)
    options = f" --steps {steps}" if steps else ""
    return line.split(" -- ")[0] + f" -- {shlex.quote(prompt)}{options}"


def report(wall: float, metrics: dict, setup: dict) -> dict:
    """``seconds``: wall is everything; venv_and_nox is what the command does before nox starts to
    measure.
    """
    phases = metrics.pop("seconds")
    total = phases.pop("total")
    machine = {
        "cores": os.cpu_count(),
        "python": platform.python_version(),
        "torch": setup["torch"],
        "cuda": setup["cuda"],
    }
    seconds = {"wall": wall, "venv_and_nox": round(wall - total, 1), **phases}
    return {
        "seconds": seconds,
        "setup_seconds": setup["seconds"],
        "metrics": metrics,
        "machine": machine,
    }


def git(*arguments: str) -> str:
    return subprocess.run(
        ["git", *arguments], cwd=ROOT, capture_output=True, text=True, check=True
    ).stdout.strip()


if __name__ == "__main__":
    sys.exit(main())
