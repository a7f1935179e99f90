"""Meshes as the file formats other programs read.

| format | geometry | colours | up axis |
|---|---|---|---|
| glb | triangles, smooth normals, normal map | embedded PNG, else linear COLOR_0 | Y, by its standard |
| obj | the same | MTL and PNG beside it, else sRGB after the vertices' places | Y, or Z if asked |
| ply | triangles, smooth normals, binary | 8-bit sRGB at the vertices | Y, or Z if asked |
| stl | triangles, binary | none | Y, or Z if asked |
| usdz | triangles, smooth normals, normal map | PNG packed along, else linear displayColor | Y, and says so |
"""

from __future__ import annotations

import io
import math
import os
import re
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import torch
import trimesh
from PIL import Image

from ..meshes.mesh import Mesh
from .atomic import atomic_write, write_together
from .glb import write_glb
from .texture import image_of, upward
from .usd_mesh import save_usdz

FORMATS = ("glb", "obj", "ply", "stl", "usdz")
TEXTURED = ("glb", "obj", "usdz")
UPRIGHT = ("glb", "usdz")  # which way up is part of the format, or in the file
UP_AXES = ("Y", "Z")
SCALES = (1e-4, 1e4)


def check_placing(format: str, scale: float, up_axis: str) -> None:
    """Raises ValueError for an unknown format or axis, for Z up in GLB and USDZ, and for a scale outside
    1e-4..1e4.
    """
    for name, value, allowed in (("format", format, FORMATS), ("up_axis", up_axis, UP_AXES)):
        if value not in allowed:
            raise ValueError(
                f"Export mesh: {name} is {value!r}; choose one of {', '.join(allowed)}."
            )
    if not (SCALES[0] <= scale <= SCALES[1] and math.isfinite(scale)):
        raise ValueError(
            f"Export mesh: scale is {scale}; choose a value within {SCALES[0]:g}..{SCALES[1]:g}."
        )
    if format in UPRIGHT and up_axis == "Z":
        raise ValueError(
            f"Export mesh: up_axis is Z, but {format.upper()} says that Y is up, and programs that"
            " are Z up turn it when they read it. Choose Y, or one of the formats obj, ply, stl."
        )


def save_mesh(
    mesh: Mesh, path: str | os.PathLike[str], scale: float = 1.0, up_axis: str = "Y"
) -> list[Path]:
    """Write a mesh (Y up, front +Z) in the format of the path's suffix; returns the files written,
    the path first.

    ``scale``: file units per world unit. ``up_axis`` Z: turned so that up is +Z and the front -Y,
    as in Blender. With a texture, OBJ comes with ``NAME.mtl``, ``NAMEtexture.png`` and, for a
    normal map, ``NAMEnormal.png`` (blanks in NAME become _ there), all or none. GLB and textured
    OBJ alone carry a normal map. Raises ValueError as `check_placing`, for a bad mesh and a missing
    folder, OSError if the disk refuses.
    """
    path = Path(path)
    check_placing(path.suffix[1:].lower(), scale, up_axis)
    mesh = placed(mesh.check().map(lambda value: value.detach().cpu()), scale, up_axis)
    return WRITERS[path.suffix[1:].lower()](mesh, path)


def placed(mesh: Mesh, scale: float, up_axis: str) -> Mesh:
    """The mesh in file units, turned if Z is to be up: (x, y, z) becomes (x, -z, y)."""
    vertices = mesh.vertices * scale
    if up_axis == "Z":
        x, y, z = vertices.unbind(-1)
        vertices = torch.stack([x, -z, y], -1)
    return replace(mesh, vertices=vertices)


def _write_glb(mesh: Mesh, path: Path) -> list[Path]:
    write_glb(mesh, path)
    return [path]


def _write_usdz(mesh: Mesh, path: Path) -> list[Path]:
    save_usdz(mesh, path)
    return [path]


def _write_obj(mesh: Mesh, path: Path) -> list[Path]:
    # Some readers end a file name at the first blank.
    name = re.sub(r"\s", "_", path.stem)
    if mesh.texture is None:
        text, extra = (
            trimesh.exchange.obj.export_obj(_colored(mesh), include_normals=True, header=None),
            {},
        )
    else:
        material = trimesh.visual.material.SimpleMaterial(
            image=image_of(mesh.texture),
            ambient=[255] * 3,
            diffuse=[255] * 3,
            specular=[0] * 3,
            glossiness=1.0,
        )
        material.name = f"{name}texture"
        visual = trimesh.visual.TextureVisuals(upward(mesh), material)
        text, extra = trimesh.exchange.obj.export_obj(
            _model(mesh, visual=visual),
            include_normals=True,
            return_texture=True,
            mtl_name=f"{name}.mtl",
            header=None,
        )
        if mesh.normal_map is not None:
            extra = {f"{name}normal.png": _png(image_of(mesh.normal_map))} | extra
            # The first for three.js, which takes the second for heights unless both are there; the
            # second for Blender.
            extra[f"{name}.mtl"] += f"\nnorm {name}normal.png\nmap_Bump {name}normal.png\n".encode()
    contents = {path.parent / key: data for key, data in extra.items()}
    write_together(contents | {path: text.encode()})
    return [path, *contents]


def _png(image: Image.Image) -> bytes:
    file = io.BytesIO()
    image.save(file, "PNG")
    return file.getvalue()


def _write_ply(mesh: Mesh, path: Path) -> list[Path]:
    with atomic_write(path) as file:
        file.write(trimesh.exchange.ply.export_ply(_colored(mesh), vertex_normal=True))
    return [path]


def _write_stl(mesh: Mesh, path: Path) -> list[Path]:
    with atomic_write(path) as file:
        file.write(trimesh.exchange.stl.export_stl(_model(mesh)))
    return [path]


WRITERS = {
    "glb": _write_glb,
    "obj": _write_obj,
    "ply": _write_ply,
    "stl": _write_stl,
    "usdz": _write_usdz,
}


def _colored(mesh: Mesh) -> trimesh.Trimesh:
    colors = (mesh.colors.clamp(0, 1) * 255).round().byte().numpy()
    opaque = np.concatenate([colors, np.full((len(colors), 1), 255, np.uint8)], 1)
    return _model(mesh, vertex_colors=opaque)


def _model(mesh: Mesh, **visual: Any) -> trimesh.Trimesh:
    return trimesh.Trimesh(
        vertices=mesh.vertices.double().numpy(),
        faces=mesh.faces.numpy(),
        vertex_normals=mesh.vertex_normals.double().numpy(),
        process=False,
        **visual,
    )
