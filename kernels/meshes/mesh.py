"""A triangle mesh with colours at its vertices."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor


@dataclass(frozen=True)
class Mesh:
    """M vertices and F triangles, counter-clockwise seen from outside; same world as `Gaussians` (Y up)."""

    vertices: Tensor  # [M,3] world units
    faces: Tensor  # [F,3] int64 indices into the vertices
    colors: Tensor  # [M,3] sRGB 0..1

    def check(self, name: str = "mesh") -> Mesh:
        """Return self, or raise ValueError that names what is wrong."""
        if self.vertices.dim() != 2 or self.vertices.shape[1] != 3 or self.colors.shape != self.vertices.shape:
            shapes = f"{tuple(self.vertices.shape)} and {tuple(self.colors.shape)}"
            raise ValueError(f"{name}: vertices and colours have shapes {shapes}, expected (M, 3) for both.")
        if self.faces.dim() != 2 or self.faces.shape[1] != 3 or len(self.faces) == 0:
            raise ValueError(
                f"{name}: faces have shape {tuple(self.faces.shape)}, expected (F, 3) with at least 1 face."
            )
        if self.faces.is_floating_point() or int(self.faces.min()) < 0 or int(self.faces.max()) >= len(self.vertices):
            raise ValueError(f"{name}: faces must be whole numbers within 0..{len(self.vertices) - 1}.")
        if not bool(torch.isfinite(self.vertices).all() and torch.isfinite(self.colors).all()):
            raise ValueError(f"{name} holds vertices or colours that are NaN or infinite; remove them first.")
        return self

    @property
    def volume(self) -> float:  # cubic world units; positive when the triangles face outward
        a, b, c = self.vertices.double()[self.faces].unbind(1)
        return float((a * torch.linalg.cross(b, c)).sum() / 6)

    @property
    def face_areas(self) -> Tensor:  # [F] square world units
        a, b, c = self.vertices[self.faces].unbind(1)
        return 0.5 * torch.linalg.cross(b - a, c - a).norm(dim=-1)

    @property
    def vertex_normals(self) -> Tensor:  # [M,3] unit length, weighted by face area
        a, b, c = self.vertices[self.faces].unbind(1)
        normals = torch.linalg.cross(b - a, c - a)
        total = torch.zeros_like(self.vertices)
        for corner in range(3):
            total = total.index_add(0, self.faces[:, corner], normals)
        return torch.nn.functional.normalize(total, dim=-1)
