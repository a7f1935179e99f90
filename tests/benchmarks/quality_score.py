"""One object of quality.py: distilled, scored against the truth, and watched while it grows."""

from __future__ import annotations

import argparse
import math
import time
from dataclasses import asdict, replace
from functools import lru_cache
from typing import Any

import torch
from prior_forms import at_same_noise, formed
from quality_plan import POINTS, Init, Task, TextInit
from quality_sheet import strip
from torch import Tensor
from torch.nn.functional import cosine_similarity

from distill3d.kernels.cameras.pinhole import Cameras, orbit
from distill3d.kernels.evaluate.judgement import judge_cameras, judgement
from distill3d.kernels.evaluate.metrics import BACKGROUND, Score, ring_of_views, score
from distill3d.kernels.gaussians.cloud import Gaussians
from distill3d.kernels.init.ball import random_ball
from distill3d.kernels.init.text import from_text, load_point_model
from distill3d.kernels.losses.base import Loss, Views
from distill3d.kernels.priors.base import Prior
from distill3d.kernels.priors.diffusers.loading import load_diffusers
from distill3d.kernels.priors.prompts import ViewPrompts, view_prompts
from distill3d.kernels.priors.view_conditioning import condition_on_views, group_size, needs_depth
from distill3d.kernels.rasterizers.rasterize import render
from distill3d.kernels.run.optimize import optimize
from distill3d.kernels.run.step import DivergedError, Progress
from distill3d.kernels.toybox.captions import Caption
from distill3d.kernels.toybox.data import FOV_Y
from distill3d.kernels.toybox.models import load_judge
from distill3d.kernels.toybox.render import Truth, render_truth

SIZE = 128
SHEET_AZIMUTHS = (0.0, 90.0, 180.0, 270.0)
CURVE_POINTS, CURVE_VIEWS = 12, 8
LEVELS = (80, 90)  # IoU in percent, to which steps and seconds are counted


