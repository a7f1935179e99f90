"""Diffusion Prior from Model."""

from __future__ import annotations

from typing import Any

from comfy_api.latest import io

from . import types
from .comfy_prior import managed


class DiffusionPriorFromModel(io.ComfyNode):
    @classmethod
    def define_schema(cls) -> io.Schema:
        return io.Schema(
            node_id="Distill3D_DiffusionPriorFromModel",
            display_name="Diffusion Prior from Model",
            category="Distill3D",
            description="ComfyUI's own MODEL, CLIP and VAE as the prior that judges the renderings: Stable Diffusion "
            "1.x, 2.x or SDXL from any loader, with LoRAs and other patches of the model in force. What acts on the "
            "guided result (RescaleCFG and the like) does not: the losses do the guiding.",
            search_aliases=["checkpoint", "lora", "stable diffusion", "sdxl", "model", "score distillation"],
            inputs=[
                io.Model.Input(
                    "model",
                    tooltip="A text-to-image model, from Load Checkpoint, Load LoRA or any other node. Inpainting, "
                    "video and flow models (SD3, FLUX) are refused.",
                ),
                io.Clip.Input("clip", tooltip="The model's own text encoder, with its LoRAs and CLIP Set Last Layer."),
                io.Vae.Input(
                    "vae",
                    tooltip="The model's own VAE. The VAE of another kind of model with as many channels (SDXL's with "
                    "Stable Diffusion 1.x) cannot be told apart and gives wrong colours.",
                ),
            ],
            outputs=[types.Prior.Output(display_name="prior", tooltip="For View Prompts and Optimize.")],
        )

    @classmethod
    def execute(cls, model: Any, clip: Any, vae: Any) -> io.NodeOutput:
        return io.NodeOutput(managed(model, clip, vae))
