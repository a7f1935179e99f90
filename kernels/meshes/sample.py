"""Points spread evenly over the surface of meshes, in their colours."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from .mesh import Mesh


@dataclass(frozen=True)
class Samples:
    """N points on a surface.

    Args:
        points: [N,3] world units
        normals: [N,3] unit length, of the triangles
        colors: [N,3] sRGB 0..1
        area: of the whole surface, square world units
    """

    points: Tensor
    normals: Tensor
    colors: Tensor
    area: float


def sample(meshes: Sequence[Mesh], count: int, generator: torch.Generator) -> Samples:
    """``count`` points, evenly over the area of all meshes together.

    The colour of a point is its nearest texel where its mesh has a texture (coordinates beyond 0..1
    repeat it), else that of the corners, mixed. Draws come from the generator. Raises ValueError
    for meshes without area.
    """
    corners = torch.cat([mesh.vertices.detach().float()[mesh.faces] for mesh in meshes])  # [F,3,3]
    crosses = torch.linalg.cross(corners[:, 1] - corners[:, 0], corners[:, 2] - corners[:, 0])
    areas = 0.5 * crosses.norm(dim=-1).double()
    total = float(areas.sum())
    if not total > 0:
        raise ValueError(
            "The mesh has no area: all its triangles are points or lines. Choose another mesh."
        )
    draws = torch.rand(count, 3, generator=generator, device=generator.device).to(corners)
    # One sample in each of ``count`` equal shares of the area: even, where independent draws would
    # clump.
    shares = (torch.arange(count, device=corners.device) + draws[:, 0].double()) / count * total
    faces = torch.searchsorted(areas.cumsum(0), shares).clamp_max(len(areas) - 1)
    root = draws[:, 1].sqrt()
    # uniform in the triangle
    weights = torch.stack([1 - root, root * (1 - draws[:, 2]), root * draws[:, 2]], -1)
    points = (weights[..., None] * corners[faces]).sum(1)
    colors, begin = torch.empty_like(points), 0
    for mesh in meshes:
        here = (faces >= begin) & (faces < begin + len(mesh.faces))
        colors[here] = _colors(mesh, faces[here] - begin, weights[here])
        begin += len(mesh.faces)
    return Samples(points, torch.nn.functional.normalize(crosses[faces], dim=-1), colors, total)


def _colors(mesh: Mesh, faces: Tensor, weights: Tensor) -> Tensor:
    corners, textured = mesh.faces[faces], mesh.uvs is not None and mesh.texture is not None
    values = mesh.uvs if textured else mesh.colors
    assert values is not None
    mixed = (weights[..., None] * values.to(weights)[corners]).sum(1)
    if not textured:
        return mixed
    assert mesh.texture is not None
    return texels(mesh.texture.to(weights), mixed)


def texels(texture: Tensor, uvs: Tensor) -> Tensor:
    """The nearest texels [K,3] of a texture [H,W,3] at coordinates [K,2] as in `Mesh`; beyond 0..1
    it repeats.
    """
    within = torch.where((uvs < 0) | (uvs > 1), uvs - uvs.floor(), uvs)
    height, width = texture.shape[:2]
    column = (within[:, 0] * width).long().clamp(0, width - 1)
    row = (within[:, 1] * height).long().clamp(0, height - 1)
    return texture[row, column]
