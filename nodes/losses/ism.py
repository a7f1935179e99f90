"""ISM Loss."""

from __future__ import annotations

from comfy_api.latest import io

from ...kernels.losses.ism import ISM
from .inputs import (
    CATEGORY,
    TimestepLossNode,
    auto_input,
    loss_output,
    number_input,
    plain_inputs,
    steps_input,
    steps_option,
    timestep_inputs,
    timestep_options,
)


class ISMLoss(TimestepLossNode):
    settings = ISM

    @classmethod
    def define_schema(cls) -> io.Schema:
        return io.Schema(
            node_id="Distill3D_ISMLoss",
            display_name="ISM Loss",
            category=CATEGORY,
            description=(
                "Interval Score Matching (LucidDreamer, CVPR 2024), after its official code: the"
                " render is made noisy along the prior's own flow, not at random, and two"
                " neighbouring points are compared. 8 denoiser evaluations per step and view at"
                " t_max 980, 6 at 500."
            ),
            search_aliases=[
                "luciddreamer",
                "interval score matching",
                "ddim inversion",
                "score distillation",
            ],
            inputs=[
                *plain_inputs(ISM(), "LucidDreamer: 7.5. Embedded prior: begin with 7.5."),
                *timestep_inputs(ISM(), "LucidDreamer: sigma/alpha."),
                steps_input(
                    "gap",
                    ISM().gap,
                    "Distance of the two points compared, timesteps. LucidDreamer: 80, 50 or 25"
                    " (4, 4 and 1 of its configs), falling to that from gap_start.",
                    low=1,
                ),
                steps_input(
                    "stride",
                    ISM().stride,
                    "Timesteps per step of the inversion; half of it makes the inversion cost twice"
                    " as much. LucidDreamer: 200.",
                    low=1,
                ),
                steps_option(
                    "start_level",
                    ISM().start_level,
                    "Timestep that the inversion begins at, of the render with that much fresh"
                    " noise; 0: the render itself. LucidDreamer: 1, with t_min 21.",
                ),
                steps_option(
                    "gap_start",
                    ISM().gap_start,
                    "The gap at the start, timesteps; it falls to gap as the highest noise level"
                    " does. 0: gap throughout. LucidDreamer: 100.",
                ),
                number_input(
                    "noise_offset",
                    ISM().noise_offset,
                    "Share of a random number per channel in the noise of start_level."
                    " LucidDreamer: 0.1.",
                    high=10.0,
                    step=0.05,
                    optional=True,
                ),
                *timestep_options(ISM()),
                auto_input(),
            ],
            outputs=[loss_output()],
        )
