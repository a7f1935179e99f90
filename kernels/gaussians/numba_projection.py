"""EWA projection and its derivative as compiled loops: what `projection.project` does, without the colours.

Scalars are computed in float64 and stored in the dtype of the arrays: V x N is small next to the pixels' work.
"""

from __future__ import annotations

from math import exp, log, log1p, sqrt
from typing import Any

import numpy as np
from numba import njit

from .compiled import compiled
from .projection import ALPHA_MIN, BLUR, FRUSTUM, NEAR

LOG_ALPHA_MIN = log(ALPHA_MIN)
AREA_FLOOR = 1e-8  # as in projection.py


@njit(error_model="numpy")
def rotation(quats: Any, n: int) -> tuple:
    """The unit quaternion, its length before, and the nine entries of its matrix, row by row."""
    w, x, y, z = np.float64(quats[n, 0]), np.float64(quats[n, 1]), np.float64(quats[n, 2]), np.float64(quats[n, 3])
    length = max(sqrt(w * w + x * x + y * y + z * z), 1e-12)
    w, x, y, z = w / length, x / length, y / length, z / length
    top = (1 - 2 * (y * y + z * z), 2 * (x * y - w * z), 2 * (x * z + w * y))
    middle = (2 * (x * y + w * z), 1 - 2 * (x * x + z * z), 2 * (y * z - w * x))
    bottom = (2 * (x * z - w * y), 2 * (y * z + w * x), 1 - 2 * (x * x + y * y))
    return (w, x, y, z), length, (top, middle, bottom)


@njit(error_model="numpy")
def dot(p: Any, q: Any) -> float:
    return p[0] * q[0] + p[1] * q[1] + p[2] * q[2]


@njit(error_model="numpy")
def cross(p: Any, q: Any) -> tuple:
    return p[1] * q[2] - p[2] * q[1], p[2] * q[0] - p[0] * q[2], p[0] * q[1] - p[1] * q[0]


@njit(error_model="numpy")
def mix(s: float, p: Any, t: float, q: Any) -> tuple:
    """s p + t q"""
    return s * p[0] + t * q[0], s * p[1] + t * q[1], s * p[2] + t * q[2]


@njit(error_model="numpy")
def camera_rows(views: Any, v: int) -> tuple:
    """The rotation's rows and columns and the translation of a viewmat."""
    m = views[v]
    rows = ((m[0, 0], m[0, 1], m[0, 2]), (m[1, 0], m[1, 1], m[1, 2]), (m[2, 0], m[2, 1], m[2, 2]))
    columns = ((m[0, 0], m[1, 0], m[2, 0]), (m[0, 1], m[1, 1], m[2, 1]), (m[0, 2], m[1, 2], m[2, 2]))
    return rows, columns, (m[0, 3], m[1, 3], m[2, 3])


@njit(error_model="numpy")
def turn(rows: Any, axes: Any) -> tuple:
    """The matrix product of two 3x3 matrices, both given by rows."""
    a0 = mix(1.0, mix(rows[0][0], axes[0], rows[0][1], axes[1]), rows[0][2], axes[2])
    a1 = mix(1.0, mix(rows[1][0], axes[0], rows[1][1], axes[1]), rows[1][2], axes[2])
    a2 = mix(1.0, mix(rows[2][0], axes[0], rows[2][1], axes[1]), rows[2][2], axes[2])
    return a0, a1, a2


@njit(error_model="numpy")
def centre(rows: Any, translation: Any, mean: Any) -> tuple:
    """Camera coordinates x/z, y/z, z of a mean, and 1/z with z kept above NEAR."""
    z = dot(rows[2], mean) + translation[2]
    inverse = 1 / max(z, NEAR)
    x, y = (dot(rows[0], mean) + translation[0]) * inverse, (dot(rows[1], mean) + translation[1]) * inverse
    return x, y, z, inverse


@njit(error_model="numpy")
def clip(x: float, limit: float) -> float:
    return min(max(x, -limit), limit)


@njit(error_model="numpy")
def footprint(axes: Any, x: float, y: float, sx: float, sy: float) -> tuple:
    """The rows r0, r1 of J V M, their cross product, its squared length, and the blurred covariance a, b, c, det."""
    r0 = mix(sx, axes[0], -sx * x, axes[2])
    r1 = mix(sy, axes[1], -sy * y, axes[2])
    normal = cross(r0, r1)
    area = dot(normal, normal)
    a, b, c = dot(r0, r0), dot(r0, r1), dot(r1, r1)
    det = area + BLUR * (a + c) + BLUR * BLUR
    return r0, r1, normal, area, a + BLUR, b, c + BLUR, det


