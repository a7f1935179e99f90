"""Random training cameras on an orbit around the object."""

from __future__ import annotations

import math
from dataclasses import dataclass, replace
from typing import Any

import torch
from torch import Tensor

from ..settings.option import Settings, option
from .pinhole import Cameras, aimed, checked_size, look_at, orbit
from .sampler import check_ranges

SPHERE_LAWS = ("even", "consistent3d")
OVERHEAD_ELEVATIONS = (60.0, 85.0)  # degrees; from 60 up a prompt says "overhead view"


@dataclass(frozen=True)
class Widening:
    """Ranges that widen every so many steps: LucidDreamer brings the cameras nearer and lets their
    fields of view grow apart. The defaults are its values.

    Args:
        every: steps; the first time after one step less, as its code counts from 1
        distance_factor: on both ends of the range of distances
        distance_floor_min: world units, where distance_min stops
        distance_floor_max: world units, where distance_max stops
        fov_min_factor: on fov_y_min
        fov_max_factor: on fov_y_max
        fov_floor: degrees, where fov_y_min stops
        fov_cap: degrees, where fov_y_max stops
    """

    every: int = 500
    distance_factor: float = 0.95
    distance_floor_min: float = 3.5
    distance_floor_max: float = 5.0
    fov_min_factor: float = 0.75
    fov_max_factor: float = 1.1
    fov_floor: float = math.degrees(0.16)
    fov_cap: float = math.degrees(0.60)

    def check(self) -> None:
        """Raise ValueError naming the setting, its value, what is allowed and the cure."""
        limits = {
            "every": (1, 1_000_000, "steps"),
            "distance_factor": (0.01, 1.0, "as a factor"),
            "distance_floor_min": (0.1, 1000.0, "world units"),
            "distance_floor_max": (0.1, 1000.0, "world units"),
            "fov_min_factor": (0.01, 1.0, "as a factor"),
            "fov_max_factor": (1.0, 100.0, "as a factor"),
            "fov_floor": (1.0, 150.0, "degrees"),
            "fov_cap": (1.0, 150.0, "degrees"),
        }
        check_ranges("Widening cameras", self, limits, ("distance_floor",))


