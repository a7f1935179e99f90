"""SCTD Loss."""

from __future__ import annotations

from typing import Any

from comfy_api.latest import io

from ...kernels.losses.sctd import SCTD
from ..shared.validation import validate
from .inputs import CATEGORY, checked, loss_output, plain_inputs, steps_input, timestep_inputs


class SCTDLoss(io.ComfyNode):
    @classmethod
    def define_schema(cls) -> io.Schema:
        return io.Schema(
            node_id="Distill3D_SCTDLoss",
            display_name="SCTD Loss",
            category=CATEGORY,
            description=(
                "Segmented Consistency Trajectory Distillation (SegmentDreamer, ICCV 2025), after"
                " its official code: the flow is split into segments, consistency is asked for"
                " within one, and guidance is a part of its own. 5 denoiser evaluations per step"
                " and view."
            ),
            search_aliases=["segmentdreamer", "segmented consistency", "consistency distillation"],
            inputs=[
                *plain_inputs(
                    SCTD(), "It enters twice. SegmentDreamer: 7.5. Embedded prior: about 4."
                ),
                *timestep_inputs(SCTD(), "SegmentDreamer: sigma/alpha."),
                io.Int.Input(
                    "segments",
                    default=SCTD().segments,
                    min=1,
                    max=100,
                    advanced=True,
                    tooltip=(
                        "Segments between t_min and the highest timestep. SegmentDreamer: 4, its"
                        " script 5."
                    ),
                ),
                steps_input(
                    "gap",
                    SCTD().gap,
                    "Least distance of t from its segment's lower edge, timesteps; less than a"
                    " segment. SegmentDreamer: 80.",
                    low=1,
                ),
                steps_input(
                    "margin",
                    SCTD().margin,
                    "The level between the two keeps so many timesteps from either."
                    " SegmentDreamer: 10.",
                ),
            ],
            outputs=[loss_output()],
        )

    @classmethod
    def validate_inputs(
        cls,
        t_min: int | None,
        t_max_start: int | None,
        t_max_end: int | None,
        segments: int | None,
        gap: int | None,
        margin: int | None,
    ) -> bool | str:
        return validate(cls, {key: value for key, value in locals().items() if key != "cls"}, SCTD)

    @classmethod
    def execute(cls, **inputs: Any) -> io.NodeOutput:
        return io.NodeOutput(checked(SCTD(**inputs)))
