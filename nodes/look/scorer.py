"""Picture Scorer."""

from __future__ import annotations

from comfy_api.latest import io

from ...kernels.evaluate.clip import load_clip
from ...kernels.evaluate.scorers import ClipScorer, JudgeScorer
from ...kernels.toybox.captions import parse
from ...kernels.toybox.models import load_judge
from ..priors.memory import autograd
from ..shared import types
from .score import JUDGE_FOLDER, folders, path

JUDGE = "judge of the toybox (embedded)"


class PictureScorer(io.ComfyNode):
    @classmethod
    def define_schema(cls) -> io.Schema:
        return io.Schema(
            node_id="Distill3D_PictureScorer",
            display_name="Picture Scorer",
            category="Distill3D/losses",
            description=(
                "A model that scores pictures by how well they show the prompt, for Reward Loss:"
                " the toybox's judge, or a CLIP of yours. Its socket takes other packs' scorers"
                " too: any Python callable from pictures [B,3,H,W] in 0..1 to scores [B]."
            ),
            search_aliases=["reward", "clip score", "imagereward", "preference"],
            inputs=[
                io.Combo.Input(
                    "model",
                    options=[JUDGE, *folders()],
                    default=JUDGE,
                    tooltip=(
                        "The judge knows the toybox's captions alone; its score is a"
                        " log-likelihood. A CLIP is a folder in transformers format below"
                        " models/clip_vision; its score is 100 times the cosine. RewardSDS:"
                        " ImageReward, CLIP, an aesthetic score."
                    ),
                ),
                io.String.Input(
                    "prompt",
                    default="a red mug",
                    multiline=True,
                    tooltip="What the pictures should show, without view words.",
                ),
            ],
            outputs=[types.Scorer.Output(display_name="scorer", tooltip="For Reward Loss.")],
        )

    @classmethod
    def validate_inputs(cls, model: str | None = None, prompt: str | None = None) -> bool | str:
        if model is not None and model not in (known := [JUDGE, *folders()]):
            return f"model {model!r} is not there. Choose one of {', '.join(map(repr, known))}."
        if model == JUDGE and prompt is not None:
            try:
                parse(prompt)
            except ValueError as error:
                return f"{error} For other prompts put a CLIP into models/clip_vision."
        return True

    @classmethod
    def execute(cls, model: str, prompt: str) -> io.NodeOutput:
        if (problem := cls.validate_inputs(model, prompt)) is not True:
            raise ValueError(problem)
        with autograd():
            if model == JUDGE:
                return io.NodeOutput(JudgeScorer(load_judge(JUDGE_FOLDER), parse(prompt)))
            return io.NodeOutput(ClipScorer(load_clip(path(model)), prompt.strip()))
