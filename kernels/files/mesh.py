"""Mesh files of any common kind as one `Mesh` with sRGB vertex colours."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Any

import numpy as np
import torch
import trimesh

from ..meshes.mesh import Mesh
from .glb import linear_to_srgb

SUFFIXES = (".glb", ".gltf", ".obj", ".ply", ".stl", ".off")
GREY = 0.5


def load_mesh(path: str | os.PathLike[str]) -> Mesh:
    """Read a mesh; all objects of a scene as one, in place.

    Colours come from the vertices, else from the texture at the vertices, else from the material, else grey; those of
    glTF files are turned from linear to sRGB. Raises ValueError naming the file for unknown kinds, damaged files and
    files without triangles.
    """
    name = Path(path).name
    suffix = Path(path).suffix.lower()
    if suffix not in SUFFIXES:
        raise ValueError(f"{name} is no mesh file this can read; choose one of {', '.join(SUFFIXES)}.")
    if not Path(path).is_file():
        raise ValueError(f"{path} does not exist. Choose another file.")
    try:
        parts = _parts(trimesh.load(str(path), process=False), linear=suffix in (".glb", ".gltf"))
    except Exception as error:  # the many parsers behind it raise whatever they meet
        raise ValueError(f"{name} cannot be read as a mesh ({type(error).__name__}: {error}).") from error
    if not parts:
        raise ValueError(f"{name} holds no triangles; it may be a point cloud or splat. Choose a mesh.")
    faces, offset = [], 0
    for part in parts:
        faces.append(part.faces + offset)
        offset += len(part.vertices)
    vertices, colors = (torch.cat([getattr(part, key) for part in parts]) for key in ("vertices", "colors"))
    return Mesh(vertices, torch.cat(faces), colors).check(name)


def _parts(loaded: Any, linear: bool) -> list[Mesh]:
    if not isinstance(loaded, trimesh.Scene):
        placed = [(np.eye(4), loaded)]
    else:  # not Scene.dump: its copies lose the colours of meshes that also have a material
        nodes = [loaded.graph.get(node) for node in loaded.graph.nodes_geometry]
        placed = [(matrix, loaded.geometry[key]) for matrix, key in nodes]
    parts = []
    for matrix, part in placed:
        if isinstance(part, trimesh.Trimesh) and len(part.faces):
            vertices = np.asarray(part.vertices) @ matrix[:3, :3].T + matrix[:3, 3]
            mirrored = np.linalg.det(matrix[:3, :3]) < 0
            faces = np.asarray(part.faces, np.int64)[:, :: -1 if mirrored else 1]
            parts.append(
                Mesh(
                    torch.from_numpy(vertices).float(),
                    torch.from_numpy(np.ascontiguousarray(faces)),
                    _colors(part, linear),
                )
            )
    return parts


def _colors(part: Any, linear: bool) -> torch.Tensor:
    """[M,3] sRGB 0..1."""
    visual, count = part.visual, len(part.vertices)
    encode = linear_to_srgb if linear else lambda value: value
    attribute = visual.vertex_attributes.get("color") if hasattr(visual, "vertex_attributes") else None
    if attribute is None and visual.kind in ("vertex", "face"):
        attribute = visual.vertex_colors
    if attribute is not None and len(attribute) == count:
        return encode(_unit(attribute))
    material = getattr(visual, "material", None)
    if material is not None:
        image = getattr(material, "baseColorTexture", None) or getattr(material, "image", None)
        if image is not None and visual.uv is not None and len(visual.uv) == count:
            return _unit(trimesh.visual.color.uv_to_color(visual.uv, image))
        return encode(_unit(np.asarray(material.main_color)[None])).expand(count, 3).clone()
    return torch.full((count, 3), GREY)


def _unit(colors: Any) -> torch.Tensor:
    """Any colour array as float 0..1 [...,3]: whole numbers span their type's range."""
    values = np.asarray(colors)[..., :3]
    top = np.iinfo(values.dtype).max if values.dtype.kind in "iu" else 1
    return torch.from_numpy(values.astype(np.float32) / top).clamp(0, 1)
