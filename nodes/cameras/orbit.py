"""Orbit Cameras, Scene Cameras."""

from __future__ import annotations

from typing import Any

from comfy_api.latest import io

from ..kernels.cameras.load3d import ListedSampler
from ..kernels.cameras.orbit import OrbitSampler
from ..kernels.cameras.scene import SceneSampler
from .shared import types
from .shared.validation import validate

DEFAULTS = SceneSampler()


def _degrees(
    id: str, default: float, low: float, high: float, tooltip: str, advanced: bool = False
) -> io.Float.Input:
    return io.Float.Input(
        id,
        default=default,
        min=low,
        max=high,
        step=1.0,
        round=0.01,
        tooltip=tooltip,
        advanced=advanced or None,
    )


class OrbitCameras(io.ComfyNode):
    @classmethod
    def define_schema(cls) -> io.Schema:
        return io.Schema(
            node_id="Distill3D_OrbitCameras",
            display_name="Orbit Cameras",
            category="Distill3D",
            description=(
                "Where training views come from: random places on an orbit around the object, every"
                " batch spread over all sides. The size of the pictures comes from the prior (see"
                " Optimize)."
            ),
            search_aliases=["camera", "views", "orbit", "elevation", "fov"],
            inputs=[
                _degrees(
                    "elevation_min",
                    -10.0,
                    -90.0,
                    90.0,
                    "Lowest camera, degrees above the horizon. Consistent3D: -10, LucidDreamer:"
                    " -15.",
                ),
                _degrees(
                    "elevation_max",
                    45.0,
                    -90.0,
                    90.0,
                    "Highest camera, degrees above the horizon. Consistent3D and LucidDreamer: 45.",
                ),
                io.Float.Input(
                    "overhead_share",
                    default=0.1,
                    min=0.0,
                    max=1.0,
                    step=0.05,
                    tooltip=(
                        "Share of the views, 0..1, taken from 60..85 degrees instead, so that the"
                        " top is seen too. Consistent3D and LucidDreamer: 0."
                    ),
                ),
                io.Float.Input(
                    "distance_min",
                    default=1.97,
                    min=0.1,
                    max=1000.0,
                    step=0.01,
                    round=0.001,
                    advanced=True,
                    tooltip=(
                        "Nearest camera, world units from the centre; the object fills a cube of"
                        " side 1. Embedded prior: trained at 1.97..2.03, so that it knows the size"
                        " an object should have. Consistent3D: 1.5, LucidDreamer: 5.2 (with a small"
                        " fov) at first, coming down to 3.5; here it stays."
                    ),
                ),
                io.Float.Input(
                    "distance_max",
                    default=2.03,
                    min=0.1,
                    max=1000.0,
                    step=0.01,
                    round=0.001,
                    advanced=True,
                    tooltip=(
                        "Farthest camera, world units from the centre. Embedded prior: up to 2.03. "
                        "Consistent3D: 2.0, LucidDreamer: 5.5 at first, coming down to 5.0."
                    ),
                ),
                _degrees(
                    "fov_y_min",
                    40.0,
                    1.0,
                    150.0,
                    "Smallest vertical field of view, degrees. Embedded prior: trained at 40."
                    " Consistent3D: 40 in the coarse stage, then 30; LucidDreamer: 18 at first,"
                    " falling to 9.2.",
                    advanced=True,
                ),
                _degrees(
                    "fov_y_max",
                    40.0,
                    1.0,
                    150.0,
                    "Largest vertical field of view, degrees. Embedded prior: trained at 40."
                    " Consistent3D: 70 in the coarse stage, then 45; LucidDreamer: 34 at first,"
                    " rising to 34.4.",
                    advanced=True,
                ),
                io.Float.Input(
                    "target_jitter",
                    default=0.01,
                    min=0.0,
                    max=0.5,
                    step=0.01,
                    round=0.001,
                    advanced=True,
                    tooltip=(
                        "The camera and the point it looks at move together by up to this along"
                        " each axis, world units. Theirs move apart: the camera, its target and the"
                        " upward direction by 0.1, 0.2 and 0.02 in Consistent3D's coarse stage,"
                        " then by 0; by 0.025, 0.05 and 0.01 in LucidDreamer."
                    ),
                ),
                types.CoreCameras.Input(
                    "views",
                    optional=True,
                    tooltip=(
                        "Train from these views instead: one camera of core's 3D nodes, or a list of"
                        " them. None of the inputs above counts then."
                    ),
                ),
            ],
            outputs=[types.Cameras.Output(display_name="cameras", tooltip="For Optimize.")],
        )

    @classmethod
    def validate_inputs(
        cls,
        elevation_min: float | None,
        elevation_max: float | None,
        distance_min: float | None,
        distance_max: float | None,
        fov_y_min: float | None,
        fov_y_max: float | None,
    ) -> bool | str:
        values = {key: value for key, value in locals().items() if key != "cls"}
        return validate(cls, values, OrbitSampler)

    @classmethod
    def execute(cls, views: Any = None, **settings: Any) -> io.NodeOutput:
        listed = [views] if isinstance(views, dict) else views
        sampler = ListedSampler(tuple(listed)) if listed else OrbitSampler(**settings)
        sampler.check()
        return io.NodeOutput(sampler)


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
                _degrees(
                    "elevation_min",
                    DEFAULTS.elevation_min,
                    -90.0,
                    90.0,
                    "Lowest inward camera, degrees.",
                ),
                _degrees(
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
                _degrees(
                    "fov_y",
                    DEFAULTS.fov_y,
                    1.0,
                    150.0,
                    "Vertical field of view looking inward, degrees. Embedded prior: trained"
                    " at 40.",
                    advanced=True,
                ),
                _degrees(
                    "outward_elevation_min",
                    DEFAULTS.outward_elevation_min,
                    -90.0,
                    90.0,
                    "Lowest direction looked towards from the middle, degrees above the horizon.",
                    advanced=True,
                ),
                _degrees(
                    "outward_elevation_max",
                    DEFAULTS.outward_elevation_max,
                    -90.0,
                    90.0,
                    "Highest direction looked towards from the middle, degrees above the horizon.",
                    advanced=True,
                ),
                _degrees(
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
        elevation_min: float | None,
        elevation_max: float | None,
        distance_min: float | None,
        distance_max: float | None,
        outward_elevation_min: float | None,
        outward_elevation_max: float | None,
    ) -> bool | str:
        values = {key: value for key, value in locals().items() if key != "cls"}
        return validate(cls, values, SceneSampler)

    @classmethod
    def execute(cls, **settings: float) -> io.NodeOutput:
        sampler = SceneSampler(**settings)
        sampler.check()
        return io.NodeOutput(sampler)
