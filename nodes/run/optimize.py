"""Optimize."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import torch
from comfy_api.latest import io

from ...kernels.cameras.sampler import CameraSampler
from ...kernels.gaussians.cloud import Gaussians
from ...kernels.losses.base import Loss
from ...kernels.priors.prompts import ViewPrompts
from ...kernels.run.anchor import gentle
from ...kernels.run.growth import growth
from ...kernels.run.optimize import optimize
from ...kernels.run.references import References
from ...kernels.run.settings import OptimizeSettings
from ..look.preview import shown
from ..look.render import render_cloud
from ..priors.memory import ManagedPrior
from ..priors.needs import check_prompts, scratch_bytes
from ..priors.suited import settled, settled_size
from ..shared import types
from ..shared.images import image
from ..shared.progress import prepare_to_render
from ..shared.validation import undeclared
from .anew import times_asked
from .densification import STANDARD
from .options import Options
from .refining import Hold
from .watch import NO_PREVIEW, Watch, attempted

DEFAULTS = OptimizeSettings()
PREVIEW_VIEWS = 8
NOTHING: dict[str, list[dict[str, Any]]] = {}


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
            inputs=[
                types.Prior.Input(
                    "prior", tooltip="The 2D diffusion model that judges the renderings."
                ),
                types.Prompts.Input("prompts", tooltip="From View Prompts, with the same prior."),
                types.Cameras.Input("cameras", tooltip="Where the training views come from."),
                types.GaussianCloud.Input(
                    "gaussians",
                    tooltip="Where to start: Init Gaussians, Load Gaussians, or another Optimize.",
                ),
                types.Loss.Input(
                    "loss",
                    tooltip=(
                        "How the prior's judgement becomes a direction: CDS, VDM, SDS, a sum, a"
                        " schedule."
                    ),
                ),
                io.Int.Input(
                    "steps",
                    default=400,
                    min=1,
                    max=1_000_000,
                    tooltip=(
                        "Steps to do now. Embedded prior: 300 to 600. Consistent3D: 3000 (coarse),"
                        " 3000 (geometry) and 5000 (texture); LucidDreamer: 5000; this pack's VDM"
                        " with Stable Diffusion: 3000."
                    ),
                ),
                io.Int.Input(
                    "views",
                    default=DEFAULTS.views,
                    min=1,
                    max=64,
                    tooltip=(
                        "Cameras per step, rendered and judged together. Consistent3D: 8,"
                        " LucidDreamer: 4. Memory and time grow with it."
                    ),
                ),
                io.Int.Input(
                    "seed",
                    default=0,
                    min=0,
                    max=0xFFFFFFFFFFFFFFFF,
                    control_after_generate=io.ControlAfterGenerate.fixed,
                    tooltip=(
                        "Seed of cameras, noise and backgrounds. On the CPU the same seed gives the"
                        " same bits."
                    ),
                ),
                io.Int.Input(
                    "image_size",
                    default=0,
                    min=0,
                    max=4096,
                    advanced=True,
                    tooltip=(
                        "Width and height of the training renders, pixels; 0: what suits the prior"
                        " (embedded 128; Stable Diffusion 512, as LucidDreamer; SDXL 1024; others"
                        " of 1024 and more 512, untried). Consistent3D:"
                        " 64 in the coarse stage, stretched to 512 (judged_size of Run Options),"
                        " then 512. What the prior sees must fit it: a multiple of 64 for Stable"
                        " Diffusion."
                    ),
                ),
                io.Int.Input(
                    "schedule_steps",
                    default=0,
                    min=0,
                    max=1_000_000,
                    advanced=True,
                    tooltip=(
                        "Length of the whole schedule, steps, over which noise levels and rates"
                        " anneal; 0 ends it with this node. To split one run over several nodes,"
                        " give each the sum of their steps."
                    ),
                ),
                io.Boolean.Input(
                    "restart_schedule",
                    default=False,
                    advanced=True,
                    tooltip=(
                        "Begin a new schedule: forget the steps, momentum and loss state the"
                        " Gaussians bring along. For a second stage, such as Consistent3D's texture"
                        " after coarse."
                    ),
                ),
                types.LearningRates.Input(
                    "learning_rates",
                    optional=True,
                    tooltip="How fast each property of the Gaussians changes, from Learning Rates.",
                ),
                types.Penalties.Input(
                    "penalties",
                    optional=True,
                    tooltip=(
                        "What is asked of the Gaussians besides the prior's judgement, from"
                        " Penalties."
                    ),
                ),
                types.Densification.Input(
                    "densification",
                    optional=True,
                    tooltip=(
                        "How Gaussians are added and dropped, from Densification. Without it they"
                        " are."
                    ),
                ),
                types.Refining.Input(
                    "refining",
                    optional=True,
                    tooltip=(
                        "What keeps a finished object as it is, from Refining. Without it nothing"
                        " does."
                    ),
                ),
                types.RunOptions.Input(
                    "options",
                    optional=True,
                    tooltip="Backgrounds, rasterizer, previews and autosaves, from Run Options.",
                ),
                types.References.Input(
                    "references",
                    optional=True,
                    tooltip=(
                        "Pictures that the renders from their cameras are held to, from Reference"
                        " Views."
                    ),
                ),
            ],
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
    def validate_inputs(
        cls, steps: int | None = None, schedule_steps: int | None = None
    ) -> bool | str:
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
        learning_rates: dict[str, Any] | None = None,
        penalties: dict[str, Any] | None = None,
        densification: dict[str, Any] | None = None,
        refining: Hold | None = None,
        options: Options | None = None,
        references: References | None = None,
        **fields: Any,
    ) -> io.NodeOutput:
        options, hold = options or Options(), refining or Hold()
        size = settled_size(image_size, prior.prior)
        settings = OptimizeSettings(
            **fields,
            **(learning_rates or {}),
            **(penalties or {}),
            **(densification or growth(**STANDARD)),
            **options.settings,
            image_size=size,
            render_backend=options.backend,
        )
        start = replace(gaussians, training=None) if restart_schedule else gaussians
        judged_size = settings.judged_size or size
        cameras = settled(cameras, prior.prior, judged_size)
        judge = gentle(settled(loss, prior.prior, judged_size), hold.strength)
        workflow = workflow_id(getattr(cls.hidden, "extra_pnginfo", None))
        watch = Watch(steps, options.autosave_every, start, prompts.prompt, workflow)
        at_once = settings.micro_batch or settings.views
        with prior.loaded(scratch=scratch_bytes(at_once, judged_size, prior.prior.dtype)) as model:
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
                    hold.anchor,
                    references,
                )
                watch.finish(result)
                pictures = attempted(lambda: turn(result, cameras, size), NO_PREVIEW)
                ui: dict[str, list[Any]] = attempted(
                    lambda: shown(result, **watch.live.told()), NOTHING
                )
        return io.NodeOutput(result, pictures, ui=ui | watch.told())


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
