"""EWA projection and its derivative as Triton kernels: what `projection.project` does, without the
colours.

One lane is one Gaussian. Forward, a program sees one view; backward, all of them one after the
other, so that the sum over the views has a fixed order.
"""

from __future__ import annotations

import math

import triton
import triton.language as tl

from ..projection import ALPHA_MIN, BLUR, FRUSTUM, NEAR

LANES = 128  # Gaussians of a forward program
LANES_BACK = 64  # of a backward program: a small cloud should still fill the device
AREA_FLOOR = 1e-8  # as in projection.py
# few compilations
counting = triton.jit(do_not_specialize=["count", "views", "width", "height", "columns", "rows"])

_NEAR, _BLUR, _FRUSTUM = tl.constexpr(NEAR), tl.constexpr(BLUR), tl.constexpr(FRUSTUM)
_FLOOR, _LOG_MIN = tl.constexpr(AREA_FLOOR), tl.constexpr(math.log(ALPHA_MIN))


@triton.jit
def _row3(base, inside):
    """Three neighbouring numbers of every lane."""
    return (
        tl.load(base, inside, 0.0),
        tl.load(base + 1, inside, 0.0),
        tl.load(base + 2, inside, 0.0),
    )


@triton.jit
def _rotation(quats_ptr, n, inside):
    """The unit quaternion, its length before, and the nine entries of its matrix, row by row."""
    w = tl.load(quats_ptr + n * 4, inside, 1.0)
    x, y, z = _row3(quats_ptr + n * 4 + 1, inside)
    length = tl.maximum(tl.sqrt(w * w + x * x + y * y + z * z), 1e-12)
    w, x, y, z = w / length, x / length, y / length, z / length
    r00, r01, r02 = 1 - 2 * (y * y + z * z), 2 * (x * y - w * z), 2 * (x * z + w * y)
    r10, r11, r12 = 2 * (x * y + w * z), 1 - 2 * (x * x + z * z), 2 * (y * z - w * x)
    r20, r21, r22 = 2 * (x * z - w * y), 2 * (y * z + w * x), 1 - 2 * (x * x + y * y)
    return w, x, y, z, length, r00, r01, r02, r10, r11, r12, r20, r21, r22


@triton.jit
def _dot(x0, x1, x2, y0, y1, y2):
    return x0 * y0 + x1 * y1 + x2 * y2


@triton.jit
def _cross(x0, x1, x2, y0, y1, y2):
    return x1 * y2 - x2 * y1, x2 * y0 - x0 * y2, x0 * y1 - x1 * y0


@triton.jit
def _through(u0, u1, u2, m00, m01, m02, m10, m11, m12, m20, m21, m22):
    """The row u times the matrix m."""
    return (
        u0 * m00 + u1 * m10 + u2 * m20,
        u0 * m01 + u1 * m11 + u2 * m21,
        u0 * m02 + u1 * m12 + u2 * m22,
    )


@triton.jit
def _clip(x, limit):
    return tl.minimum(tl.maximum(x, -limit), limit)


@triton.jit
def _footprint(p0, p1, p2, q0, q1, q2):
    """The rows' cross product, its squared length, and the blurred covariance a, b, c with its
    determinant.
    """
    n0, n1, n2 = _cross(p0, p1, p2, q0, q1, q2)
    area = _dot(n0, n1, n2, n0, n1, n2)  # a c - b^2 without its cancellation
    a, b, c = (
        _dot(p0, p1, p2, p0, p1, p2),
        _dot(p0, p1, p2, q0, q1, q2),
        _dot(q0, q1, q2, q0, q1, q2),
    )
    det = area + _BLUR * (a + c) + _BLUR * _BLUR
    return n0, n1, n2, area, a + _BLUR, b, c + _BLUR, det


