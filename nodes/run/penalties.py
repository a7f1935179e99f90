"""Penalties and Mesh Penalties."""

from __future__ import annotations

from typing import Any

from comfy_api.latest import io

from ...kernels.run.penalties import TV_KINDS, Regularizers
from ...kernels.run.settings import PENALTY_FORMS, RefineSettings
from ..shared import types
from ..shared.presets import preset_input
from .inputs import SETTINGS

DEFAULTS = Regularizers()
MESH = RefineSettings()
PRESETS = {
    name: vars(weights)
    for name, weights in {
        "strays only": DEFAULTS,
        "embedded prior": Regularizers(lambda_opacity=1500.0, lambda_gamut=20.0),
        "embedded prior, scenes": Regularizers(lambda_gamut=20.0, bounds_radius=7.0),
        "LucidDreamer": Regularizers(
            lambda_scale=1.0, lambda_tv_color=1.0, lambda_tv_depth=1.0, tv_kind="squared"
        ),
    }.items()
}
MESH_INPUTS = ("smoothness", "lambda_laplacian", "lambda_normal", "penalty_form")
MESH_PRESETS = {
    name: {key: getattr(settings, key) for key in MESH_INPUTS}
    for name, settings in {
        "smooth steps": MESH,
        "Consistent3D": RefineSettings(
            smoothness=0.0,
            lambda_laplacian=100.0,
            lambda_normal=100.0,
            penalty_form="consistent3d",
        ),
    }.items()
}


def _weight(
    id: str, tooltip: str, advanced: bool = False, optional: bool = False
) -> io.Float.Input:
    return io.Float.Input(
        id,
        default=getattr(DEFAULTS, id),
        min=0.0,
        max=1e6,
        step=0.1,
        round=0.000001,
        optional=optional,
        advanced=advanced or None,
        tooltip=tooltip,
    )


class Penalties(io.ComfyNode):
    @classmethod
    def define_schema(cls) -> io.Schema:
        return io.Schema(
            node_id="Distill3D_Penalties",
            display_name="Penalties",
            category=SETTINGS,
            description=(
                "What Optimize asks of the Gaussians besides the prior's judgement: no haze, no"
                " blobs, no strays, colours that exist. Weights of terms added to the loss; useful"
                " ones grow with the latent's size. Without this node Optimize takes this node's"
                " defaults."
            ),
            search_aliases=[
                "regularizer",
                "regularization",
                "opacity",
                "total variation",
                "floaters",
            ],
            inputs=[
                preset_input(
                    PRESETS,
                    "strays only: the defaults. embedded prior: for objects with the prior that"
                    " ships with the pack; scenes: for its scenes, whose ground and sky no penalty"
                    " should fade. LucidDreamer: for Stable Diffusion.",
                ),
                _weight(
                    "lambda_opacity",
                    "Weight of the mean opacity: fades floaters (haze and crumbs around the object)"
                    " that no view needs. Consistent3D and LucidDreamer: 0. Embedded prior: 1500 to"
                    " 3000.",
                ),
                _weight(
                    "lambda_gamut",
                    "Weight of the squared distance of base colours from 0..1: no glowing haze in"
                    " place of a surface. Consistent3D and LucidDreamer: 0. Embedded prior: 20.",
                ),
                _weight(
                    "lambda_scale",
                    "Weight of the mean standard deviation, world units: keeps Gaussians small."
                    " LucidDreamer: 1.",
                ),
                _weight(
                    "lambda_tv_color",
                    "Weight of the mean difference between neighbouring pixels: smooth colours."
                    " LucidDreamer: 1, with tv_kind squared, and lambda_tv_depth 1 beside it.",
                ),
                _weight(
                    "lambda_bounds",
                    "Weight of the squared distance beyond bounds_radius: pulls strays back in.",
                    advanced=True,
                ),
                io.Float.Input(
                    "bounds_radius",
                    default=DEFAULTS.bounds_radius,
                    min=0.01,
                    max=100.0,
                    step=0.01,
                    round=0.001,
                    advanced=True,
                    tooltip=(
                        "Radius within which Gaussians move freely, world units; the object fills a"
                        " cube of side 1."
                    ),
                ),
                _weight(
                    "lambda_binary_opacity",
                    "Weight of 4 o (1 - o), o the opacity, mean over the Gaussians: each becomes"
                    " solid or goes. Consistent3D and LucidDreamer: 0.",
                    advanced=True,
                ),
                _weight(
                    "lambda_binary_alpha",
                    "Weight of 4 a (1 - a), a the coverage of a pixel, mean over the renders: crisp"
                    " silhouettes. Consistent3D and LucidDreamer: 0.",
                    advanced=True,
                ),
                _weight(
                    "lambda_tv_alpha",
                    "Weight of the mean difference between neighbouring pixels of the renders'"
                    " coverage (alpha): smooth silhouettes. Consistent3D and LucidDreamer: 0.",
                    advanced=True,
                ),
                _weight(
                    "lambda_tv_depth",
                    "Weight of the mean difference between neighbouring pixels of a picture of"
                    " nearness, 0..1 from the farthest opaque pixel of a view to the nearest:"
                    " smooth surfaces. LucidDreamer: 1, with tv_kind squared.",
                    advanced=True,
                    optional=True,
                ),
                io.Combo.Input(
                    "tv_kind",
                    options=list(TV_KINDS),
                    default=DEFAULTS.tv_kind,
                    optional=True,
                    advanced=True,
                    tooltip=(
                        "What counts of differences between neighbouring pixels, in"
                        " lambda_tv_color, lambda_tv_alpha and lambda_tv_depth. absolute: their"
                        " size. squared: twice their squares, so that faint noise hardly counts."
                        " LucidDreamer: squared."
                    ),
                ),
            ],
            outputs=[types.Penalties.Output(display_name="penalties", tooltip="For Optimize.")],
        )

    @classmethod
    def execute(cls, preset: str, **weights: Any) -> io.NodeOutput:
        Regularizers(**weights).check()
        return io.NodeOutput(weights)


