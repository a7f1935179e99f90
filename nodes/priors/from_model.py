"""Diffusion Prior from Model."""

from __future__ import annotations

import logging
from typing import Any

from comfy_api.latest import io

from ..shared import types
from .comfy_prior import managed
from .load import EMBEDDED, load

log = logging.getLogger(__name__)

NOTHING_LINKED = (
    "Nothing is linked: the embedded prior of 28 toys at 128 pixels. Link MODEL, CLIP and VAE of an"
    " image model for open text."
)


class DiffusionPriorFromModel(io.ComfyNode):
    @classmethod
    def define_schema(cls) -> io.Schema:
        return io.Schema(
            node_id="Distill3D_DiffusionPriorFromModel",
            display_name="Diffusion Prior from Model",
            category="Distill3D",
            description=(
                "ComfyUI's own MODEL, CLIP and VAE as the prior that judges the renderings: any"
                " text-to-image model from any loader, quantised or not, with LoRAs and other"
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
                "qwen image",
                "z-image",
                "krea",
                "chroma",
                "lumina",
                "model",
                "score distillation",
            ],
            inputs=[
                io.Model.Input(
                    "model",
                    optional=True,
                    tooltip=(
                        "A text-to-image model, from Load Checkpoint, Load Diffusion Model, Load"
                        " LoRA or any other node. Inpainting, video and other kinds of models are"
                        " refused, with what they do. With nothing linked here, to clip and to vae:"
                        " the embedded prior, so that a graph can be tried before a model is there."
                    ),
                ),
                io.Clip.Input(
                    "clip",
                    optional=True,
                    tooltip="The model's own text encoder, with its LoRAs and CLIP Set Last Layer.",
                ),
                io.Vae.Input(
                    "vae",
                    optional=True,
                    tooltip=(
                        "The model's own VAE; models of pixels need none. One of another kind"
                        " (SDXL's with Stable Diffusion 1.x) is refused: told by its checkpoint, or"
                        " by what it makes of plain colours."
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
                        "The guidance that a model with one of its own is told: FLUX.1-dev,"
                        " FLUX.2-dev (FluxGuidance's; pictures are made at 3.5 and 4). 1 leaves the"
                        " guiding to the loss. Other models do not read it. Ours: no paper distils"
                        " these."
                    ),
                ),
                io.Int.Input(
                    "few_steps",
                    default=0,
                    min=0,
                    max=100,
                    optional=True,
                    advanced=True,
                    tooltip=(
                        "Sampling steps that a distilled model was made for: Turbo and Lightning 4"
                        " to 8, LCM 4. It is then asked at the noise levels of these steps only,"
                        " and without a negative branch, at half the cost. 0: the model's kind says"
                        " (FLUX.1 schnell: 4), and others are taken as not distilled. Ours."
                    ),
                ),
                io.Boolean.Input(
                    "negative_branch",
                    default=True,
                    optional=True,
                    advanced=True,
                    tooltip=(
                        "Whether guidance may lead away from the negative prompt. Off for models"
                        " that were trained without: guidance then has no effect, and a step costs"
                        " half. few_steps turns it off."
                    ),
                ),
                io.Image.Input(
                    "pictures",
                    optional=True,
                    tooltip=(
                        "Pictures that an edit model reads beside every text, as Reference Latent"
                        " gives them to a sampler: FLUX.1 Kontext, FLUX.2, Qwen-Image-Edit. The"
                        " prompt then says what to make of them. Others refuse them; see Reference"
                        " Views, which works with every model."
                    ),
                ),
            ],
            outputs=[
                types.Prior.Output(display_name="prior", tooltip="For View Prompts and Optimize."),
                io.String.Output(
                    display_name="about",
                    tooltip=(
                        "What the model is taken for and what to know of it, in sentences; for"
                        " Preview as Text."
                    ),
                ),
            ],
        )

    @classmethod
    def execute(
        cls,
        model: Any = None,
        clip: Any = None,
        vae: Any = None,
        distilled_guidance: float = 1.0,
        few_steps: int = 0,
        negative_branch: bool = True,
        pictures: Any = None,
    ) -> io.NodeOutput:
        if model is clip is vae is None:
            return io.NodeOutput(load(EMBEDDED, "auto"), NOTHING_LINKED)
        made = managed(
            model,
            clip,
            vae,
            distilled_guidance=distilled_guidance,
            few_steps=few_steps,
            negative_branch=negative_branch,
            pictures=pictures,
        )
        log.info("Prior: %s", made.prior.about())
        return io.NodeOutput(made, made.prior.about())
