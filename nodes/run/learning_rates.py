"""Learning Rates."""

from __future__ import annotations

from comfy_api.latest import io

from ...kernels.run.learning_rates import LearningRates as Rates
from ..shared import types
from ..shared.presets import preset_input
from .inputs import SETTINGS

DEFAULTS = Rates()
PRESETS = {
    name: vars(rates)
    for name, rates in {
        "embedded prior": Rates(),
        "embedded prior, at most 300 steps": Rates(
            lr_means=8e-3, lr_scales=2e-2, lr_opacities=0.1, lr_colors=6e-2
        ),
        "embedded prior, from a text": Rates(
            lr_means=2e-3, lr_scales=5e-3, lr_opacities=0.025, lr_colors=0.015
        ),
        "LucidDreamer": Rates(
            lr_means=5.6e-4,
            final_means=0.01,
            lr_scales=5e-3,
            lr_quats=1e-3,
            lr_colors=5e-3,
            final_opacities=1.0,
            final_colors=0.6,
        ),
    }.items()
}


def _rate(group: str, what: str, unit: str, papers: str) -> io.Float.Input:
    id = f"lr_{group}"
    return io.Float.Input(
        id,
        default=getattr(DEFAULTS, id),
        min=0.0,
        max=10.0,
        step=0.00001,
        round=0.0000001,
        tooltip=(
            f"How fast the {what} change: learning rate of the {group}, {unit}; 0 freezes them."
            f" LucidDreamer, 5000 steps: {papers}."
        ),
    )


def _final(group: str, paper: str) -> io.Float.Input:
    id, later = f"final_{group}", group != "means"
    return io.Float.Input(
        id,
        default=getattr(DEFAULTS, id),
        min=0.0001,
        max=1.0,
        step=0.01,
        round=0.0001,
        optional=later,
        advanced=later or None,
        tooltip=(
            f"Share of lr_{group} left at the schedule's end, 0..1; it falls exponentially."
            f" LucidDreamer: {paper}."
        ),
    )


class LearningRates(io.ComfyNode):
    @classmethod
    def define_schema(cls) -> io.Schema:
        return io.Schema(
            node_id="Distill3D_LearningRates",
            display_name="Learning Rates",
            category=SETTINGS,
            description=(
                "How fast Optimize moves each property of the Gaussians. All rates fall over the"
                " schedule, to a fifth unless said otherwise. Without this node Optimize takes this"
                " node's defaults."
            ),
            search_aliases=["lr", "adam", "step size", "freeze"],
            inputs=[
                preset_input(
                    PRESETS,
                    "embedded prior: for the prior that ships with the pack, from about 240 steps"
                    " on; twice that for runs of at most 300, half of it from Init from Text."
                    " LucidDreamer: for Stable Diffusion and thousands of steps.",
                ),
                _rate("means", "places", "world units per step", "5.6e-4, falling to 5.6e-6"),
                _final("means", "0.01"),
                _rate("scales", "sizes", "natural-log units per step", "5e-3, falling to 1e-3"),
                _rate("quats", "rotations", "half radians per step", "1e-3, falling to 2e-4"),
                _rate("opacities", "opacities", "logit units per step", "5e-2"),
                _rate(
                    "colors",
                    "colours",
                    "in units of 0.28 of a colour 0..1, per step",
                    "5e-3, falling to 3e-3",
                ),
                _final("scales", "0.2"),
                _final("quats", "0.2"),
                _final("opacities", "1, where it stays"),
                _final("colors", "0.6"),
            ],
            outputs=[
                types.LearningRates.Output(display_name="learning_rates", tooltip="For Optimize.")
            ],
        )

    @classmethod
    def execute(cls, preset: str, **rates: float) -> io.NodeOutput:
        Rates(**rates).check()
        return io.NodeOutput(rates)
