"""SDS Loss."""

from __future__ import annotations

from comfy_api.latest import io

from ...kernels.losses.base import WEIGHTINGS
from ...kernels.losses.schedule import ANNEALS
from ...kernels.losses.sds import SDS
from .inputs import (
    CATEGORY,
    CLIP,
    LEVEL,
    WEIGHT,
    WEIGHTS,
    TimestepLossNode,
    auto_input,
    loss_output,
    number_input,
    steps_input,
    timestep_options,
)


class SDSLoss(TimestepLossNode):
    settings = SDS

    @classmethod
    def define_schema(cls) -> io.Schema:
        return io.Schema(
            node_id="Distill3D_SDSLoss",
            display_name="SDS Loss",
            category=CATEGORY,
            description=(
                "Score Distillation Sampling (DreamFusion 2022), the baseline: add noise to a"
                " render, ask the prior which noise it sees given the prompt, and move the object"
                " by the difference."
            ),
            search_aliases=["dreamfusion", "score distillation sampling", "baseline"],
            inputs=[
                number_input(
                    "guidance",
                    SDS().guidance,
                    "Guidance: how strongly the text pulls; 1 is the prior without a push (scale s;"
                    " papers that write w mean s - 1). DreamFusion: 101 (w = 100), and lower washes"
                    " out. The embedded prior wants about 4, with weighting sigma/alpha and t_min"
                    " 100.",
                    advanced=False,
                ),
                number_input(
                    "weight",
                    1.0,
                    f"Factor on the gradient. DreamFusion: 1. {WEIGHT}",
                    high=1e6,
                    step=0.1,
                    advanced=False,
                ),
                io.Combo.Input(
                    "weighting",
                    options=list(WEIGHTINGS),
                    default=WEIGHTINGS[0],
                    advanced=True,
                    tooltip=f"{WEIGHTS} DreamFusion: 1-abar. LucidDreamer: sigma/alpha.",
                ),
                steps_input("t_min", 20, f"Lowest {LEVEL}. DreamFusion: 20."),
                steps_input(
                    "t_max_start", 980, f"Highest {LEVEL}, at the start. DreamFusion: 980."
                ),
                steps_input(
                    "t_max_end",
                    500,
                    "Highest noise level at the end, timestep. DreamFusion: 980; LucidDreamer:"
                    " 500.",
                ),
                io.Combo.Input(
                    "t_anneal",
                    options=list(ANNEALS),
                    default="linear",
                    advanced=True,
                    tooltip=(
                        "How the highest noise level moves. constant keeps t_max_start"
                        " (DreamFusion), jump keeps it until t_anneal_share is over; LucidDreamer:"
                        " linear."
                    ),
                ),
                io.Float.Input(
                    "t_anneal_share",
                    default=1.0,
                    min=0.001,
                    max=1.0,
                    step=0.05,
                    advanced=True,
                    tooltip=(
                        "Share of the run, 0..1, over which the highest noise level moves."
                        " LucidDreamer: 0.3."
                    ),
                ),
                number_input("clip", 0.0, CLIP, high=1e6),
                *timestep_options(SDS()),
                auto_input(),
            ],
            outputs=[loss_output()],
        )
