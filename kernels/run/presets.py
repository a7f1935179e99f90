"""Choices between quick and good for the embedded prior, as numbers that go together."""

from __future__ import annotations

from dataclasses import dataclass, replace


@dataclass(frozen=True)
class Preset:
    """What goes together, for the embedded prior; the fields are Quality Preset's outputs, in
    this order.

    Args:
        resolution: grid points of Export Mesh
        texture_size: texels
    """

    steps: int
    views: int
    count: int
    lambda_opacity: float
    resolution: int
    texture_size: int


# From Init from Text; the loss and the learning rates are the same for all of them. More steps than
# 90 bring the outline 0.003 of IoU and cost 0.9 dB of PSNR (docs/results/text-start.md).
STANDARD = Preset(90, 2, 4000, 3000.0, 96, 512)
PRESETS = {
    "draft": replace(STANDARD, steps=45, resolution=64, texture_size=256),
    "standard": STANDARD,
    "fine": Preset(90, 4, 20_000, 1500.0, 96, 1024),
    "high": Preset(90, 4, 20_000, 1500.0, 128, 1024),
}
