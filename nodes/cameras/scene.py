"""Scene Cameras."""

from __future__ import annotations

from comfy_api.latest import io

from ...kernels.cameras.scene import SceneSampler
from ..shared import types
from ..shared.validation import validate
from .inputs import degrees

DEFAULTS = SceneSampler()


class SceneCameras(io.ComfyNode):
    @classmethod
    def define_schema(cls) -> io.Schema:
        return io.Schema(
            node_id="Distill3D_SceneCameras",
            display_name="Scene Cameras",
            category="Distill3D",
            description=(
                "Where training views of a 360-degree scene come from: around it looking inward,"
                " and from its middle looking outward, every batch spread over all directions."
            ),
            search_aliases=["camera", "360", "panorama", "inward outward", "environment"],
            inputs=[
                io.Float.Input(
                    "outward_share",
                    default=DEFAULTS.outward_share,
                    min=0.0,
                    max=1.0,
                    step=0.05,
                    tooltip=(
                        "Share of the views, 0..1, that look outward from the middle. Consistent3D"
                        " names inward-outward trajectories but publishes no code for them."
                    ),
                ),
                degrees(
                    "elevation_min",
                    DEFAULTS.elevation_min,
                    -90.0,
                    90.0,
                    "Lowest inward camera, degrees.",
                ),
                degrees(
                    "elevation_max",
                    DEFAULTS.elevation_max,
                    -90.0,
                    90.0,
                    "Highest inward camera, degrees.",
                ),
                io.Float.Input(
                    "distance_min",
                    default=DEFAULTS.distance_min,
                    min=0.1,
                    max=1000.0,
                    step=0.05,
                    round=0.001,
                    advanced=True,
                    tooltip=(
                        "Nearest inward camera, world units from the middle. Embedded prior:"
                        " trained at 2.4..2.6."
                    ),
                ),
                io.Float.Input(
                    "distance_max",
                    default=DEFAULTS.distance_max,
                    min=0.1,
                    max=1000.0,
                    step=0.05,
                    round=0.001,
                    advanced=True,
                    tooltip=(
                        "Farthest inward camera, world units from the middle; stay inside the dome"
                        " of Init Scene."
                    ),
                ),
                degrees(
                    "fov_y",
                    DEFAULTS.fov_y,
                    1.0,
                    150.0,
                    "Vertical field of view looking inward, degrees. Embedded prior: trained"
                    " at 40.",
                    advanced=True,
                ),
                degrees(
                    "outward_elevation_min",
                    DEFAULTS.outward_elevation_min,
                    -90.0,
                    90.0,
                    "Lowest direction looked towards from the middle, degrees above the horizon.",
                    advanced=True,
                ),
                degrees(
                    "outward_elevation_max",
                    DEFAULTS.outward_elevation_max,
                    -90.0,
                    90.0,
                    "Highest direction looked towards from the middle, degrees above the horizon.",
                    advanced=True,
                ),
                degrees(
                    "outward_fov_y",
                    DEFAULTS.outward_fov_y,
                    1.0,
                    150.0,
                    "Vertical field of view looking outward, degrees. Embedded prior: trained"
                    " at 65.",
                    advanced=True,
                ),
                io.Float.Input(
                    "outward_jitter",
                    default=DEFAULTS.outward_jitter,
                    min=0.0,
                    max=10.0,
                    step=0.01,
                    round=0.001,
                    advanced=True,
                    tooltip=(
                        "Outward cameras lie off the middle by up to this along each axis, world"
                        " units. Embedded prior: trained up to 0.08."
                    ),
                ),
                io.Float.Input(
                    "target_jitter",
                    default=DEFAULTS.target_jitter,
                    min=0.0,
                    max=0.5,
                    step=0.01,
                    round=0.001,
                    advanced=True,
                    tooltip=(
                        "An inward camera and the point it looks at move by up to this along each"
                        " axis, world units."
                    ),
                ),
            ],
            outputs=[
                types.Cameras.Output(
                    display_name="cameras", tooltip="For Optimize, in place of Orbit Cameras."
                )
            ],
        )

    @classmethod
    def validate_inputs(
        cls,
        elevation_min: float | None = None,
        elevation_max: float | None = None,
        distance_min: float | None = None,
        distance_max: float | None = None,
        outward_elevation_min: float | None = None,
        outward_elevation_max: float | None = None,
    ) -> bool | str:
        values = {key: value for key, value in locals().items() if key != "cls"}
        return validate(cls, values, SceneSampler)

    @classmethod
    def execute(cls, **settings: float) -> io.NodeOutput:
        sampler = SceneSampler(**settings)
        sampler.check()
        return io.NodeOutput(sampler)
