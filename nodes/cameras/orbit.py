"""Orbit Cameras."""

from __future__ import annotations

from typing import Any

from comfy_api.latest import io

from ...kernels.cameras.load3d import ListedSampler
from ...kernels.cameras.orbit import SPHERE_LAWS, OrbitSampler, Widening
from ..shared import types
from ..shared.auto import OWN, deferred, values_input
from ..shared.validation import validate
from .inputs import degrees

DEFAULTS = OrbitSampler()


def _option(
    id: str, default: float, high: float, tooltip: str, step: float = 0.005
) -> io.Float.Input:
    """An input that came later: prompts without it have its default."""
    return io.Float.Input(
        id,
        default=default,
        min=0.0,
        max=high,
        step=step,
        round=0.001,
        tooltip=tooltip,
        optional=True,
        advanced=True,
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
                degrees(
                    "elevation_min",
                    -10.0,
                    -90.0,
                    90.0,
                    "Lowest camera, degrees above the horizon. Consistent3D: -10, LucidDreamer:"
                    " -15.",
                ),
                degrees(
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
                        " fov) at first, coming down to 3.5 with widen_every."
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
                        "Consistent3D: 2.0, LucidDreamer: 5.5 at first, coming down to 5.0 with"
                        " widen_every."
                    ),
                ),
                degrees(
                    "fov_y_min",
                    40.0,
                    1.0,
                    150.0,
                    "Smallest vertical field of view, degrees. Embedded prior: trained at 40."
                    " Consistent3D: 40 in the coarse stage, then 30; LucidDreamer: 18 at first,"
                    " falling to 9.2.",
                    advanced=True,
                ),
                degrees(
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
                        " each axis, world units. Consistent3D and LucidDreamer: 0; theirs move"
                        " apart, see the other jitters."
                    ),
                ),
                types.CoreCameras.Input(
                    "views",
                    optional=True,
                    tooltip=(
                        "Train from these views instead: one camera of core's 3D nodes, or a list"
                        " of them. None of the other inputs counts then."
                    ),
                ),
                io.Int.Input(
                    "azimuth_sectors",
                    default=DEFAULTS.azimuth_sectors,
                    min=0,
                    max=360,
                    optional=True,
                    advanced=True,
                    tooltip=(
                        "Fixed sectors of azimuth that the views take in turn, the second around"
                        " the front. 0: as many as views, turned at random in every step."
                        " Consistent3D: 4, so that 8 views are 2 front, 4 side and 2 back; LucidDreamer: 1,"
                        " each view anywhere."
                    ),
                ),
                _option(
                    "sphere_share",
                    DEFAULTS.sphere_share,
                    1.0,
                    "Share of the steps, 0..1, whose elevations are even over the sphere's area,"
                    " not in the angle. Consistent3D: 0.5.",
                    step=0.05,
                ),
                io.Combo.Input(
                    "sphere_law",
                    options=list(SPHERE_LAWS),
                    default=DEFAULTS.sphere_law,
                    optional=True,
                    advanced=True,
                    tooltip=(
                        "How those elevations are drawn. even: by area. consistent3d: by its code's"
                        " formula, which reaches from -6.4 to 30 degrees of -10 to 45."
                    ),
                ),
                _option(
                    "position_jitter",
                    DEFAULTS.position_jitter,
                    0.5,
                    "The camera alone moves by up to this along each axis, world units."
                    " Consistent3D: 0.1 in the coarse stage, 0 after; LucidDreamer: 0.025.",
                ),
                _option(
                    "look_jitter",
                    DEFAULTS.look_jitter,
                    0.5,
                    "Standard deviation of the point that the camera looks at, world units along"
                    " each axis. Consistent3D: 0.2 in the coarse stage, 0 after; LucidDreamer:"
                    " 0.05.",
                ),
                _option(
                    "up_jitter",
                    DEFAULTS.up_jitter,
                    0.5,
                    "Standard deviation of the upward direction, whose length is 1; tilts the"
                    " camera. Consistent3D: 0.02 in the coarse stage, 0 after; LucidDreamer: 0.01.",
                ),
                io.Boolean.Input(
                    "shared_fov",
                    default=DEFAULTS.shared_fov,
                    optional=True,
                    advanced=True,
                    tooltip=(
                        "One field of view for all views of a step, not one for each. LucidDreamer:"
                        " on (for 10 views there)."
                    ),
                ),
                io.Int.Input(
                    "widen_every",
                    default=0,
                    min=0,
                    max=1_000_000,
                    optional=True,
                    advanced=True,
                    tooltip=(
                        "Every so many steps cameras come nearer by 5 %, down to distances 3.5 and"
                        " 5.0, and fields of view grow apart, by 25 and 10 %, to 9.2 and 34.4"
                        " degrees, as in LucidDreamer, whose ranges above they are for. 0: never."
                        " LucidDreamer: 500."
                    ),
                ),
                values_input("ranges"),
            ],
            outputs=[types.Cameras.Output(display_name="cameras", tooltip="For Optimize.")],
        )

    @classmethod
    def validate_inputs(
        cls,
        elevation_min: float | None = None,
        elevation_max: float | None = None,
        distance_min: float | None = None,
        distance_max: float | None = None,
        fov_y_min: float | None = None,
        fov_y_max: float | None = None,
    ) -> bool | str:
        values = {key: value for key, value in locals().items() if key != "cls"}
        return validate(cls, values, OrbitSampler)

    @classmethod
    def execute(
        cls, views: Any = None, widen_every: int = 0, values: str = OWN, **settings: Any
    ) -> io.NodeOutput:
        listed = [views] if isinstance(views, dict) else views
        widening = Widening(every=widen_every) if widen_every else None
        sampler = (
            ListedSampler(tuple(listed)) if listed else OrbitSampler(**settings, widening=widening)
        )
        sampler.check()
        return io.NodeOutput(deferred(sampler, OWN if listed else values))
