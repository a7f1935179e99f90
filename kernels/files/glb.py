"""Meshes with vertex colours or a texture as binary glTF.

glTF defines COLOR_0 as linear, and three.js (so ComfyUI's viewer) and Blender read it so; our
colours are sRGB and are converted, or the object would look washed out. trimesh writes vertex
colours as 8-bit numbers without any conversion, which bands in the darks once linear; here they
travel as a float32 attribute that is renamed to COLOR_0 at the end (float, not 16-bit: trimesh's
own reader takes the low byte of 16-bit colours). The material is rough and not metallic: glTF's
default is full metal, nearly black in a viewer without an environment map.
"""

from __future__ import annotations

import os
from typing import Any

import torch
import trimesh
from torch import Tensor

from ..meshes.color import srgb_to_linear
from ..meshes.mesh import Mesh
from ..meshes.normal_map import vertex_tangents
from .atomic import atomic_write
from .texture import image_of, upward

ARRAY_BUFFER, ELEMENT_ARRAY_BUFFER = 34962, 34963  # glTF's targets of buffer views


def save_glb(
    vertices: Tensor, faces: Tensor, vertex_colors: Tensor, path: str | os.PathLike[str]
) -> None:
    """`write_glb` with vertex colours: vertices [M,3], faces [F,3], vertex_colors [M,3] sRGB
    0..1.
    """
    write_glb(Mesh(*(torch.as_tensor(value) for value in (vertices, faces, vertex_colors))), path)


def write_glb(mesh: Mesh, path: str | os.PathLike[str]) -> None:
    """Write a mesh as GLB, Y up as it is, with smooth normals; atomic.

    With a texture it is embedded as PNG and the vertex colours stay out, as glTF multiplies the
    two; a normal map is embedded likewise, with tangents. Raises ValueError for a bad mesh or a
    missing folder, OSError if the disk refuses; an existing file stays as it was unless everything
    was written.
    """
    data = glb_bytes(mesh)
    with atomic_write(path) as file:
        file.write(data)


def glb_bytes(mesh: Mesh) -> bytes:
    """What `write_glb` writes. Raises ValueError for a bad mesh."""
    mesh = mesh.check().map(lambda value: value.detach().cpu())
    mapped = mesh.texture is not None or mesh.normal_map is not None
    extras = (
        {}
        if mesh.texture is not None
        else {"_COLOR_0": srgb_to_linear(mesh.colors.float().clamp(0, 1))}
    )
    if mesh.normal_map is not None:
        extras["_TANGENT"] = vertex_tangents(mesh)  # else every reader makes its own
    material = trimesh.visual.material.PBRMaterial(
        metallicFactor=0.0,
        roughnessFactor=0.9,
        baseColorTexture=None if mesh.texture is None else image_of(mesh.texture),
        normalTexture=None if mesh.normal_map is None else image_of(mesh.normal_map),
    )
    model = trimesh.Trimesh(
        vertices=mesh.vertices.double().numpy(),
        faces=mesh.faces.numpy(),
        vertex_normals=mesh.vertex_normals.double().numpy(),
        vertex_attributes={name: value.float().numpy() for name, value in extras.items()},
        visual=trimesh.visual.TextureVisuals(upward(mesh) if mapped else None, material),
        process=False,
    )
    data: bytes = trimesh.exchange.gltf.export_glb(
        model, include_normals=True, tree_postprocessor=_finish
    )
    return data


def _finish(tree: dict[str, Any]) -> None:
    """What trimesh leaves out: the standard's name for colours, and what the buffer views are
    for.
    """
    primitive = tree["meshes"][0]["primitives"][0]
    attributes = primitive["attributes"]
    # trimesh writes attributes of others' naming only with a leading underscore
    for name in ("COLOR_0", "TANGENT"):
        if f"_{name}" in attributes:
            attributes[name] = attributes.pop(f"_{name}")
    used = dict.fromkeys(attributes.values(), ARRAY_BUFFER) | {
        primitive["indices"]: ELEMENT_ARRAY_BUFFER
    }
    for accessor, target in used.items():
        tree["bufferViews"][tree["accessors"][accessor]["bufferView"]]["target"] = target
