"""Pinhole cameras that look at the object from given angles."""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass, fields, replace
from typing import Any

import torch
from torch import Tensor

from ..devices.streams import send


@dataclass(frozen=True)
class Cameras:
    """V pinhole cameras. Camera space is OpenCV's: x right, y down, z forward; pixel centres at
    +0.5.

    Azimuth 0 looks at the object's front from +Z, azimuth 90 from +X (counter-clockwise seen from
    above); elevation 0 is the horizon, 90 straight above.

    Args:
        viewmats: [V,4,4] world to camera
        intrinsics: [V,3,3] fx, fy, cx, cy in pixels
        width: pixels
        height: pixels
        azimuths: [V] degrees, -180..180
        elevations: [V] degrees, -90..90
        distances: [V] world units from the orbit's centre
        outward: [V] bool: looks out of a scene, its angles are those it looks towards
    """

    viewmats: Tensor
    intrinsics: Tensor
    width: int
    height: int
    azimuths: Tensor
    elevations: Tensor
    distances: Tensor
    outward: Tensor | None = None

    def __len__(self) -> int:
        return self.viewmats.shape[0]

    def __getitem__(self, index: int | slice | list[int] | Tensor) -> Cameras:
        """The cameras at ``index``, always a batch: an int gives a batch of one."""
        if isinstance(index, int):
            if not -len(self) <= index < len(self):  # also what ends Python's iteration protocol
                raise IndexError(f"camera {index} of {len(self)}")
            index = [index]
        return self._map(lambda value: value[index])

    @property
    def positions(self) -> Tensor:  # [V,3] camera centres in world units
        rotation, translation = self.viewmats[:, :3, :3], self.viewmats[:, :3, 3]
        return -(rotation.transpose(1, 2) @ translation[..., None])[..., 0]

    def to(self, device: torch.device | str, dtype: torch.dtype | None = None) -> Cameras:
        """The same cameras elsewhere."""
        return self._map(
            lambda value: value.to(device, dtype if value.is_floating_point() else None)
        )

    def send(self, device: torch.device) -> Cameras:
        """The same cameras, from the CPU on a device that is busy, without waiting for it."""
        return self._map(lambda value: send(value, device))

    def resize(self, size: int | tuple[int, int]) -> Cameras:
        """The same views at another resolution: ``size`` pixels, one number or (width, height)."""
        width, height = checked_size(size)
        rows = torch.tensor([width / self.width, height / self.height, 1.0]).to(self.intrinsics)
        return replace(self, intrinsics=self.intrinsics * rows[:, None], width=width, height=height)

    def _map(self, function: Callable[[Tensor], Tensor]) -> Cameras:
        values = {f.name: getattr(self, f.name) for f in fields(self)}
        tensors: dict[str, Any] = {
            name: function(v) for name, v in values.items() if isinstance(v, Tensor)
        }
        return replace(self, **tensors)


def orbit(
    azimuths: Tensor | float,
    elevations: Tensor | float,
    distances: Tensor | float,
    fov_y: Tensor | float = 40.0,
    size: int | tuple[int, int] = 128,
    target: Tensor | None = None,
    device: torch.device | str | None = None,
) -> Cameras:
    """Cameras on spheres around ``target``, looking at it, upright.

    Azimuths, elevations, distances and the vertical field of view (degrees, world units) broadcast
    to [V]; ``target`` [3] or [V,3] is the origin if None; ``size`` is one number of pixels or
    (width, height). Float64 if any angle or distance tensor is. Raises ValueError for values out of
    range.
    """
    width, height = checked_size(size)
    values = [torch.as_tensor(v) for v in (azimuths, elevations, distances, fov_y)]
    given = [v for v in (azimuths, elevations, distances, fov_y, target) if isinstance(v, Tensor)]
    dtype = torch.float64 if any(v.dtype == torch.float64 for v in given) else torch.float32
    device = device if device is not None else given[0].device if given else "cpu"
    place: dict[str, Any] = {"device": device, "dtype": dtype}
    azimuth, elevation, distance, fov = torch.broadcast_tensors(
        *(v.to(**place).reshape(-1) for v in values)
    )
    _within("elevations", elevation, -90.0, 90.0, "degrees")
    _within("distances", distance, 1e-3, 1e6, "world units")
    _within("fov_y", fov, 1.0, 170.0, "degrees")
    _within("azimuths", azimuth, -1e6, 1e6, "degrees")
    centre = torch.zeros(1, 3, **place) if target is None else target.to(**place).reshape(-1, 3)
    if len(azimuth) == 1 and len(centre) > 1:
        azimuth, elevation, distance, fov = (
            v.expand(len(centre)) for v in (azimuth, elevation, distance, fov)
        )
    return look_at(azimuth, elevation, distance, fov, centre, width, height)


def focal_lengths(cameras: Cameras) -> Tensor:
    """[V,1,1,1], in widths of the picture."""
    return cameras.intrinsics[:, 0, 0][:, None, None, None] / cameras.width


def sectors(azimuths: Tensor, count: int) -> Tensor:
    """Which of ``count`` equal sectors of azimuth each camera is in, [V]; sector 0 is centred at
    the front. Exactly between two it is the odd one: at 45 degrees of four sectors the side, as
    threestudio has it.
    """
    place = azimuths.double() * (count / 360)  # a whole number more turns round's even into odd
    return ((place + 1).round() - 1).long() % count