class Bench:
    """The prior and the judge on one device, and what is known of each caption's truth."""

    def __init__(self, options: argparse.Namespace, device: str) -> None:
        self.device = torch.device(device)
        cuda = self.device.type == "cuda"
        if cuda:
            torch.cuda.set_device(self.device)
            torch.backends.cudnn.benchmark = True  # every step has the same shapes
        dtype = (
            torch.float16
            if options.dtype == "auto" and cuda
            else getattr(torch, options.dtype, torch.float32)
        )
        self.prior = load_diffusers(
            options.prior, self.device, dtype, getattr(torch, options.vae_dtype)
        )
        self.rows_seen = counted(self.prior.unet)
        self.home = self.prior.schedule
        self.prior = formed(getattr(options, "form", "own"), self.prior)
        if cuda and not options.eager:
            self.prior.accelerate()
        has_judge = (options.judge / "judge.safetensors").is_file()
        self.judge = load_judge(options.judge, self.device) if has_judge else None
        cameras = {
            "ring": ring_of_views(options.views, SIZE),
            "curve": ring_of_views(CURVE_VIEWS, SIZE),
            "sheet": orbit(torch.tensor(SHEET_AZIMUTHS), 15.0, 2.0, FOV_Y, SIZE),
            "judge": judge_cameras(SIZE),
        }
        self.cameras = {name: views.to(self.device) for name, views in cameras.items()}
        self.truths: dict[str, dict[str, Any]] = {}
        self.warm: set[str] = set()

    def run(self, task: Task) -> tuple[dict[str, Any], dict[str, bytes]]:
        """One object: its row, and JPEG strips of it and of its caption's truth."""
        setup, caption, error = task.setup, task.caption, None
        if self.prior.schedule is not self.home:
            setup = replace(setup, loss=at_same_noise(setup.loss, self.home, self.prior.schedule))
        cloud = started(setup.init, caption, task.seed).to(self.device)
        prompts = view_prompts(self.prior, caption.text, **asdict(setup.prompts))
        settings, truth = replace(setup.settings, seed=task.seed), self.truth(caption)
        # what is compiled, tuned and allocated once is no object's time
        if task.loss not in self.warm:
            optimize(cloud, setup.loss, self.prior, prompts, setup.cameras, 2, settings)
            self.warm.add(task.loss)
        watch = Watch(self, task, prompts, truth["curve"])
        try:
            result = optimize(
                cloud,
                setup.loss,
                self.prior,
                prompts,
                setup.cameras,
                setup.steps,
                settings,
                watch.step,
            )
        except DivergedError as stop:
            result, error = stop.result, str(stop)
        row: dict[str, Any] = {
            "config": task.config, "loss": task.loss, "caption": caption.text, "seed": task.seed,
            "steps": setup.steps, "fingerprint": task.fingerprint, **watch.report(),
            "gaussians": len(result), "bad_steps": int(result.training.bad_steps),
        }  # fmt: skip
        if self.device.type == "cuda":
            row["peak_mib"] = torch.cuda.max_memory_allocated() // 2**20  # of this process so far
        if error:
            row["diverged"] = error
        result = replace(result, training=None)
        begun = self.scored(cloud, caption)
        row |= {"iou_start": begun.iou, "psnr_start": begun.psnr}
        row |= asdict(self.scored(result, caption))
        row |= self.judged(self.pictures(result, self.cameras["judge"]), caption)
        row["truth"] = truth["judged"]
        shown = self.pictures(result, self.cameras["sheet"])
        strips = {task.key: strip(shown), f"truth|{caption.text}": truth["strip"]}
        return {
            k: None if isinstance(v, float) and not math.isfinite(v) else v for k, v in row.items()
        }, strips

    def truth(self, caption: Caption) -> dict[str, Any]:
        """The caption's toy from every set of cameras; made once, for all of a worker's objects."""
        if caption.text not in self.truths:
            with torch.no_grad():
                known: dict[str, Any] = {
                    name: _slim(render_truth(caption, self.cameras[name], BACKGROUND, 2))
                    for name in ("ring", "curve")
                }
                known["strip"] = strip(
                    render_truth(caption, self.cameras["sheet"], BACKGROUND).color
                )
                if self.judge is not None:
                    seen = render_truth(caption, self.cameras["judge"], BACKGROUND).color
                known["judged"] = self.judged(seen, caption) if self.judge is not None else {}
            self.truths[caption.text] = known
        return self.truths[caption.text]

    def scored(self, cloud: Gaussians, caption: Caption) -> Score:
        """The cloud's scores over all views of the ring."""
        with torch.no_grad():
            seen = render(cloud, self.cameras["ring"], BACKGROUND, depth=False)
            return score(seen, self.truth(caption)["ring"], caption.color is not None)

    def pictures(self, cloud: Gaussians, cameras: Cameras) -> Tensor:
        with torch.no_grad():
            return render(cloud, cameras, BACKGROUND, depth=False).color.clamp(0, 1)

    def judged(self, pictures: Tensor, caption: Caption) -> dict[str, float]:
        if self.judge is None:
            return {}
        answers = asdict(judgement(self.judge, pictures.permute(0, 3, 1, 2).contiguous(), caption))
        return {name: value for name, value in answers.items() if value is not None}

    def wait(self) -> None:
        if self.device.type == "cuda":
            torch.cuda.synchronize(self.device)


def _slim(truth: Truth) -> Truth:
    return replace(truth, depth=truth.depth[:0], normal=truth.normal[:0])


@lru_cache(maxsize=4)  # many configs of one caption begin alike
def started(init: Init | TextInit, caption: Caption, seed: int) -> Gaussians:
    """The cloud that a run begins with, on the CPU."""
    generator = torch.Generator().manual_seed(seed)
    if isinstance(init, Init):
        return random_ball(**asdict(init), generator=generator)
    model = load_point_model(POINTS)
    return from_text(model, caption.text, init.count, generator, init.opacity_logit)


