"""SCTD Loss."""

from __future__ import annotations

from typing import Any

from comfy_api.latest import io

from ...kernels.losses.sctd import SCTD
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
                steps_option(
                    "t_low_start",
                    SCTD().t_low_start,
                    "Lowest noise level at the start, timestep; it comes down to t_low_end as the"
                    " highest does. 0: t_min throughout. SegmentDreamer: 501.",
                ),
                steps_option(
                    "t_low_end",
                    SCTD().t_low_end,
                    "Lowest noise level once that is over, timestep, t_min or more."
                    " SegmentDreamer: 21, of segments from t_min 20 on.",
                ),
                steps_option(
                    "margin_above",
                    SCTD().margin_above,
                    "The margin below t, where it is another, timesteps; 0: margin."
                    " SegmentDreamer: 11.",
                ),
                steps_option(
                    "single_below",
                    SCTD().single_below,
                    "Below this timestep one step leads from the segment's edge to t."
                    " SegmentDreamer: 150.",
                ),
                switch_option(
                    "noise_per_view",
                    SCTD().noise_per_view,
                    "A fixed noise of its own for each view's place in a step, not one for all."
                    " SegmentDreamer: on.",
                ),
                number_input(
                    "noise_offset",
                    SCTD().noise_offset,
                    "Share of a fixed random number per channel in that noise. SegmentDreamer:"
                    " 0.1.",
                    high=10.0,
                    step=0.05,
                    optional=True,
                ),
                *timestep_options(SCTD()),
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
        t_anneal: str | None = None,
        t_anneal_share: float | None = None,
        segments: int | None = None,
        gap: int | None = None,
        margin: int | None = None,
        t_low_start: int | None = SCTD.t_low_start,
        t_low_end: int | None = SCTD.t_low_end,
        margin_above: int | None = SCTD.margin_above,
    ) -> bool | str:
        return validate(cls, {key: value for key, value in locals().items() if key != "cls"}, SCTD)

    @classmethod
    def execute(cls, values: str = OWN, **inputs: Any) -> io.NodeOutput:
        return given(SCTD(**inputs), values)
