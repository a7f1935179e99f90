"""Combine Losses and Schedule Losses."""

from __future__ import annotations

from comfy_api.latest import io

from ...kernels.losses.base import Loss
from ...kernels.losses.combine import SPANS, Combined, Scheduled
from ...kernels.losses.sds import SDS
from ..shared import types
from ..shared.validation import validate
from .inputs import CATEGORY, checked, loss_output, number_input


class CombineLosses(io.ComfyNode):
    @classmethod
    def define_schema(cls) -> io.Schema:
        return io.Schema(
            node_id="Distill3D_CombineLosses",
            display_name="Combine Losses",
            category=CATEGORY,
            description=(
                "A weighted sum of two losses, which is again a loss: chain this node for more."
                " Each asks the prior for itself, so the cost adds up."
            ),
            search_aliases=["sum", "mix", "blend", "weighted"],
            inputs=[
                types.Loss.Input("loss_a", tooltip="The first loss, whichever it is."),
                types.Loss.Input("loss_b", tooltip="The second loss; the same kind again is fine."),
                number_input(
                    "weight_a",
                    1.0,
                    "Factor on the first loss; 0 leaves it out.",
                    high=1e6,
                    step=0.1,
                    advanced=False,
                ),
                number_input(
                    "weight_b",
                    1.0,
                    "Factor on the second loss; 0 leaves it out.",
                    high=1e6,
                    step=0.1,
                    advanced=False,
                ),
            ],
            outputs=[loss_output()],
        )

    @classmethod
    def validate_inputs(
        cls, weight_a: float | None = None, weight_b: float | None = None
    ) -> bool | str:
        weights = {"weight_a": weight_a, "weight_b": weight_b}
        return validate(
            cls, weights, lambda weight_a, weight_b: Combined((SDS(), SDS()), (weight_a, weight_b))
        )

    @classmethod
    def execute(cls, loss_a: Loss, loss_b: Loss, weight_a: float, weight_b: float) -> io.NodeOutput:
        return io.NodeOutput(checked(Combined((loss_a, loss_b), (weight_a, weight_b))))


class ScheduleLosses(io.ComfyNode):
    @classmethod
    def define_schema(cls) -> io.Schema:
        return io.Schema(
            node_id="Distill3D_ScheduleLosses",
            display_name="Schedule Losses",
            category=CATEGORY,
            description=(
                "Two losses one after the other, each over its share of the run, which is again a"
                " loss: chain this node for more. Only the one whose turn it is asks the prior, so"
                " the cost is that of one."
            ),
            search_aliases=["sequence", "switch", "stages", "first then", "picture loss"],
            inputs=[
                types.Loss.Input("first", tooltip="The loss that the run begins with."),
                types.Loss.Input("second", tooltip="The loss that takes over."),
                number_input(
                    "switch_at",
                    0.4,
                    "Share of the run, 0..1, after which the second loss takes over. 0: the second"
                    " alone; 1: the first alone. VDM and Picture Loss on the embedded prior: 0.4,"
                    " 0.6 in runs of 800 steps.",
                    high=1.0,
                    step=0.05,
                    advanced=False,
                ),
                io.Combo.Input(
                    "first_anneals_over",
                    options=list(SPANS),
                    default="whole run",
                    advanced=True,
                    tooltip=(
                        "Over what the first loss's own schedule runs, such as its noise levels."
                        " whole run: as if it were alone, so that it is cut off on its way. own"
                        " share: to its end before the second takes over."
                    ),
                ),
                io.Combo.Input(
                    "second_anneals_over",
                    options=list(SPANS),
                    default="own share",
                    advanced=True,
                    tooltip=(
                        "The same for the second loss. own share: from its beginning where it takes"
                        " over. whole run: as if it had run from the start."
                    ),
                ),
            ],
            outputs=[loss_output()],
        )

    @classmethod
    def execute(
        cls,
        first: Loss,
        second: Loss,
        switch_at: float,
        first_anneals_over: str,
        second_anneals_over: str,
    ) -> io.NodeOutput:
        spans = (first_anneals_over, second_anneals_over)
        return io.NodeOutput(checked(Scheduled((first, second), (0.0, switch_at), spans)))
