"""Export Mesh."""

from __future__ import annotations

import importlib.util
from typing import Any

import comfy.model_management
from comfy_api.latest import Types, io

from ..kernels.gaussians.cloud import Gaussians
from . import types
from .memory import autograd
from .outputs import check_prefix, next_output
from .validation import undeclared


class ExportMesh(io.ComfyNode):
    @classmethod
    def define_schema(cls) -> io.Schema:
        return io.Schema(
            node_id="Distill3D_ExportMesh",
            display_name="Export Mesh",
            category="Distill3D",
            description="Turn the Gaussians into a closed triangle mesh with colours at its vertices, and write it "
            "as GLB (Y up) into ComfyUI's output folder. Takes seconds.",
            search_aliases=["glb", "gltf", "splat to mesh", "marching cubes", "tsdf", "blender"],
            is_output_node=True,
            inputs=[
                types.GaussianCloud.Input("gaussians", tooltip="The cloud to mesh."),
                io.String.Input(
                    "filename_prefix",
                    default="distill3d/mesh",
                    tooltip="Folder and name below ComfyUI's output folder; _00001_.glb and so on is appended. %year%, "
                    "%month%, %day%, %hour%, %minute% and %second% are filled in.",
                ),
                io.Int.Input(
                    "resolution",
                    default=128,
                    min=16,
                    max=512,
                    tooltip="Grid points along the object's longest side. Twice as many: finer, eight times the "
                    "work. Beyond 128 only clouds of small Gaussians gain.",
                ),
                io.Int.Input(
                    "faces",
                    default=0,
                    min=0,
                    max=100_000_000,
                    tooltip="Reduce the mesh to about this many triangles; 0 keeps all (about 70,000 at resolution "
                    "128). Needs the Python package fast-simplification, and may open small holes.",
                ),
                io.Int.Input(
                    "views",
                    default=64,
                    min=6,
                    max=1000,
                    advanced=True,
                    tooltip="Pictures taken from all around, from whose depth the surface is fused and whose "
                    "colours it gets.",
                ),
                io.Float.Input(
                    "alpha_min",
                    default=0.5,
                    min=0.01,
                    max=0.99,
                    step=0.05,
                    round=0.001,
                    advanced=True,
                    tooltip="A pixel shows the object if it is more than this opaque, 0..1. Lower it for faint clouds.",
                ),
                io.Int.Input(
                    "smoothing",
                    default=5,
                    min=0,
                    max=1000,
                    advanced=True,
                    tooltip="Rounds of Taubin smoothing, which takes the grid's steps away without shrinking the "
                    "object.",
                ),
                io.Float.Input(
                    "component_share",
                    default=0.02,
                    min=0.0,
                    max=1.0,
                    step=0.01,
                    round=0.0001,
                    advanced=True,
                    tooltip="Separate pieces with less than this share, 0..1, of the largest one's area are dropped.",
                ),
            ],
            outputs=[
                io.File3DGLB.Output(display_name="glb", tooltip="The file, for Preview 3D and other core nodes."),
                io.Mesh.Output(display_name="mesh", tooltip="The mesh as ComfyUI's own MESH."),
            ],
        )

    @classmethod
    def validate_inputs(cls, filename_prefix: str | None, faces: int | None) -> bool | str:
        # Before hours of work, not after.
        problem = undeclared(cls, {"faces": faces})
        if problem is None and faces and importlib.util.find_spec("fast_simplification") is None:
            problem = f"faces is {faces}, which needs a Python package: pip install fast-simplification, or give 0."
        return problem or check_prefix(filename_prefix)

    @classmethod
    def execute(cls, gaussians: Gaussians, filename_prefix: str, **settings: Any) -> io.NodeOutput:
        # Here, because scikit-image and trimesh take seconds to import.
        from ..kernels.files.glb import save_glb
        from ..kernels.meshes.surface import extract_surface

        file = next_output(filename_prefix, "glb")
        with autograd():
            mesh = extract_surface(gaussians.to(comfy.model_management.get_torch_device()), **settings)
        save_glb(mesh.vertices, mesh.faces, mesh.colors, file.path)
        return io.NodeOutput(Types.File3D(str(file.path), "glb"), types.native_mesh(mesh), ui={"3d": [file.result]})
