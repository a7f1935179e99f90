"""CSD Loss."""

from __future__ import annotations

from comfy_api.latest import io

from ...kernels.losses.csd import CSD
from .inputs import (
    CATEGORY,
    TimestepLossNode,
    auto_input,
    loss_output,
    number_input,
    plain_inputs,
    timestep_inputs,
    timestep_options,
)


class CSDLoss(TimestepLossNode):
    settings = CSD

    @classmethod
    def define_schema(cls) -> io.Schema:
        return io.Schema(
            node_id="Distill3D_CSDLoss",
            display_name="CSD Loss",
            category=CATEGORY,
            description=(
                "Classifier Score Distillation (ICLR 2024): of SDS only what guidance adds, the way"
                " from the negative text to the prompt. Steady; saturates in long runs. 2 denoiser"
                " evaluations per step and view."
            ),
            search_aliases=["classifier score distillation", "score distillation", "baseline"],
            inputs=[
                *plain_inputs(
                    CSD(),
                    "Here it only scales the gradient, by s - 1. CSD's code: 2. Embedded prior:"
                    " about 20.",
                ),
                *timestep_inputs(
                    CSD(), "CSD's code: 1-abar.", "CSD's code: 500, at the start too."
                ),
                number_input(
                    "negative_start",
                    CSD().negative_start,
                    "Share of the negative prompt, 0..1, in what is led away from, at the start;"
                    " the rest is the null text's. CSD's code: 1.",
                    high=1.0,
                    step=0.05,
                    optional=True,
                ),
                number_input(
                    "negative_end",
                    CSD().negative_end,
                    "The same share at the end, linear in between; below 1 in either: 3 evaluations"
                    " instead of 2. CSD's code: 0.5.",
                    high=1.0,
                    step=0.05,
                    optional=True,
                ),
                *timestep_options(CSD()),
                auto_input(),
            ],
            outputs=[loss_output()],
        )
