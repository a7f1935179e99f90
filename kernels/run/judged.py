"""What the prior is shown of the renders: colours or depth, as they are, mirrored or stretched."""

from __future__ import annotations

import torch
from torch import Tensor
from torch.nn import functional as F

from ..cameras.pinhole import Cameras, focal_lengths
from ..priors.base import Prior
from ..priors.view_conditioning import encoder_input
from .penalties import disparity
from .settings import RunSettings
from .subject import RenderedViews


def judged(
    prior: Prior,
    settings: RunSettings,
    rendering: RenderedViews,
    cameras: Cameras,
    generator: torch.Generator,
) -> Tensor:
    """[V,3,H,W] of one step, [V,4,H,W] with alpha where the prior takes it;
    ``generator``, on the CPU, decides whether it is mirrored or depth.
    """
    shown, alpha = rendering.color, rendering.alpha
    if settings.flip_share or settings.depth_share:
        flip, depth = torch.rand(2, generator=generator).tolist()
        if depth < settings.depth_share:
            near = disparity(rendering.depth, rendering.alpha, focal_lengths(cameras))
            shown = near.expand(-1, -1, -1, 3)
        if flip < settings.flip_share:
            shown, alpha = shown.flip(2), alpha.flip(2)
    images = encoder_input(prior, shown, alpha)
    if settings.judged_size is None:
        return images
    size = (settings.judged_size, settings.judged_size)
    return F.interpolate(images, size, mode="bilinear", align_corners=False)
