"""Truncated signed distances from depth pictures (Curless and Levoy 1996)."""

from __future__ import annotations

import torch
from torch import Tensor

from ..cameras.pinhole import Cameras
from ..devices.pace import reached

# world units; depth of a pixel that shows nothing: all of its line of sight is free space
FREE = 1e6
VIEWS_AT_ONCE = 8  # keeps a CPU's working set in its cache


def fuse(
    depth: Tensor, cameras: Cameras, low: Tensor, voxel: float, resolution: int, truncation: float
) -> Tensor:
    """Mean signed distance at the points of a grid, in units of ``truncation``, 1 outside to -1
    inside.

    depth [V,H,W] world units along the optical axis, FREE where nothing is seen; ``low`` [3] the
    grid's first point, ``voxel`` its step and ``truncation`` in world units. Returns [R,R,R] (x, y,
    z). Each view says (depth - z) / truncation, at most 1. The further a point lies behind what a
    view sees, the less the view counts, and not at all beyond the truncation: the far side of a
    thin wall is left to the views from there. What no view sees is inside (-1), which closes the
    surface.
    """
    height, width = depth.shape[1:]
    # A border of free space: whatever projects outside the picture is clamped into it.
    framed = torch.nn.functional.pad(depth, (1, 1, 1, 1), value=FREE).flatten(1)
    focal = torch.stack([cameras.intrinsics[:, 0, 0], cameras.intrinsics[:, 1, 1]], 1)[:, :, None]
    centre = cameras.intrinsics[:, :2, 2:] + 1  # of the framed picture
    steps = voxel * torch.arange(resolution, device=depth.device, dtype=depth.dtype)
    slab = torch.cartesian_prod(low[1] + steps, low[2] + steps).T  # [2,R*R] y, z
    rotation, translation = cameras.viewmats[:, :3, :3], cameras.viewmats[:, :3, 3:]

    weights = depth.new_zeros(resolution, resolution * resolution)
    sums = torch.zeros_like(weights)
    for start in range(0, len(depth), VIEWS_AT_ONCE):
        views = slice(start, start + VIEWS_AT_ONCE)
        flat = rotation[views, :, 1:] @ slab + translation[views]  # [v,3,R*R] all but x's share
        for index, x in enumerate(low[0] + steps):
            reached("volume", (start + VIEWS_AT_ONCE * index / resolution) / len(depth))
            camera = flat + x * rotation[views, :, :1]
            z = camera[:, 2]
            pixel = camera[:, :2] * (focal[views] / z[:, None].clamp_min(1e-6)) + centre[views]
            column = pixel[:, 0].clamp(0, width + 1).long()
            row = pixel[:, 1].clamp(0, height + 1).long()
            surface_depth = framed[views].gather(1, row * (width + 2) + column)
            distance = ((surface_depth - z) / truncation).clamp(-1, 1)
            weight = (1 + distance).clamp_max(1)
            weights[index] += weight.sum(0)
            sums[index] += (weight * distance).sum(0)
    grid = torch.where(weights > 0, sums / weights.clamp_min(1e-9), -1.0)
    return grid.view(resolution, resolution, resolution)


def blur(grid: Tensor) -> Tensor:
    """The grid [X,Y,Z] after a binomial filter (1 2 1)/4 along each axis.

    Evens out what single pixels did: it closes tunnels one voxel wide, and thin parts come out less
    inflated.
    """
    kernel = grid.new_tensor([0.25, 0.5, 0.25])
    result = torch.nn.functional.pad(grid[None, None], (1, 1, 1, 1, 1, 1), mode="replicate")
    for shape in ((3, 1, 1), (1, 3, 1), (1, 1, 3)):
        result = torch.nn.functional.conv3d(result, kernel.view(1, 1, *shape))
    return result[0, 0]
