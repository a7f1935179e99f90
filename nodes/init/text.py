"""Init from Text."""

from __future__ import annotations

from pathlib import Path

import comfy.model_management
import comfy.utils
import torch
from comfy_api.latest import io

from ...kernels.init.text import from_text, load_point_model
from ...kernels.priors.prompts import ViewPrompts
from ..priors.memory import autograd
from ..shared import types
from .shape import cloud_of_a_shape, opacity_of_a_shape

MODEL = Path(__file__).resolve().parents[2] / "models" / "text_to_points" / "points.safetensors"


class InitText(io.ComfyNode):
    @classmethod
    def define_schema(cls) -> io.Schema:
        return io.Schema(
            node_id="Distill3D_InitText",
            display_name="Init from Text",
            category="Distill3D",
            description=(
                "A rough coloured shape of the prompt to start from, for the embedded prior: what"
                " Init from Shap-E is for other texts. Its small model ships with the pack and"
                " knows the toybox: everyday objects in plain colours."
            ),
            search_aliases=[
                "text to points",
                "point-e",
                "shape",
                "3d init",
                "point cloud",
                "toybox",
                "dreammapping",
            ],
            inputs=[
                types.Prompts.Input(
                    "prompts",
                    tooltip=(
                        "From View Prompts: its prompt is what is made, without negative and view"
                        " words. One object of the toybox."
                    ),
                ),
                io.Int.Input(
                    "count",
                    default=4000,
                    min=1,
                    max=1_000_000,
                    tooltip=(
                        "Number of Gaussians: 4,000 for short runs, 20,000 for finer ones."
                        " LucidDreamer: 81,920."
                    ),
                ),
                io.Int.Input(
                    "seed",
                    default=0,
                    min=0,
                    max=0xFFFFFFFFFFFFFFFF,
                    control_after_generate=io.ControlAfterGenerate.fixed,
                    tooltip="Seed of the points. Other seeds give other points of the same shape.",
                ),
                opacity_of_a_shape(),
            ],
            outputs=[cloud_of_a_shape()],
        )

    @classmethod
    def execute(cls, prompts: ViewPrompts, count: int, seed: int, opacity: float) -> io.NodeOutput:
        bar, generator = comfy.utils.ProgressBar(count), torch.Generator().manual_seed(seed)

        def on_part(done: int, drawn: int) -> None:
            comfy.model_management.throw_exception_if_processing_interrupted()
            bar.update_absolute(done, drawn)

        with autograd():
            logit = torch.logit(torch.tensor(opacity, dtype=torch.float64)).item()
            model = load_point_model(MODEL)
            return io.NodeOutput(from_text(model, prompts.prompt, count, generator, logit, on_part))
