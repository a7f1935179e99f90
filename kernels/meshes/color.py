"""sRGB and linear light."""

from __future__ import annotations

import torch
from torch import Tensor


def srgb_to_linear(color: Tensor) -> Tensor:
    """IEC 61966-2-1 decoding, any shape, 0..1."""
    return torch.where(
        color <= 0.04045, color / 12.92, ((color.clamp_min(0) + 0.055) / 1.055) ** 2.4
    )


def linear_to_srgb(color: Tensor) -> Tensor:
    """IEC 61966-2-1 encoding, any shape, 0..1."""
    return torch.where(
        color <= 0.0031308, color * 12.92, 1.055 * color.clamp_min(1e-9) ** (1 / 2.4) - 0.055
    )