@counting
def _project(
    means_ptr, log_scales_ptr, quats_ptr, logits_ptr, views_ptr, intrinsics_ptr,
    means2d_ptr, shapes_ptr, depths_ptr, boxes_ptr, counts_ptr, visible_ptr,
    count, width, height, columns, rows,
    ANTIALIASED: tl.constexpr, TILE_W: tl.constexpr, TILE_H: tl.constexpr, B: tl.constexpr,
):  # fmt: skip
    """Per view and Gaussian: mean, conic and log opacity, depth, and the tiles that its box
    meets.
    """
    v = tl.program_id(1)
    n = (tl.program_id(0) * B + tl.arange(0, B)).to(tl.int64)
    inside = n < count
    view, hole = views_ptr + v * 16, intrinsics_ptr + v * 9
    v00, v01, v02, v03 = tl.load(view), tl.load(view + 1), tl.load(view + 2), tl.load(view + 3)
    v10, v11, v12, v13 = tl.load(view + 4), tl.load(view + 5), tl.load(view + 6), tl.load(view + 7)
    v20, v21, v22, v23 = (
        tl.load(view + 8),
        tl.load(view + 9),
        tl.load(view + 10),
        tl.load(view + 11),
    )
    fx, fy, cx, cy = tl.load(hole), tl.load(hole + 4), tl.load(hole + 2), tl.load(hole + 5)

    _, _, _, _, _, r00, r01, r02, r10, r11, r12, r20, r21, r22 = _rotation(quats_ptr, n, inside)
    s0, s1, s2 = _row3(log_scales_ptr + n * 3, inside)
    s0, s1, s2 = tl.exp(s0), tl.exp(s1), tl.exp(s2)
    m0, m1, m2 = _row3(means_ptr + n * 3, inside)
    logit = tl.load(logits_ptr + n, inside, 0.0)

    z = _dot(v20, v21, v22, m0, m1, m2) + v23
    inverse = 1 / tl.maximum(z, _NEAR)
    x = (_dot(v00, v01, v02, m0, m1, m2) + v03) * inverse
    y = (_dot(v10, v11, v12, m0, m1, m2) + v13) * inverse
    mx, my = fx * x + cx, fy * y + cy
    x, y = _clip(x, _FRUSTUM * 0.5 * width / fx), _clip(y, _FRUSTUM * 0.5 * height / fy)
    sx, sy = fx * inverse, fy * inverse
    p0, p1, p2 = _through(
        v00 - x * v20, v01 - x * v21, v02 - x * v22, r00, r01, r02, r10, r11, r12, r20, r21, r22
    )  # fmt: skip
    q0, q1, q2 = _through(
        v10 - y * v20, v11 - y * v21, v12 - y * v22, r00, r01, r02, r10, r11, r12, r20, r21, r22
    )  # fmt: skip
    p0, p1, p2, q0, q1, q2 = (
        sx * s0 * p0,
        sx * s1 * p1,
        sx * s2 * p2,
        sy * s0 * q0,
        sy * s1 * q1,
        sy * s2 * q2,
    )
    _, _, _, area, a, b, c, det = _footprint(p0, p1, p2, q0, q1, q2)

    strength = tl.minimum(logit, 0.0) - tl.log(1 + tl.exp(-tl.abs(logit)))  # log of the sigmoid
    if ANTIALIASED:
        strength += 0.5 * tl.log(tl.maximum(area / det, _FLOOR))
    reach = 2 * tl.maximum(strength - _LOG_MIN, 0.0)
    ex, ey = tl.sqrt(reach * a), tl.sqrt(reach * c)
    # Written so that a Gaussian with a NaN in it is not visible, nor one whose conic would not be a
    # number.
    in_view = (z > _NEAR) & (strength > _LOG_MIN) & (det < 1e37)
    in_view = in_view & (mx + ex > 0) & (mx - ex < width) & (my + ey > 0) & (my - ey < height)

    # First and last pixel whose centre lies in the box, clamped as floats: a stray mean may not fit
    # an integer.
    right, bottom = (width - 1).to(tl.float32), (height - 1).to(tl.float32)
    left = (
        tl.minimum(tl.maximum(tl.ceil(tl.where(in_view, mx - ex, 0.0) - 0.5), 0.0), right).to(
            tl.int32
        )
        // TILE_W
    )
    top = (
        tl.minimum(tl.maximum(tl.ceil(tl.where(in_view, my - ey, 0.0) - 0.5), 0.0), bottom).to(
            tl.int32
        )
        // TILE_H
    )
    far = (
        tl.minimum(tl.maximum(tl.floor(tl.where(in_view, mx + ex, 0.0) - 0.5), 0.0), right).to(
            tl.int32
        )
        // TILE_W
    )
    low = (
        tl.minimum(tl.maximum(tl.floor(tl.where(in_view, my + ey, 0.0) - 0.5), 0.0), bottom).to(
            tl.int32
        )
        // TILE_H
    )
    across, down = tl.maximum(far - left + 1, 0), tl.maximum(low - top + 1, 0)

    out = v.to(tl.int64) * count + n
    tl.store(means2d_ptr + out * 2, mx, inside)
    tl.store(means2d_ptr + out * 2 + 1, my, inside)
    tl.store(shapes_ptr + out * 4, c / det, inside)
    tl.store(shapes_ptr + out * 4 + 1, -b / det, inside)
    tl.store(shapes_ptr + out * 4 + 2, a / det, inside)
    tl.store(shapes_ptr + out * 4 + 3, strength, inside)
    tl.store(depths_ptr + out, z, inside)
    tl.store(boxes_ptr + out * 2, (v * rows + top) * columns + left, inside)
    tl.store(boxes_ptr + out * 2 + 1, tl.maximum(across, 1), inside)
    tl.store(counts_ptr + out, tl.where(in_view, across * down, 0), inside)
    tl.store(visible_ptr + out, in_view, inside)


