"""Pictures of a render's shape, as depth and normal ControlNets were trained to be shown it."""

from __future__ import annotations

import torch
from torch import Tensor
from torch.nn.functional import normalize, pad

from ..cameras.pinhole import Cameras

SHAPES = ("depth", "normal")
# alpha from which a pixel shows the object: where less covers it, the expected depth means little
SOLID = 0.5
# grey of the object's farthest point; ours: were it 0, its far edge would sink into the background
FARTHEST = 0.25


def hint(shape: str, cameras: Cameras, alpha: Tensor, depth: Tensor) -> Tensor:
    """`depth_picture` or `normal_picture` [V,3,H,W] 0..1 of V renders. Raises ValueError for any
    other shape.
    """
    if shape not in SHAPES:
        raise ValueError(
            f"shape is {shape!r}; control networks are shown one of {', '.join(map(repr, SHAPES))}."
        )
    return (
        depth_picture(alpha, depth) if shape == "depth" else normal_picture(cameras, alpha, depth)
    )


def shows_shape(images: Tensor) -> Tensor:
    """Whether there is more than background in each of the images [V,3,H,W], [V] bool."""
    return (images != images[:, :, :1, :1]).any(3).any(2).any(1)


def depth_picture(alpha: Tensor, depth: Tensor) -> Tensor:
    """Inverse depth as grey [V,3,H,W]: the nearest point of each view 1, the farthest `FARTHEST`,
    the background 0.

    alpha [V,H,W,1] 0..1; depth [V,H,W,1] world units along the optical axis. As MiDaS gives it, on
    whose pictures depth ControlNets were trained: linear in the inverse depth, near is white, and
    the scale is each picture's own.
    """
    solid = _solid(alpha, depth)
    nearness = torch.where(solid, 1 / depth.clamp_min(1e-6), 0.0)
    nearest = nearness.amax((1, 2, 3), keepdim=True)
    farthest = torch.where(solid, nearness, torch.inf).amin((1, 2, 3), keepdim=True)
    span = nearest - farthest
    # one distance everywhere counts as near
    relief = torch.where(span > 0, (nearness - farthest) / span, 1.0)
    grey = torch.where(solid, FARTHEST + (1 - FARTHEST) * relief, 0.0)
    return grey.permute(0, 3, 1, 2).expand(-1, 3, -1, -1)


def normal_picture(cameras: Cameras, alpha: Tensor, depth: Tensor) -> Tensor:
    """Camera-space normals as colours [V,3,H,W], each (1 + component) / 2 of a unit vector; see
    `normals` for the rest.

    Red is to the left of the picture, green up, blue towards the camera, and the background faces
    the camera: what ControlNet 1.1's normal model (NormalBae) was trained on, by its authors'
    description.
    """
    towards = normals(cameras, alpha, depth) * depth.new_tensor([-1.0, 1.0, 1.0])
    return (0.5 + 0.5 * towards).permute(0, 3, 1, 2)


def normals(cameras: Cameras, alpha: Tensor, depth: Tensor) -> Tensor:
    """Unit normals [V,H,W,3] of what the depth shows: x right, y up, z towards the camera, which
    background faces.

    alpha [V,H,W,1] 0..1; depth [V,H,W,1] world units along the optical axis. By finite differences
    of the points in camera space, each side counted the less the more the depth jumps there, so
    that an edge stays an edge.
    """
    solid = _solid(alpha, depth)
    points = _points(cameras, depth)
    # a pixel's width at that depth
    pixel = depth / cameras.intrinsics[:, 0, 0].to(depth).view(-1, 1, 1, 1)
    across = _difference(points, solid, pixel, axis=2)
    down = _difference(points, solid, pixel, axis=1)
    # Camera space is OpenCV's: down x across points against z, to the camera; y and z turn round.
    facing = normalize(torch.linalg.cross(down, across), dim=-1) * depth.new_tensor(
        [1.0, -1.0, -1.0]
    )
    known = solid & (facing.norm(dim=-1, keepdim=True) > 0)
    return torch.where(known, facing, facing.new_tensor([0.0, 0.0, 1.0]))


def _solid(alpha: Tensor, depth: Tensor) -> Tensor:
    """Where the object is. A mesh's smoothed silhouette reaches into pixels beside it, which have
    no depth.
    """
    return (alpha > SOLID) & (depth > 0)


def _points(cameras: Cameras, depth: Tensor) -> Tensor:
    """Where each pixel's centre is at its depth, [V,H,W,3] in camera space."""
    fx, fy, cx, cy = (
        cameras.intrinsics[:, i, j].to(depth).view(-1, 1, 1)
        for i, j in ((0, 0), (1, 1), (0, 2), (1, 2))
    )
    rows = (torch.arange(cameras.height, device=depth.device).to(depth) + 0.5).view(1, -1, 1)
    columns = (torch.arange(cameras.width, device=depth.device).to(depth) + 0.5).view(1, 1, -1)
    z = depth[..., 0]
    return torch.stack([(columns - cx) / fx * z, (rows - cy) / fy * z, z], -1)


def _difference(points: Tensor, solid: Tensor, pixel: Tensor, axis: int) -> Tensor:
    """How the points change per pixel along an axis of the picture; 0 for one without a neighbour
    on the object.
    """
    forward, to_next = points.diff(dim=axis), solid.narrow(axis, 1, solid.shape[axis] - 1)
    to_next = to_next & solid.narrow(axis, 0, solid.shape[axis] - 1)
    both = [
        _padded(value, axis, first)
        for first in (False, True)
        for value in (forward, to_next.to(points))
    ]
    sides = [(both[0], both[1]), (both[2], both[3])]
    weights = [
        there / (step[..., 2:].square() + pixel.square()).clamp_min(1e-20) for step, there in sides
    ]
    total = (weights[0] + weights[1]).clamp_min(1e-20)
    return (weights[0] * sides[0][0] + weights[1] * sides[1][0]) / total


def _padded(value: Tensor, axis: int, first: bool) -> Tensor:
    """One row (axis 1) or column (axis 2) of zeros more, at the beginning or the end."""
    ends = (1, 0) if first else (0, 1)
    return pad(value, (0, 0, *((0, 0) if axis == 1 else ()), *ends))
