"""Choices between quick and good for the embedded prior, as numbers that go together."""

from __future__ import annotations

from dataclasses import dataclass, replace


@dataclass(frozen=True)
class Preset:
    """What goes together, for the embedded prior; the fields are Quality Preset's outputs, in
    this order.

    Args:
        scale: world units
        resolution: grid points of Export Mesh
        texture_size: texels
    """

    steps: int
    views: int
    count: int
    scale: float
    lambda_opacity: float
    resolution: int
    texture_size: int


# Small Gaussians need long runs. The loss and the learning rates are the same for all of them.
STANDARD = Preset(200, 2, 4000, 0.03, 3000.0, 96, 512)
PRESETS = {
    "draft": replace(STANDARD, steps=110, resolution=64, texture_size=256),
    "standard": STANDARD,
    "fine": Preset(200, 4, 20_000, 0.013, 1500.0, 96, 1024),
    "high": Preset(400, 4, 20_000, 0.013, 1500.0, 128, 1024),
}
