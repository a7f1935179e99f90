"""Export Mesh."""

from __future__ import annotations

import importlib.util
import logging
import re
from pathlib import PurePath
from typing import Any

import comfy.model_management
from comfy_api.latest import Types, io

from ...kernels.devices.pace import reached
from ...kernels.gaussians.cloud import Gaussians
from ...kernels.meshes.mesh import Mesh
from ..shared import types
from ..shared.background import in_background
from ..shared.outputs import OutputFile, check_prefix, new_output
from ..shared.validation import undeclared

# of the work, and their shares of its time on a CPU, about
PARTS = {
    "pictures": 0.25,
    "volume": 0.15,
    "surface": 0.05,
    "smoothing": 0.02,
    "reducing": 0.05,
    "colours": 0.05,
    "unwrapping": 0.1,
    "texture": 0.25,
    "normals": 0.05,
    "writing": 0.03,
}


class ExportMesh(io.ComfyNode):
    @classmethod
    def define_schema(cls) -> io.Schema:
        return io.Schema(
            node_id="Distill3D_ExportMesh",
            display_name="Export Mesh",
            category="Distill3D",
            description=(
                "Turn the Gaussians into a closed triangle mesh with a texture, or with colours at"
                " its vertices, and write it as GLB, OBJ, PLY or STL into ComfyUI's output folder."
                " Takes seconds, with a texture up to half a minute on a CPU; Cancel ends it."
            ),
            search_aliases=[
                "glb",
                "gltf",
                "obj",
                "stl",
                "texture",
                "splat to mesh",
                "marching cubes",
                "tsdf",
                "blender",
            ],
            is_output_node=True,
            inputs=[
                types.GaussianCloud.Input("gaussians", tooltip="The cloud to mesh."),
                io.String.Input(
                    "filename_prefix",
                    default="distill3d/mesh",
                    tooltip=(
                        "Folder and name below ComfyUI's output folder; _00001_.glb or the like is"
                        " appended. %year%, %month%, %day%, %hour%, %minute% and %second% are"
                        " filled in."
                    ),
                ),
                io.Int.Input(
                    "resolution",
                    default=128,
                    min=16,
                    max=512,
                    tooltip=(
                        "Grid points along the object's longest side. Twice as many: finer, eight"
                        " times the work. Beyond 128 only clouds of small Gaussians gain."
                    ),
                ),
                io.Int.Input(
                    "faces",
                    default=0,
                    min=0,
                    max=100_000_000,
                    tooltip=(
                        "Reduce the mesh to about this many triangles, or as few as its shape"
                        " allows; 0 keeps all (about 70,000 at resolution 128). Needs the Python"
                        " package fast-simplification, and may open small holes."
                    ),
                ),
                io.Int.Input(
                    "views",
                    default=64,
                    min=6,
                    max=1000,
                    advanced=True,
                    tooltip=(
                        "Pictures taken from all around, from whose depth the surface is fused and"
                        " whose colours it gets."
                    ),
                ),
                io.Float.Input(
                    "alpha_min",
                    default=0.5,
                    min=0.01,
                    max=0.99,
                    step=0.05,
                    round=0.001,
                    advanced=True,
                    tooltip=(
                        "A pixel shows the object if it is more than this opaque, 0..1. Lower it"
                        " for faint clouds."
                    ),
                ),
                io.Int.Input(
                    "smoothing",
                    default=5,
                    min=0,
                    max=1000,
                    advanced=True,
                    tooltip=(
                        "Rounds of Taubin smoothing, which takes the grid's steps away without"
                        " shrinking the object."
                    ),
                ),
                io.Float.Input(
                    "component_share",
                    default=0.02,
                    min=0.0,
                    max=1.0,
                    step=0.01,
                    round=0.0001,
                    advanced=True,
                    tooltip=(
                        "Separate pieces with less than this share, 0..1, of the largest one's area"
                        " are dropped."
                    ),
                ),
                # After the older ones and optional: saved workflows and API prompts know nothing of
                # them.
                io.Combo.Input(
                    "format",
                    options=["glb", "obj", "ply", "stl", "usdz"],
                    default="glb",
                    optional=True,
                    tooltip=(
                        "glb: one file with everything, for viewers, Blender and game engines. obj:"
                        " with .mtl and .png beside it. ply: colours at the vertices, no texture."
                        " stl: shape only, for printing. usdz: one file for Apple's and NVIDIA's"
                        " programs (needs the Python package usd-core)."
                    ),
                ),
                io.Int.Input(
                    "texture_size",
                    default=1024,
                    min=0,
                    max=4096,
                    step=64,
                    optional=True,
                    tooltip=(
                        "Texels along each side of the texture, 64..4096; 0 for colours at the"
                        " vertices instead. For glb, obj and the mesh output. On a CPU 1024 takes"
                        " seconds, 2048 some 20, 4096 minutes. Needs the Python package xatlas;"
                        " without it the vertices carry the colours."
                    ),
                ),
                io.Float.Input(
                    "scale",
                    default=1.0,
                    min=0.0001,
                    max=10000.0,
                    step=0.1,
                    round=0.0001,
                    optional=True,
                    advanced=True,
                    tooltip=(
                        "File units per world unit. An object is about 1 world unit wide, so 100"
                        " makes a print of 100 mm from an stl. The mesh output stays in world"
                        " units."
                    ),
                ),
                io.Combo.Input(
                    "up_axis",
                    options=["Y", "Z"],
                    default="Y",
                    optional=True,
                    advanced=True,
                    tooltip=(
                        "Axis that points up in the file. Y: front +Z; glb and usdz are always so."
                        " Z: front -Y, as slicers and CAD programs expect, and Blender of .ply and"
                        " .stl, which it does not turn by itself. The mesh output stays Y up."
                    ),
                ),
                io.Boolean.Input(
                    "normal_map",
                    default=False,
                    optional=True,
                    advanced=True,
                    tooltip=(
                        "Also write a picture of the normals that the surface had before faces"
                        " reduced it, so that few triangles are shaded like many; without faces"
                        " there is nothing to add. Takes seconds more. Only in glb, obj and usdz files"
                        " with a texture; ply, stl and the mesh output go without."
                    ),
                ),
            ],
            outputs=[
                types.MeshFile.Output(
                    display_name="file", tooltip="The file, for Preview 3D and other core nodes."
                ),
                io.Mesh.Output(
                    display_name="mesh",
                    tooltip="The mesh as ComfyUI's own MESH, textured likewise.",
                ),
            ],
        )

    @classmethod
    def validate_inputs(
        cls,
        filename_prefix: str | None = None,
        faces: int | None = None,
        format: str | None = "glb",
        texture_size: int | None = 0,
        up_axis: str | None = "Y",
        normal_map: bool | None = False,
    ) -> bool | str:
        # Before hours of work, not after.
        problem = undeclared(
            cls,
            {"faces": faces, "format": format, "texture_size": texture_size, "up_axis": up_axis},
        )
        if problem is None and faces and importlib.util.find_spec("fast_simplification") is None:
            problem = (
                f"faces is {faces}, which needs a Python package: pip install fast-simplification,"
                " or give 0."
            )
        if problem is None and texture_size and texture_size < 64:
            problem = (
                f"texture_size is {texture_size}; choose 64..4096 texels, or 0 for colours at the"
                " vertices."
            )
        if problem is None and format in ("glb", "usdz") and up_axis == "Z":
            problem = (
                f"up_axis is Z, but {format} files are Y up and say so. Choose Y, or format obj,"
                " ply or stl."
            )
        if problem is None and format == "usdz" and importlib.util.find_spec("pxr") is None:
            problem = (
                "format is usdz, which needs a Python package: pip install usd-core, or choose glb."
            )
        if (
            problem is None
            and normal_map
            and faces == 0
            and texture_size
            and format in ("glb", "obj", "usdz")
        ):
            problem = (
                "normal_map is on, but faces is 0: it holds what reducing the triangles takes away,"
                " and all are kept. Give faces a number, or turn normal_map off."
            )
        return problem or check_prefix(filename_prefix)

    @classmethod
    def execute(
        cls,
        gaussians: Gaussians,
        filename_prefix: str,
        faces: int,
        format: str = "glb",
        texture_size: int = 1024,
        scale: float = 1.0,
        up_axis: str = "Y",
        normal_map: bool = False,
        **settings: Any,
    ) -> io.NodeOutput:
        # Here, because scikit-image and trimesh take seconds to import.
        from ...kernels.files.export import TEXTURED, check_placing, save_mesh
        from ...kernels.meshes.cleanup import simplify
        from ...kernels.meshes.normal_map import add_normal_map
        from ...kernels.meshes.surface import extract_surface
        from ...kernels.meshes.texture import add_texture
        from ...kernels.meshes.unwrap import MISSING, available

        check_placing(format, scale, up_axis)
        prefix, beside = PurePath(filename_prefix), []
        # some readers end the name of its .mtl at the first blank, so no two may differ in blanks
        if format == "obj":
            prefix, beside = prefix.with_name(re.sub(r"\s", "_", prefix.name)), ["mtl"]
        device = comfy.model_management.get_torch_device()
        notes: list[str] = []

        def made() -> tuple[Mesh, OutputFile]:
            mesh = meshed()
            reached("writing")
            with new_output("Export Mesh", prefix.as_posix(), format, *beside) as file:
                save_mesh(mesh, file.path, scale, up_axis)
                reached("writing", 1.0)  # a cancel in between leaves nothing
            return mesh, file

        def meshed() -> Mesh:
            cloud = gaussians.to(device)
            textured = bool(texture_size) and format in TEXTURED
            if textured and not available():
                textured = False
                notes.append(f"Export Mesh: colours at the vertices, no texture. {MISSING}")
                logging.warning("Distill3D: %s", notes[0])
            mapped = textured and normal_map
            dense = extract_surface(cloud, faces=0 if mapped else faces, **settings)
            mesh = simplify(dense, faces) if mapped else dense
            if textured:
                shared = {key: settings[key] for key in ("views", "alpha_min")}
                mesh = add_texture(mesh, cloud, texture_size, **shared)
            if mapped:
                mesh = add_normal_map(mesh, dense, texture_size)
            return mesh

        mesh, file = in_background(made, PARTS)
        if faces and len(mesh.faces) > 1.1 * faces:
            notes.append(
                f"Export Mesh: {len(mesh.faces)} triangles instead of {faces}: fewer would tear"
                " this surface."
            )
        shown = {"3d": [file.result]} | ({"text": notes} if notes else {})
        return io.NodeOutput(
            Types.File3D(str(file.path), format), types.native_mesh(mesh), ui=shown
        )
