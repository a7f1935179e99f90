"""Init Gaussians."""

from __future__ import annotations

import torch
from comfy_api.latest import io

from ..kernels.gaussians.initialise import random_ball
from . import types
from .memory import autograd


class InitGaussians(io.ComfyNode):
    @classmethod
    def define_schema(cls) -> io.Schema:
        return io.Schema(
            node_id="Distill3D_InitGaussians",
            display_name="Init Gaussians",
            category="Distill3D",
            description="A ball of random grey Gaussians to start from.",
            search_aliases=["splat", "gaussian splatting", "3dgs", "random init", "point cloud"],
            inputs=[
                io.Int.Input(
                    "count",
                    default=4000,
                    min=1,
                    max=1_000_000,
                    tooltip="Number of Gaussians. 4,000 suit the embedded prior at 128 px; LucidDreamer starts from "
                    "about 100,000 at 512 px (20,000 with densification is a lighter start).",
                ),
                io.Float.Input(
                    "radius",
                    default=0.6,
                    min=0.01,
                    max=10.0,
                    step=0.05,
                    round=0.001,
                    tooltip="Radius of the ball, world units; the object fills a cube of side 1. LucidDreamer: 0.5.",
                ),
                io.Int.Input(
                    "seed",
                    default=0,
                    min=0,
                    max=0xFFFFFFFFFFFFFFFF,
                    control_after_generate=io.ControlAfterGenerate.fixed,
                    tooltip="Seed of the random places and colours. Same seed, same ball.",
                ),
                io.Float.Input(
                    "scale",
                    default=0.03,
                    min=0.0001,
                    max=1.0,
                    step=0.005,
                    round=0.0001,
                    advanced=True,
                    tooltip="Standard deviation of each Gaussian, world units. More Gaussians want smaller ones: "
                    "halve it for eight times the count.",
                ),
                io.Float.Input(
                    "opacity",
                    default=0.018,
                    min=0.001,
                    max=0.99,
                    step=0.01,
                    round=0.001,
                    advanced=True,
                    tooltip="Opacity of each Gaussian, 0..1. A ball that light shines through is carved much faster "
                    "than a solid one. LucidDreamer: 0.1.",
                ),
            ],
            outputs=[types.GaussianCloud.Output(display_name="gaussians", tooltip="For Optimize.")],
        )

    @classmethod
    def execute(cls, count: int, radius: float, seed: int, scale: float, opacity: float) -> io.NodeOutput:
        with autograd():
            generator = torch.Generator().manual_seed(seed)
            logit = torch.logit(torch.tensor(opacity, dtype=torch.float64)).item()
            return io.NodeOutput(
                random_ball(count, radius=radius, scale=scale, opacity_logit=logit, generator=generator)
            )
