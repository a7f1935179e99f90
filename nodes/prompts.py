"""View Prompts."""

from __future__ import annotations

from dataclasses import fields, replace
from typing import Any

from comfy_api.latest import io

from ..kernels.priors.base import Conditioning
from ..kernels.priors.prompts import ViewPrompts, view_prompts
from . import types
from .memory import ManagedPrior


class ViewPromptsNode(io.ComfyNode):
    @classmethod
    def define_schema(cls) -> io.Schema:
        return io.Schema(
            node_id="Distill3D_ViewPrompts",
            display_name="View Prompts",
            category="Distill3D",
            description="The prompt, embedded once for each side: ', front view', ', side view', ', back view' and "
            "', overhead view' are appended (or the finer words that a prior was trained with, as the embedded one), "
            "and every camera gets the text of the side it sees.",
            search_aliases=["prompt", "text", "text encode", "negative prompt", "janus"],
            inputs=[
                types.Prior.Input("prior", tooltip="The prior that will read the prompt, from Load Diffusion Prior."),
                io.String.Input(
                    "prompt",
                    default="a red mug",
                    multiline=True,
                    tooltip="One object, in words the prior knows. Embedded prior: 'a red mug', 'a blue chair with "
                    "white stripes'. Stable Diffusion: any text; the papers prepend 'A DSLR photo of'.",
                ),
                io.String.Input(
                    "negative",
                    default="",
                    multiline=True,
                    tooltip="What guidance moves away from; empty is the unconditional text (Consistent3D). "
                    "LucidDreamer: 'unrealistic, blurry, low quality, out of focus, ugly, low contrast, dull, dark, "
                    "low-resolution, oversaturation'. Leave it empty with the embedded prior, which does not know "
                    "these words.",
                ),
                io.Boolean.Input(
                    "view_dependent",
                    default=True,
                    tooltip="Append the view words. Off: the same text for all views, which invites several faces "
                    "(Janus).",
                ),
                io.Boolean.Input(
                    "interpolate",
                    default=False,
                    advanced=True,
                    tooltip="Blend the embeddings of neighbouring views linearly in azimuth (LucidDreamer) instead of "
                    "switching half-way, with four words at 45 and 135 degrees (Consistent3D). Overhead above 60 "
                    "degrees always switches.",
                ),
            ],
            outputs=[types.Prompts.Output(display_name="prompts", tooltip="For Optimize, with the same prior.")],
        )

    @classmethod
    def validate_inputs(cls, prompt: str | None) -> bool | str:
        if prompt is not None and not prompt.strip():
            return "The prompt is empty; describe one object, for instance 'a red mug'."
        return True

    @classmethod
    def execute(
        cls, prior: ManagedPrior, prompt: str, negative: str, view_dependent: bool, interpolate: bool
    ) -> io.NodeOutput:
        with prior.loaded() as model:
            prompts = view_prompts(model, prompt, negative, view_dependent=view_dependent, interpolate=interpolate)
        return io.NodeOutput(on_cpu(prompts))


def on_cpu(prompts: ViewPrompts) -> ViewPrompts:
    """The same prompts with their embeddings in main memory: what ComfyUI caches must not hold on to the GPU's."""
    found = {f.name: getattr(prompts, f.name) for f in fields(prompts)}
    moved: dict[str, Any] = {name: row.to("cpu") for name, row in found.items() if isinstance(row, Conditioning)}
    return replace(prompts, **moved)
