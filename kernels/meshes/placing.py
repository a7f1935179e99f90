"""Shapes from elsewhere, brought into our world: Y up, front +Z, in a cube of side 1 around the
origin.
"""

from __future__ import annotations

import math

import torch
from torch import Tensor

UP_AXES = ("Y", "Z")


def upright(points: Tensor, up_axis: str = "Y", turn: float = 0.0) -> Tensor:
    """Places or directions [...,3] with Y up, then turned about Y by ``turn`` degrees of azimuth.

    ``up_axis``: what is up in ``points``. "Y": the front is +Z, as in glTF and here; "Z": it is -Y,
    as in Blender. Raises ValueError for another axis.
    """
    if up_axis not in UP_AXES:
        raise ValueError(f"up_axis is {up_axis!r}; choose one of {', '.join(UP_AXES)}.")
    x, up, toward = points.unbind(-1)
    if up_axis == "Z":
        up, toward = toward, -up
    cos, sin = math.cos(math.radians(turn)), math.sin(math.radians(turn))
    return torch.stack([cos * x + sin * toward, up, cos * toward - sin * x], -1)


def fitting(points: Tensor, size: float = 1.0) -> tuple[Tensor, float]:
    """Middle [3] of the box around points [N,3], and the factor that makes its longest side
    ``size``.
    """
    low, high = points.amin(0), points.amax(0)
    return (low + high) / 2, size / max(float((high - low).amax()), 1e-20)
