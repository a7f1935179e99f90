"""Which triangle each pixel shows: a plain reference, a version for any device, one compiled for the CPU."""

from __future__ import annotations

from collections.abc import Callable
from functools import lru_cache

import torch
from torch import Tensor

from ..gaussians.cameras import Cameras

BACKENDS = ("auto", "reference", "torch", "numba")
NEAR = 1e-3  # world units in front of the camera; triangles that come nearer are not drawn
PAIRS_AT_ONCE = 4_000_000  # pixels and triangles tested together
Cover = Callable[[Tensor, Tensor, Cameras], Tensor]


def cover(places: Tensor, faces: Tensor, cameras: Cameras, backend: str = "auto") -> Tensor:
    """The index [V,H,W] of the face nearest to each pixel's centre, -1 where there is none.

    ``places`` [V,M,3] are the vertices in each camera's space. Of faces at the same depth the lower index wins. All
    backends agree but for pixels whose centre lies on an edge to within rounding. Raises ValueError for an unknown
    backend, or one that cannot run here.
    """
    if backend not in BACKENDS:
        raise ValueError(f"backend {backend!r} is unknown; choose one of {', '.join(BACKENDS)}.")
    compiled = _compiled() if places.device.type == "cpu" and backend in ("auto", "numba") else None
    if backend == "numba" and not callable(compiled):
        why = f"cannot be imported ({compiled})" if compiled is not None else f"covers on the CPU, not {places.device}"
        raise ValueError(f"backend 'numba' {why}; use 'auto' or 'torch'.")
    if callable(compiled):
        return compiled(places, faces, cameras)
    return (cover_reference if backend == "reference" else cover_torch)(places, faces, cameras)


def cover_reference(places: Tensor, faces: Tensor, cameras: Cameras) -> Tensor:
    """Face after face over all pixels: slow, and plain to read."""
    views, height, width = len(cameras), cameras.height, cameras.width
    result = torch.full((views, height, width), -1, device=places.device)
    nearest = torch.full((views, height, width), torch.inf, dtype=places.dtype, device=places.device)
    for view in range(views):
        x, y = _rays(cameras, view, places)
        rays = torch.stack([x.expand(height, width), y[:, None].expand(height, width), torch.ones_like(nearest[view])])
        for index, face in enumerate(faces.tolist()):
            a, b, c = places[view, face]
            if min(a[2], b[2], c[2]) < NEAR:
                continue
            normals = torch.stack([torch.linalg.cross(p, q) for p, q in ((b, c), (c, a), (a, b))])
            weights = torch.tensordot(normals, rays, 1)  # [3,H,W], the signs say on which side of each edge
            total = weights.sum(0)
            inside = ((weights >= 0).all(0) | (weights <= 0).all(0)) & (total != 0)
            depth = torch.where(inside, (a * normals[0]).sum() / torch.where(inside, total, 1.0), torch.inf)
            closer = depth < nearest[view]
            result[view] = torch.where(closer, index, result[view])
            nearest[view] = torch.where(closer, depth, nearest[view])
    return result


def cover_torch(places: Tensor, faces: Tensor, cameras: Cameras) -> Tensor:
    """All faces at once: every pixel within a face's bounding box is a pair to test, the nearest one wins."""
    height, width, device = cameras.height, cameras.width, places.device
    result = torch.full((len(cameras), height * width), -1, device=device)
    for view in range(len(cameras)):
        corners = places[view][faces]  # [F,3,3]
        low, high = _boxes(corners, cameras, view)  # [F,2] first and last pixel
        spans = (high - low + 1).clamp_min(0)
        counts = torch.where(corners[..., 2].amin(-1) >= NEAR, spans[:, 0] * spans[:, 1], 0)
        normals = torch.stack(
            [torch.linalg.cross(corners[:, i], corners[:, j]) for i, j in ((1, 2), (2, 0), (0, 1))], 1
        )
        volume = (corners[:, 0] * normals[:, 0]).sum(-1)
        x, y = _rays(cameras, view, places)
        nearest = torch.full((height * width,), torch.inf, dtype=places.dtype, device=device)
        for start, end in _chunks(counts):
            some = counts[start:end]
            face = torch.arange(start, end, device=device).repeat_interleave(some)
            place = torch.arange(len(face), device=device) - (some.cumsum(0) - some).repeat_interleave(some)
            column = low[face, 0] + place % spans[face, 0]
            row = low[face, 1] + torch.div(place, spans[face, 0], rounding_mode="floor")
            rays = torch.stack([x[column], y[row], torch.ones_like(x[column])], -1)
            weights = (normals[face] * rays[:, None]).sum(-1)
            total = weights.sum(-1)
            inside = ((weights >= 0).all(-1) | (weights <= 0).all(-1)) & (total != 0)
            face, pixel = face[inside], (row * width + column)[inside]
            depth = volume[face] / total[inside]
            before = nearest.clone()
            nearest = nearest.scatter_reduce(0, pixel, depth, "amin")
            result[view] = torch.where(nearest < before, len(faces), result[view])  # what was there is behind now
            best = (depth == nearest[pixel]) & (nearest[pixel] < before[pixel])
            result[view] = result[view].scatter_reduce(0, pixel[best], face[best], "amin")
    return result.view(-1, height, width)


def _chunks(counts: Tensor) -> list[tuple[int, int]]:
    """Runs of faces with about PAIRS_AT_ONCE pixels to test, or one face."""
    ends = counts.cumsum(0)
    chunks, start, done = [], 0, 0
    while start < len(counts):
        end = max(start + 1, int(torch.searchsorted(ends, done + PAIRS_AT_ONCE, right=True)))
        chunks.append((start, min(end, len(counts))))
        start, done = chunks[-1][1], int(ends[chunks[-1][1] - 1])
    return chunks


def _boxes(corners: Tensor, cameras: Cameras, view: int) -> tuple[Tensor, Tensor]:
    """First and last pixel [F,2] whose centre can lie in each face [F,3,3] of camera space."""
    matrix = cameras.intrinsics[view].to(corners)
    flat = corners[..., :2] / corners[..., 2:].clamp_min(NEAR) * matrix[[0, 1], [0, 1]] + matrix[:2, 2]
    size = flat.new_tensor([cameras.width, cameras.height])
    low = (flat.amin(1) - 0.5).ceil().clamp_min(0)
    high = torch.minimum((flat.amax(1) - 0.5).floor(), size - 1)
    return low.clamp_max(1e6).long(), high.clamp(-1, 1e6).long()


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
