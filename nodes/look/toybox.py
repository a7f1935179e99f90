"""Toybox Truth."""

from __future__ import annotations

from typing import Any

import comfy.model_management
import comfy.utils
import torch
from comfy_api.latest import io

from ...kernels.priors.prompts import ViewPrompts
from ...kernels.toybox.captions import parse
from ...kernels.toybox.render import render_truth
from ..priors.memory import autograd
from ..shared import types
from ..shared.images import image
from ..shared.validation import check_declared
from .render import BACKGROUNDS, turntable_cameras, turntable_inputs


class ToyboxTruth(io.ComfyNode):
    @classmethod
    def define_schema(cls) -> io.Schema:
        return io.Schema(
            node_id="Distill3D_ToyboxTruth",
            display_name="Toybox Truth",
            category="Distill3D",
            description=(
                "Exact pictures of the object that a prompt of the embedded prior names, to hold a"
                " result against: with the same numbers as in Render Views, the same cameras. Other"
                " texts have no truth."
            ),
            search_aliases=["ground truth", "reference", "toybox", "compare"],
            inputs=[
                types.Prompts.Input(
                    "prompts", tooltip="From View Prompts, with a prompt of the toybox."
                ),
                *turntable_inputs(),
            ],
            outputs=[
                io.Image.Output(
                    display_name="images", tooltip="The true pictures, on the background."
                ),
                io.Mask.Output(
                    display_name="masks", tooltip="1 where the object is, 0 where it is not."
                ),
            ],
        )

    @classmethod
    def execute(cls, prompts: ViewPrompts, background: str, **cameras: Any) -> io.NodeOutput:
        check_declared(cls, {"background": background, **cameras})
        caption = parse(prompts.prompt)
        views = turntable_cameras(**cameras)
        bar = comfy.utils.ProgressBar(len(views))
        colors, masks = [], []
        with autograd(), torch.no_grad():
            for index in range(len(views)):
                comfy.model_management.throw_exception_if_processing_interrupted()
                truth = render_truth(caption, views[index], BACKGROUNDS[background])
                colors.append(truth.color)
                masks.append(truth.alpha[..., 0])
                bar.update_absolute(index + 1)
        return io.NodeOutput(image(torch.cat(colors)), image(torch.cat(masks)))