@njit(error_model="numpy", nogil=True)
def project_one(
    n: int,
    means: Any,
    log_scales: Any,
    quats: Any,
    logits: Any,
    views: Any,
    pinholes: Any,  # [V,4] fx, fy, cx, cy
    width: int,
    height: int,
    antialiased: bool,
    means2d: Any,  # out [V,N,2]
    shapes: Any,  # out [V,N,4] conic A, B, C and log opacity
    depths: Any,  # out [V,N]
    extents: Any,  # out [V,N,2]
    visible: Any,  # out [V,N] bool
) -> None:
    """Fill the outputs of Gaussian n; see `projection.project` for the formulas and units."""
    turned = rotation(quats, n)[2]
    scale = (exp(np.float64(log_scales[n, 0])), exp(np.float64(log_scales[n, 1])), exp(np.float64(log_scales[n, 2])))
    local = scaled(turned, scale)
    mean = (np.float64(means[n, 0]), np.float64(means[n, 1]), np.float64(means[n, 2]))
    log_opacity = -log1p(exp(-np.float64(logits[n])))
    for v in range(views.shape[0]):
        rows, _, translation = camera_rows(views, v)
        fx, fy = pinholes[v, 0], pinholes[v, 1]
        x, y, z, inverse = centre(rows, translation, mean)
        mx, my = fx * x + pinholes[v, 2], fy * y + pinholes[v, 3]
        x, y = clip(x, FRUSTUM * 0.5 * width / fx), clip(y, FRUSTUM * 0.5 * height / fy)
        _, _, _, area, a, b, c, det = footprint(turn(rows, local), x, y, fx * inverse, fy * inverse)
        strength = log_opacity
        if antialiased:
            strength += 0.5 * log(max(area / det, AREA_FLOOR))
        reach = 2 * max(strength - LOG_ALPHA_MIN, 0.0)
        ex, ey = sqrt(reach * a), sqrt(reach * c)
        means2d[v, n, 0], means2d[v, n, 1], depths[v, n] = mx, my, z
        shapes[v, n, 0], shapes[v, n, 1], shapes[v, n, 2], shapes[v, n, 3] = c / det, -b / det, a / det, strength
        extents[v, n, 0], extents[v, n, 1] = ex, ey
        meets = mx + ex > 0 and mx - ex < width and my + ey > 0 and my - ey < height
        visible[v, n] = z > NEAR and strength > LOG_ALPHA_MIN and meets


@njit(error_model="numpy")
def scaled(turned: Any, scale: Any) -> tuple:
    t0, t1, t2 = turned
    return (
        (t0[0] * scale[0], t0[1] * scale[1], t0[2] * scale[2]),
        (t1[0] * scale[0], t1[1] * scale[1], t1[2] * scale[2]),
        (t2[0] * scale[0], t2[1] * scale[1], t2[2] * scale[2]),
    )


