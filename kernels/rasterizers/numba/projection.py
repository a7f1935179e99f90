"""EWA projection, colours and their derivative as compiled loops: `projection.project` for COUNT
Gaussians at once.

A projected Gaussian is one row of ROW floats, a line of the cache: mean (2), A/2, B, C/2 of the
conic, log opacity, colour (3), depth, half sides of its box (2), then what
`compositing.block_spans` needs: the conic's determinant, 1/A and where the ellipse reaches furthest
to the right, px below the mean; last 1 if it is visible, else 0.
"""

from __future__ import annotations

from math import log
from typing import Any

import numpy as np
from numba import njit

from ...devices.compiled import compiled
from ..projection import ALPHA_MIN, BLUR, FRUSTUM, NEAR
from .binning import count_tiles, store_tiles
from .harmonics import store_harmonics
from .lanes import COUNT, least, logarithm, most, root, select, splat
from .memory import load, pick, put, store

Triple = tuple[Any, Any, Any]  # of numbers or of LLVM vectors of COUNT
ROW = 16
LOG_ALPHA_MIN = log(ALPHA_MIN)
AREA_FLOOR = 1e-8  # as in projection.py


@njit(error_model="numpy")
def rotation(w: Any, x: Any, y: Any, z: Any) -> tuple[Any, ...]:
    """The unit quaternion, its length before, and its matrix by rows."""
    length = most(root(w * w + x * x + y * y + z * z), splat(1e-12))
    w, x, y, z = w / length, x / length, y / length, z / length
    top = 1.0 - (y * y + z * z) * 2.0, (x * y - w * z) * 2.0, (x * z + w * y) * 2.0
    middle = (x * y + w * z) * 2.0, 1.0 - (x * x + z * z) * 2.0, (y * z - w * x) * 2.0
    bottom = (x * z - w * y) * 2.0, (y * z + w * x) * 2.0, 1.0 - (x * x + y * y) * 2.0
    return (w, x, y, z), length, (top, middle, bottom)


@njit(error_model="numpy")
def dot(p: Any, q: Any) -> Any:
    """p . q of three numbers each."""
    return p[0] * q[0] + p[1] * q[1] + p[2] * q[2]


@njit(error_model="numpy")
def cross(p: Any, q: Any) -> Triple:
    """p x q."""
    return p[1] * q[2] - p[2] * q[1], p[2] * q[0] - p[0] * q[2], p[0] * q[1] - p[1] * q[0]


@njit(error_model="numpy")
def plus(p: Any, q: Any) -> Triple:
    """p + q."""
    return p[0] + q[0], p[1] + q[1], p[2] + q[2]


@njit(error_model="numpy")
def times(s: Any, p: Any) -> Triple:
    """s p."""
    return s * p[0], s * p[1], s * p[2]


@njit(error_model="numpy")
def scaled(rows: Any, scale: Any) -> tuple[Any, ...]:
    """A 3x3 matrix, given by rows, with its columns stretched."""
    r0, r1, r2 = rows
    return (
        (r0[0] * scale[0], r0[1] * scale[1], r0[2] * scale[2]),
        (r1[0] * scale[0], r1[1] * scale[1], r1[2] * scale[2]),
        (r2[0] * scale[0], r2[1] * scale[1], r2[2] * scale[2]),
    )


@njit(error_model="numpy")
def turn(rows: Any, axes: Any) -> tuple[Any, ...]:
    """The matrix product of two 3x3 matrices, both given by rows."""
    a0, a1, a2 = axes
    r0, r1, r2 = rows
    return (
        plus(plus(times(r0[0], a0), times(r0[1], a1)), times(r0[2], a2)),
        plus(plus(times(r1[0], a0), times(r1[1], a1)), times(r1[2], a2)),
        plus(plus(times(r2[0], a0), times(r2[1], a1)), times(r2[2], a2)),
    )


@njit(error_model="numpy")
def three(array: Any, first: int, count: int) -> tuple[Any, ...]:
    """The rows of three numbers of COUNT Gaussians."""
    return (
        pick(array, first, count, 3, 0),
        pick(array, first, count, 3, 1),
        pick(array, first, count, 3, 2),
    )


@njit(error_model="numpy")
def four(array: Any, first: int, count: int) -> tuple[Any, ...]:
    """The rows of four numbers of COUNT Gaussians."""
    a, b = pick(array, first, count, 4, 0), pick(array, first, count, 4, 1)
    return a, b, pick(array, first, count, 4, 2), pick(array, first, count, 4, 3)


