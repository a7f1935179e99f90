"""View Prompts."""

from __future__ import annotations

from typing import Any

from comfy_api.latest import io

from ..kernels.priors.base import Prior
from ..kernels.priors.perp_neg import WEIGHTS
from ..kernels.priors.prompts import PERP_NEG_FROM, view_prompts
from ..kernels.toybox.captions import spelled
from ..kernels.toybox.scene_captions import check_sentence, vocabulary
from .priors.memory import ManagedPrior
from .shared import types
from .shared.validation import undeclared


def guidance_input(id: str, where: str) -> io.Float.Input:
    return io.Float.Input(
        id,
        default=1.0,
        min=0.0,
        max=10.0,
        step=0.05,
        optional=True,
        advanced=True,
        tooltip=(
            f"Factor on the loss's guidance scale for views {where}; smooth in between, and 1 at"
            " the front. Applies to the standard scale s of every loss. Papers: 1. Our addition."
        ),
    )


class ViewPromptsNode(io.ComfyNode):
    @classmethod
    def define_schema(cls) -> io.Schema:
        return io.Schema(
            node_id="Distill3D_ViewPrompts",
            display_name="View Prompts",
            category="Distill3D",
            description=(
                "The prompt, embedded once for each side: ', front view', ', side view', ', back"
                " view' and ', overhead view' are appended (or the finer words that a prior was"
                " trained with, as the embedded one), and every camera gets the text of the side it"
                " sees."
            ),
            search_aliases=["prompt", "text", "text encode", "negative prompt", "janus"],
            inputs=[
                types.Prior.Input(
                    "prior",
                    tooltip="The prior that will read the prompt, from Load Diffusion Prior.",
                ),
                io.String.Input(
                    "prompt",
                    default="a red mug",
                    multiline=True,
                    dynamic_prompts=True,
                    tooltip=(
                        "One object, in words the prior knows. Embedded prior: 'a red mug', 'a blue"
                        " chair with white stripes'. Stable Diffusion: any text; the papers prepend"
                        " 'A DSLR photo of'."
                    ),
                ),
                io.String.Input(
                    "negative",
                    default="",
                    multiline=True,
                    dynamic_prompts=True,
                    tooltip=(
                        "What guidance moves away from; empty is the unconditional text"
                        " (Consistent3D). LucidDreamer: 'unrealistic, blurry, low quality, out of"
                        " focus, ugly, low contrast, dull, dark, low-resolution, oversaturation'."
                        " Leave it empty with the embedded prior, which does not know these words."
                    ),
                ),
                io.Boolean.Input(
                    "view_dependent",
                    default=True,
                    tooltip=(
                        "Append the view words. Off: the same text for all views, which invites"
                        " several faces (Janus)."
                    ),
                ),
                io.Boolean.Input(
                    "interpolate",
                    default=False,
                    advanced=True,
                    tooltip=(
                        "Blend the embeddings of neighbouring views linearly in azimuth"
                        " (LucidDreamer) instead of switching half-way, with four words at 45 and"
                        " 135 degrees (Consistent3D); and blend into overhead between 50 and 70"
                        " degrees of elevation instead of switching at 60."
                    ),
                ),
                io.Float.Input(
                    "perp_neg",
                    default=0.0,
                    min=0.0,
                    max=10.0,
                    step=0.1,
                    optional=True,
                    advanced=True,
                    tooltip=(
                        "Perp-Neg, against several faces: lead every view away from the front and"
                        " the side text, across its own text's direction. 0: off. 1: the weights of"
                        " LucidDreamer's code, which has interpolate on (Perp-Neg is off in 5 of"
                        " its 9 configs). Costs up to two more evaluations per view beside the"
                        " loss's usual two, 1.7 on average (1.9 with interpolate)."
                    ),
                ),
                io.Combo.Input(
                    "perp_neg_weights",
                    options=list(WEIGHTS),
                    default="luciddreamer",
                    optional=True,
                    advanced=True,
                    tooltip=(
                        "By whose weights Perp-Neg leads away from the other texts at each azimuth;"
                        " perp_neg multiplies them. LucidDreamer: luciddreamer. SDI: threestudio."
                    ),
                ),
                io.Combo.Input(
                    "perp_neg_from",
                    options=list(PERP_NEG_FROM),
                    default="null",
                    optional=True,
                    advanced=True,
                    tooltip=(
                        "What Perp-Neg measures its directions from. null: the empty text."
                        " negative: the negative prompt; the same where that is empty. LucidDreamer"
                        " and SDI: negative."
                    ),
                ),
                guidance_input("side_guidance", "from the side (azimuth 90 degrees)"),
                guidance_input("back_guidance", "from the back"),
                guidance_input("overhead_guidance", "from above (elevation 70 degrees and more)"),
            ],
            outputs=[
                types.Prompts.Output(
                    display_name="prompts", tooltip="For Optimize, with the same prior."
                )
            ],
        )

    @classmethod
    def validate_inputs(
        cls,
        prompt: str | None = None,
        view_dependent: bool | None = None,
        perp_neg: float | None = None,
    ) -> bool | str:
        if prompt is not None and not prompt.strip():
            return "The prompt is empty; describe one object, for instance 'a red mug'."
        if problem := undeclared(cls, {"perp_neg": perp_neg}):
            return problem
        if perp_neg and view_dependent is False:
            return (
                f"perp_neg is {perp_neg:g}, but view_dependent is off: there are no texts of other"
                " views to lead away from. Turn view_dependent on, or set perp_neg to 0."
            )
        return True

    @classmethod
    def execute(
        cls, prior: ManagedPrior, prompt: str, negative: str, **inputs: Any
    ) -> io.NodeOutput:
        with prior.reading() as model:
            prompts = view_prompts(model, *read(model, prompt, negative), **inputs)
        # what ComfyUI caches must not hold on to the GPU's memory
        return io.NodeOutput(prompts.to("cpu"))


def read(prior: Prior, prompt: str, negative: str) -> tuple[str, str]:
    """Both texts as the prior spells them. Raises ValueError that names the input which it cannot
    read.
    """
    ours = prior.vocabulary == frozenset(vocabulary())
    if ours:
        prompt, negative = spelled(prompt), spelled(negative)
    prior.check_text(prompt)
    if ours:
        check_sentence(prompt)
    try:
        if negative:
            prior.check_text(negative)
    except ValueError as error:
        raise ValueError(f"negative {str(error).removeprefix('prompt ')}") from None
    return prompt, negative
