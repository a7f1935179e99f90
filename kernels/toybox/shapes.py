"""The toys as one distance each: the smallest of their solids' distances.

Exact outside. Inside, where solids overlap, only a lower bound of the depth; the surface is exact
all the same.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import cache

import torch
from torch import Tensor

from .captions import CATEGORIES
from .distances import Distance
from .roles import ROLES
from .toys import BUILDERS


@dataclass(frozen=True)
class Shape:
    """One toy. ``solids`` pairs a role (`MAIN` or an `ACCENTS` name) with a signed distance."""

    category: str
    solids: tuple[tuple[str, Distance], ...]

    def distance(self, points: Tensor) -> Tensor:
        """points [...,3] world units -> signed distance [...], negative inside."""
        best = self.solids[0][1](points)
        for _, solid in self.solids[1:]:
            best = torch.minimum(best, solid(points))
        return best

    def roles(self, points: Tensor) -> Tensor:
        """points [...,3] -> index into `ROLES` [...] of the nearest solid."""
        best, role = (
            self.solids[0][1](points),
            torch.full(points.shape[:-1], ROLES.index(self.solids[0][0])),
        )
        role = role.to(points.device)
        for name, solid in self.solids[1:]:
            d = solid(points)
            role = torch.where(d < best, ROLES.index(name), role)
            best = torch.minimum(best, d)
        return role

    def normals(self, points: Tensor, step: float = 1e-3) -> Tensor:
        """points [...,3] -> unit gradient of the distance [...,3], by central differences of
        ``step`` world units.
        """
        offsets = torch.eye(3, dtype=points.dtype, device=points.device) * step
        grad = torch.stack(
            [self.distance(points + o) - self.distance(points - o) for o in offsets], -1
        )
        return torch.nn.functional.normalize(grad, dim=-1)


@cache
def shape(category: str) -> Shape:
    """The toy of a category. Raises ValueError for an unknown one."""
    if category not in BUILDERS:
        raise ValueError(f"category {category!r} is not one of {', '.join(CATEGORIES)}.")
    return Shape(category, tuple(BUILDERS[category]()))