@njit(error_model="numpy")
def camera_rows(views: Any, v: int) -> tuple[Any, ...]:
    """The rotation's rows and columns and the translation of a viewmat."""
    m = views[v]
    rows = ((m[0, 0], m[0, 1], m[0, 2]), (m[1, 0], m[1, 1], m[1, 2]), (m[2, 0], m[2, 1], m[2, 2]))
    columns = (
        (m[0, 0], m[1, 0], m[2, 0]),
        (m[0, 1], m[1, 1], m[2, 1]),
        (m[0, 2], m[1, 2], m[2, 2]),
    )
    return rows, columns, (m[0, 3], m[1, 3], m[2, 3])


@njit(error_model="numpy")
def centre(rows: Any, translation: Any, mean: Any) -> tuple[Any, ...]:
    """Camera coordinates x/z, y/z, z of the means, and 1/z with z kept above NEAR."""
    z = dot(mean, rows[2]) + translation[2]
    inverse = 1.0 / most(z, splat(NEAR))
    x, y = (
        (dot(mean, rows[0]) + translation[0]) * inverse,
        (dot(mean, rows[1]) + translation[1]) * inverse,
    )
    return x, y, z, inverse


@njit(error_model="numpy")
def clip(x: Any, limit: float) -> Any:
    """x held within -limit..limit."""
    return least(most(x, splat(-limit)), splat(limit))


@njit(error_model="numpy")
def footprint(axes: Any, x: Any, y: Any, sx: Any, sy: Any) -> tuple[Any, ...]:
    """The rows r0, r1 of J V M, their cross product, its squared length, and the blurred covariance
    a, b, c, det.
    """
    r0 = plus(times(sx, axes[0]), times(0.0 - sx * x, axes[2]))
    r1 = plus(times(sy, axes[1]), times(0.0 - sy * y, axes[2]))
    normal = cross(r0, r1)
    area = dot(normal, normal)
    a, b, c = dot(r0, r0), dot(r0, r1), dot(r1, r1)
    det = area + (a + c) * BLUR + BLUR * BLUR
    return r0, r1, normal, area, a + BLUR, b, c + BLUR, det


@njit(error_model="numpy")
def ray(mean: Any, position: Any) -> tuple[Any, ...]:
    """Unit vectors from a camera's place to the means, and their lengths before."""
    along = mean[0] - position[0], mean[1] - position[1], mean[2] - position[2]
    length = most(root(dot(along, along)), splat(1e-12))
    return times(1.0 / length, along), length


@njit(error_model="numpy")
def store_coefficients(sh: Any, numbers: int, first: int, count: int, coefficients: Any) -> None:
    """Leave the harmonics' coefficients of COUNT Gaussians in ``coefficients`` [3*K*COUNT]."""
    for i in range(numbers):
        store(coefficients, i * COUNT, pick(sh, first, count, numbers, i))


