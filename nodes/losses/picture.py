"""Picture Loss."""

from __future__ import annotations

from typing import Any

from comfy_api.latest import io

from ...kernels.losses.picture import Picture
from ...kernels.losses.suited import VALUES
from ..shared.auto import OWN
from ..shared.presets import preset_input
from ..shared.validation import validate
from .inputs import (
    CATEGORY,
    CLIP,
    LEVEL,
    auto_input,
    given,
    loss_output,
    number_input,
    reduction_option,
    steps_input,
)

DEFAULTS = Picture()
PRESETS = {
    name: vars(settings)
    for name, settings in {
        "standard": DEFAULTS,
        "embedded prior": Picture(**VALUES["losses"]["Picture"]["embedded"]),
    }.items()
}


class PictureLoss(io.ComfyNode):
    @classmethod
    def define_schema(cls) -> io.Schema:
        return io.Schema(
            node_id="Distill3D_PictureLoss",
            display_name="Picture Loss",
            category=CATEGORY,
            description=(
                "The prior makes a picture of every noisy render in a few guided steps, and the"
                " render is drawn to it. Sharpens what is there already and makes no object of"
                " haze: as the second loss of Schedule Losses, after VDM Loss, or for refining."
                " This project's own; no paper has it."
            ),
            search_aliases=["sharpen", "refine", "ddim", "score distillation"],
            inputs=[
                preset_input(
                    PRESETS,
                    "standard: our defaults. embedded prior: after VDM Loss in runs of at most 300"
                    " steps with the prior that ships with the pack.",
                ),
                number_input(
                    "guidance",
                    DEFAULTS.guidance,
                    "Guidance: how strongly the text pulls; 1 is the prior without a push (scale"
                    " s), which halves the cost and loses detail. Embedded prior: 1.5.",
                    advanced=False,
                ),
                io.Int.Input(
                    "steps",
                    default=DEFAULTS.steps,
                    min=1,
                    max=50,
                    tooltip=(
                        "Denoiser steps per picture; each costs as much as a step of SDS. 3 give a"
                        " sharp picture, 1 a soft mean."
                    ),
                ),
                number_input(
                    "weight",
                    DEFAULTS.weight,
                    "Factor on the gradient, which is render - picture in units of the latent.",
                    high=1e6,
                    step=0.1,
                    advanced=False,
                ),
                steps_input("t_min", DEFAULTS.t_min, f"Lowest {LEVEL}."),
                steps_input(
                    "t_max",
                    DEFAULTS.t_max,
                    "Highest noise level, timestep, where this loss begins; comes down to 200 above"
                    " t_min. Refining what is right already: 600.",
                ),
                io.Boolean.Input(
                    "shared_t",
                    default=DEFAULTS.shared_t,
                    advanced=True,
                    tooltip="One timestep for all views of a step. Off: one for each view.",
                ),
                number_input("clip", DEFAULTS.clip, CLIP, high=1e6),
                reduction_option(DEFAULTS.reduction),
                auto_input(),
            ],
            outputs=[loss_output()],
        )

    @classmethod
    def validate_inputs(cls, t_min: int | None = None, t_max: int | None = None) -> bool | str:
        return validate(cls, {"t_min": t_min, "t_max": t_max}, Picture)

    @classmethod
    def execute(cls, preset: str, values: str = OWN, **inputs: Any) -> io.NodeOutput:
        return given(Picture(**inputs), values)
