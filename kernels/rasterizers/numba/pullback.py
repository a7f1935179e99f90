"""The derivative of `projection.project_share`."""

from __future__ import annotations

from typing import Any

import numpy as np
from numba import njit

from ...devices.compiled import compiled
from ..projection import BLUR, FRUSTUM, NEAR
from .harmonics import direction_gradient, store_harmonics
from .lanes import COUNT, select, splat
from .memory import load, pick, put, store
from .projection import (
    AREA_FLOOR,
    ROW,
    camera_rows,
    centre,
    clip,
    color_of,
    cross,
    dot,
    footprint,
    four,
    plus,
    quaternion_gradient,
    ray,
    rotation,
    scaled,
    store_coefficients,
    three,
    times,
    turn,
)


@njit(error_model="numpy")
def shape_gradients(
    axes: Any, x: Any, y: Any, sx: Any, sy: Any, slopes: Any, antialiased: bool
) -> tuple[Any, ...]:
    """From the gradients of conic and log opacity those of ``axes``, and of x, y and log(1/z) times
    themselves.
    """
    ga, gb, gc, strength = slopes
    r0, r1, normal, area, a, b, c, det = footprint(axes, x, y, sx, sy)
    over = 1.0 / det
    to_det = 0.0 - (ga * c - gb * b + gc * a) * over * over
    to_area = to_det
    if antialiased:
        clear = area > det * AREA_FLOOR
        half = strength * 0.5
        to_area = to_area + select(clear, half / area - half * over, splat(0.0))
        to_det = to_det - select(clear, half * over, splat(0.0))
    to_a, to_b, to_c = gc * over + to_det * BLUR, 0.0 - gb * over, ga * over + to_det * BLUR
    # area = |r0 x r1|^2, whose gradient with respect to r0 is 2 r1 x (r0 x r1).
    to_r0 = plus(
        plus(times(to_a * 2.0, r0), times(to_b, r1)), times(to_area * 2.0, cross(r1, normal))
    )
    to_r1 = plus(
        plus(times(to_c * 2.0, r1), times(to_b, r0)), times(to_area * 2.0, cross(normal, r0))
    )
    last = plus(times(0.0 - sx * x, to_r0), times(0.0 - sy * y, to_r1))
    to_x, to_y = 0.0 - sx * dot(to_r0, axes[2]), 0.0 - sy * dot(to_r1, axes[2])
    return (times(sx, to_r0), times(sy, to_r1), last), to_x, to_y, dot(to_r0, r0) + dot(to_r1, r1)


@njit(error_model="numpy")
def kept(in_view: Any, p: Any) -> tuple[Any, ...]:
    """p where the mask holds, else 0: what is not seen may be infinite."""
    zero = splat(0.0)
    return select(in_view, p[0], zero), select(in_view, p[1], zero), select(in_view, p[2], zero)


