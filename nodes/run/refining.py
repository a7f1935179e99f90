"""Refining."""

from __future__ import annotations

from dataclasses import dataclass

from comfy_api.latest import io

from ...kernels.gaussians.cloud import Gaussians
from ...kernels.run.anchor import Anchor, ceiling
from ..shared import types
from ..shared.presets import preset_input
from .inputs import SETTINGS

PRESETS = {
    name: dict(zip(("strength", "lambda_anchor_alpha", "lambda_anchor_color"), values, strict=True))
    for name, values in {
        "anything may change": (1.0, 20_000.0, 0.0),
        "colours alone": (0.7, 20_000.0, 0.0),
        "details": (0.3, 20_000.0, 20_000.0),
    }.items()
}
STANDARD = next(iter(PRESETS.values()))


@dataclass(frozen=True)
class Hold:
    """What keeps a run near a finished cloud.

    Args:
        strength: see `kernels.run.anchor.gentle`
    """

    strength: float = 1.0
    anchor: Anchor | None = None


class Refining(io.ComfyNode):
    @classmethod
    def define_schema(cls) -> io.Schema:
        return io.Schema(
            node_id="Distill3D_Refining",
            display_name="Refining",
            category=SETTINGS,
            description=(
                "For an Optimize that changes a finished object instead of making one: how far it"
                " may lead away, and a cloud whose renders it is held to. Without this node nothing"
                " is held."
            ),
            search_aliases=["strength", "anchor", "edit", "repaint", "image to image", "sdedit"],
            inputs=[
                preset_input(
                    PRESETS,
                    "anything may change: as without this node, but for the anchor. colours alone:"
                    " the shape stays. details: shape and colours stay, what is small is drawn"
                    " anew. The last two need an anchor, with the embedded prior and with Stable"
                    " Diffusion alike.",
                ),
                types.GaussianCloud.Input(
                    "anchor",
                    optional=True,
                    tooltip=(
                        "A cloud whose renders the run is held to, from the cameras of every step:"
                        " usually the one that goes into Optimize. Without it nothing but strength"
                        " holds the object."
                    ),
                ),
                io.Float.Input(
                    "strength",
                    default=STANDARD["strength"],
                    min=0.0,
                    max=1.0,
                    step=0.05,
                    round=0.001,
                    tooltip=(
                        "How far a finished object may change, 0..1: no loss goes to noise levels"
                        " above timestep 40 + 940 x this. 1: as the loss says, for making an"
                        " object. 0.3 redraws details, 0.7 parts. Ours, after SDEdit."
                    ),
                ),
                _weight("alpha", "silhouettes: the shape stays, its colours are free"),
                _weight("color", "pictures: colours and details stay too"),
            ],
            outputs=[types.Refining.Output(display_name="refining", tooltip="For Optimize.")],
        )

    @classmethod
    def execute(
        cls,
        preset: str,
        strength: float,
        lambda_anchor_alpha: float,
        lambda_anchor_color: float,
        anchor: Gaussians | None = None,
    ) -> io.NodeOutput:
        ceiling(strength)
        held = None if anchor is None else Anchor(anchor, lambda_anchor_color, lambda_anchor_alpha)
        return io.NodeOutput(Hold(strength, held))


def _weight(part: str, kept: str) -> io.Float.Input:
    id = f"lambda_anchor_{part}"
    return io.Float.Input(
        id,
        default=STANDARD[id],
        min=0.0,
        max=1e6,
        step=100.0,
        round=0.001,
        tooltip=(
            f"Weight of the mean squared difference to the anchor's {kept}. Nothing without an"
            " anchor. Ours."
        ),
    )
