"""What a toy's solids are painted with: a role each."""

from __future__ import annotations

from .distances import Distance

MAIN = "main"  # takes the caption's colour and pattern
# sRGB albedo of everything a caption does not colour
ACCENTS: dict[str, tuple[float, float, float]] = {
    "dark": (0.10, 0.10, 0.12),
    "wood": (0.50, 0.31, 0.15),
    "cream": (0.93, 0.87, 0.73),
    "glass": (0.55, 0.75, 0.88),
    "steel": (0.70, 0.71, 0.74),
    "beak": (0.98, 0.58, 0.08),
    "lit": (1.00, 0.95, 0.62),
}
ROLES = (MAIN, *ACCENTS)

Solids = list[tuple[str, Distance]]  # each with its role