class MeshPenalties(io.ComfyNode):
    @classmethod
    def define_schema(cls) -> io.Schema:
        return io.Schema(
            node_id="Distill3D_MeshPenalties",
            display_name="Mesh Penalties",
            category=SETTINGS,
            description=(
                "What Refine Mesh asks of a mesh's shape besides the prior's judgement, and how far"
                " its vertices move together. Without this node Refine Mesh takes this node's"
                " defaults."
            ),
            search_aliases=["laplacian", "normal consistency", "smoothness", "regularization"],
            inputs=[
                preset_input(
                    MESH_PRESETS,
                    "smooth steps: vertices move together, and no term is added. Consistent3D: each"
                    " on its own, with the paper's two terms.",
                ),
                _mesh(
                    "smoothness",
                    10_000.0,
                    "Vertices move together within about the square root of this many edges. 0:"
                    " each on its own.",
                ),
                _mesh(
                    "lambda_laplacian",
                    1e6,
                    "Weight of the squared distance of vertices from their neighbours' mean, in"
                    " edges. Consistent3D: 100, with its own penalty_form.",
                ),
                _mesh(
                    "lambda_normal",
                    1e6,
                    "Weight of 1 - cosine between the normals of neighbouring triangles."
                    " Consistent3D: 100, with its own penalty_form.",
                ),
                io.Combo.Input(
                    "penalty_form",
                    options=list(PENALTY_FORMS),
                    default=MESH.penalty_form,
                    optional=True,
                    advanced=True,
                    tooltip=(
                        "How lambda_laplacian and lambda_normal measure. edges: in lengths of"
                        " edges, and between triangles. consistent3d, as Consistent3D's code: the"
                        " length of the summed offsets to the neighbours in world units, which"
                        " grows with the edges, and between the normals of neighbouring vertices."
                    ),
                ),
            ],
            outputs=[
                types.MeshPenalties.Output(
                    display_name="mesh_penalties", tooltip="For Refine Mesh."
                )
            ],
        )

    @classmethod
    def execute(cls, preset: str, **weights: Any) -> io.NodeOutput:
        RefineSettings(**weights).check()
        return io.NodeOutput(weights)


def _mesh(id: str, high: float, tooltip: str) -> io.Float.Input:
    return io.Float.Input(
        id,
        default=getattr(MESH, id),
        min=0.0,
        max=high,
        step=1.0,
        round=0.00001,
        tooltip=tooltip,
    )
