"""Quality Preset."""

from __future__ import annotations

from dataclasses import astuple

import comfy.model_management
from comfy_api.latest import io

from ...kernels.rasterizers.rasterize import choose
from ...kernels.run.presets import PRESETS

AUTO = "auto"


def affordable() -> str:
    """The preset that this machine makes in some seconds with a rasterizer for its GPU, else in a
    minute or two.
    """
    device = comfy.model_management.get_torch_device()
    return "fine" if device.type == "cuda" and choose(device) != "torch" else "standard"


class QualityPreset(io.ComfyNode):
    @classmethod
    def define_schema(cls) -> io.Schema:
        return io.Schema(
            node_id="Distill3D_QualityPreset",
            display_name="Quality Preset",
            category="Distill3D",
            description=(
                "One choice between quick and good, as numbers for the other nodes: link each"
                " output to the input of the same name. For the embedded prior with CDS Loss and"
                " Init from Text. The subgraph Text to 3D has it built in."
            ),
            search_aliases=["draft", "standard", "fine", "high", "settings", "fast", "text to 3d"],
            inputs=[
                io.Combo.Input(
                    "quality",
                    options=[AUTO, *PRESETS],
                    default=AUTO,
                    tooltip=(
                        "auto: fine on a GPU with Triton or gsplat, else standard. draft: about"
                        " half the time of standard, to see whether the prompt works (45 steps of"
                        " 2 views). standard: 90 steps of 2 views. fine: 90 steps of 4 views with"
                        " five times as many, smaller Gaussians and a texture of 1024; two to four"
                        " times the time on a CPU. high: the same, and a finer mesh."
                    ),
                )
            ],
            outputs=[
                io.Int.Output(display_name="steps", tooltip="To steps of Optimize N Steps."),
                io.Int.Output(display_name="views", tooltip="To views of Optimize N Steps."),
                io.Int.Output(display_name="count", tooltip="To count of Init from Text."),
                io.Float.Output(
                    display_name="lambda_opacity", tooltip="To lambda_opacity of Penalties."
                ),
                io.Int.Output(
                    display_name="resolution", tooltip="To resolution of Export Mesh, grid points."
                ),
                io.Int.Output(
                    display_name="texture_size", tooltip="To texture_size of Export Mesh, texels."
                ),
            ],
        )

    @classmethod
    def execute(cls, quality: str) -> io.NodeOutput:
        chosen = affordable() if quality == AUTO else quality
        preset = PRESETS[chosen]
        told = f"{chosen}: {preset.steps} steps of {preset.views} views, {preset.count} Gaussians"
        return io.NodeOutput(*astuple(preset), ui={"text": [told]})
