"""Spherical harmonics of `sh` and their derivative on Lanes."""

from __future__ import annotations

from typing import Any

from numba import njit

from ...gaussians.cloud import SH_C0
from ...gaussians.sh import SH_C1, SH_C2, SH_C3
from .lanes import COUNT, splat
from .memory import load, store

A0, A1, A2, A3, A4 = SH_C2
B0, B1, B2, B3, B4, B5, B6 = SH_C3


@njit(error_model="numpy")
def store_harmonics(basis: Any, number: int, x: Any, y: Any, z: Any) -> None:
    """Leave the first ``number`` harmonics of unit directions in ``basis`` [16*COUNT]."""
    store(basis, 0, splat(SH_C0))
    if number > 1:
        store(basis, COUNT, y * -SH_C1)
        store(basis, 2 * COUNT, z * SH_C1)
        store(basis, 3 * COUNT, x * -SH_C1)
    xx, yy, zz = x * x, y * y, z * z
    if number > 4:
        store(basis, 4 * COUNT, x * y * A0)
        store(basis, 5 * COUNT, y * z * A1)
        store(basis, 6 * COUNT, (zz * 2.0 - xx - yy) * A2)
        store(basis, 7 * COUNT, x * z * A3)
        store(basis, 8 * COUNT, (xx - yy) * A4)
    if number > 9:
        store(basis, 9 * COUNT, y * (xx * 3.0 - yy) * B0)
        store(basis, 10 * COUNT, x * y * z * B1)
        store(basis, 11 * COUNT, y * (zz * 4.0 - xx - yy) * B2)
        store(basis, 12 * COUNT, z * (zz * 2.0 - xx * 3.0 - yy * 3.0) * B3)
        store(basis, 13 * COUNT, x * (zz * 4.0 - xx - yy) * B4)
        store(basis, 14 * COUNT, z * (xx - yy) * B5)
        store(basis, 15 * COUNT, x * (xx - yy * 3.0) * B6)


@njit(error_model="numpy")
def direction_gradient(g: Any, number: int, x: Any, y: Any, z: Any) -> tuple[Any, Any, Any]:
    """Gradient of the direction from those of the harmonics, ``g`` [16*COUNT]."""
    gx, gy, gz = load(g, 3 * COUNT) * -SH_C1, load(g, COUNT) * -SH_C1, load(g, 2 * COUNT) * SH_C1
    xx, yy, zz = x * x, y * y, z * z
    if number > 4:
        g0, g1, g2 = load(g, 4 * COUNT) * A0, load(g, 5 * COUNT) * A1, load(g, 6 * COUNT) * (2 * A2)
        g3, g4 = load(g, 7 * COUNT) * A3, load(g, 8 * COUNT) * (2 * A4)
        gx = gx + g0 * y - g2 * x + g3 * z + g4 * x
        gy = gy + g0 * x + g1 * z - g2 * y - g4 * y
        gz = gz + g1 * y + g2 * z * 2.0 + g3 * x
    if number > 9:
        g0, g1, g2 = (
            load(g, 9 * COUNT) * (3 * B0),
            load(g, 10 * COUNT) * B1,
            load(g, 11 * COUNT) * B2,
        )
        g3, g4 = load(g, 12 * COUNT) * (3 * B3), load(g, 13 * COUNT) * B4
        g5, g6 = load(g, 14 * COUNT) * B5, load(g, 15 * COUNT) * (3 * B6)
        xy, xz, yz, skew = x * y * 2.0, x * z * 2.0, y * z * 2.0, xx - yy
        gx = (
            gx
            + g0 * xy
            + g1 * y * z
            - g2 * xy
            - g3 * xz
            + g4 * (zz * 4.0 - xx * 3.0 - yy)
            + g5 * xz
            + g6 * skew
        )
        gy = (
            gy
            + g0 * skew
            + g1 * x * z
            + g2 * (zz * 4.0 - xx - yy * 3.0)
            - g3 * yz
            - g4 * xy
            - g5 * yz
            - g6 * xy
        )
        gz = gz + g1 * x * y + g2 * yz * 4.0 + g3 * (zz * 2.0 - xx - yy) + g4 * xz * 4.0 + g5 * skew
    return gx, gy, gz
