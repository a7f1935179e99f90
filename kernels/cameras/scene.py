"""Cameras for scenes: around the middle looking in, and in the middle looking out."""

from __future__ import annotations

from dataclasses import dataclass, fields, replace
from typing import Any

import torch
from torch import Tensor

from .pinhole import Cameras, orbit
from .sampler import check_ranges


def look_around(
    azimuths: Tensor | float,
    elevations: Tensor | float,
    positions: Tensor,
    fov_y: Tensor | float = 65.0,
    size: int | tuple[int, int] = 128,
) -> Cameras:
    """Upright cameras at ``positions`` [3] or [V,3] that look outward.

    Azimuths and elevations (degrees) are those of the direction looked towards: azimuth 0 is +Z,
    the way the front looks, 90 is +X; elevation 90 is straight up. ``fov_y`` in degrees, ``size``
    in pixels as for `orbit`.
    """
    azimuth, elevation = torch.broadcast_tensors(
        *(torch.as_tensor(v).float().reshape(-1) for v in (azimuths, elevations))
    )
    a, e = torch.deg2rad(azimuth), torch.deg2rad(elevation)
    ahead = torch.stack([a.sin() * e.cos(), e.sin(), a.cos() * e.cos()], -1)
    cameras = orbit(
        azimuth + 180, -elevation, 1.0, fov_y, size, positions.cpu().reshape(-1, 3) + ahead
    )
    count = len(cameras)
    return replace(
        cameras,
        azimuths=torch.remainder(azimuth + 180, 360) - 180 + torch.zeros(count),
        elevations=elevation + torch.zeros(count),
        distances=torch.zeros(count),
        outward=torch.ones(count, dtype=torch.bool),
    ).to(positions.device)


def joined(parts: list[Cameras]) -> Cameras:
    """All cameras of all parts, of one picture size, in order; those of parts that do not say so
    look inward.
    """
    tensors: dict[str, Any] = {}
    for field in fields(Cameras):
        if field.name not in ("width", "height", "outward"):
            tensors[field.name] = torch.cat([getattr(part, field.name) for part in parts])
    inward = [torch.zeros(len(p), dtype=torch.bool, device=p.viewmats.device) for p in parts]
    outward = torch.cat(
        [i if p.outward is None else p.outward for p, i in zip(parts, inward, strict=True)]
    )
    return replace(parts[0], **tensors, outward=outward)


@dataclass(frozen=True)
class SceneSampler:
    """Random training cameras for a scene: inward-outward.

    Of every batch ``outward_share`` (rounded at random) looks outward from the middle, azimuths
    stratified over the circle; the rest looks inward from an orbit, likewise stratified. Ranges are
    uniform. Everything stays within what the embedded prior's scenes were rendered with: toys in a
    region 1.5 wide, ground 0.25 below the origin.

    Args:
        outward_share: share of the views, 0..1
        elevation_min: degrees, of the inward cameras
        elevation_max: degrees
        distance_min: world units from the origin
        distance_max: world units from the origin
        fov_y: degrees, vertical field of view looking inward
        outward_elevation_min: degrees, of the direction looked towards
        outward_elevation_max: degrees
        outward_fov_y: degrees, vertical field of view looking outward
        outward_jitter: world units; outward cameras lie off the origin by up to this along each
            axis
        target_jitter: world units; inward cameras and their target move by up to this along each
            axis
    """

    outward_share: float = 0.25
    elevation_min: float = 0.0
    elevation_max: float = 40.0
    distance_min: float = 2.45
    distance_max: float = 2.55
    fov_y: float = 40.0
    outward_elevation_min: float = -10.0
    outward_elevation_max: float = 25.0
    outward_fov_y: float = 65.0
    outward_jitter: float = 0.06
    target_jitter: float = 0.02

    @property
    def usual_look(self) -> tuple[float, float]:
        """Distance, world units, and vertical field of view, degrees, of the inward cameras, in
        their middle.
        """
        return (self.distance_min + self.distance_max) / 2, self.fov_y

    def at(self, step: int) -> SceneSampler:
        """The same at any step."""
        return self

    def check(self, views_per_group: int = 1) -> None:
        """Raise ValueError naming the setting, its value, what is allowed and the cure; and for any
        ``views_per_group`` above 1: views into a scene and out of it are no rig around an object."""
        if views_per_group > 1:
            raise ValueError(
                f"Scene cameras: the prior judges {views_per_group} views around one object together, but"
                " a scene is seen from within as well. Use Orbit Cameras, or a prior that judges"
                " every view by itself."
            )
        limits = {
            "outward_share": (0.0, 1.0, "as a share of the views"),
            "elevation_min": (-90.0, 90.0, "degrees"),
            "elevation_max": (-90.0, 90.0, "degrees"),
            "distance_min": (0.1, 1000.0, "world units"),
            "distance_max": (0.1, 1000.0, "world units"),
            "fov_y": (1.0, 150.0, "degrees"),
            "outward_elevation_min": (-90.0, 90.0, "degrees"),
            "outward_elevation_max": (-90.0, 90.0, "degrees"),
            "outward_fov_y": (1.0, 150.0, "degrees"),
            "outward_jitter": (0.0, 10.0, "world units"),
            "target_jitter": (0.0, 0.5, "world units"),
        }
        check_ranges("Scene cameras", self, limits, ("elevation", "distance", "outward_elevation"))

    def sample(
        self,
        count: int,
        size: int | tuple[int, int],
        generator: torch.Generator,
        device: torch.device | str | None = None,
        views_per_group: int = 1,
    ) -> Cameras:
        """``count`` random cameras of ``size`` pixels on ``device`` (default: the generator's),
        inward ones first.
        """
        self.check(views_per_group)
        if count < 1:
            raise ValueError(f"Scene cameras: count is {count}; at least 1 view is needed.")
        draws = torch.rand(count + 1, 6, generator=generator, device=generator.device).cpu()
        outward = int(count * self.outward_share + float(draws[0, 0]))
        inward = count - outward
        parts = []
        if inward:
            some, jitter = draws[1 : inward + 1], self.target_jitter
            azimuths = 360.0 * (draws[0, 1] + (torch.arange(inward) + some[:, 0]) / inward)
            elevations = self.elevation_min + some[:, 1] * (self.elevation_max - self.elevation_min)
            distances = self.distance_min + some[:, 2] * (self.distance_max - self.distance_min)
            parts.append(
                orbit(
                    azimuths,
                    elevations,
                    distances,
                    self.fov_y,
                    size,
                    (2 * some[:, 3:] - 1) * jitter,
                )
            )
        if outward:
            some, jitter = draws[inward + 1 :], self.outward_jitter
            azimuths = 360.0 * (draws[0, 2] + (torch.arange(outward) + some[:, 0]) / outward)
            low, high = self.outward_elevation_min, self.outward_elevation_max
            positions = (2 * some[:, 3:] - 1) * jitter
            parts.append(
                look_around(
                    azimuths, low + some[:, 1] * (high - low), positions, self.outward_fov_y, size
                )
            )
        return joined(parts).to(generator.device if device is None else device)

    def from_angles(
        self, azimuths: Tensor | float, elevations: Tensor | float, size: int | tuple[int, int]
    ) -> Cameras:
        """Inward cameras at these angles (degrees), at the middle distance."""
        return orbit(
            azimuths, elevations, (self.distance_min + self.distance_max) / 2, self.fov_y, size
        )
