"""Init from Mesh, Init from Splat."""

from __future__ import annotations

from typing import Any

import torch
from comfy_api.latest import io

from ...kernels.files.formats import MESH_SUFFIXES
from ...kernels.files.frame import settled
from ...kernels.files.notes import notes
from ...kernels.files.splat import NAMES, from_splat_fields
from ...kernels.init.surface import from_shape
from ..priors.memory import autograd
from ..shared import types
from ..shared.files import located, mesh_files
from ..shared.validation import undeclared

LINKED = "(the mesh input)"


def _turn() -> io.Float.Input:
    return io.Float.Input(
        "turn",
        default=0.0,
        min=-360.0,
        max=360.0,
        step=15.0,
        round=0.01,
        tooltip=(
            "Turn about the vertical, degrees of azimuth, until the front is at azimuth 0, where"
            " the view words expect it: look with Render Views."
        ),
    )


class InitMesh(io.ComfyNode):
    @classmethod
    def define_schema(cls) -> io.Schema:
        return io.Schema(
            node_id="Distill3D_InitMesh",
            display_name="Init from Mesh",
            category="Distill3D",
            description=(
                "Gaussians spread evenly over the surface of a mesh, in the colours of its texture"
                " or vertices: from a file, or from any node that makes a MESH. Of a point cloud"
                " every point becomes one."
            ),
            search_aliases=[
                "mesh to splat",
                "glb",
                "obj",
                "stl",
                "ply",
                "point cloud",
                "3d init",
                "load mesh",
            ],
            inputs=[
                io.Combo.Input(
                    "file",
                    options=[LINKED, *mesh_files()],
                    tooltip=(
                        "A .glb, .gltf, .obj, .ply or .stl in input/3d or output (also in folders"
                        " below), newest first; a .ply without faces is a point cloud. Press R to"
                        " look for new files."
                    ),
                ),
                io.Int.Input(
                    "count",
                    default=10_000,
                    min=1,
                    max=1_000_000,
                    tooltip=(
                        "Number of Gaussians; they shrink as it grows. Of a point cloud with more"
                        " points so many are drawn, one with fewer gives one Gaussian a point."
                    ),
                ),
                io.Int.Input(
                    "seed",
                    default=0,
                    min=0,
                    max=0xFFFFFFFFFFFFFFFF,
                    control_after_generate=io.ControlAfterGenerate.fixed,
                    tooltip="Seed of the places on the surface.",
                ),
                io.Boolean.Input(
                    "normalise",
                    default=True,
                    tooltip=(
                        "Move and scale it into the cube of side 1 around the origin, which is what"
                        " Optimize and the cameras expect. Off keeps place and size, as meshes of"
                        " this pack want it."
                    ),
                ),
                _turn(),
                io.Combo.Input(
                    "up_axis",
                    options=["Y", "Z"],
                    default="Y",
                    tooltip=(
                        "What is up in the file. Y: front +Z, as in glTF and ComfyUI's MESH. Z:"
                        " front -Y, as in Blender, CAD programs and most scans."
                    ),
                ),
                io.Float.Input(
                    "opacity",
                    default=0.5,
                    min=0.001,
                    max=0.99,
                    step=0.01,
                    round=0.001,
                    advanced=True,
                    tooltip=(
                        "Opacity of each Gaussian, 0..1. At 0.5 the surface is closed and can still"
                        " be reshaped."
                    ),
                ),
                io.Mesh.Input(
                    "mesh",
                    optional=True,
                    tooltip="A mesh from another node instead of a file, one at a time.",
                ),
            ],
            outputs=[
                types.GaussianCloud.Output(
                    display_name="gaussians", tooltip="For Optimize, Render Views, Save Gaussians."
                )
            ],
        )

    @classmethod
    def validate_inputs(
        cls, file: str | None = None, up_axis: str | None = None, mesh: Any = LINKED
    ) -> bool | str:
        # A linked input comes as None, one that is not there not at all.
        if file == LINKED and mesh is LINKED:
            return "There is no mesh: choose a file, or link one to the mesh input."
        if file not in (None, LINKED) and mesh is not LINKED:
            return (
                f"file is {file!r} and a mesh is linked too. Set file to {LINKED!r}, or remove the"
                " link."
            )
        try:
            if file not in (None, LINKED):
                located(file, MESH_SUFFIXES, "mesh")
        except ValueError as error:
            return str(error)
        return undeclared(cls, {"up_axis": up_axis}) or True

    @classmethod
    def fingerprint_inputs(cls, file: str | None, **_: Any) -> str:
        if file in (None, LINKED):
            return ""
        # ComfyUI takes an error as "changed", and execute will name it
        status = located(file, MESH_SUFFIXES).stat()
        return f"{status.st_mtime_ns} {status.st_size}"

    @classmethod
    def execute(
        cls,
        file: str,
        count: int,
        seed: int,
        normalise: bool,
        turn: float,
        up_axis: str,
        opacity: float,
        mesh: Any = None,
    ) -> io.NodeOutput:
        # here, because trimesh takes seconds to import
        from ...kernels.files.mesh import load_shape

        with autograd(), notes() as told:
            shape = (
                [types.textured_from_native(mesh)]
                if mesh is not None
                else load_shape(located(file, MESH_SUFFIXES))
            )
            logit = torch.logit(torch.tensor(opacity, dtype=torch.float64)).item()
            size, generator = 1.0 if normalise else None, torch.Generator().manual_seed(seed)
            try:
                cloud = from_shape(shape, count, generator, size, up_axis, turn, logit)
            except ValueError as error:
                source = "the linked mesh" if mesh is not None else file
                raise ValueError(f"Init from Mesh: {source}: {error}") from error
        shown = {"text": [f"Init from Mesh: {note}" for note in told]} if told else None
        return io.NodeOutput(cloud, ui=shown)


class InitSplat(io.ComfyNode):
    """Only where the running ComfyUI has the SPLAT type."""

    @classmethod
    def define_schema(cls) -> io.Schema:
        return io.Schema(
            node_id="Distill3D_InitSplat",
            display_name="Init from Splat",
            category="Distill3D",
            description=(
                "ComfyUI's own SPLAT as Gaussians of this pack, to optimize, render, mesh or save:"
                " all of it stays as it is, turned from Y down to Y up."
            ),
            search_aliases=["splat", "splat to gaussians", "gaussian splatting", "3dgs", "import"],
            inputs=[
                io.Splat.Input("splat", tooltip="From any node that makes a SPLAT."),
                io.Int.Input(
                    "index",
                    default=0,
                    min=0,
                    max=1000,
                    tooltip="Which one of a batch; 0 is the first.",
                    advanced=True,
                ),
                io.Boolean.Input(
                    "normalise",
                    default=False,
                    tooltip=(
                        "Move and scale it so that the middles of what can be seen fit into the"
                        " cube of side 1 around the origin, which is what Optimize and the cameras"
                        " expect of splats from elsewhere."
                    ),
                ),
                _turn(),
            ],
            outputs=[
                types.GaussianCloud.Output(
                    display_name="gaussians",
                    tooltip="For Optimize, Render Views, Export Mesh, Save Gaussians.",
                )
            ],
        )

    @classmethod
    def execute(cls, splat: Any, index: int, normalise: bool, turn: float) -> io.NodeOutput:
        with autograd():
            fields = {name: getattr(splat, name, None) for name in (*NAMES, "counts")}
            cloud = from_splat_fields(
                {k: v.clone() if v is not None else None for k, v in fields.items()}, index
            )
            return io.NodeOutput(
                settled(cloud.map(lambda v: v.cpu()), 1.0 if normalise else None, turn)
            )
