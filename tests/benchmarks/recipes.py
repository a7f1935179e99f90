"""Times whole runs at Stable Diffusion 2.1-base's shapes, with the two papers' losses, steps and
views.

    python tests/benchmarks/recipes.py --device cuda [--recipes dreammapping,consistent3d] [--share
    1.0] [--json FILE]

Prints one JSON object last: seconds per stage, everything in them (preparation, densification, bad
steps counted). The networks' weights are random, so the objects are nothing to look at; their
number of Gaussians starts at 20,000 and may grow as in the workflow. With a --share below 1 every
stage takes that part of its steps, and ``whole`` is what the whole would take at the median step so
measured. ``dreammapping``: VDM, 3,000 steps of 4 views. ``consistent3d``: CDS on splats, 3,000
coarse and 5,000 texture steps of 8 views; its workflow has a geometry stage between them, of which
the paper's is for a mesh. Learning rates, penalties and presets are the defaults: they hardly
change the seconds.
"""

from __future__ import annotations

import argparse
import json
import statistics
import time
from dataclasses import dataclass, replace
from itertools import pairwise
from typing import Any

import arguments
import torch
from step_priors import parts, prior

from distill3d.kernels.cameras.orbit import OrbitSampler
from distill3d.kernels.gaussians.cloud import Gaussians
from distill3d.kernels.gaussians.densify import Densify
from distill3d.kernels.init.ball import random_ball
from distill3d.kernels.losses.base import Loss
from distill3d.kernels.losses.cds import CDS
from distill3d.kernels.losses.vdm import VDM
from distill3d.kernels.priors.diffusers.latent_prior import DiffusersPrior
from distill3d.kernels.priors.prompts import view_prompts
from distill3d.kernels.run.optimize import optimize
from distill3d.kernels.run.settings import OptimizeSettings


@dataclass(frozen=True)
class Stage:
    loss: Loss
    steps: int
    views: int
    most: int | None  # Gaussians; None: their number stays


RECIPES = {
    "dreammapping": [Stage(VDM(), 3000, 4, 200_000)],
    "consistent3d": [Stage(CDS(), 3000, 8, 100_000), Stage(CDS(), 5000, 8, None)],
}


def timed(
    stage: Stage, cloud: Gaussians, model: DiffusersPrior, share: float
) -> tuple[Gaussians, dict[str, Any]]:
    """The stage's result, and its record."""
    steps, marks = max(round(stage.steps * share), 4), [time.perf_counter()]
    growth = None if stage.most is None else Densify(count_max=stage.most)
    most = max(stage.most or 0, len(cloud))
    settings = OptimizeSettings(
        views=stage.views, densify=growth, max_gaussians=most, preview_every=0, accelerate=True
    )
    result = optimize(
        replace(cloud, training=None),
        stage.loss,
        model,
        view_prompts(model, "a red mug"),
        OrbitSampler(),
        steps,
        settings,
        on_step=lambda _: marks.append(time.perf_counter()),  # the loop runs at the device's pace
    )
    if model.device.type == "cuda":
        torch.cuda.synchronize()
    seconds = time.perf_counter() - marks[0]
    median = statistics.median(b - a for a, b in list(pairwise(marks))[len(marks) // 4 :])
    return result, {
        "loss": stage.loss.name,
        "steps": steps,
        "views": stage.views,
        "seconds": round(seconds, 2),
        "median_ms": round(1e3 * median, 2),
        "whole": round(seconds + median * (stage.steps - steps), 1),
        "gaussians": len(result),
    }


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument(
        "--device", type=arguments.device, default="cuda" if torch.cuda.is_available() else "cpu"
    )
    parser.add_argument(
        "--recipes",
        type=arguments.names(RECIPES),
        default=",".join(RECIPES),
        help="with commas between",
    )
    parser.add_argument("--prior", default="sd21-shapes", choices=("sd21-shapes", "toybox"))
    parser.add_argument("--share", type=arguments.share, default=1.0, help="of every stage's steps")
    parser.add_argument(
        "--json", type=arguments.file, help="also write the result to this file, after every stage"
    )
    options = parser.parse_args()
    dtypes = (
        (torch.float16, torch.bfloat16)
        if options.device == "cuda"
        else (torch.float32, torch.float32)
    )
    model = prior(options.prior, parts(options.prior, options.device, *dtypes))
    device = torch.cuda.get_device_name() if options.device == "cuda" else "cpu"
    result: dict[str, Any] = {
        "device": device,
        "torch": torch.__version__,
        "share": options.share,
        "recipes": {},
    }
    for name in options.recipes:
        cloud, rows = random_ball(20_000, radius=0.5, scale=0.02, opacity_logit=-2.2), []
        for stage in RECIPES[name]:
            cloud, row = timed(stage, cloud.to(options.device), model, options.share)
            rows.append(row)
            result["recipes"][name] = {
                "stages": rows,
                "whole": round(sum(r["whole"] for r in rows), 1),
            }
            if options.json:
                options.json.write_text(json.dumps(result) + "\n")
    print(json.dumps(result))


if __name__ == "__main__":
    main()