@counting
def _pull_back(
    means_ptr, log_scales_ptr, quats_ptr, logits_ptr, views_ptr, intrinsics_ptr,
    grad_means2d_ptr, grad_shapes_ptr, grad_depths_ptr,
    grad_means_ptr, grad_log_scales_ptr, grad_quats_ptr, grad_logits_ptr,
    count, views, width, height,
    ANTIALIASED: tl.constexpr, B: tl.constexpr,
):  # fmt: skip
    """Pull the gradients of `_project`'s means2d, shapes and depths back, summed over the views."""
    n = (tl.program_id(0) * B + tl.arange(0, B)).to(tl.int64)
    inside = n < count
    qw, qx, qy, qz, length, r00, r01, r02, r10, r11, r12, r20, r21, r22 = _rotation(
        quats_ptr, n, inside
    )
    s0, s1, s2 = _row3(log_scales_ptr + n * 3, inside)
    s0, s1, s2 = tl.exp(s0), tl.exp(s1), tl.exp(s2)
    m0, m1, m2 = _row3(means_ptr + n * 3, inside)
    to_m0, to_m1, to_m2 = (
        tl.zeros([B], tl.float32),
        tl.zeros([B], tl.float32),
        tl.zeros([B], tl.float32),
    )
    to_strength = tl.zeros([B], tl.float32)
    # g: the gradient of the matrix whose columns are the scaled axes, R diag(s).
    g00, g01, g02 = tl.zeros([B], tl.float32), tl.zeros([B], tl.float32), tl.zeros([B], tl.float32)
    g10, g11, g12 = tl.zeros([B], tl.float32), tl.zeros([B], tl.float32), tl.zeros([B], tl.float32)
    g20, g21, g22 = tl.zeros([B], tl.float32), tl.zeros([B], tl.float32), tl.zeros([B], tl.float32)
    v = 0
    while v < views:
        view, hole = views_ptr + v * 16, intrinsics_ptr + v * 9
        v00, v01, v02, v03 = tl.load(view), tl.load(view + 1), tl.load(view + 2), tl.load(view + 3)
        v10, v11, v12, v13 = (
            tl.load(view + 4),
            tl.load(view + 5),
            tl.load(view + 6),
            tl.load(view + 7),
        )
        v20, v21, v22, v23 = (
            tl.load(view + 8),
            tl.load(view + 9),
            tl.load(view + 10),
            tl.load(view + 11),
        )
        fx, fy = tl.load(hole), tl.load(hole + 4)
        at = v * count.to(tl.int64) + n
        to_x, to_y = (
            tl.load(grad_means2d_ptr + at * 2, inside, 0.0),
            tl.load(grad_means2d_ptr + at * 2 + 1, inside, 0.0),
        )
        ga, gb, gc = _row3(grad_shapes_ptr + at * 4, inside)
        gs = tl.load(grad_shapes_ptr + at * 4 + 3, inside, 0.0)
        to_z = tl.load(grad_depths_ptr + at, inside, 0.0)
        # Most Gaussians that nobody sees have no upstream gradient; their projection may overflow.
        used = (
            (to_x != 0) | (to_y != 0) | (ga != 0) | (gb != 0) | (gc != 0) | (gs != 0) | (to_z != 0)
        )

        z = _dot(v20, v21, v22, m0, m1, m2) + v23
        inverse = 1 / tl.maximum(z, _NEAR)
        x = (_dot(v00, v01, v02, m0, m1, m2) + v03) * inverse
        y = (_dot(v10, v11, v12, m0, m1, m2) + v13) * inverse
        limit_x, limit_y = _FRUSTUM * 0.5 * width / fx, _FRUSTUM * 0.5 * height / fy
        tx, ty = _clip(x, limit_x), _clip(y, limit_y)
        sx, sy = fx * inverse, fy * inverse
        u0, u1, u2 = v00 - tx * v20, v01 - tx * v21, v02 - tx * v22
        w0, w1, w2 = v10 - ty * v20, v11 - ty * v21, v12 - ty * v22
        p0, p1, p2 = _through(u0, u1, u2, r00, r01, r02, r10, r11, r12, r20, r21, r22)
        q0, q1, q2 = _through(w0, w1, w2, r00, r01, r02, r10, r11, r12, r20, r21, r22)
        p0, p1, p2, q0, q1, q2 = (
            sx * s0 * p0,
            sx * s1 * p1,
            sx * s2 * p2,
            sy * s0 * q0,
            sy * s1 * q1,
            sy * s2 * q2,
        )
        n0, n1, n2, area, a, b, c, det = _footprint(p0, p1, p2, q0, q1, q2)

        over = 1 / det
        to_det = -(ga * c - gb * b + gc * a) * over * over
        to_area = to_det
        if ANTIALIASED:
            thin = tl.where(area > _FLOOR * det, 0.5 * gs, 0.0)
            to_area += thin / tl.maximum(area, 1e-30) - thin * over
            to_det -= thin * over
        to_a, to_b, to_c = gc * over + _BLUR * to_det, -gb * over, ga * over + _BLUR * to_det
        # area = |p x q|^2, whose gradient with respect to p is 2 q x (p x q).
        k0, k1, k2 = _cross(q0, q1, q2, n0, n1, n2)
        l0, l1, l2 = _cross(n0, n1, n2, p0, p1, p2)
        to_p0 = 2 * to_a * p0 + to_b * q0 + 2 * to_area * k0
        to_p1 = 2 * to_a * p1 + to_b * q1 + 2 * to_area * k1
        to_p2 = 2 * to_a * p2 + to_b * q2 + 2 * to_area * k2
        to_q0 = 2 * to_c * q0 + to_b * p0 + 2 * to_area * l0
        to_q1 = 2 * to_c * q1 + to_b * p1 + 2 * to_area * l1
        to_q2 = 2 * to_c * q2 + to_b * p2 + 2 * to_area * l2
        # times inverse
        to_inverse = _dot(to_p0, to_p1, to_p2, p0, p1, p2) + _dot(to_q0, to_q1, to_q2, q0, q1, q2)

        # p = sx u R diag(s): to the matrix, and through u to the clipped place.
        to_p0, to_p1, to_p2 = sx * to_p0, sx * to_p1, sx * to_p2
        to_q0, to_q1, to_q2 = sy * to_q0, sy * to_q1, sy * to_q2
        g00 += tl.where(used, u0 * to_p0 + w0 * to_q0, 0.0)
        g01 += tl.where(used, u0 * to_p1 + w0 * to_q1, 0.0)
        g02 += tl.where(used, u0 * to_p2 + w0 * to_q2, 0.0)
        g10 += tl.where(used, u1 * to_p0 + w1 * to_q0, 0.0)
        g11 += tl.where(used, u1 * to_p1 + w1 * to_q1, 0.0)
        g12 += tl.where(used, u1 * to_p2 + w1 * to_q2, 0.0)
        g20 += tl.where(used, u2 * to_p0 + w2 * to_q0, 0.0)
        g21 += tl.where(used, u2 * to_p1 + w2 * to_q1, 0.0)
        g22 += tl.where(used, u2 * to_p2 + w2 * to_q2, 0.0)
        d0, d1, d2 = _through(v20, v21, v22, r00, r01, r02, r10, r11, r12, r20, r21, r22)
        d0, d1, d2 = s0 * d0, s1 * d1, s2 * d2
        to_x, to_y = fx * to_x, fy * to_y
        to_x -= tl.where(tl.abs(x) <= limit_x, _dot(to_p0, to_p1, to_p2, d0, d1, d2), 0.0)
        to_y -= tl.where(tl.abs(y) <= limit_y, _dot(to_q0, to_q1, to_q2, d0, d1, d2), 0.0)
        to_inverse += to_x * x + to_y * y
        to_z -= tl.where(z >= _NEAR, inverse * to_inverse, 0.0)
        to_x, to_y = to_x * inverse, to_y * inverse
        to_m0 += tl.where(used, v00 * to_x + v10 * to_y + v20 * to_z, 0.0)
        to_m1 += tl.where(used, v01 * to_x + v11 * to_y + v21 * to_z, 0.0)
        to_m2 += tl.where(used, v02 * to_x + v12 * to_y + v22 * to_z, 0.0)
        to_strength += gs
        v += 1

    tl.store(grad_means_ptr + n * 3, to_m0, inside)
    tl.store(grad_means_ptr + n * 3 + 1, to_m1, inside)
    tl.store(grad_means_ptr + n * 3 + 2, to_m2, inside)
    tl.store(
        grad_logits_ptr + n,
        to_strength / (1 + tl.exp(tl.load(logits_ptr + n, inside, 0.0))),
        inside,
    )
    g00, g10, g20 = s0 * g00, s0 * g10, s0 * g20  # from here on the gradient of R
    g01, g11, g21 = s1 * g01, s1 * g11, s1 * g21
    g02, g12, g22 = s2 * g02, s2 * g12, s2 * g22
    tl.store(grad_log_scales_ptr + n * 3, _dot(g00, g10, g20, r00, r10, r20), inside)
    tl.store(grad_log_scales_ptr + n * 3 + 1, _dot(g01, g11, g21, r01, r11, r21), inside)
    tl.store(grad_log_scales_ptr + n * 3 + 2, _dot(g02, g12, g22, r02, r12, r22), inside)
    to_w = 2 * (qz * (g10 - g01) + qy * (g02 - g20) + qx * (g21 - g12))
    to_x = 2 * (qy * (g01 + g10) + qz * (g02 + g20) + qw * (g21 - g12) - 2 * qx * (g11 + g22))
    to_y = 2 * (qx * (g01 + g10) + qz * (g12 + g21) + qw * (g02 - g20) - 2 * qy * (g00 + g22))
    to_z = 2 * (qx * (g02 + g20) + qy * (g12 + g21) + qw * (g10 - g01) - 2 * qz * (g00 + g11))
    # the length of a quaternion changes nothing
    along = to_w * qw + to_x * qx + to_y * qy + to_z * qz
    tl.store(grad_quats_ptr + n * 4, (to_w - along * qw) / length, inside)
    tl.store(grad_quats_ptr + n * 4 + 1, (to_x - along * qx) / length, inside)
    tl.store(grad_quats_ptr + n * 4 + 2, (to_y - along * qy) / length, inside)
    tl.store(grad_quats_ptr + n * 4 + 3, (to_z - along * qz) / length, inside)
