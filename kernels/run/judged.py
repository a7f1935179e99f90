"""What the prior is shown of the renders: colours or depth, as they are, mirrored or stretched."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor
from torch.nn import functional as F

from ..cameras.pinhole import Cameras, focal_lengths
from ..priors.base import Prior
from ..priors.view_conditioning import encoder_input
from .penalties import disparity
from .settings import RunSettings
from .subject import RenderedViews


@dataclass(frozen=True)
class Judging:
    """How one step's renders are shown.

    Args:
        mirrored: left and right exchanged
        depth: the `disparity` picture in place of the colours
        size: pixels that they are stretched to; None: as they are
    """

    mirrored: bool = False
    depth: bool = False
    size: int | None = None


def draw_judging(settings: RunSettings, generator: torch.Generator) -> Judging:
    """One step's, by a ``generator`` on the CPU."""
    if not (settings.flip_share or settings.depth_share):
        return Judging(size=settings.judged_size)
    flip, depth = torch.rand(2, generator=generator).tolist()
    return Judging(flip < settings.flip_share, depth < settings.depth_share, settings.judged_size)


def judged(
    prior: Prior,
    judging: Judging,
    rendering: RenderedViews,
    cameras: Cameras,
    backgrounds: Tensor,
) -> Tensor:
    """[V,3,H,W] of one step, [V,4,H,W] with alpha where the prior takes it.

    backgrounds [V,3]: of the renders.
    """
    shown, alpha = rendering.color, rendering.alpha
    if judging.depth:
        near = disparity(rendering.depth, rendering.alpha, focal_lengths(cameras))
        shown, backgrounds = near.expand(-1, -1, -1, 3), torch.zeros_like(backgrounds)
    if judging.mirrored:
        shown, alpha = shown.flip(2), alpha.flip(2)
    images = encoder_input(prior, shown, alpha, backgrounds)
    if judging.size is None:
        return images
    size = (judging.size, judging.size)
    return F.interpolate(images, size, mode="bilinear", align_corners=False)