def look_at(
    azimuth: Tensor,
    elevation: Tensor,
    distance: Tensor,
    fov: Tensor,
    centre: Tensor,
    width: int,
    height: int,
) -> Cameras:
    """V cameras of width x height pixels that look at ``centre`` [3 or V,3] from a sphere around it.

    azimuth, elevation and fov (along the height) in degrees, distance in world units, all [V]; at
    azimuth 0 the camera is at +z, at 90 at +x.
    """
    a, e = torch.deg2rad(azimuth), torch.deg2rad(elevation)
    sin_a, cos_a, sin_e, cos_e = a.sin(), a.cos(), e.sin(), e.cos()
    # All three axes in closed form: no cross product with an up vector, so straight above is as
    # good as any view.
    right = torch.stack([cos_a, torch.zeros_like(a), -sin_a], -1)
    down = torch.stack([sin_a * sin_e, -cos_e, cos_a * sin_e], -1)
    backward = torch.stack([sin_a * cos_e, sin_e, cos_a * cos_e], -1)
    position = centre + distance[:, None] * backward

    viewmats = torch.eye(4).to(azimuth).repeat(len(azimuth), 1, 1)
    viewmats[:, :3, :3] = torch.stack([right, down, -backward], 1)
    viewmats[:, :3, 3] = -(viewmats[:, :3, :3] @ position[..., None])[..., 0]
    focal = 0.5 * height / torch.tan(0.5 * torch.deg2rad(fov))
    intrinsics = torch.zeros(len(azimuth), 3, 3).to(azimuth)
    intrinsics[:, 0, 0] = intrinsics[:, 1, 1] = focal
    intrinsics[:, 0, 2], intrinsics[:, 1, 2], intrinsics[:, 2, 2] = width / 2, height / 2, 1
    wrapped = torch.remainder(azimuth + 180, 360) - 180
    return Cameras(
        viewmats, intrinsics, width, height, wrapped, elevation.clone(), distance.clone()
    )


def aimed(cameras: Cameras, positions: Tensor, targets: Tensor, ups: Tensor) -> Cameras:
    """The cameras moved to ``positions``, looking at ``targets`` with ``ups`` upwards in their
    pictures, all [V,3] world units; they keep the angles and distances they are known by.
    """
    forward = torch.nn.functional.normalize(targets - positions, dim=-1)
    right = torch.nn.functional.normalize(torch.linalg.cross(forward, ups), dim=-1)
    rotation = torch.stack([right, torch.linalg.cross(forward, right), forward], 1)
    viewmats = cameras.viewmats.clone()
    viewmats[:, :3, :3] = rotation
    viewmats[:, :3, 3] = -(rotation @ positions[..., None])[..., 0]
    return replace(cameras, viewmats=viewmats)


def turntable(
    n: int,
    elevation: float = 15.0,
    distance: float = 2.0,
    fov_y: float = 40.0,
    size: int | tuple[int, int] = 128,
    device: torch.device | str | None = None,
    views_per_group: int = 1,
) -> Cameras:
    """n cameras at equal azimuth steps, counter-clockwise seen from above, the first one at the
    front.

    Ordered so that every ``views_per_group`` of them, a divisor of n, are all around the object by
    themselves.
    """
    if n < 1:
        raise ValueError(f"turntable: n is {n}; at least 1 view is needed.")
    azimuths = (torch.arange(n) * (360.0 / n)).view(views_per_group, -1).t().flatten()
    return orbit(azimuths, elevation, distance, fov_y, size, device=device)


def sphere(
    n: int,
    distance: float = 2.0,
    fov_y: float = 40.0,
    size: int | tuple[int, int] = 128,
    target: Tensor | None = None,
    device: torch.device | str | None = None,
) -> Cameras:
    """n cameras spread evenly over the whole sphere around ``target`` (Fibonacci lattice), from
    above to below.
    """
    if n < 1:
        raise ValueError(f"sphere: n is {n}; at least 1 view is needed.")
    index = torch.arange(n, dtype=torch.float64)
    elevations = torch.rad2deg(torch.asin(1 - (2 * index + 1) / n))
    azimuths = index * (180.0 * (3 - math.sqrt(5)))  # the golden angle
    return orbit(azimuths.float(), elevations.float(), distance, fov_y, size, target, device)


def checked_size(size: int | tuple[int, int]) -> tuple[int, int]:
    """Width and height in pixels; one number is both. Raises ValueError outside 1..16384."""
    width, height = (size, size) if isinstance(size, int) else size
    if not (1 <= width <= 16384 and 1 <= height <= 16384):
        raise ValueError(f"Image size is {width} x {height} pixels; choose 1..16384 for both.")
    return int(width), int(height)


def _within(name: str, values: Tensor, low: float, high: float, unit: str) -> None:
    outside = ~((values >= low) & (values <= high))  # NaN compares false
    if bool(outside.any()):
        raise ValueError(
            f"{name} holds {values[outside][0].item():g}; choose values within {low:g}..{high:g}"
            f" {unit}."
        )
