"""A triangle mesh with colours at its vertices, and a texture if it has been given one."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, fields
from typing import Any

import torch
from torch import Tensor


@dataclass(frozen=True)
class Mesh:
    """M vertices and F triangles, counter-clockwise seen from outside; same world as `Gaussians` (Y
    up).

    ``training`` is what lets `kernels.run.refine` go on (None for a mesh that was never refined).

    Args:
        vertices: [M,3] world units
        faces: [F,3] int64 indices into the vertices
        colors: [M,3] sRGB 0..1
        uvs: [M,2] 0..1, right and down from the texture's first texel, as in glTF
        texture: [H,W,3] sRGB 0..1, the first row on top
        normal_map: [H,W,3] 0..1, 0.5 + half of a normal as in glTF: right along u, up, out
    """

    vertices: Tensor
    faces: Tensor
    colors: Tensor
    uvs: Tensor | None = None
    texture: Tensor | None = None
    normal_map: Tensor | None = None
    training: Any = None

    def map(self, function: Callable[[Tensor], Tensor]) -> Mesh:
        """A new mesh with ``function`` of every tensor it has; training state is dropped."""
        values = {
            field.name: getattr(self, field.name)
            for field in fields(self)
            if field.name != "training"
        }
        return Mesh(
            **{name: function(value) for name, value in values.items() if value is not None}
        )

    def check(self, name: str = "mesh") -> Mesh:
        """Return self, or raise ValueError that names what is wrong."""
        if (
            self.vertices.dim() != 2
            or self.vertices.shape[1] != 3
            or self.colors.shape != self.vertices.shape
        ):
            shapes = f"{tuple(self.vertices.shape)} and {tuple(self.colors.shape)}"
            raise ValueError(
                f"{name}: vertices and colours have shapes {shapes}, expected (M, 3) for both."
            )
        if self.faces.dim() != 2 or self.faces.shape[1] != 3 or len(self.faces) == 0:
            raise ValueError(
                f"{name}: faces have shape {tuple(self.faces.shape)}, expected (F, 3) with at least"
                " 1 face."
            )
        if (
            self.faces.is_floating_point()
            or int(self.faces.min()) < 0
            or int(self.faces.max()) >= len(self.vertices)
        ):
            raise ValueError(
                f"{name}: faces must be whole numbers within 0..{len(self.vertices) - 1}."
            )
        if not bool(torch.isfinite(self.vertices).all() and torch.isfinite(self.colors).all()):
            raise ValueError(
                f"{name} holds vertices or colours that are NaN or infinite; remove them first."
            )
        if self.uvs is not None and self.uvs.shape != (len(self.vertices), 2):
            raise ValueError(
                f"{name}: uvs have shape {tuple(self.uvs.shape)}, expected"
                f" ({len(self.vertices)}, 2)."
            )
        for layer, value in (("texture", self.texture), ("normal map", self.normal_map)):
            if value is not None and (self.uvs is None or value.dim() != 3 or value.shape[2] != 3):
                given = f"{tuple(value.shape)} {'without' if self.uvs is None else 'with'} uvs"
                raise ValueError(f"{name}: the {layer} is {given}, expected (H, W, 3) with uvs.")
        return self

    @property
    def volume(self) -> float:  # cubic world units; positive when the triangles face outward
        a, b, c = self.vertices.double()[self.faces].unbind(1)
        return float((a * torch.linalg.cross(b, c)).sum() / 6)

    @property
    def face_areas(self) -> Tensor:  # [F] square world units
        a, b, c = self.vertices[self.faces].unbind(1)
        areas: Tensor = 0.5 * torch.linalg.cross(b - a, c - a).norm(dim=-1)
        return areas

    @property
    # [M,3] unit length, weighted by face area; smooth across a texture's seams
    def vertex_normals(self) -> Tensor:
        a, b, c = self.vertices[self.faces].unbind(1)
        normals = torch.linalg.cross(b - a, c - a)
        total = torch.zeros_like(self.vertices)
        for corner in range(3):
            total = total.index_add(0, self.faces[:, corner], normals)
        if self.uvs is not None:  # the doubled vertices of a seam lie at the very same place
            position_of = places_of(self.vertices)
            total = torch.zeros_like(total).index_add(0, position_of, total)[position_of]
        return torch.nn.functional.normalize(total, dim=-1)


def places_of(vertices: Tensor) -> Tensor:
    """The number [M] of the place of each vertex [M,3], equal where all coordinates are; places are
    counted in the order of their coordinates.

    As torch.unique of rows, which takes ten times as long.
    """
    number = torch.zeros(len(vertices), dtype=torch.long, device=vertices.device)
    for coordinate in vertices.unbind(1):
        rank = torch.unique(coordinate, return_inverse=True)[1]
        number = torch.unique(number * len(vertices) + rank, return_inverse=True)[1]
    return number


@dataclass(frozen=True)
class Points:
    """A point cloud; same world as `Mesh`.

    Args:
        points: [N,3] world units
        colors: [N,3] sRGB 0..1
        normals: [N,3] unit length
    """

    points: Tensor
    colors: Tensor
    normals: Tensor | None = None
