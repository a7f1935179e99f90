"""Cameras of pictures that are known only roughly: moved within bounds, by the gradient of what
their renders differ in.

The gradient comes from the picture and its depth: where a pixel's surface would go, and how the
picture changes in that direction. No rasterizer has to know of cameras.
"""

from __future__ import annotations

import math
from dataclasses import dataclass, replace

import torch
from torch import Tensor
from torch.nn import functional as F

from ..cameras.pinhole import Cameras

PARTS = 4  # azimuth, elevation, distance, field of view
EMPTY = 0.5  # alpha below which a pixel takes its neighbours' depth
REACH = 5  # pixels


@dataclass(frozen=True)
class Bounds:
    """How far a picture's camera may be from where it was said to be.

    Args:
        angle: degrees of azimuth and of elevation, each
        distance: share of the distance
        fov: share of the focal length
    """

    angle: float = 0.0
    distance: float = 0.0
    fov: float = 0.0

    def check(self) -> None:
        """Raises ValueError naming the bound, its value and what is allowed."""
        for name, most in (("angle", 45.0), ("distance", 0.5), ("fov", 0.5)):
            value = getattr(self, name)
            if not 0 <= value <= most:
                raise ValueError(
                    f"refine_{name} is {value}; choose 0 (as given) to {most:g}"
                    f" {'degrees' if name == 'angle' else 'as a share'}."
                )

    @property
    def free(self) -> bool:
        """Whether any camera may move."""
        return max(self.angle, self.distance, self.fov) > 0

    def offsets(self, raw: Tensor) -> Tensor:
        """Radians of azimuth and elevation, logarithms of distance and focal length [R,4] of free
        numbers ``raw`` [R,4]."""
        angle = math.radians(self.angle)
        most = (angle, angle, math.log1p(self.distance), math.log1p(self.fov))
        return torch.stack([m * r for m, r in zip(most, raw.tanh().unbind(1), strict=True)], 1)


def motion(cameras: Cameras, offsets: Tensor) -> tuple[Tensor, Tensor]:
    """What turns a point in each camera's space into one in that of the camera moved by
    ``offsets`` [R,4] (`Bounds.offsets`): matrices [R,4,4], and factors [R] of the focal lengths.

    The camera moves on a sphere around the point on its axis at its distance.
    """
    azimuth, elevation, distance, focal = offsets.unbind(1)
    away = cameras.distances.to(offsets)
    up = -cameras.viewmats[:, :3, 1].to(offsets)  # the world's Y in camera space, turned backwards
    across = torch.zeros_like(up)
    across[:, 0] = 1.0
    turn = _rotation(across, elevation) @ _rotation(up, azimuth)
    centre = torch.zeros_like(up)
    centre[:, 2] = 1.0
    moved = (centre * (away * distance.exp())[:, None])[..., None]
    shift = moved - turn @ (centre * away[:, None])[..., None]
    last = offsets.new_zeros(len(offsets), 1, 4)
    last[..., 3] = 1.0
    return torch.cat([torch.cat([turn, shift], 2), last], 1), focal.exp()


def moved(cameras: Cameras, offsets: Tensor) -> Cameras:
    """The cameras moved by ``offsets`` [R,4], without gradient."""
    matrix, factor = motion(cameras, offsets.detach())
    intrinsics = cameras.intrinsics.clone()
    intrinsics[:, [0, 1], [0, 1]] *= factor[:, None].to(intrinsics)
    azimuth, elevation, distance, _ = offsets.detach().to(cameras.azimuths).unbind(1)
    return replace(
        cameras,
        viewmats=matrix.to(cameras.viewmats) @ cameras.viewmats,
        intrinsics=intrinsics,
        azimuths=torch.remainder(cameras.azimuths + torch.rad2deg(azimuth) + 180, 360) - 180,
        elevations=cameras.elevations + torch.rad2deg(elevation),
        distances=cameras.distances * distance.exp(),
    )


def traced(
    layers: Tensor, alpha: Tensor, depth: Tensor, cameras: Cameras, offsets: Tensor
) -> Tensor:
    """``layers`` [R,H,W,C] of renders from `moved` cameras as they are, with the gradient that
    ``offsets`` [R,4] have through where their surfaces go.

    alpha, depth [R,H,W,1] of the same renders; ``cameras``: those that the offsets move.
    """
    here = moved(cameras, offsets)
    distance = _filled(depth.detach(), alpha.detach(), here.distances)[..., 0]
    height, width = distance.shape[1:]
    fx, fy = (here.intrinsics[:, i, i, None, None] for i in (0, 1))
    cx, cy = (here.intrinsics[:, i, 2, None, None] for i in (0, 1))
    x = torch.arange(width, device=layers.device) + 0.5
    y = (torch.arange(height, device=layers.device) + 0.5)[:, None]
    points = torch.stack(
        [(x - cx) / fx * distance, (y - cy) / fy * distance, distance, torch.ones_like(distance)],
        -1,
    )
    matrix, factor = motion(cameras, offsets)
    change = matrix @ torch.linalg.inv(matrix.detach())  # the identity, with a gradient
    after = torch.einsum("rij,rhwj->rhwi", change[:, :3], points)
    zoom = (factor / factor.detach())[:, None, None]
    to_right = fx * zoom * (after[..., 0] / after[..., 2]) - (x - cx)
    to_below = fy * zoom * (after[..., 1] / after[..., 2]) - (y - cy)
    across, down = _slopes(layers.detach())
    flow = across * to_right[..., None] + down * to_below[..., None]
    return layers - (flow - flow.detach())


def _filled(depth: Tensor, alpha: Tensor, distances: Tensor) -> Tensor:
    """The depth, of pixels with little in them their neighbours', of others the distance."""

    def spread(value: Tensor) -> Tensor:
        return F.avg_pool2d(value.permute(0, 3, 1, 2), REACH, 1, REACH // 2).permute(0, 2, 3, 1)

    weight = spread(alpha)
    near = spread(alpha * depth) / weight.clamp_min(1e-6)
    near = torch.where(weight > 1e-3, near, distances[:, None, None, None])
    return torch.where(alpha > EMPTY, depth, near).clamp_min(1e-3)


def _slopes(layers: Tensor) -> tuple[Tensor, Tensor]:
    """Central differences of [R,H,W,C] to the right and downwards."""
    padded = F.pad(layers.permute(0, 3, 1, 2), (1, 1, 1, 1), mode="replicate").permute(0, 2, 3, 1)
    across = (padded[:, 1:-1, 2:] - padded[:, 1:-1, :-2]) / 2
    return across, (padded[:, 2:, 1:-1] - padded[:, :-2, 1:-1]) / 2


def _rotation(axis: Tensor, angle: Tensor) -> Tensor:
    """[R,3,3] by angles [R] around unit axes [R,3] (Rodrigues)."""
    x, y, z = axis.unbind(1)
    zero = torch.zeros_like(x)
    cross = torch.stack([zero, -z, y, z, zero, -x, -y, x, zero], 1).reshape(-1, 3, 3)
    sine, cosine = angle.sin()[:, None, None], angle.cos()[:, None, None]
    return (
        torch.eye(3, dtype=axis.dtype, device=axis.device)
        + sine * cross
        + (1 - cosine) * (cross @ cross)
    )