@njit(error_model="numpy")
def color_of(coefficients: Any, numbers: int, basis: Any) -> tuple[Any, ...]:
    """The colours in front of their clamp at 0."""
    red = green = blue = splat(0.5)
    for k in range(numbers // 3):
        weight, at = load(basis, k * COUNT), 3 * k * COUNT
        red = red + weight * load(coefficients, at)
        green = green + weight * load(coefficients, at + COUNT)
        blue = blue + weight * load(coefficients, at + 2 * COUNT)
    return red, green, blue


@compiled()
def project_share(worker: int, workers: int, cloud: Any, screens: Any, outputs: Any) -> None:
    """Project one worker's share of the Gaussians; see `projection.project` for the formulas and
    units.

    ``cloud``: means [N*3], scales [N*3], quats [N*4], log opacities [N], sh [N*3*K], all flat.
    ``screens``: viewmats [V,4,4], pinholes [V,4] (fx, fy, cx, cy), positions [V,3], width, height,
    antialiased. ``outputs``, flat: means2d [V*N*2], rows [V*N*ROW], depths [V*N], visible [V*N]
    bool; and for `bin_share`, boxes [V*N*4] and lengths [workers,V*tiles], which comes zeroed.
    """
    means, scales, quats, strengths, sh = cloud
    views, pinholes, positions, width, height, antialiased = screens
    means2d, table, depths, visible, boxes, lengths = outputs
    count, numbers = strengths.shape[0], sh.shape[0] // strengths.shape[0]
    basis, coefficients = np.empty(16 * COUNT, np.float32), np.empty(48 * COUNT, np.float32)
    box, groups = np.empty(4 * COUNT, np.int32), -(-count // COUNT)
    for group in range(worker * groups // workers, (worker + 1) * groups // workers):
        n = group * COUNT
        mean, scale = three(means, n, count), three(scales, n, count)
        w, qx, qy, qz = four(quats, n, count)
        local = scaled(rotation(w, qx, qy, qz)[2], scale)
        log_opacity = pick(strengths, n, count, 1, 0)
        store_coefficients(sh, numbers, n, count, coefficients)
        for v in range(views.shape[0]):
            rows, _, translation = camera_rows(views, v)
            fx, fy = pinholes[v, 0], pinholes[v, 1]
            x, y, z, inverse = centre(rows, translation, mean)
            mx, my = x * fx + pinholes[v, 2], y * fy + pinholes[v, 3]
            x, y = clip(x, FRUSTUM * 0.5 * width / fx), clip(y, FRUSTUM * 0.5 * height / fy)
            _, _, _, area, a, b, c, det = footprint(
                turn(rows, local), x, y, inverse * fx, inverse * fy
            )
            strength = log_opacity
            if antialiased:
                strength = strength + logarithm(most(area / det, splat(AREA_FLOOR))) * 0.5
            reach = most(strength - LOG_ALPHA_MIN, splat(0.0)) * 2.0
            ex, ey = root(reach * a), root(reach * c)
            meets = (
                (mx + ex > 0.0)
                & (mx - ex < np.float32(width))
                & (my + ey > 0.0)
                & (my - ey < np.float32(height))
            )
            in_view = (z > NEAR) & (strength > LOG_ALPHA_MIN) & meets
            direction, _ = ray(mean, positions[v])
            store_harmonics(basis, numbers // 3, direction[0], direction[1], direction[2])
            color = color_of(coefficients, numbers, basis)
            m, over = v * count * ROW, 1.0 / det
            row = table[m : m + count * ROW]
            put(row, n, count, ROW, 0, mx)
            put(row, n, count, ROW, 1, my)
            put(row, n, count, ROW, 2, c * over * 0.5)
            put(row, n, count, ROW, 3, 0.0 - b * over)
            put(row, n, count, ROW, 4, a * over * 0.5)
            put(row, n, count, ROW, 5, strength)
            for d in range(3):
                put(row, n, count, ROW, 6 + d, most(color[d], splat(0.0)))
            put(row, n, count, ROW, 9, z)
            put(row, n, count, ROW, 10, ex)
            put(row, n, count, ROW, 11, ey)
            put(row, n, count, ROW, 12, over)
            put(row, n, count, ROW, 13, det / c)
            put(row, n, count, ROW, 14, ex * b / a)
            put(row, n, count, ROW, 15, select(in_view, splat(1.0), splat(0.0)))
            pairs = v * count * 2
            put(means2d[pairs : pairs + 2 * count], n, count, 2, 0, mx)
            put(means2d[pairs : pairs + 2 * count], n, count, 2, 1, my)
            put(depths[v * count : (v + 1) * count], n, count, 1, 0, z)
            put(visible[v * count : (v + 1) * count], n, count, 1, 0, in_view)
            store_tiles(box, mx, my, ex, ey, in_view, width, height)
            first = v * count + n
            count_tiles(
                box, min(COUNT, count - n), boxes[4 * first :], lengths[worker], v, width, height
            )


@njit(error_model="numpy")
def quaternion_gradient(q: Any, g: Any) -> tuple[Any, ...]:
    """Gradient of the unit quaternion from that of its matrix."""
    w, x, y, z = q
    g0, g1, g2 = g
    return (
        (z * (g1[0] - g0[1]) + y * (g0[2] - g2[0]) + x * (g2[1] - g1[2])) * 2.0,
        (
            y * (g0[1] + g1[0])
            + z * (g0[2] + g2[0])
            + w * (g2[1] - g1[2])
            - x * (g1[1] + g2[2]) * 2.0
        )
        * 2.0,
        (
            x * (g0[1] + g1[0])
            + z * (g1[2] + g2[1])
            + w * (g0[2] - g2[0])
            - y * (g0[0] + g2[2]) * 2.0
        )
        * 2.0,
        (
            x * (g0[2] + g2[0])
            + y * (g1[2] + g2[1])
            + w * (g1[0] - g0[1])
            - z * (g0[0] + g1[1]) * 2.0
        )
        * 2.0,
    )
