"""Triangles to pixels in plain torch: for texture atlases, and for pictures of a mesh that show
what is in front.
"""

from __future__ import annotations

from collections.abc import Iterator

import torch
from torch import Tensor

from ..cameras.pinhole import Cameras

AT_ONCE = 2_000_000  # candidate pixels; keeps a batch's tensors below some 300 MB
NEAR = 1e-3  # world units before a camera; triangles that reach behind it are not drawn


def cover(
    triangles: Tensor, width: int, height: int, slack: float = 0.0
) -> Iterator[tuple[Tensor, Tensor, Tensor]]:
    """Pixels whose centres lie in triangles, in batches of (triangle [K], pixel [K], barycentric
    weights [K,3]).

    triangles [F,3,2] in pixels, x right and y down, pixel centres at +0.5, either winding; pixel is
    row * width + column. ``slack``: weights down to -slack count as inside. Triangles without area
    cover nothing.
    """
    low = torch.ceil(triangles.amin(1) - 0.5 - slack).clamp_min(0).long()
    last = triangles.new_tensor([width - 1, height - 1])
    high = torch.minimum(torch.floor(triangles.amax(1) - 0.5 + slack), last).long()
    spans = (high - low + 1).clamp_min(0)
    counts = spans.prod(-1)
    faces = torch.nonzero(counts)[:, 0]
    batches = (counts[faces].cumsum(0) - 1) // AT_ONCE
    for part in torch.split(
        faces, torch.unique_consecutive(batches, return_counts=True)[1].tolist()
    ):
        number = counts[part]
        index = torch.repeat_interleave(torch.arange(len(part), device=part.device), number)
        offset = torch.arange(len(index), device=part.device) - (number.cumsum(0) - number)[index]
        across = spans[part, 0][index]
        column, row = low[part, 0][index] + offset % across, low[part, 1][index] + offset // across
        a, b, c = triangles[part].unbind(1)
        area = _cross(b - a, c - a)
        point = torch.stack([column, row], -1) + 0.5 - a[index]
        second = _cross(point, (c - a)[index]) / area[index]
        third = _cross((b - a)[index], point) / area[index]
        weights = torch.stack([1 - second - third, second, third], -1)
        inside = (weights >= -slack).all(-1) & (area[index] != 0)
        yield part[index[inside]], (row * width + column)[inside], weights[inside]


def rasterize_faces(
    vertices: Tensor, faces: Tensor, cameras: Cameras
) -> tuple[Tensor, Tensor, Tensor]:
    """What is in front in every pixel: triangle [V,H,W] (-1: none), weights [V,H,W,3], depth
    [V,H,W] (inf: none).

    vertices [M,3] world units, faces [F,3]; the weights are of the triangle's corners, correct in
    perspective; depth is the distance along the optical axis. Both sides of a triangle are seen.
    """
    matrices = cameras.viewmats
    positions = torch.stack([vertices @ m[:3, :3].T + m[:3, 3] for m in matrices])
    return rasterize_positions(positions, faces, cameras)


def rasterize_positions(
    positions: Tensor, faces: Tensor, cameras: Cameras
) -> tuple[Tensor, Tensor, Tensor]:
    """`rasterize_faces` for vertices ``positions`` [V,M,3] in each camera's space; some views at
    once, as many as there is room for."""
    at_once = max(1, AT_ONCE // max(1, len(faces)))
    parts = [
        _some_views(positions[first : first + at_once], faces, cameras[first : first + at_once])
        for first in range(0, len(cameras), at_once)
    ]
    triangle, weights, depth = (torch.cat(layer) for layer in zip(*parts, strict=True))
    shape = (len(cameras), cameras.height, cameras.width)
    return triangle.view(shape), weights.view(*shape, 3), depth.view(shape)


def _some_views(
    positions: Tensor, faces: Tensor, cameras: Cameras
) -> tuple[Tensor, Tensor, Tensor]:
    """`rasterize_positions`, flat over views and pixels."""
    z = positions[..., 2]
    intrinsics = cameras.intrinsics.to(positions)
    focal, center = intrinsics[:, None, [0, 1], [0, 1]], intrinsics[:, None, :2, 2]
    pixels = positions[..., :2] / z[..., None].clamp_min(NEAR) * focal + center
    view, before = torch.nonzero((z[:, faces] >= NEAR).all(-1), as_tuple=True)
    inverse = 1 / z.clamp_min(NEAR)
    size = cameras.width * cameras.height
    depth = positions.new_full((len(cameras) * size,), torch.inf)
    fragments = []
    corners = pixels[view[:, None], faces[before]]
    for part, place, weights in cover(corners, cameras.width, cameras.height):
        face, seen = before[part], view[part]
        pixel = seen * size + place
        shares = weights * inverse[seen[:, None], faces[face]]
        distance = 1 / shares.sum(-1)
        depth = depth.scatter_reduce(0, pixel, distance, "amin")
        fragments.append((face, pixel, shares * distance[:, None], distance))
    triangle = faces.new_full(depth.shape, -1)
    result = positions.new_zeros(len(depth), 3)
    if fragments:
        face, pixel, shares, distance = (torch.cat(layer) for layer in zip(*fragments, strict=True))
        front = distance <= depth[pixel]
        face, pixel, shares = face[front], pixel[front], shares[front]
        # one of those at equal depth, always the same
        triangle = triangle.scatter_reduce(0, pixel, face, "amax")
        chosen = triangle[pixel] == face
        result[pixel[chosen]] = shares[chosen]
    return triangle, result, depth


def _cross(a: Tensor, b: Tensor) -> Tensor:
    return a[..., 0] * b[..., 1] - a[..., 1] * b[..., 0]
