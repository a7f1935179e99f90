"""Signed distances to the solids that toys are built from: exact outside, negative inside.

After Inigo Quilez, "Distance functions". Every function takes points [...,3] in world units and
returns [...]; solids of revolution and extrusions inherit exactness from the exact polygon
distance.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence

import torch
from torch import Tensor

Distance = Callable[[Tensor], Tensor]
Vector = tuple[float, float, float]
Outline = Sequence[tuple[float, float]]

_AXES = {"x": (1, 2, 0), "y": (0, 2, 1), "z": (0, 1, 2)}  # (the two across, the one along)


def _vec(values: Sequence[float], like: Tensor) -> Tensor:
    return torch.tensor(values, dtype=like.dtype, device=like.device)


def _dot(a: Tensor, b: Tensor) -> Tensor:
    return (a * b).sum(-1)


def _across(p: Tensor, center: Vector, axis: str) -> tuple[Tensor, Tensor, Tensor]:
    i, j, k = _AXES[axis]
    return p[..., i] - center[i], p[..., j] - center[j], p[..., k] - center[k]


def sphere(center: Vector, radius: float) -> Distance:
    """A ball; lengths here and below in world units."""
    return lambda p: (p - _vec(center, p)).norm(dim=-1) - radius


def box(center: Vector, half: Vector, rounding: float = 0.0) -> Distance:
    """``half`` is the half extent along x, y, z, rounding included."""

    def distance(p: Tensor) -> Tensor:
        q = (p - _vec(center, p)).abs() - (_vec(half, p) - rounding)
        outside: Tensor = q.clamp_min(0).norm(dim=-1)
        return outside + q.amax(-1).clamp_max(0) - rounding

    return distance


def cylinder(
    center: Vector, radius: float, half: float, axis: str = "y", rounding: float = 0.0
) -> Distance:
    """``half``: half the length along ``axis``; ``rounding``: radius of the edges, included."""

    def distance(p: Tensor) -> Tensor:
        u, v, w = _across(p, center, axis)
        q = torch.stack([torch.hypot(u, v) - radius + rounding, w.abs() - half + rounding], -1)
        outside: Tensor = q.clamp_min(0).norm(dim=-1)
        return outside + q.amax(-1).clamp_max(0) - rounding

    return distance


def torus(center: Vector, radius: float, tube: float, axis: str = "y") -> Distance:
    """A ring around ``axis``; ``tube``: the radius of what is bent."""

    def distance(p: Tensor) -> Tensor:
        u, v, w = _across(p, center, axis)
        return torch.hypot(torch.hypot(u, v) - radius, w) - tube

    return distance


def arc(center: Vector, radius: float, tube: float, half_angle: float, turn: float) -> Distance:
    """Part of a torus in the plane facing +Z, round-ended: ``half_angle`` degrees to both sides of
    the direction ``turn`` (degrees from +X towards +Y)."""
    a, b = math.radians(half_angle), math.radians(turn)
    sin, cos = math.sin(a), math.cos(a)

    def distance(p: Tensor) -> Tensor:
        u, v, w = _across(p, center, "z")
        along = u * math.cos(b) + v * math.sin(b)  # the arc's middle direction
        side = (v * math.cos(b) - u * math.sin(b)).abs()
        beyond = cos * side > sin * along
        k = torch.where(beyond, side * sin + along * cos, torch.hypot(along, side))
        return (u * u + v * v + w * w + radius * radius - 2 * radius * k).clamp_min(0).sqrt() - tube

    return distance


def round_cone(a: Vector, b: Vector, radius_a: float, radius_b: float) -> Distance:
    """The hull of two spheres; equal radii make a capsule. Raises ValueError if one sphere holds
    the other.
    """
    ba = [b[i] - a[i] for i in range(3)]
    l2 = sum(x * x for x in ba)
    rr = radius_a - radius_b
    if l2 <= rr * rr:
        raise ValueError(
            f"round_cone: the balls of radius {radius_a} at {a} and {radius_b} at {b} lie in one"
            " another."
        )
    a2, il2 = l2 - rr * rr, 1 / l2

    def distance(p: Tensor) -> Tensor:
        pa = p - _vec(a, p)
        y = _dot(pa, _vec(ba, p))
        z = y - l2
        x2 = ((pa * l2 - y[..., None] * _vec(ba, p)) ** 2).sum(-1)
        y2, z2 = y * y * l2, z * z * l2
        k = math.copysign(1, rr) * rr * rr * x2
        at_b = (x2 + z2).sqrt() * il2 - radius_b
        at_a = (x2 + y2).sqrt() * il2 - radius_a
        side = ((x2 * a2 * il2).sqrt() + y * rr) * il2 - radius_a
        return torch.where(
            z.sign() * a2 * z2 > k, at_b, torch.where(y.sign() * a2 * y2 < k, at_a, side)
        )

    return distance


def polygon(x: Tensor, y: Tensor, outline: Outline) -> Tensor:
    """Signed distance in the plane to a closed outline of any winding.

    x, y: [P], world units; the result likewise.
    """
    nearest: Tensor | None = None
    inside = torch.zeros_like(x, dtype=torch.bool)
    for (ax, ay), (bx, by) in zip(outline, [*outline[1:], outline[0]], strict=True):
        ex, ey = bx - ax, by - ay
        wx, wy = x - ax, y - ay
        t = ((wx * ex + wy * ey) / (ex * ex + ey * ey)).clamp(0, 1)
        d2 = (wx - t * ex) ** 2 + (wy - t * ey) ** 2
        nearest = d2 if nearest is None else torch.minimum(nearest, d2)
        # the upward ray test, half-open so that vertices count once
        crosses = (y >= ay) != (y >= by)
        if ey != 0:
            inside = inside ^ (crosses & (x < ax + ex * (y - ay) / ey))
    assert nearest is not None
    d = nearest.sqrt()
    return torch.where(inside, -d, d)


def revolved(center: Vector, profile: Outline) -> Distance:
    """A solid of revolution about Y. ``profile`` lists (radius, height) from the top of the axis to
    its bottom, or a closed ring that never touches the axis."""
    mirrored = [(-r, h) for r, h in reversed(profile) if r > 0]
    touches_axis = any(r == 0 for r, _ in profile)
    outline = [*profile, *mirrored] if touches_axis else list(profile)

    def distance(p: Tensor) -> Tensor:
        u, v, w = _across(p, center, "y")
        return polygon(torch.hypot(u, v), w, outline)

    return distance


def extruded(center: Vector, outline: Outline, half: float, axis: str = "z") -> Distance:
    """A prism: the outline lies across ``axis`` (z: (x,y); x: (z,y); y: (x,z)) and reaches ``half``
    to both sides.
    """

    def distance(p: Tensor) -> Tensor:
        u, v, w = _across(p, center, axis)
        flat = polygon(v, u, outline) if axis == "x" else polygon(u, v, outline)
        q = torch.stack([flat, w.abs() - half], -1)
        outside: Tensor = q.clamp_min(0).norm(dim=-1)
        return outside + q.amax(-1).clamp_max(0)

    return distance


def turned(inner: Distance, axis: str, degrees: float, about: Vector = (0.0, 0.0, 0.0)) -> Distance:
    """``inner`` turned by the right-hand rule about the line through ``about`` along ``axis``."""
    i, j = {"x": (1, 2), "y": (2, 0), "z": (0, 1)}[axis]
    c, s = math.cos(math.radians(degrees)), math.sin(math.radians(degrees))

    def distance(p: Tensor) -> Tensor:
        q = p - _vec(about, p)
        back = q.clone()  # the inverse turn, applied to the point
        back[..., i] = c * q[..., i] + s * q[..., j]
        back[..., j] = c * q[..., j] - s * q[..., i]
        return inner(back + _vec(about, p))

    return distance
