"""Render Views."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import comfy.model_management
import comfy.utils
import torch
from comfy_api.latest import io

from ...kernels.cameras.load3d import from_load3d, to_load3d
from ...kernels.cameras.pinhole import Cameras, orbit
from ...kernels.cameras.scene import look_around
from ...kernels.gaussians.cloud import Gaussians
from ...kernels.rasterizers.rasterize import Rendering, render
from ..priors.memory import autograd
from ..shared import types
from ..shared.images import depth_image, image
from ..shared.progress import prepare_to_render
from ..shared.validation import check_declared

BACKGROUNDS = {"white": 1.0, "gray": 0.5, "black": 0.0}
PATHS = ("orbit", "look around")
PIXELS_AT_ONCE = 4 * 512 * 512  # per call of the rasterizer, whose memory grows with the pixels


class RenderViews(io.ComfyNode):
    @classmethod
    def define_schema(cls) -> io.Schema:
        return io.Schema(
            node_id="Distill3D_RenderViews",
            display_name="Render Views",
            category="Distill3D",
            description=(
                "A turntable: pictures of the Gaussians from equal steps around them,"
                " counter-clockwise from the front. For a video or an animation, save the images"
                " with any core node."
            ),
            search_aliases=[
                "turntable",
                "splat to image",
                "gaussian render",
                "depth map",
                "orbit video",
            ],
            inputs=[
                types.GaussianCloud.Input("gaussians", tooltip="The cloud to look at."),
                *turntable_inputs(),
                io.Combo.Input(
                    "path",
                    options=list(PATHS),
                    default=PATHS[0],
                    optional=True,
                    advanced=True,
                    tooltip=(
                        "orbit: around the object, looking at it. look around: from the middle of a"
                        " scene, looking outward; then start and elevation say where to, distance"
                        " is not used, and a wide fov_y suits."
                    ),
                ),
                types.CoreCameras.Input(
                    "cameras",
                    optional=True,
                    tooltip=(
                        "Views from another node instead of the turntable: one camera of core's 3D"
                        " nodes, or a list of them. Of the inputs above size and background count."
                    ),
                ),
            ],
            outputs=[
                io.Image.Output(display_name="images", tooltip="The pictures, on the background."),
                io.Mask.Output(
                    display_name="masks", tooltip="1 where the object is, 0 where it is not."
                ),
                io.Image.Output(
                    display_name="depth",
                    tooltip="Near is bright, far dark, nothing black; one scale for all pictures.",
                ),
                types.CoreCameras.Output(
                    display_name="views",
                    tooltip="The cameras of the pictures, a list, for core's 3D nodes.",
                ),
            ],
        )

    @classmethod
    def execute(
        cls,
        gaussians: Gaussians,
        background: str,
        path: str = PATHS[0],
        cameras: Any = None,
        **turntable: Any,
    ) -> io.NodeOutput:
        check_declared(cls, {"background": background, "path": path, **turntable})
        around = around_cameras if path == "look around" else turntable_cameras
        views = from_load3d(cameras, turntable["size"]) if cameras else around(**turntable)
        bar = comfy.utils.ProgressBar(len(views))
        rendering = render_cloud(gaussians, views, BACKGROUNDS[background], bar.update_absolute)
        masks = image(rendering.alpha)[..., 0]
        depth = depth_image(rendering.depth, rendering.alpha)
        return io.NodeOutput(image(rendering.color), masks, depth, to_load3d(views))


def turntable_inputs() -> list[io.Input]:
    """What `turntable_cameras` takes, and the background."""
    return [
        io.Int.Input(
            "views", default=24, min=1, max=1000, tooltip="Number of pictures in one turn."
        ),
        io.Int.Input(
            "size",
            default=256,
            min=16,
            max=4096,
            tooltip="Width and height of each picture, pixels. The embedded prior works at 128.",
        ),
        io.Float.Input(
            "elevation",
            default=15.0,
            min=-90.0,
            max=90.0,
            step=5.0,
            round=0.01,
            tooltip="Height of the cameras, degrees above the horizon.",
        ),
        io.Combo.Input(
            "background",
            options=list(BACKGROUNDS),
            default="white",
            tooltip="What shows behind the object. DreamMapping's figures: white.",
        ),
        io.Float.Input(
            "start",
            default=0.0,
            min=-360.0,
            max=360.0,
            step=15.0,
            round=0.01,
            advanced=True,
            tooltip=(
                "Azimuth of the first picture, degrees: 0 front, 90 the object's left (seen from"
                " +X), 180 back."
            ),
        ),
        io.Float.Input(
            "distance",
            default=2.0,
            min=0.1,
            max=1000.0,
            step=0.1,
            round=0.001,
            advanced=True,
            tooltip=(
                "Distance of the cameras, world units; the object fills a cube of side 1."
                " Consistent3D: 2.0."
            ),
        ),
        io.Float.Input(
            "fov_y",
            default=40.0,
            min=1.0,
            max=150.0,
            step=1.0,
            round=0.01,
            advanced=True,
            tooltip=(
                "Vertical field of view, degrees. Embedded prior: 40, Consistent3D's"
                " evaluation: 45."
            ),
        ),
    ]


def turntable_cameras(
    views: int, size: int, elevation: float, start: float, distance: float, fov_y: float
) -> Cameras:
    return orbit(start + torch.arange(views) * (360.0 / views), elevation, distance, fov_y, size)


def around_cameras(
    views: int, size: int, elevation: float, start: float, fov_y: float, **unused: Any
) -> Cameras:
    return look_around(
        start + torch.arange(views) * (360.0 / views), elevation, torch.zeros(3), fov_y, size
    )


def render_cloud(
    gaussians: Gaussians,
    cameras: Cameras,
    background: float,
    on_views: Callable[[int], None] = lambda done: None,
) -> Rendering:
    """All views of the cloud on the CPU, a few at a time so that long turntables fit into memory;
    interruptible.
    """
    device = comfy.model_management.get_torch_device()
    prepare_to_render("auto", device)
    at_once = max(1, PIXELS_AT_ONCE // (cameras.width * cameras.height))
    parts = []
    with autograd(), torch.no_grad():
        cloud = gaussians.to(device)
        for first in range(0, len(cameras), at_once):
            comfy.model_management.throw_exception_if_processing_interrupted()
            part = render(cloud, cameras[first : first + at_once].to(device), background)
            parts.append(part)
            on_views(min(first + at_once, len(cameras)))
    return Rendering(
        **{
            name: torch.cat([getattr(p, name).cpu() for p in parts])
            for name in Rendering.__annotations__
        }
    )
