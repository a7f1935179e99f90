"""Refining a cloud instead of making one: how far a run may lead away from the cloud it begins
with.
"""

from __future__ import annotations

import math
from dataclasses import dataclass, replace

import torch
from torch import Tensor

from ..cameras.pinhole import Cameras
from ..gaussians.cloud import Gaussians
from ..losses.base import Loss
from ..rasterizers.rasterize import Rendering, render

LOWEST, HIGHEST = 40, 980  # steps of 0..999: the ceiling at strengths of 0 and 1


@dataclass(frozen=True)
class Anchor:
    """A cloud whose renders, from the cameras of every step, a run is held to.

    The two penalties are means over pixels and views, times their weights, as those of
    `Regularizers`. The silhouette alone keeps a shape and leaves its colours free.

    Args:
        color: weight of the mean squared difference of the pictures, 0..1, on the step's
            backgrounds
        alpha: weight of the mean squared difference of the alphas, 0..1
    """

    cloud: Gaussians
    color: float = 0.0
    alpha: float = 0.0

    def check(self) -> None:
        """Raises ValueError naming what is wrong."""
        self.cloud.check("anchor")
        for name in ("color", "alpha"):
            value = getattr(self, name)
            if not (math.isfinite(value) and value >= 0):
                raise ValueError(
                    f"lambda_anchor_{name} is {value}; give a finite number of 0 or more."
                )

    def to(self, device: torch.device | str) -> Anchor:
        """The same with a copy of the cloud elsewhere, whose tensors are ordinary ones."""
        return replace(
            self, cloud=self.cloud.map(lambda value: value.detach().to(device, copy=True))
        )

    def penalties(
        self, rendering: Rendering, cameras: Cameras, backgrounds: Tensor, backend: str = "auto"
    ) -> dict[str, Tensor]:
        """Weighted penalties by name, scalars, for renders ``rendering`` from ``cameras`` on
        ``backgrounds`` [V,3]; only those with a weight above 0."""
        if not self.color and not self.alpha:
            return {}
        with torch.no_grad():
            reference = render(self.cloud, cameras, backgrounds, backend, depth=False)
        terms = {}
        if self.color:
            terms["anchor_color"] = self.color * (rendering.color - reference.color).square().mean()
        if self.alpha:
            terms["anchor_alpha"] = self.alpha * (rendering.alpha - reference.alpha).square().mean()
        return terms


def ceiling(strength: float) -> int:
    """The highest step, of 0..999, that a run of that strength 0..1 may noise its renders to.

    After SDEdit (Meng et al. 2022): what is larger than the noise stays. Raises ValueError outside
    0..1.
    """
    if not 0 <= strength <= 1:
        raise ValueError(f"strength is {strength}; choose 0 (keep everything) to 1 (keep nothing).")
    return round(LOWEST + (HIGHEST - LOWEST) * strength)


def gentle(loss: Loss, strength: float) -> Loss:
    """The loss with its timesteps below `ceiling`; 1 leaves it as it is. Of a sum, every part.

    Lower bounds that would lie above come down to half of it. Raises ValueError for a strength
    outside 0..1.
    """
    top = ceiling(strength)
    return loss if strength == 1 else loss.below(top)
