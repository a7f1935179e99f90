"""The surface of a mesh."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

import torch

from ..gaussians.cloud import Gaussians
from ..meshes.mesh import Mesh, Points
from ..meshes.placing import fitting, upright
from ..meshes.sample import sample
from .parameters import check_count
from .points import from_points


def from_mesh(
    mesh: Mesh | Sequence[Mesh],
    count: int = 4000,
    generator: torch.Generator | None = None,
    size: float | None = 1.0,
    opacity_logit: float = 1.0,
    sh_degree: int = 0,
) -> Gaussians:
    """``count`` flat Gaussians spread evenly over the surface of a mesh, or of the parts of one, in
    its colours.

    The mesh is moved and scaled so that its longest side is ``size`` world units around the origin,
    or taken as it is if size is None. Colours come from the texture where there is one (`sample`).
    Without a generator: seed 0. Raises ValueError for a mesh without area.
    """
    check_count(count)
    parts = [part.check() for part in ([mesh] if isinstance(mesh, Mesh) else mesh)]
    if size is not None:
        middle, factor = fitting(
            torch.cat([part.vertices.detach().float() for part in parts]), size
        )
        parts = [
            replace(part, vertices=(part.vertices.float() - middle) * factor) for part in parts
        ]
    spread = sample(parts, count, generator or torch.Generator().manual_seed(0))
    # 0.7 of the spacing: neighbours meet at about 0.8 of their peak, so the surface has no holes.
    scale = 0.7 * (spread.area / count) ** 0.5
    return from_points(
        spread.points, spread.colors, spread.normals, scale, opacity_logit, sh_degree
    )


def from_shape(
    shape: Sequence[Mesh] | Points,
    count: int = 4000,
    generator: torch.Generator | None = None,
    size: float | None = 1.0,
    up_axis: str = "Y",
    turn: float = 0.0,
    opacity_logit: float = 1.0,
) -> Gaussians:
    """Gaussians on what `load_shape` reads: `from_mesh` of meshes, `from_points` of a point cloud.

    It is set `upright` first, by ``up_axis`` and ``turn``. Of a cloud of more than ``count`` points
    so many are drawn, one of fewer is taken whole. Raises ValueError as these functions do.
    """
    generator = generator or torch.Generator().manual_seed(0)
    if not isinstance(shape, Points):
        parts = [replace(part, vertices=upright(part.vertices, up_axis, turn)) for part in shape]
        return from_mesh(parts, count, generator, size, opacity_logit)
    check_count(count)
    points = upright(shape.points.float(), up_axis, turn)
    normals = None if shape.normals is None else upright(shape.normals, up_axis, turn)
    if size is not None:
        middle, factor = fitting(points, size)
        points = (points - middle) * factor
    chosen = (
        torch.randperm(len(points), generator=generator)[:count].sort().values.to(points.device)
    )
    few = None if normals is None else normals[chosen]
    return from_points(points[chosen], shape.colors[chosen], few, opacity_logit=opacity_logit)
