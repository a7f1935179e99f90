"""What every sampler of training cameras can do."""

from __future__ import annotations

from typing import Any, Protocol

import torch
from torch import Tensor

from .pinhole import Cameras


class CameraSampler(Protocol):
    """Where the views of an optimization come from."""

    @property
    def usual_look(self) -> tuple[float, float]:
        """Distance, world units, and vertical field of view, degrees, that stand for the views."""
        ...

    def check(self, views_per_group: int = 1) -> None:
        """Raise ValueError naming the setting, its value, what is allowed and the cure; and where
        views cannot come ``views_per_group`` as `sample` has it."""
        ...

    def at(self, step: int) -> CameraSampler:
        """The sampler after ``step`` steps of the schedule: its ranges may change on the way."""
        ...

    def sample(
        self,
        count: int,
        size: int | tuple[int, int],
        generator: torch.Generator,
        device: torch.device | str | None = None,
        views_per_group: int = 1,
    ) -> Cameras:
        """``count`` random cameras of ``size`` pixels on ``device`` (default: the generator's).

        ``views_per_group``, a divisor of count: so many in a row are one rig, at equal azimuth steps all
        around the object, alike in all else.
        """
        ...

    def from_angles(
        self, azimuths: Tensor | float, elevations: Tensor | float, size: int | tuple[int, int]
    ) -> Cameras:
        """Cameras that look inward from these angles (degrees), at the middle of the other ranges:
        for previews.
        """
        ...


def check_ranges(
    owner: str, sampler: Any, limits: dict[str, tuple[float, float, str]], pairs: tuple[str, ...]
) -> None:
    """Raises ValueError unless every field lies within its (low, high, unit), and NAME_min not
    above NAME_max.
    """
    for key, (low, high, unit) in limits.items():
        value = getattr(sampler, key)
        if not low <= value <= high:  # also catches NaN
            raise ValueError(
                f"{owner}: {key} is {value}; choose a value within {low:g}..{high:g} {unit}."
            )
    for key in pairs:
        low, high = getattr(sampler, key + "_min"), getattr(sampler, key + "_max")
        if low > high:
            raise ValueError(f"{owner}: {key}_min {low:g} is above {key}_max {high:g}. Swap them.")
