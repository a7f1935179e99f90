"""Optimize."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import torch
from comfy_api.latest import io

from ...kernels.cameras.sampler import CameraSampler
from ...kernels.gaussians.cloud import Gaussians
from ...kernels.gaussians.densify import Densify
from ...kernels.losses.base import Loss
from ...kernels.priors.prompts import ViewPrompts
from ...kernels.run.anchor import Anchor, gentle
from ...kernels.run.optimize import optimize
from ...kernels.run.settings import OptimizeSettings
from ..look.preview import shown
from ..look.render import render_cloud
from ..priors.memory import ManagedPrior
from ..priors.needs import check_prompts, scratch_bytes
from ..shared import types
from ..shared.images import image
from ..shared.progress import prepare_to_render
from ..shared.validation import undeclared
from .anew import times_asked
from .optimize_inputs import GROWTH, optimize_inputs
from .watch import Watch

PREVIEW_VIEWS = 8


class Optimize(io.ComfyNode):
    @classmethod
    def define_schema(cls) -> io.Schema:
        return io.Schema(
            node_id="Distill3D_Optimize",
            display_name="Optimize N Steps",
            category="Distill3D",
            description=(
                "Move the Gaussians until their renderings look to the prior like the prompt. Chain"
                " several: each goes on where the last one stopped, and changing one runs only it"
                " and what follows. Stop and keep ends it early and lets the graph go on; Cancel"
                " stops everything, and the cloud so far is saved in output/distill3d/partial."
            ),
            hidden=[io.Hidden.extra_pnginfo],
            search_aliases=[
                "train",
                "text to 3d",
                "score distillation",
                "fit",
                "dreamfusion",
                "sampler",
            ],
            inputs=optimize_inputs(),
            outputs=[
                types.GaussianCloud.Output(
                    display_name="gaussians",
                    tooltip="The optimized cloud, with what another Optimize needs to go on.",
                ),
                io.Image.Output(
                    display_name="preview",
                    tooltip="A turn around the result in 8 pictures, at training size.",
                ),
            ],
        )

    @classmethod
    def validate_inputs(cls, steps: int | None, schedule_steps: int | None) -> bool | str:
        problem = undeclared(cls, {"steps": steps, "schedule_steps": schedule_steps})
        problem = problem or ends_early(steps, schedule_steps)
        return True if problem is None else problem

    @classmethod
    def fingerprint_inputs(cls, **inputs: Any) -> int:
        return times_asked(inputs)

    @classmethod
    def execute(
        cls,
        prior: ManagedPrior,
        prompts: ViewPrompts,
        cameras: CameraSampler,
        gaussians: Gaussians,
        loss: Loss,
        steps: int,
        image_size: int,
        restart_schedule: bool,
        autosave_every: int,
        strength: float = 1.0,
        anchor: Gaussians | None = None,
        lambda_anchor_alpha: float = 0.0,
        lambda_anchor_color: float = 0.0,
        **fields: Any,
    ) -> io.NodeOutput:
        settings = optimize_settings(image_size=image_size or None, **fields)
        start = replace(gaussians, training=None) if restart_schedule else gaussians
        held = None if anchor is None else Anchor(anchor, lambda_anchor_color, lambda_anchor_alpha)
        judge = gentle(loss, strength)
        watch = Watch(
            steps, autosave_every, workflow_id(getattr(cls.hidden, "extra_pnginfo", None))
        )
        size = image_size or prior.prior.image_size
        at_once = settings.micro_batch or settings.views
        with prior.loaded(scratch=scratch_bytes(at_once, size, prior.prior.dtype)) as model:
            check_prompts(prompts, model)
            prepare_to_render(settings.render_backend, torch.device(model.device))
            with watch:
                result = optimize(
                    start,
                    judge,
                    model,
                    prompts,
                    cameras,
                    steps,
                    settings,
                    watch.step,
                    watch.keep,
                    held,
                )
                pictures = turn(result, cameras, size)
                ui = shown(result, **watch.live.told())
        return io.NodeOutput(result, pictures, ui=ui)


def optimize_settings(
    densify: bool,
    max_gaussians: int,
    densify_every: int,
    densify_stop: float,
    densify_grow: float,
    prune_opacity: float,
    **fields: Any,
) -> OptimizeSettings:
    growth = Densify(
        every=densify_every,
        start=min(GROWTH.start, densify_stop),
        stop=densify_stop,
        grow_share=densify_grow,
        prune_opacity=prune_opacity,
        count_min=min(GROWTH.count_min, max_gaussians),
        count_max=max_gaussians,
    )
    return OptimizeSettings(
        densify=growth if densify else None, max_gaussians=max_gaussians, **fields
    )


def ends_early(steps: int | None, schedule_steps: int | None) -> str | None:
    """What is wrong with a schedule that is over before the steps are; None where it is not, or not
    known yet.
    """
    if not steps or not schedule_steps or schedule_steps >= steps:
        return None
    return (
        f"schedule_steps is {schedule_steps}, but {steps} steps are asked for. Give {steps} or"
        " more, or 0 to end the schedule with this node."
    )


def workflow_id(extra_pnginfo: dict[str, Any] | None) -> str | None:
    """The id of the graph on the page that queued the prompt; None for prompts from elsewhere."""
    return ((extra_pnginfo or {}).get("workflow") or {}).get("id")


def turn(cloud: Gaussians, cameras: CameraSampler, size: int) -> torch.Tensor:
    """A turntable [8,size,size,3] at the middle of the training cameras' ranges."""
    azimuths = torch.arange(PREVIEW_VIEWS) * (360.0 / PREVIEW_VIEWS)
    return image(render_cloud(cloud, cameras.from_angles(azimuths, 15.0, size), 0.5).color)
