"""Inspect Guidance."""

from __future__ import annotations

import comfy.model_management
import torch
from comfy_api.latest import io

from ...kernels.cameras.orbit import OrbitSampler
from ...kernels.cameras.pinhole import turntable
from ...kernels.cameras.sampler import CameraSampler
from ...kernels.evaluate.inspection import Inspection, inspect
from ...kernels.gaussians.cloud import Gaussians
from ...kernels.losses.base import Loss
from ...kernels.priors.prompts import ViewPrompts
from ...kernels.priors.view_conditioning import check_views
from ...kernels.run.settings import background_range
from ..priors.memory import ManagedPrior
from ..priors.needs import check_prompts, scratch_bytes
from ..priors.suited import settled, settled_size
from ..shared import types
from ..shared.background import cancellable
from ..shared.images import labelled
from ..shared.progress import prepare_to_render
from ..shared.validation import check_declared, undeclared


class InspectGuidance(io.ComfyNode):
    @classmethod
    def define_schema(cls) -> io.Schema:
        return io.Schema(
            node_id="Distill3D_InspectGuidance",
            display_name="Inspect Guidance",
            category="Distill3D",
            description=(
                "What a loss sees and wants: for each view the render, the render with noise, what"
                " the prior makes of it (by the text alone, and guided), what VDM's M_psi makes of"
                " that, and where the gradient pulls. The loss itself runs, once; the Gaussians"
                " stay as they are."
            ),
            search_aliases=["debug", "gradient", "score distillation", "x0", "denoised", "explain"],
            inputs=[
                types.Prior.Input(
                    "prior", tooltip="The prior that judges, from Load Diffusion Prior."
                ),
                types.Prompts.Input("prompts", tooltip="From View Prompts, with the same prior."),
                types.GaussianCloud.Input(
                    "gaussians",
                    tooltip=(
                        "The cloud to look at. From Optimize with the same loss it brings the"
                        " loss's memory along (M_psi, the fixed noise), which is used."
                    ),
                ),
                types.Loss.Input("loss", tooltip="The loss to look into: any, a sum too."),
                io.Int.Input(
                    "timestep",
                    default=500,
                    min=-1,
                    max=999,
                    tooltip=(
                        "Noise level to look at, 1..999; -1 lets the loss draw its own. It is met"
                        " exactly where the loss's settings can be narrowed to it; the label says"
                        " what it was."
                    ),
                ),
                io.Float.Input(
                    "progress",
                    default=0.0,
                    min=0.0,
                    max=1.0,
                    step=0.05,
                    tooltip=(
                        "Share of the run, 0..1, for what a loss anneals. Of Schedule Losses the"
                        " one whose turn it then is guides."
                    ),
                ),
                io.Int.Input(
                    "views",
                    default=4,
                    min=1,
                    max=16,
                    tooltip="Pictures around the object; one row each.",
                ),
                io.Int.Input(
                    "seed",
                    default=0,
                    min=0,
                    max=0xFFFFFFFFFFFFFFFF,
                    control_after_generate=io.ControlAfterGenerate.fixed,
                    tooltip=(
                        "Seed of the noise: another one gives another look at the same guidance."
                    ),
                ),
                io.Float.Input(
                    "elevation",
                    default=15.0,
                    min=-90.0,
                    max=90.0,
                    step=5.0,
                    round=0.01,
                    advanced=True,
                    tooltip="Height of the views, degrees above the horizon.",
                ),
                types.Cameras.Input(
                    "cameras",
                    optional=True,
                    tooltip=(
                        "From Orbit Cameras: the middle of its distances and fields of view is"
                        " used. Not linked: distance 2, 40 degrees, as the embedded prior knows"
                        " them."
                    ),
                ),
            ],
            outputs=[
                io.Image.Output(
                    display_name="images",
                    tooltip=(
                        "A picture per view. Its last column is the gradient: what a small step"
                        " along it changes in the decoded picture, gray where nothing, scaled to"
                        " the strongest change."
                    ),
                )
            ],
        )

    @classmethod
    def validate_inputs(
        cls, progress: float | None = None, elevation: float | None = None
    ) -> bool | str:
        return undeclared(cls, {"progress": progress, "elevation": elevation}) or True

    @classmethod
    def execute(
        cls,
        prior: ManagedPrior,
        prompts: ViewPrompts,
        gaussians: Gaussians,
        loss: Loss,
        timestep: int,
        progress: float,
        views: int,
        seed: int,
        elevation: float,
        cameras: CameraSampler | None = None,
    ) -> io.NodeOutput:
        numbers = {
            "timestep": timestep,
            "progress": progress,
            "views": views,
            "elevation": elevation,
        }
        check_declared(cls, numbers)
        size = settled_size(0, prior.prior)
        loss = settled(loss, prior.prior, size)
        distance, fov_y = settled(cameras or OrbitSampler(), prior.prior, size).usual_look
        views_per_group = check_views(prior.prior, views)
        around = turntable(views, elevation, distance, fov_y, size, views_per_group=views_per_group)
        device = comfy.model_management.get_torch_device()
        with prior.loaded(scratch=scratch_bytes(views, size, prior.prior.dtype)) as model:
            check_prompts(prompts, model)
            prepare_to_render("auto", device)
            grays = background_range(model)
            with cancellable():
                inspection = inspect(
                    gaussians.to(device),
                    around.to(device),
                    model,
                    prompts,
                    loss,
                    max(timestep, 1) if timestep >= 0 else None,
                    progress,
                    seed,
                    sum(grays) / 2 if grays else 0.5,
                )
            return io.NodeOutput(labelled(columns(inspection)))


def columns(inspection: Inspection) -> list[tuple[str, torch.Tensor]]:
    """The pictures in the order in which they come about, with what is written above them."""
    t = f"t {int(inspection.t.float().mean())}"
    shown = [
        ("render", inspection.render),
        (f"noised, {t}", inspection.noised),
        ("x0, text alone", inspection.x0_text),
        (f"x0, guided {inspection.guidance:.4g}", inspection.x0_guided),
    ]
    if inspection.degraded is not None:
        shown.append(
            ("M_psi, learned" if inspection.continued else "M_psi, untrained", inspection.degraded)
        )
    shown.append(("gradient", 0.5 + 0.5 * inspection.gradient))
    return [(label, picture.permute(0, 2, 3, 1)) for label, picture in shown]
