"""What a timing of the step is taken with: prior, prompts, clouds, cameras and runs of the pack."""

from __future__ import annotations

import argparse
import statistics
import time
from collections.abc import Callable
from typing import Any

import torch
from step_priors import SIZES, parts, prior

from distill3d.kernels.cameras.orbit import OrbitSampler
from distill3d.kernels.cameras.pinhole import Cameras
from distill3d.kernels.gaussians.cloud import Gaussians
from distill3d.kernels.init.ball import random_ball
from distill3d.kernels.losses.base import Loss
from distill3d.kernels.losses.cds import CDS
from distill3d.kernels.losses.sds import SDS
from distill3d.kernels.losses.vdm import VDM
from distill3d.kernels.priors.conditioning import Conditioning
from distill3d.kernels.priors.diffusers.latent_prior import DiffusersPrior
from distill3d.kernels.priors.diffusers.multiview import VIEWS
from distill3d.kernels.priors.view_conditioning import condition_on_views
from distill3d.kernels.run.settings import OptimizeSettings

LOSSES: dict[str, Loss] = {"sds": SDS(), "cds": CDS(), "vdm": VDM()}


GUIDANCE = {"sds": 101.0, "cds": 101.0, "vdm": 7.5}


PROMPT = "a red mug"


class Bench:
    """What all measurements share: the device, how often to repeat, and the networks in their
    dtypes.
    """

    def __init__(self, options: argparse.Namespace) -> None:
        self.cuda, self.device = options.device == "cuda", torch.device(options.device)
        self.repeats, self.warm, self.at_once = (
            options.repeats,
            options.warm,
            options.micro_batch,
        )
        self.kind, self.backend = options.prior, options.render_backend
        self.profiling = options.profile and self.cuda
        dtypes = (
            (torch.float16, getattr(torch, options.vae_dtype))
            if self.cuda
            else (torch.float32, torch.float32)
        )
        self.modules = parts(self.kind, options.device, *dtypes)
        self.size: int = SIZES[self.kind]
        self.views_per_group = VIEWS if self.kind == "mvdream-shapes" else 1
        self.sampler = OrbitSampler()

    def timed(self, act: Callable[[], Any]) -> float:
        """Median milliseconds of a call."""
        for _ in range(self.warm):
            act()
        times = []
        for _ in range(self.repeats):
            if not self.cuda:
                start = time.perf_counter()
                act()
                times.append(1e3 * (time.perf_counter() - start))
                continue
            start_event, end_event = (torch.cuda.Event(enable_timing=True) for _ in range(2))
            start_event.record()
            act()
            end_event.record()
            end_event.synchronize()
            times.append(start_event.elapsed_time(end_event))
        return statistics.median(times)

    def ours(self) -> DiffusersPrior:
        """The pack's prior on these networks."""
        return prior(self.kind, self.modules)

    def arrange(self, memory_format: torch.memory_format) -> None:
        """Store the U-Net's weights as diffusers loads them, or as the pack's prior arranges
        them.
        """
        self.modules["unet"].to(memory_format=memory_format)

    def cloud(self, count: int) -> Gaussians:
        # as much of the ball is covered whatever the count
        scale = 0.03 * (4000 / count) ** (1 / 3)
        return random_ball(count, scale=scale, opacity_logit=-2.0).to(self.device)

    def cameras(self, views: int) -> Cameras:
        generator = torch.Generator().manual_seed(0)
        return self.sampler.sample(
            views, self.size, generator, views_per_group=self.views_per_group
        ).to(self.device)

    def condition_on_views(self, ours: DiffusersPrior, *texts: Conditioning) -> list[Conditioning]:
        """Rows of texts, with the cameras for a prior that reads them."""
        cameras = self.cameras(len(texts[0]))
        return list(
            condition_on_views(
                ours, texts, cameras, torch.ones(len(cameras), 1, 1, 1, device=self.device), None
            )
        )

    def settings(self, views: int, count: int) -> OptimizeSettings:
        """Of the pack's loop, with nothing but the steps themselves."""
        return OptimizeSettings(
            views=views,
            image_size=self.size,
            densify=None,
            preview_every=0,
            max_gaussians=count,
            render_backend=self.backend,
            accelerate=True,
            micro_batch=self.at_once,
        )

    def fresh_peak(self) -> None:
        if self.cuda:
            torch.cuda.empty_cache()
            torch.cuda.reset_peak_memory_stats()

    def peak(self) -> dict[str, float]:
        """GB of tensors, and GB held by the allocator, graphs' pools included."""
        if not self.cuda:
            return {}
        values = torch.cuda.max_memory_allocated(), torch.cuda.max_memory_reserved()
        return dict(
            zip(("allocated_gb", "reserved_gb"), (round(v / 1e9, 2) for v in values), strict=True)
        )


def rounded(values: dict[str, float]) -> dict[str, float]:
    return {name: round(value, 3) for name, value in values.items()}
