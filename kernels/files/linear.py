"""Clouds whose colours are linear light, as sRGB, which ours are."""

from __future__ import annotations

from dataclasses import replace

import torch

from ..gaussians.cloud import SH_C0, Gaussians
from ..meshes.color import linear_to_srgb

DARK = 1e-3  # linear; below it the curve is straight anyway


def linear_as_srgb(gaussians: Gaussians) -> Gaussians:
    """The cloud with every Gaussian's own colour encoded (IEC 61966-2-1) and what depends on the
    view along the curve's slope there. Mixtures of Gaussians come out as sRGB mixes them.
    """
    color = gaussians.colors.clamp_min(0)
    encoded = linear_to_srgb(color)
    low, high = (linear_to_srgb((color + step).clamp_min(0)) for step in (-DARK, DARK))
    slope = (high - low) / (2 * DARK)
    sh = gaussians.sh * slope[:, None]
    sh[:, 0] = (encoded - 0.5) / SH_C0
    return replace(gaussians, sh=torch.as_tensor(sh))
