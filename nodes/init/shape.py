"""What nodes that make a shape of a text have in common."""

from __future__ import annotations

from comfy_api.latest import io

from ..shared import types


def opacity_of_a_shape() -> io.Float.Input:
    return io.Float.Input(
        "opacity",
        default=0.5,
        min=0.001,
        max=0.99,
        step=0.01,
        round=0.001,
        advanced=True,
        tooltip=(
            "Opacity of each Gaussian, 0..1; LucidDreamer: 0.1. At 0.5 the surface is nearly closed"
            " and still can be reshaped."
        ),
    )


def cloud_of_a_shape() -> io.Output:
    return types.GaussianCloud.Output(
        display_name="gaussians",
        tooltip="For Optimize: in a cube of side 1, Y up, front at azimuth 0.",
    )
