"""Meshes as .usdz: OpenUSD with a UsdPreviewSurface, the texture and the normal map packed along.

Y up, a unit a metre. Texture coordinates run upward from the picture's lower left, as in OBJ;
vertex colours are linear.
"""

from __future__ import annotations

import io
from pathlib import Path
from typing import Any

import numpy as np
from torch import Tensor

from ..meshes.color import srgb_to_linear
from ..meshes.mesh import Mesh
from .texture import image_of, upward
from .usd import new_stage, usd, write_stage

LOOK = "/Object/Look"
TEXTURE, NORMALS = "texture.png", "normals.png"


def save_usdz(mesh: Mesh, path: Path) -> None:
    """Write the mesh with its texture, else its vertex colours; atomic.

    Raises ValueError for a missing folder or package usd-core, OSError if the disk refuses.
    """
    pxr = usd("mesh")
    stage = new_stage(pxr, "Object")
    shape = pxr.UsdGeom.Mesh.Define(stage, "/Object/Mesh")
    vectors = pxr.Vt.Vec3fArray.FromNumpy
    vertices = _floats(mesh.vertices)
    shape.CreatePointsAttr(vectors(vertices))
    shape.CreateExtentAttr(vectors(np.stack([vertices.min(0), vertices.max(0)])))
    faces = mesh.faces.detach().cpu().numpy().astype(np.int32)
    shape.CreateFaceVertexCountsAttr(pxr.Vt.IntArray.FromNumpy(np.full(len(faces), 3, np.int32)))
    shape.CreateFaceVertexIndicesAttr(pxr.Vt.IntArray.FromNumpy(faces.reshape(-1)))
    shape.CreateNormalsAttr(vectors(_floats(mesh.vertex_normals)))
    shape.SetNormalsInterpolation(pxr.UsdGeom.Tokens.vertex)
    shape.CreateSubdivisionSchemeAttr(pxr.UsdGeom.Tokens.none)
    attributes = pxr.UsdGeom.PrimvarsAPI(shape)
    kinds, vertex = pxr.Sdf.ValueTypeNames, pxr.UsdGeom.Tokens.vertex
    if mesh.uvs is not None:
        uvs = pxr.Vt.Vec2fArray.FromNumpy(upward(mesh).astype(np.float32))
        attributes.CreatePrimvar("st", kinds.TexCoord2fArray, vertex).Set(uvs)
    if mesh.texture is None:
        colors = vectors(_floats(srgb_to_linear(mesh.colors.float().clamp(0, 1))))
        attributes.CreatePrimvar("displayColor", kinds.Color3fArray, vertex).Set(colors)
    pictures = {TEXTURE: mesh.texture, NORMALS: mesh.normal_map}
    _look(pxr, stage, shape, mesh)
    packed = {name: _png(value) for name, value in pictures.items() if value is not None}
    write_stage(pxr, stage, path, packed)


def _look(pxr: Any, stage: Any, shape: Any, mesh: Mesh) -> None:
    """The material: rough and not metallic, coloured by the texture or at the vertices."""
    kinds = pxr.Sdf.ValueTypeNames
    look = pxr.UsdShade.Material.Define(stage, LOOK)

    def shader(name: str, kind: str, **inputs: tuple[Any, Any]) -> Any:
        made = pxr.UsdShade.Shader.Define(stage, f"{LOOK}/{name}")
        made.CreateIdAttr(kind)
        for key, (of, value) in inputs.items():
            made.CreateInput(key, of).Set(value)
        return made

    surface = shader(
        "Surface", "UsdPreviewSurface", roughness=(kinds.Float, 0.9), metallic=(kinds.Float, 0.0)
    )

    def picture(name: str, file: str, target: str, kind: Any, **more: tuple[Any, Any]) -> None:
        reader = shader(f"{name}Place", "UsdPrimvarReader_float2", varname=(kinds.String, "st"))
        texture = shader(name, "UsdUVTexture", file=(kinds.Asset, file), **more)
        place = reader.CreateOutput("result", kinds.Float2)
        texture.CreateInput("st", kinds.Float2).ConnectToSource(place)
        color = texture.CreateOutput("rgb", kinds.Float3)
        surface.CreateInput(target, kind).ConnectToSource(color)

    if mesh.texture is not None:
        space = (kinds.Token, "sRGB")
        picture("Texture", TEXTURE, "diffuseColor", kinds.Color3f, sourceColorSpace=space)
    else:
        reader = shader("Colors", "UsdPrimvarReader_float3", varname=(kinds.String, "displayColor"))
        color = reader.CreateOutput("result", kinds.Float3)
        surface.CreateInput("diffuseColor", kinds.Color3f).ConnectToSource(color)
    if mesh.normal_map is not None:
        four = kinds.Float4
        unpacked = {"scale": (four, (2, 2, 2, 1)), "bias": (four, (-1, -1, -1, 0))}
        raw = (kinds.Token, "raw")
        picture("Normals", NORMALS, "normal", kinds.Normal3f, sourceColorSpace=raw, **unpacked)
    look.CreateSurfaceOutput().ConnectToSource(surface.CreateOutput("surface", kinds.Token))
    pxr.UsdShade.MaterialBindingAPI.Apply(shape.GetPrim()).Bind(look)


def _floats(values: Tensor) -> Any:
    return np.ascontiguousarray(values.detach().cpu().numpy(), np.float32)


def _png(value: Tensor) -> bytes:
    file = io.BytesIO()
    image_of(value).save(file, "PNG")
    return file.getvalue()
