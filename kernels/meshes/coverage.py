"""Which triangle each pixel shows: a plain reference, a version for any device, one compiled for
the CPU.
"""

from __future__ import annotations

from collections.abc import Callable
from functools import lru_cache

import torch
from torch import Tensor

from ..cameras.pinhole import Cameras
from .raster import NEAR, rasterize_positions

BACKENDS = ("auto", "reference", "torch", "numba")
Cover = Callable[[Tensor, Tensor, Cameras], Tensor]


def cover(positions: Tensor, faces: Tensor, cameras: Cameras, backend: str = "auto") -> Tensor:
    """The index [V,H,W] of the face nearest to each pixel's centre, -1 where there is none.

    ``positions`` [V,M,3] are the vertices in each camera's space. Of faces at the same depth the
    higher index wins. All backends agree but for pixels whose centre lies on an edge to within
    rounding. Raises ValueError for an unknown backend, or one that cannot run here.
    """
    if backend not in BACKENDS:
        raise ValueError(f"backend {backend!r} is unknown; choose one of {', '.join(BACKENDS)}.")
    compiled = (
        _compiled() if positions.device.type == "cpu" and backend in ("auto", "numba") else None
    )
    if backend == "numba" and not callable(compiled):
        why = (
            f"cannot be imported ({compiled})"
            if compiled is not None
            else f"covers on the CPU, not {positions.device}"
        )
        raise ValueError(f"backend 'numba' {why}; use 'auto' or 'torch'.")
    if callable(compiled):
        return compiled(positions, faces, cameras)
    return (cover_reference if backend == "reference" else cover_torch)(positions, faces, cameras)


def cover_reference(positions: Tensor, faces: Tensor, cameras: Cameras) -> Tensor:
    """Face after face over all pixels: slow, and plain to read.

    Shapes as for `cover`.
    """
    views, height, width = len(cameras), cameras.height, cameras.width
    result = torch.full((views, height, width), -1, device=positions.device)
    nearest = torch.full(
        (views, height, width), torch.inf, dtype=positions.dtype, device=positions.device
    )
    for view in range(views):
        x, y = _rays(cameras, view, positions)
        rays = torch.stack(
            [
                x.expand(height, width),
                y[:, None].expand(height, width),
                torch.ones_like(nearest[view]),
            ]
        )
        for index, face in enumerate(faces.tolist()):
            a, b, c = positions[view, face]
            if min(a[2], b[2], c[2]) < NEAR:
                continue
            normals = torch.stack([torch.linalg.cross(p, q) for p, q in ((b, c), (c, a), (a, b))])
            # [3,H,W], the signs say on which side of each edge
            weights = torch.tensordot(normals, rays, 1)
            total = weights.sum(0)
            inside = ((weights >= 0).all(0) | (weights <= 0).all(0)) & (total != 0)
            depth = torch.where(
                inside, (a * normals[0]).sum() / torch.where(inside, total, 1.0), torch.inf
            )
            closer = inside & (depth <= nearest[view])
            result[view] = torch.where(closer, index, result[view])
            nearest[view] = torch.where(closer, depth, nearest[view])
    return result


def cover_torch(positions: Tensor, faces: Tensor, cameras: Cameras) -> Tensor:
    """All faces of some views at once: every pixel within a face's bounding box is a pair to test,
    the nearest one wins.

    Shapes as for `cover`.
    """
    return rasterize_positions(positions, faces, cameras)[0]


def _rays(cameras: Cameras, view: int, like: Tensor) -> tuple[Tensor, Tensor]:
    """x [W] and y [H] of the directions, z = 1, through the pixels' centres."""
    matrix = cameras.intrinsics[view].to(like)
    x = (torch.arange(cameras.width).to(like) + 0.5 - matrix[0, 2]) / matrix[0, 0]
    y = (torch.arange(cameras.height).to(like) + 0.5 - matrix[1, 2]) / matrix[1, 1]
    return x, y


@lru_cache(maxsize=1)
def _compiled() -> Cover | Exception:
    """The compiled version, or why it cannot be imported."""
    try:
        from .numba_coverage import cover_numba
    except Exception as error:
        return error
    return cover_numba
