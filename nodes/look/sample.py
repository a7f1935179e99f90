"""Sample Picture."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import torch
from comfy_api.latest import io
from PIL import Image

FOLDER = Path(__file__).resolve().parents[2] / "workflows" / "pictures"
SAMPLES = {
    "mug, front": "mug_front.png",
    "car, sheet of four sides": "car_sheet.png",
    "teapot, front": "teapot_front.png",
}


class SamplePicture(io.ComfyNode):
    @classmethod
    def define_schema(cls) -> io.Schema:
        return io.Schema(
            node_id="Distill3D_SamplePicture",
            display_name="Sample Picture",
            category="Distill3D",
            description=(
                "A picture that ships with the pack, with its mask, to try Reference Views with."
                " Put Load Image in its place for one of your own."
            ),
            search_aliases=["example", "demo picture", "load image"],
            inputs=[
                io.Combo.Input(
                    "picture",
                    options=list(SAMPLES),
                    default=next(iter(SAMPLES)),
                    tooltip=(
                        "What is in it and where from: a toy with a pattern, colours and"
                        " proportions of its own, seen from distance 2 with a field of view of 40"
                        " degrees. The sheet is of MVDream's kind."
                    ),
                )
            ],
            outputs=[
                io.Image.Output(display_name="image", tooltip="The picture, on grey."),
                io.Mask.Output(display_name="mask", tooltip="1 where the object is."),
            ],
        )

    @classmethod
    def execute(cls, picture: str) -> io.NodeOutput:
        if picture not in SAMPLES:
            known = ", ".join(map(repr, SAMPLES))
            raise ValueError(f"Sample Picture: picture is {picture!r}; choose one of {known}.")
        with Image.open(FOLDER / SAMPLES[picture]) as file:
            layers = torch.from_numpy(np.array(file.convert("RGBA"))).float() / 255
        color, alpha = layers[..., :3], layers[..., 3]
        shown = color * alpha[..., None] + 0.5 * (1 - alpha[..., None])
        return io.NodeOutput(shown[None], alpha[None])