@compiled()
def pull_back_share(
    worker: int, workers: int, cloud: Any, screens: Any, grads: Any, outputs: Any
) -> None:
    """Pull the gradients of `project_share`'s means2d and rows back, summed over the views.

    ``cloud``, ``screens``: as there. ``grads``, flat: the rows themselves, gradients of means2d
    [V*N*2] and of the rows [V*N*ROW]. ``outputs``, flat: gradients of means, log scales, quats, log
    opacities and sh.
    """
    means, scales, quats, strengths, sh = cloud
    views, pinholes, positions, width, height, antialiased = screens
    table, grad_means2d, grad_table = grads
    count, numbers = strengths.shape[0], sh.shape[0] // strengths.shape[0]
    basis, coefficients = np.empty(16 * COUNT, np.float32), np.empty(48 * COUNT, np.float32)
    slopes, to_coefficients = np.empty(16 * COUNT, np.float32), np.empty(48 * COUNT, np.float32)
    zero = splat(0.0)
    groups = -(-count // COUNT)
    for group in range(worker * groups // workers, (worker + 1) * groups // workers):
        n = group * COUNT
        mean, scale = three(means, n, count), three(scales, n, count)
        w, qx, qy, qz = four(quats, n, count)
        unit, length, turned = rotation(w, qx, qy, qz)
        local = scaled(turned, scale)
        store_coefficients(sh, numbers, n, count, coefficients)
        for i in range(numbers):
            store(to_coefficients, i * COUNT, zero)
        to_mean = (zero, zero, zero)
        to0, to1, to2 = to_mean, to_mean, to_mean  # gradient of ``local``, by rows
        to_strength = zero
        for v in range(views.shape[0]):
            at, pairs = v * count * ROW, v * count * 2
            row, g = table[at : at + count * ROW], grad_table[at : at + count * ROW]
            to_means2d = grad_means2d[pairs : pairs + 2 * count]
            in_view = pick(row, n, count, ROW, 15) > 0.0
            rows, columns, translation = camera_rows(views, v)
            fx, fy = pinholes[v, 0], pinholes[v, 1]
            x, y, z, inverse = centre(rows, translation, mean)
            limit_x, limit_y = FRUSTUM * 0.5 * width / fx, FRUSTUM * 0.5 * height / fy
            tx, ty = clip(x, limit_x), clip(y, limit_y)
            sx, sy = inverse * fx, inverse * fy
            conic = (
                pick(g, n, count, ROW, 2),
                pick(g, n, count, ROW, 3),
                pick(g, n, count, ROW, 4),
            )
            strength = pick(g, n, count, ROW, 5)
            to_strength = to_strength + strength
            axes = turn(rows, local)
            to_axes, shape_x, shape_y, to_inverse = shape_gradients(
                axes, tx, ty, sx, sy, (conic[0], conic[1], conic[2], strength), antialiased
            )
            shape_x = select((x >= -limit_x) & (x <= limit_x) & in_view, shape_x, zero)
            shape_y = select((y >= -limit_y) & (y <= limit_y) & in_view, shape_y, zero)
            to_x = pick(to_means2d, n, count, 2, 0) * fx + shape_x
            to_y = pick(to_means2d, n, count, 2, 1) * fy + shape_y
            to_inverse = (
                select(in_view, to_inverse, zero) + to_x * x + to_y * y
            )  # times the inverse
            to_z = pick(g, n, count, ROW, 9) - select(z >= NEAR, inverse * to_inverse, zero)
            to_centre = (to_x * inverse, to_y * inverse, to_z)
            to_mean = plus(
                to_mean,
                (
                    dot(to_centre, columns[0]),
                    dot(to_centre, columns[1]),
                    dot(to_centre, columns[2]),
                ),
            )
            back = turn(
                columns,
                (kept(in_view, to_axes[0]), kept(in_view, to_axes[1]), kept(in_view, to_axes[2])),
            )
            to0, to1, to2 = plus(to0, back[0]), plus(to1, back[1]), plus(to2, back[2])

            direction, distance = ray(mean, positions[v])
            store_harmonics(basis, numbers // 3, direction[0], direction[1], direction[2])
            color = color_of(coefficients, numbers, basis)
            red = select(color[0] >= 0.0, pick(g, n, count, ROW, 6), zero)
            green = select(color[1] >= 0.0, pick(g, n, count, ROW, 7), zero)
            blue = select(color[2] >= 0.0, pick(g, n, count, ROW, 8), zero)
            for k in range(numbers // 3):
                weight, i = load(basis, k * COUNT), 3 * k * COUNT
                store(to_coefficients, i, load(to_coefficients, i) + weight * red)
                store(to_coefficients, i + COUNT, load(to_coefficients, i + COUNT) + weight * green)
                store(
                    to_coefficients,
                    i + 2 * COUNT,
                    load(to_coefficients, i + 2 * COUNT) + weight * blue,
                )
                k0, k1, k2 = (
                    load(coefficients, i),
                    load(coefficients, i + COUNT),
                    load(coefficients, i + 2 * COUNT),
                )
                store(slopes, k * COUNT, k0 * red + k1 * green + k2 * blue)
            if numbers > 3:
                to_ray = direction_gradient(
                    slopes, numbers // 3, direction[0], direction[1], direction[2]
                )
                across = plus(to_ray, times(0.0 - dot(to_ray, direction), direction))
                to_mean = plus(to_mean, times(1.0 / distance, across))

        to_log_scale = (
            scale[0] * (to0[0] * turned[0][0] + to1[0] * turned[1][0] + to2[0] * turned[2][0]),
            scale[1] * (to0[1] * turned[0][1] + to1[1] * turned[1][1] + to2[1] * turned[2][1]),
            scale[2] * (to0[2] * turned[0][2] + to1[2] * turned[1][2] + to2[2] * turned[2][2]),
        )
        q = quaternion_gradient(unit, scaled((to0, to1, to2), scale))
        along = q[0] * unit[0] + q[1] * unit[1] + q[2] * unit[2] + q[3] * unit[3]
        for d in range(3):
            put(outputs[0], n, count, 3, d, to_mean[d])
            put(outputs[1], n, count, 3, d, to_log_scale[d])
        for d in range(4):
            put(outputs[2], n, count, 4, d, (q[d] - along * unit[d]) / length)
        put(outputs[3], n, count, 1, 0, to_strength)
        for i in range(numbers):
            put(outputs[4], n, count, numbers, i, load(to_coefficients, i * COUNT))
