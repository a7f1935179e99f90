"""Init Gaussians, Init Scene."""

from __future__ import annotations

from typing import Any

import torch
from comfy_api.latest import io

from ...kernels.init.ball import random_ball
from ...kernels.init.scene import SceneInit, scene_cloud
from ..priors.memory import autograd
from ..shared import types
from ..shared.validation import validate

SCENE = SceneInit()


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
                    tooltip=(
                        "Number of Gaussians. With the embedded prior 4,000 for short runs, 20,000"
                        " of scale 0.013 from some 250 steps on; LucidDreamer starts from about"
                        " 100,000 at 512 px (20,000 with densification is a lighter start)."
                    ),
                ),
                io.Float.Input(
                    "radius",
                    default=0.6,
                    min=0.01,
                    max=10.0,
                    step=0.05,
                    round=0.001,
                    tooltip=(
                        "Radius of the ball, world units; the object fills a cube of side 1."
                        " LucidDreamer: 0.5."
                    ),
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
                    tooltip=(
                        "Standard deviation of each Gaussian, world units. More Gaussians want"
                        " smaller ones: halve it for eight times the count."
                    ),
                ),
                io.Float.Input(
                    "opacity",
                    default=0.018,
                    min=0.001,
                    max=0.99,
                    step=0.001,
                    round=0.001,
                    advanced=True,
                    tooltip=(
                        "Opacity of each Gaussian, 0..1. A ball that light shines through is carved"
                        " much faster than a solid one. LucidDreamer: 0.1."
                    ),
                ),
            ],
            outputs=[types.GaussianCloud.Output(display_name="gaussians", tooltip="For Optimize.")],
        )

    @classmethod
    def execute(
        cls, count: int, radius: float, seed: int, scale: float, opacity: float
    ) -> io.NodeOutput:
        with autograd():
            generator = torch.Generator().manual_seed(seed)
            logit = torch.logit(torch.tensor(opacity, dtype=torch.float64)).item()
            return io.NodeOutput(
                random_ball(
                    count, radius=radius, scale=scale, opacity_logit=logit, generator=generator
                )
            )


def _count(id: str, tooltip: str) -> io.Int.Input:
    return io.Int.Input(id, default=getattr(SCENE, id), min=1, max=1_000_000, tooltip=tooltip)


def _units(id: str, low: float, high: float, step: float, tooltip: str) -> io.Float.Input:
    return io.Float.Input(
        id,
        default=getattr(SCENE, id),
        min=low,
        max=high,
        step=step,
        round=0.0001,
        advanced=True,
        tooltip=tooltip,
    )


class InitScene(io.ComfyNode):
    @classmethod
    def define_schema(cls) -> io.Schema:
        return io.Schema(
            node_id="Distill3D_InitScene",
            display_name="Init Scene",
            category="Distill3D",
            description=(
                "A 360-degree scene to start from, in grey: a round ground, a dome of sky on its"
                " rim, and a ball of random Gaussians for each object, side by side from left to"
                " right as seen from the front."
            ),
            search_aliases=["environment", "sky dome", "ground", "360", "panorama"],
            inputs=[
                _count(
                    "ground_count",
                    "Flat Gaussians of the ground, fine in the middle and coarser outward.",
                ),
                _count("sky_count", "Flat Gaussians of the dome."),
                _count("object_count", "Gaussians of each object."),
                io.Int.Input(
                    "objects",
                    default=SCENE.objects,
                    min=0,
                    max=100,
                    tooltip="Number of objects. Embedded prior: 2, as in its captions.",
                ),
                io.Int.Input(
                    "seed",
                    default=0,
                    min=0,
                    max=0xFFFFFFFFFFFFFFFF,
                    control_after_generate=io.ControlAfterGenerate.fixed,
                    tooltip="Seed of the random places and colours. Same seed, same scene.",
                ),
                _units(
                    "spacing",
                    0.0,
                    1000.0,
                    0.1,
                    "World units between the middles of neighbouring objects.",
                ),
                _units(
                    "object_radius",
                    0.001,
                    1000.0,
                    0.05,
                    "Radius of each object's ball, world units.",
                ),
                _units(
                    "object_scale",
                    0.0001,
                    100.0,
                    0.005,
                    "Standard deviation of its Gaussians, world units.",
                ),
                _units(
                    "object_opacity",
                    0.001,
                    0.99,
                    0.001,
                    "Their opacity, 0..1; faint ones are carved faster.",
                ),
                _units(
                    "ground_height",
                    -1000.0,
                    0.0,
                    0.05,
                    "Height of the ground, world units; cameras aim at 0.",
                ),
                _units(
                    "radius",
                    0.1,
                    1000.0,
                    0.5,
                    "Radius of ground and dome, world units; cameras stay inside.",
                ),
                _units(
                    "opacity",
                    0.001,
                    0.99,
                    0.01,
                    "Opacity of the Gaussians of ground and dome, 0..1.",
                ),
                io.Boolean.Input(
                    "anchored",
                    default=SCENE.anchored,
                    optional=True,
                    advanced=True,
                    tooltip=(
                        "Ground and dome stay where they are while Optimize teaches them their"
                        " colours, so that the horizon stays level. Off: they move and bend as the"
                        " objects do."
                    ),
                ),
            ],
            outputs=[types.GaussianCloud.Output(display_name="gaussians", tooltip="For Optimize.")],
        )

    @classmethod
    def validate_inputs(
        cls,
        objects: int | None = None,
        spacing: float | None = None,
        object_radius: float | None = None,
        radius: float | None = None,
    ) -> bool | str:
        values = {key: value for key, value in locals().items() if key != "cls"}
        return validate(cls, values, SceneInit)

    @classmethod
    def execute(cls, seed: int, **settings: Any) -> io.NodeOutput:
        with autograd():
            return io.NodeOutput(
                scene_cloud(SceneInit(**settings), torch.Generator().manual_seed(seed))
            )
