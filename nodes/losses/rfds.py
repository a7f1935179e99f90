"""RFDS Loss."""

from __future__ import annotations

from comfy_api.latest import io

from ...kernels.losses.rfds import RFDS
from .inputs import (
    CATEGORY,
    TimestepLossNode,
    auto_input,
    loss_output,
    plain_inputs,
    timestep_inputs,
    timestep_options,
)


class RFDSLoss(TimestepLossNode):
    settings = RFDS

    @classmethod
    def define_schema(cls) -> io.Schema:
        return io.Schema(
            node_id="Distill3D_RFDSLoss",
            display_name="RFDS Loss",
            category=CATEGORY,
            description=(
                "Rectified Flow Distillation Sampling (ICLR 2025), after its code: SDS in the"
                " velocity of flow models (Stable Diffusion 3, FLUX, Z-Image, Qwen-Image ...), and"
                " its RFDS-Rev, which first turns the random noise into the one that the prior"
                " sees. 3 denoiser evaluations per step and view, 2 without reverse."
            ),
            search_aliases=["rectified flow", "rfds-rev", "flow matching", "score distillation"],
            inputs=[
                *plain_inputs(RFDS(), "RFDS: 100. Embedded prior: 2.5."),
                *timestep_inputs(RFDS(), "RFDS: one.", "RFDS: 700, before the flow's shift."),
                io.Boolean.Input(
                    "reverse",
                    default=RFDS().reverse,
                    advanced=True,
                    tooltip=(
                        "RFDS-Rev: the prior's own estimate of the noise, without guidance, takes"
                        " the place of the random one. Off: RFDS."
                    ),
                ),
                *timestep_options(RFDS()),
                auto_input(),
            ],
            outputs=[loss_output()],
        )
