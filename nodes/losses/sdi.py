"""SDI Loss."""

from __future__ import annotations

from typing import Any

from comfy_api.latest import io

from ...kernels.losses.sdi import SDI
from ..shared.auto import OWN
from ..shared.validation import validate
from .inputs import (
    CATEGORY,
    auto_input,
    given,
    loss_output,
    number_input,
    plain_inputs,
    steps_input,
    steps_option,
    switch_option,
    timestep_inputs,
    timestep_options,
)


class SDILoss(io.ComfyNode):
    @classmethod
    def define_schema(cls) -> io.Schema:
        return io.Schema(
            node_id="Distill3D_SDILoss",
            display_name="SDI Loss",
            category=CATEGORY,
            description=(
                "Score Distillation via Inversion (NeurIPS 2024), after threestudio's code: the"
                " noise added to a render is the one that the prior itself finds by running"
                " backwards from it. Costly: 22 denoiser evaluations per step and view at timestep"
                " 980, 10 at 250; a wider stride saves most of them."
            ),
            search_aliases=[
                "score distillation via inversion",
                "reparametrized ddim",
                "ddim inversion",
            ],
            inputs=[
                *plain_inputs(
                    SDI(),
                    "SDI: 7.5 with Perp-Neg, as in its code; 8.5 (w = 7.5) without. Embedded"
                    " prior: begin with 7.5, and inversion_guidance 1.",
                ),
                *timestep_inputs(SDI(), "SDI: sigma/alpha.", "SDI: 250."),
                io.Boolean.Input(
                    "t_random",
                    default=SDI().t_random,
                    advanced=True,
                    tooltip=(
                        "Draw the timestep from t_min on, instead of taking the highest itself."
                        " SDI: off."
                    ),
                ),
                number_input(
                    "inversion_guidance",
                    SDI().inversion_guidance,
                    "Guidance of the inversion; below 0 it leads away from the prompt, as the "
                    "way back leads towards it. SDI: -7.5 with Perp-Neg, as in its code; -6.5"
                    " (w = -7.5) without. Embedded prior: 1.",
                    low=-1000.0,
                ),
                steps_input(
                    "stride",
                    SDI().stride,
                    "Timesteps per step of the inversion, each of which costs 2 evaluations. SDI:"
                    " 100. Embedded prior: begin with 250.",
                    low=1,
                ),
                number_input(
                    "eta",
                    SDI().eta,
                    "Share of random noise in the inversion, 0..1. SDI: 0.3.",
                    high=1.0,
                    step=0.05,
                ),
                steps_option(
                    "first_level",
                    SDI().first_level,
                    "First level of the inversion, timestep; the others follow a stride apart. 0: a"
                    " stride, and the render counts as clean. SDI: 1, of a render that counts as"
                    " noisy to timestep 0.",
                ),
                switch_option(
                    "remap",
                    SDI().remap,
                    "Use the noise found somewhat above t at t, as the paper's text has it. Off:"
                    " the latent found there counts as one at t, as in SDI's code.",
                ),
                *timestep_options(SDI()),
                steps_option(
                    "reverse_steps",
                    SDI().reverse_steps,
                    "Steps from the noised picture to the guided clean one. SDI: 1. More:"
                    " Probability-Flow Distillation, 2 evaluations each.",
                    low=1,
                    high=100,
                ),
                auto_input(),
            ],
            outputs=[loss_output()],
        )

    @classmethod
    def validate_inputs(
        cls,
        t_min: int | None = None,
        t_max_start: int | None = None,
        t_max_end: int | None = None,
        stride: int | None = None,
        first_level: int | None = SDI.first_level,
    ) -> bool | str:
        return validate(cls, {key: value for key, value in locals().items() if key != "cls"}, SDI)

    @classmethod
    def execute(cls, values: str = OWN, **inputs: Any) -> io.NodeOutput:
        return given(SDI(**inputs), values)