@dataclass(frozen=True)
class OrbitSampler(Settings):
    """Random training cameras on an orbit around the object.

    Azimuths are stratified: one random phase turns V equal sectors of the circle, each view lies
    anywhere in its own sector, so every batch sees all sides. Elevations, distances and fields of
    view are uniform in their range. Rigs of cameras are spread in the same way over the circle's
    part that brings a rig back onto itself. The defaults are those the embedded prior was trained
    with (object in the unit cube, fov 40, distance about 2). LucidDreamer: elevation -15..45
    degrees, fov 18..34 and radius 5.2..5.5 at the start.

    Args:
        elevation_min: degrees
        elevation_max: degrees
        overhead_share: share of the views, 0..1, that come from elevation 60..85 instead
        distance_min: world units from the target
        distance_max: world units from the target
        fov_y_min: degrees, vertical field of view
        fov_y_max: degrees
        target_jitter: world units; the camera and its target move by up to this along each axis
        azimuth_sectors: fixed sectors of azimuth that the views take in turn, the second around the
            front; C3D: 4, so that 8 views are 2 front, 4 side, 2 back; LucidDreamer: 1, each view
            anywhere; 0: V sectors turned by one random phase
        sphere_share: share of the batches, 0..1, whose elevations follow the sphere's area instead;
            C3D: 0.5
        sphere_law: "even" | "consistent3d", whose formula reaches from -6.4 to 30 of -10..45
        position_jitter: world units; the camera alone moves by up to this along each axis; C3D's
            coarse stage: 0.1, LucidDreamer: 0.025
        look_jitter: world units, standard deviation of where the camera looks; C3D's coarse stage:
            0.2, LucidDreamer: 0.05
        up_jitter: standard deviation of the upward direction, of length 1; C3D's coarse stage: 0.02,
            LucidDreamer: 0.01
        shared_fov: one field of view for all views of a batch; LucidDreamer: for 10 views
        widening: None: the ranges stay
    """

    elevation_min: float = -10.0
    elevation_max: float = 45.0
    overhead_share: float = 0.1
    distance_min: float = 1.97
    distance_max: float = 2.03
    fov_y_min: float = 40.0
    fov_y_max: float = 40.0
    target_jitter: float = 0.01
    azimuth_sectors: int = option(0)
    sphere_share: float = option(0.0)
    sphere_law: str = option("even")
    position_jitter: float = option(0.0)
    look_jitter: float = option(0.0)
    up_jitter: float = option(0.0)
    shared_fov: bool = option(False)
    widening: Widening | None = option(None)  # noqa: RUF009

    def at(self, step: int) -> OrbitSampler:
        """The sampler after ``step`` steps of the schedule."""
        wide = self.widening
        if wide is None:
            return self
        now = self
        for _ in range((step + 1) // wide.every):
            now = replace(
                now,
                distance_min=max(wide.distance_floor_min, now.distance_min * wide.distance_factor),
                distance_max=max(wide.distance_floor_max, now.distance_max * wide.distance_factor),
                fov_y_min=max(wide.fov_floor, now.fov_y_min * wide.fov_min_factor),
                fov_y_max=min(wide.fov_cap, now.fov_y_max * wide.fov_max_factor),
            )
        return now

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
            "azimuth_sectors": (0, 360, "sectors"),
            "sphere_share": (0.0, 1.0, "as a share of the batches"),
            "position_jitter": (0.0, 0.5, "world units"),
            "look_jitter": (0.0, 0.5, "world units"),
            "up_jitter": (0.0, 0.5, "of the upward direction"),
        }
        check_ranges("Orbit cameras", self, limits, ("elevation", "distance", "fov_y"))
        if self.sphere_law not in SPHERE_LAWS:
            raise ValueError(
                f"Orbit cameras: sphere_law is {self.sphere_law!r}; choose one of"
                f" {', '.join(SPHERE_LAWS)}."
            )
        if self.azimuth_sectors and views_per_group > 1:
            raise ValueError(
                f"Orbit cameras: azimuth_sectors is {self.azimuth_sectors}, but the prior judges"
                f" {views_per_group} views around the object together. Set azimuth_sectors to 0."
            )
        if self.widening is not None:
            self.widening.check()

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
        if self.azimuth_sectors:
            azimuths = sector_azimuths(sector, self.azimuth_sectors)
        else:
            within = step * (phase + (place // views_per_group + sector) / rigs)
            azimuths = within + step * (place % views_per_group)
        level = self.elevation_min + elevation * (self.elevation_max - self.elevation_min)
        if self.sphere_share:
            ends = self.elevation_min, self.elevation_max
            spread = sphere_elevations(elevation, *ends, self.sphere_law)
            level = torch.where(draws[0, 1] < self.sphere_share, spread, level)
        if self.shared_fov:
            fov = draws[0, 2].expand(count)
        above = OVERHEAD_ELEVATIONS[0] + elevation * (
            OVERHEAD_ELEVATIONS[1] - OVERHEAD_ELEVATIONS[0]
        )
        cameras = look_at(
            azimuths,
            torch.where(overhead < self.overhead_share, above, level),
            self.distance_min + distance * (self.distance_max - self.distance_min),
            self.fov_y_min + fov * (self.fov_y_max - self.fov_y_min),
            (2 * own[:, 5:8] - 1) * self.target_jitter,
            width,
            height,
        )
        if not (self.position_jitter or self.look_jitter or self.up_jitter):
            return cameras
        centre = (2 * own[:, 5:8] - 1) * self.target_jitter
        source: dict[str, Any] = {"generator": generator, "device": generator.device}
        apart = torch.rand(rigs, 3, **source).to(device).repeat_interleave(views_per_group, 0)
        normal = torch.randn(2, rigs, 3, **source).to(device).repeat_interleave(views_per_group, 1)
        return aimed(
            cameras,
            cameras.positions + (2 * apart - 1) * self.position_jitter,
            centre + normal[0] * self.look_jitter,
            normal[1] * self.up_jitter + normal.new_tensor([0.0, 1.0, 0.0]),
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


def sector_azimuths(share: Tensor, sectors: int) -> Tensor:
    """Azimuths [V] in degrees of views that take fixed ``sectors`` in turn, the second around the
    front, each at its ``share`` [V] 0..1 of its own.
    """
    place = torch.arange(len(share), device=share.device) % sectors
    return (share + place - 1.5) / sectors * 360


def sphere_elevations(share: Tensor, low: float, high: float, law: str = "even") -> Tensor:
    """Elevations [V] in degrees between ``low`` and ``high`` at ``share`` [V] 0..1 of the sphere's
    area between them: the sine is uniform. Consistent3D's code takes it for uniform in the angle,
    between sines that are linear in low and high.
    """
    ends = low / 90, high / 90
    if law == "even":
        ends = math.sin(math.radians(low)), math.sin(math.radians(high))
    return torch.rad2deg(torch.asin(ends[0] + share * (ends[1] - ends[0])))
