"""Diffusion Prior from Model."""

from __future__ import annotations

from typing import Any

from comfy_api.latest import io

from ..shared import types
from .comfy_prior import managed


class DiffusionPriorFromModel(io.ComfyNode):
    @classmethod
    def define_schema(cls) -> io.Schema:
        return io.Schema(
            node_id="Distill3D_DiffusionPriorFromModel",
            display_name="Diffusion Prior from Model",
            category="Distill3D",
            description=(
                "ComfyUI's own MODEL, CLIP and VAE as the prior that judges the renderings: Stable"
                " Diffusion 1.x, 2.x and 3.x, SDXL or FLUX.1 from any loader, with LoRAs and other"
                " patches of the model in force. What acts on the guided result (RescaleCFG and the"
                " like) does not: the losses do the guiding."
            ),
            search_aliases=[
                "checkpoint",
                "lora",
                "stable diffusion",
                "sdxl",
                "sd3",
                "flux",
                "model",
                "score distillation",
            ],
            inputs=[
                io.Model.Input(
                    "model",
                    tooltip=(
                        "A text-to-image model, from Load Checkpoint, Load LoRA or any other node."
                        " Inpainting, editing and video models are refused."
                    ),
                ),
                io.Clip.Input(
                    "clip",
                    tooltip="The model's own text encoder, with its LoRAs and CLIP Set Last Layer.",
                ),
                io.Vae.Input(
                    "vae",
                    tooltip=(
                        "The model's own VAE. One of another kind of model (SDXL's with Stable"
                        " Diffusion 1.x) is refused: told by its checkpoint, or by what it makes of"
                        " plain colours."
                    ),
                ),
                io.Float.Input(
                    "distilled_guidance",
                    default=1.0,
                    min=0.0,
                    max=100.0,
                    step=0.1,
                    optional=True,
                    advanced=True,
                    tooltip=(
                        "The guidance that FLUX.1-dev is told (FluxGuidance's; pictures are made at"
                        " 3.5). 1 leaves the guiding to the loss. Other models do not read it."
                        " Ours: no paper distils FLUX."
                    ),
                ),
            ],
            outputs=[
                types.Prior.Output(display_name="prior", tooltip="For View Prompts and Optimize.")
            ],
        )

    @classmethod
    def execute(
        cls, model: Any, clip: Any, vae: Any, distilled_guidance: float = 1.0
    ) -> io.NodeOutput:
        return io.NodeOutput(managed(model, clip, vae, distilled_guidance=distilled_guidance))