@njit(error_model="numpy", nogil=True)
def pull_back_one(
    n: int,
    means: Any,
    log_scales: Any,
    quats: Any,
    logits: Any,
    views: Any,
    pinholes: Any,
    width: int,
    height: int,
    antialiased: bool,
    grad_means2d: Any,
    grad_shapes: Any,
    grad_depths: Any,
    grad_means: Any,  # out [N,3]
    grad_log_scales: Any,  # out [N,3]
    grad_quats: Any,  # out [N,4]
    grad_logits: Any,  # out [N]
) -> None:
    """Pull the gradients of `project_one`'s means2d, shapes and depths back, summed over the views."""
    unit, length, turned = rotation(quats, n)
    scale = (exp(np.float64(log_scales[n, 0])), exp(np.float64(log_scales[n, 1])), exp(np.float64(log_scales[n, 2])))
    local = scaled(turned, scale)
    mean = (np.float64(means[n, 0]), np.float64(means[n, 1]), np.float64(means[n, 2]))
    to_mean = (0.0, 0.0, 0.0)
    to0, to1, to2 = (0.0, 0.0, 0.0), (0.0, 0.0, 0.0), (0.0, 0.0, 0.0)  # gradient of ``local``, by rows
    to_strength = 0.0
    for v in range(views.shape[0]):
        rows, columns, translation = camera_rows(views, v)
        fx, fy = np.float64(pinholes[v, 0]), np.float64(pinholes[v, 1])
        x, y, z, inverse = centre(rows, translation, mean)
        limit_x, limit_y = FRUSTUM * 0.5 * width / fx, FRUSTUM * 0.5 * height / fy
        tx, ty = clip(x, limit_x), clip(y, limit_y)
        sx, sy = fx * inverse, fy * inverse
        axes = turn(rows, local)
        r0, r1, normal, area, a, b, c, det = footprint(axes, tx, ty, sx, sy)
        ga, gb, gc = (
            np.float64(grad_shapes[v, n, 0]),
            np.float64(grad_shapes[v, n, 1]),
            np.float64(grad_shapes[v, n, 2]),
        )
        strength = np.float64(grad_shapes[v, n, 3])
        to_strength += strength
        to_det = -(ga * c - gb * b + gc * a) / (det * det)
        to_area = to_det
        if antialiased and area > AREA_FLOOR * det:
            to_area += 0.5 * strength / area
            to_det -= 0.5 * strength / det
            to_area -= 0.5 * strength / det
        to_a, to_b, to_c = gc / det + BLUR * to_det, -gb / det, ga / det + BLUR * to_det
        # area = |r0 x r1|^2, whose gradient with respect to r0 is 2 r1 x (r0 x r1).
        to_r0 = mix(1.0, mix(2 * to_a, r0, to_b, r1), 2 * to_area, cross(r1, normal))
        to_r1 = mix(1.0, mix(2 * to_c, r1, to_b, r0), 2 * to_area, cross(normal, r0))
        to_axes = mix(sx, to_r0, 0.0, r0), mix(sy, to_r1, 0.0, r1), mix(-sx * tx, to_r0, -sy * ty, to_r1)
        to_inverse = (dot(to_r0, r0) + dot(to_r1, r1)) / inverse
        to_x, to_y = fx * grad_means2d[v, n, 0], fy * grad_means2d[v, n, 1]
        if abs(x) <= limit_x:
            to_x -= sx * dot(to_r0, axes[2])
        if abs(y) <= limit_y:
            to_y -= sy * dot(to_r1, axes[2])
        to_inverse += (to_x * x + to_y * y) / inverse
        to_z = np.float64(grad_depths[v, n])
        if z >= NEAR:
            to_z -= inverse * inverse * to_inverse
        to_centre = (to_x * inverse, to_y * inverse, to_z)
        to_mean = mix(
            1.0, to_mean, 1.0, (dot(columns[0], to_centre), dot(columns[1], to_centre), dot(columns[2], to_centre))
        )
        back = turn(columns, to_axes)
        to0, to1, to2 = mix(1.0, to0, 1.0, back[0]), mix(1.0, to1, 1.0, back[1]), mix(1.0, to2, 1.0, back[2])
    grad_means[n, 0], grad_means[n, 1], grad_means[n, 2] = to_mean
    grad_logits[n] = to_strength / (1 + exp(np.float64(logits[n])))
    t0, t1, t2 = turned
    for i in range(3):
        grad_log_scales[n, i] = scale[i] * (to0[i] * t0[i] + to1[i] * t1[i] + to2[i] * t2[i])
    g = quaternion_gradient(unit, (scaled((to0, to1, to2), scale)))
    along = g[0] * unit[0] + g[1] * unit[1] + g[2] * unit[2] + g[3] * unit[3]
    for i in range(4):
        grad_quats[n, i] = (g[i] - along * unit[i]) / length


@njit(error_model="numpy")
def quaternion_gradient(q: Any, g: Any) -> tuple:
    """Gradient of the unit quaternion from that of its matrix."""
    w, x, y, z = q
    g0, g1, g2 = g
    return (
        2 * (z * (g1[0] - g0[1]) + y * (g0[2] - g2[0]) + x * (g2[1] - g1[2])),
        2 * (y * (g0[1] + g1[0]) + z * (g0[2] + g2[0]) + w * (g2[1] - g1[2]) - 2 * x * (g1[1] + g2[2])),
        2 * (x * (g0[1] + g1[0]) + z * (g1[2] + g2[1]) + w * (g0[2] - g2[0]) - 2 * y * (g0[0] + g2[2])),
        2 * (x * (g0[2] + g2[0]) + y * (g1[2] + g2[1]) + w * (g1[0] - g0[1]) - 2 * z * (g0[0] + g1[1])),
    )


@compiled()
def project_share(worker: int, workers: int, inputs: Any, screens: Any, outputs: Any) -> None:
    """`project_one` for one worker's share of the Gaussians: its arguments in three tuples."""
    count = inputs[0].shape[0]
    for n in range(worker * count // workers, (worker + 1) * count // workers):
        project_one(n, *inputs, *screens, *outputs)


@compiled()
def pull_back_share(worker: int, workers: int, inputs: Any, screens: Any, grads: Any, outputs: Any) -> None:
    """`pull_back_one` for one worker's share of the Gaussians: its arguments in four tuples."""
    count = inputs[0].shape[0]
    for n in range(worker * count // workers, (worker + 1) * count // workers):
        pull_back_one(n, *inputs, *screens, *grads, *outputs)
