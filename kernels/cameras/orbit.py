"""Random training cameras on an orbit around the object."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from .pinhole import Cameras, checked_size, look_at, orbit
from .sampler import check_ranges

OVERHEAD_ELEVATIONS = (60.0, 85.0)  # degrees; from 60 up a prompt says "overhead view"


@dataclass(frozen=True)
class OrbitSampler:
    """Random training cameras on an orbit around the object.

    Azimuths are stratified: one random phase turns V equal sectors of the circle, each view lies
    anywhere in its own sector, so every batch sees all sides. Elevations, distances and fields of
    view are uniform in their range. Rigs of cameras are spread in the same way over the circle's
    part that brings a rig back onto itself. The defaults are those the embedded prior was trained
    with (object in the unit cube, fov 40, distance about 2). LucidDreamer: elevation -15..45
    degrees, fov 18..34 and radius 5.2..5.5 (the same picture from further away).

    Args:
        elevation_min: degrees
        elevation_max: degrees
        overhead_share: share of the views, 0..1, that come from elevation 60..85 instead
        distance_min: world units from the target
        distance_max: world units from the target
        fov_y_min: degrees, vertical field of view
        fov_y_max: degrees
        target_jitter: world units; the camera and its target move by up to this along each axis
    """

    elevation_min: float = -10.0
    elevation_max: float = 45.0
    overhead_share: float = 0.1
    distance_min: float = 1.97
    distance_max: float = 2.03
    fov_y_min: float = 40.0
    fov_y_max: float = 40.0
    target_jitter: float = 0.01

    @property
    def usual_look(self) -> tuple[float, float]:
        """Distance, world units, and vertical field of view, degrees, in the middle of their
        ranges.
        """
        return (self.distance_min + self.distance_max) / 2, (self.fov_y_min + self.fov_y_max) / 2

    def check(self, views_per_group: int = 1) -> None:
        """Raise ValueError naming the setting, its value, what is allowed and the cure; any
        ``views_per_group`` will do.
        """
        limits = {
            "elevation_min": (-90.0, 90.0, "degrees"),
            "elevation_max": (-90.0, 90.0, "degrees"),
            "overhead_share": (0.0, 1.0, "as a share of the views"),
            "distance_min": (0.1, 1000.0, "world units"),
            "distance_max": (0.1, 1000.0, "world units"),
            "fov_y_min": (1.0, 150.0, "degrees"),
            "fov_y_max": (1.0, 150.0, "degrees"),
            "target_jitter": (0.0, 0.5, "world units"),
        }
        check_ranges("Orbit cameras", self, limits, ("elevation", "distance", "fov_y"))

    def sample(
        self,
        count: int,
        size: int | tuple[int, int],
        generator: torch.Generator,
        device: torch.device | str | None = None,
        views_per_group: int = 1,
    ) -> Cameras:
        """``count`` random cameras of ``size`` pixels on ``device`` (default: the generator's).

        ``views_per_group``: so many in a row are one rig, at equal azimuth steps, alike in all else.
        """
        self.check()
        if count < 1:
            raise ValueError(f"Orbit cameras: count is {count}; at least 1 view is needed.")
        if count % views_per_group:
            raise ValueError(
                f"Orbit cameras: count is {count}; {views_per_group} views come together, use a multiple."
            )
        width, height = checked_size(size)
        device = generator.device if device is None else device
        rigs, step = count // views_per_group, 360.0 / views_per_group
        # One draw, moved once: a run sees the same views whatever the device of the cloud, and
        # nothing synchronises.
        draws = torch.rand(rigs + 1, 8, generator=generator, device=generator.device).to(device)
        phase, own = draws[0, 0], draws[1:].repeat_interleave(views_per_group, 0)
        sector, elevation, distance, fov, overhead = own[:, :5].unbind(1)
        place = torch.arange(count, device=device)
        azimuths = step * (phase + (place // views_per_group + sector) / rigs) + step * (
            place % views_per_group
        )
        level = self.elevation_min + elevation * (self.elevation_max - self.elevation_min)
        above = OVERHEAD_ELEVATIONS[0] + elevation * (
            OVERHEAD_ELEVATIONS[1] - OVERHEAD_ELEVATIONS[0]
        )
        return look_at(
            azimuths,
            torch.where(overhead < self.overhead_share, above, level),
            self.distance_min + distance * (self.distance_max - self.distance_min),
            self.fov_y_min + fov * (self.fov_y_max - self.fov_y_min),
            (2 * own[:, 5:8] - 1) * self.target_jitter,
            width,
            height,
        )

    def from_angles(
        self, azimuths: Tensor | float, elevations: Tensor | float, size: int | tuple[int, int]
    ) -> Cameras:
        """Cameras at these angles (degrees), at the middle distance and field of view."""
        distance, fov_y = (
            (self.distance_min + self.distance_max) / 2,
            (self.fov_y_min + self.fov_y_max) / 2,
        )
        return orbit(azimuths, elevations, distance, fov_y, size)