class Watch:
    """Looks at one run at a dozen points; the time and the network's work this takes are not the
    run's.
    """

    def __init__(self, bench: Bench, task: Task, prompts: ViewPrompts, truth: Truth) -> None:
        self.bench, self.task, self.prompts, self.truth = bench, task, prompts, truth
        steps = task.setup.steps
        self.points = sorted(
            {max(1, round(steps * i / CURVE_POINTS)) for i in range(1, CURVE_POINTS + 1)}
        )
        self.curve: dict[str, list[float]] = {
            name: [] for name in ("step", "seconds", "evaluations", "iou", "psnr")
        }
        self.agreements: dict[str, list[float]] = {}
        bench.wait()
        bench.rows_seen.update(all=0, trained=0)
        self.began, self.away = time.perf_counter(), 0.0

    def step(self, progress: Progress) -> None:
        if progress.step not in self.points:
            return
        bench, setup = self.bench, self.task.setup
        bench.wait()
        seconds, rows = self._seconds(), dict(bench.rows_seen)
        cloud = progress.result()
        with torch.no_grad():
            seen = render(cloud, bench.cameras["curve"], BACKGROUND, depth=False)
            now = score(seen, self.truth, self.task.caption.color is not None)
        values = (
            progress.step,
            round(seconds, 3),
            rows["all"],
            round(now.iou, 4),
            round(now.psnr, 3),
        )
        for name, value in zip(self.curve, values, strict=True):
            self.curve[name].append(value if math.isfinite(value) else None)
        if self.points.index(progress.step) % 3 == 0 and progress.step < setup.steps:
            self._probe(cloud, progress)
        bench.wait()
        bench.rows_seen.update(rows)
        self.away += self._seconds() - seconds

    def _seconds(self) -> float:
        return time.perf_counter() - self.began - self.away

    def _probe(self, cloud: Gaussians, progress: Progress) -> None:
        """How far the guidance agrees with itself: the run's own, and with a fixed noise drawn anew
        each time.
        """
        bench, cameras = self.bench, self.bench.cameras["sheet"]
        with torch.no_grad():
            seen = render(cloud, cameras, BACKGROUND, depth=needs_depth(bench.prior))
            latents = bench.prior.encode(seen.color.clamp(0, 1).permute(0, 3, 1, 2))
        text = self.prompts.at(cameras.azimuths.cpu(), cameras.elevations.cpu())
        negative = self.prompts.negative_rows(len(cameras))
        text, negative = condition_on_views(
            bench.prior, (text, negative), cameras, seen.alpha, seen.depth
        )
        factor = self.prompts.guidance_factor(cameras.azimuths, cameras.elevations)
        views_per_group = group_size(bench.prior)
        views = Views(
            text, negative, cameras, progress.step, self.task.setup.steps, factor, views_per_group
        )
        state = dict(cloud.training.loss)
        kinds = {"consistency": state} | ({"consistency_fresh": None} if "noise" in state else {})
        for name, known in kinds.items():
            value = agreement(
                self.task.setup.loss, bench.prior, latents, views, known, progress.step
            )
            self.agreements.setdefault(name, []).append(value)

    def report(self) -> dict[str, Any]:
        """The row's part: times, the network's work, the curve and what follows from it."""
        self.bench.wait()
        seconds, steps = self._seconds(), self.task.setup.steps
        found: dict[str, Any] = {
            name: sum(values) / len(values) for name, values in self.agreements.items()
        }
        for level in LEVELS:
            for axis, unit in (("step", "steps"), ("seconds", "seconds")):
                found[f"{unit}_to_iou{level}"] = reached(
                    self.curve[axis], self.curve["iou"], level / 100
                )
        rows = self.bench.rows_seen
        return {
            "seconds": seconds, "seconds_per_step": seconds / steps, "evaluations": rows["all"],
            "evaluations_trained": rows["trained"], **found, "curve": self.curve,
        }  # fmt: skip


def counted(unet: torch.nn.Module) -> dict[str, int]:
    """A running count of the rows that pass the network, and of those that leave it with a gradient
    attached.

    Copies of the network that a loss makes, such as VSD's with its LoRA, count too.
    """
    counts = {"all": 0, "trained": 0}

    def count(module: torch.nn.Module, inputs: tuple[Any, ...], output: Any) -> None:
        counts["all"] += len(inputs[0])
        counts["trained"] += len(inputs[0]) if output.sample.requires_grad else 0

    unet.register_forward_hook(count)
    return counts


def agreement(
    loss: Loss,
    prior: Prior,
    latents: Tensor,
    views: Views,
    state: dict[str, Tensor] | None,
    seed: int,
) -> float:
    """Mean cosine, -1..1, between a loss's gradients at two neighbouring steps on the same latents
    [V,C,h,w].

    Each of the two goes on from ``state`` with draws of its own; with None each starts afresh.
    """
    gradients = []
    for later in (0, 1):
        generator = torch.Generator().manual_seed(1000 * seed + later)
        run = loss.start(
            prior, (latents.shape[1], latents.shape[2], latents.shape[3]), generator, state
        )
        with torch.enable_grad():
            z = latents.detach().clone().requires_grad_()
            value, _ = run(
                z, replace(views, step=min(views.step + later, views.steps - 1)), generator
            )
            gradients.append(torch.autograd.grad(value, z)[0].flatten(1))
    return float(cosine_similarity(*gradients).mean())


def reached(places: list[float], values: list[float], level: float) -> float | None:
    """Where a curve first comes up to ``level``, linear between its points; None where it never
    does.
    """
    for i, (place, value) in enumerate(zip(places, values, strict=True)):
        if value >= level:
            if i == 0:
                return place
            share = (level - values[i - 1]) / (value - values[i - 1])
            return places[i - 1] + share * (place - places[i - 1])
    return None
