"""NFSD Loss."""

from __future__ import annotations

from comfy_api.latest import io

from ...kernels.losses.nfsd import NFSD
from .inputs import (
    CATEGORY,
    TimestepLossNode,
    auto_input,
    loss_output,
    plain_inputs,
    steps_input,
    timestep_inputs,
    timestep_options,
)


class NFSDLoss(TimestepLossNode):
    settings = NFSD

    @classmethod
    def define_schema(cls) -> io.Schema:
        return io.Schema(
            node_id="Distill3D_NFSDLoss",
            display_name="NFSD Loss",
            category=CATEGORY,
            description=(
                "Noise-Free Score Distillation (ICLR 2024): SDS without the noise that over-smooths"
                " it. Give View Prompts a negative prompt of quality words (unrealistic, blurry,"
                " low quality ...); without one this is CSD above t_low. 3 denoiser evaluations per"
                " step and view."
            ),
            search_aliases=[
                "noise-free score distillation",
                "noise free",
                "score distillation",
                "baseline",
            ],
            inputs=[
                *plain_inputs(NFSD(), "NFSD: 7.5. Embedded prior: about 20."),
                *timestep_inputs(NFSD(), "DreamFusion: 1-abar."),
                steps_input(
                    "t_low",
                    NFSD().t_low,
                    "Below this timestep the null text's estimate is taken whole, above it less the"
                    " negative prompt's. NFSD: 200.",
                ),
                *timestep_options(NFSD()),
                auto_input(),
            ],
            outputs=[loss_output()],
        )
