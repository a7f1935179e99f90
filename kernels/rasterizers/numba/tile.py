"""Front-to-back compositing of one tile, and its derivative.

A Gaussian visits the blocks of pixels that its ellipse meets, a block being one vector (see
`lanes`). A pixel is finished, like in 3DGS, once less than OPAQUE of the light is left: going on
would underflow the transmittance, out of which the way back divides one Gaussian after the other.
"""

from __future__ import annotations

from math import log
from typing import Any

import numpy as np
from numba import njit

from ..projection import ALPHA_MAX, ALPHA_MIN
from .binning import SLACK
from .lanes import (
    BLOCK,
    COUNT,
    any_of,
    block_x,
    block_y,
    least,
    lowest,
    most,
    reciprocal,
    root,
    select,
    splat,
)
from .memory import load, prefetch, spans_mask, store, store_sums
from .projection import ROW

BLOCK_HEIGHT = COUNT // BLOCK


BLOCKS = 64  # of a tile, eight by eight: a bit each of one word


PIXELS = BLOCKS * COUNT


FORWARD, BACKWARD = 6, 8  # planes of a tile's pixels, interleaved block by block


BATCH = 32  # Gaussians whose blocks are listed at once, and after which finished tiles are left


AHEAD = 8  # Gaussians between asking for one's row and using it


f32, u64 = np.float32, np.uint64


ZERO, ONE = f32(0), f32(1)


P1, P2, P3, P4, P5, P6, P7 = (u64(plane * COUNT) for plane in range(1, 8))


TOP, OPAQUE = f32(ALPHA_MAX), f32(1e-4)


NEVER = f32(1e9)  # above every rank


LOG_MIN = f32(log(ALPHA_MIN))


LOG_FLOOR = f32(log(ALPHA_MIN) - 0.05)  # keeps the polynomial below within its interval


# exp(x/8) on [-6.05, 0], relative least squares at Chebyshev nodes; its 8th power is exp(x) to
# 2.3e-6.
E0, E1, E2 = f32(0.9999998890160103), f32(0.12499863246970226), f32(0.007809987049600102)


E3, E4, E5 = f32(0.00032381106051966336), f32(9.634457896359487e-06), f32(1.7285751365923085e-07)


@njit(boundscheck=False, error_model="numpy")
def exp_negative(x: Any) -> Any:
    """exp(x) of Lanes for -6.05 <= x <= 0."""
    p = ((((x * E5 + E4) * x + E3) * x + E2) * x + E1) * x + E0
    p = p * p
    p = p * p
    return p * p


@njit(boundscheck=False, error_model="numpy")
def gaussian(rows: Any, at: Any) -> tuple[Any, ...]:
    """Mean (2), A/2, B, C/2, log opacity, colour (3) and depth of the Gaussian whose row begins at
    ``at``.
    """
    mx, my, a, b, c = (
        rows[at],
        rows[at + u64(1)],
        rows[at + u64(2)],
        rows[at + u64(3)],
        rows[at + u64(4)],
    )
    k0, k1, k2, k3 = rows[at + u64(6)], rows[at + u64(7)], rows[at + u64(8)], rows[at + u64(9)]
    return mx, my, a, b, c, rows[at + u64(5)], k0, k1, k2, k3


@njit(boundscheck=False, error_model="numpy")
def list_blocks(
    masks: Any, guide: Any, rows: Any, entries: Any, begin: int, end: int, left: int, top: int
) -> None:
    """Write into ``masks`` which blocks of the tile the ellipses of these entries meet, a bit for
    each.

    On a strip of pixel rows an ellipse reaches furthest to the right where it does so at all, or on
    the strip's edge nearest to there; to the left likewise, mirrored at the mean.
    """
    for e in range(begin, end):
        at = u64(entries[e]) * u64(ROW)
        x, y = rows[at] - f32(left + 0.5), rows[at + u64(1)] - f32(top + 0.5)
        b, ey, det = rows[at + u64(3)], rows[at + u64(11)] + f32(SLACK), rows[at + u64(12)]
        width, peak = rows[at + u64(13)], rows[at + u64(14)]
        for part in range(0, 16, COUNT):
            side = load(guide, part)
            near = load(guide, 16 + part) - y
            height = least(most(near, side * peak), near + f32(BLOCK_HEIGHT - 1))
            square = (ey * ey - height * height) * det
            reach = side * root(most(square, splat(ZERO))) - height * b
            block = (reach * width + x + load(guide, 32 + part)) * f32(1 / BLOCK)
            block = select(square >= ZERO, block, ZERO)
            store(guide, 48 + part, least(most(block, splat(ZERO)), splat(f32(8))))
        masks[e] = spans_mask(guide[48:])


@njit(boundscheck=False, error_model="numpy")
def new_guide() -> Any:
    """What `list_blocks` needs, per row of blocks for the right and for the left side of an
    ellipse: the sign, the first pixel row, what added to a pixel's x makes the block's end or
    beginning, and room."""
    guide = np.empty(64, np.float32)
    for i in range(16):
        guide[i] = ONE if i < 8 else -ONE
        guide[16 + i] = i % 8 * BLOCK_HEIGHT
        guide[32 + i] = BLOCK + SLACK if i < 8 else 1 - SLACK
    return guide


@njit(boundscheck=False, error_model="numpy")
def block_corners() -> tuple[Any, ...]:
    """The left and the top pixel of each of a tile's blocks, counted from the tile's."""
    x, y = np.empty(BLOCKS, np.float32), np.empty(BLOCKS, np.float32)
    for block in range(BLOCKS):
        x[block], y[block] = block % 8 * BLOCK, block // 8 * BLOCK_HEIGHT
    return x, y


@njit(boundscheck=False, error_model="numpy")
def tile_forward(
    planes: Any,
    guide: Any,
    corners: Any,
    rows: Any,
    entries: Any,
    masks: Any,
    begin: int,
    end: int,
    left: int,
    top: int,
) -> int:
    """Composite one tile into its planes; returns one past the last entry that was needed.

    Planes: T, three colours, depth, and the rank of the Gaussian that finished the pixel.
    """
    corner_x, corner_y = corners
    for batch in range(begin, end, BATCH):
        stop, finished = min(batch + BATCH, end), False
        list_blocks(masks, guide, rows, entries, batch, stop, left, top)
        for e in range(batch, stop):
            mx, my, a, b, c, log_opacity, k0, k1, k2, k3 = gaussian(
                rows, u64(entries[e]) * u64(ROW)
            )
            xm, ym = block_x() + (f32(left + 0.5) - mx), block_y() + (f32(top + 0.5) - my)
            blocks = masks[e]
            while blocks != u64(0):
                block = lowest(blocks)
                blocks &= blocks - u64(1)
                plane = block * u64(FORWARD * COUNT)
                dx, dy = xm + corner_x[block], ym + corner_y[block]
                power = log_opacity - (dx * (dx * a + dy * b) + dy * dy * c)
                through = load(planes, plane)
                taken = (power >= LOG_MIN) & (through >= OPAQUE)
                alpha = least(exp_negative(most(power, splat(LOG_FLOOR))), splat(TOP))
                weight = select(taken, alpha, ZERO) * through
                through = through - weight
                store(planes, plane, through)
                store(planes, plane + P1, load(planes, plane + P1) + weight * k0)
                store(planes, plane + P2, load(planes, plane + P2) + weight * k1)
                store(planes, plane + P3, load(planes, plane + P3) + weight * k2)
                store(planes, plane + P4, load(planes, plane + P4) + weight * k3)
                now = taken & (through < OPAQUE)
                if any_of(now):
                    finished = True
                    rank = splat(f32(e - begin))
                    store(planes, plane + P5, select(now, rank, load(planes, plane + P5)))
        if finished and not clear(planes):
            return stop
    return end


@njit(boundscheck=False, error_model="numpy")
def clear(planes: Any) -> bool:
    """Whether any pixel of the tile is not finished."""
    most_light = splat(ZERO)
    for block in range(BLOCKS):
        most_light = most(most_light, load(planes, block * (FORWARD * COUNT)))
    return bool(any_of(most_light >= OPAQUE))


@njit(boundscheck=False, error_model="numpy")
def tile_backward(
    planes: Any,
    corners: Any,
    rows: Any,
    entries: Any,
    masks: Any,
    begin: int,
    end: int,
    left: int,
    top: int,
    partial: Any,
) -> None:
    """Walk one tile's needed entries from the last to the first and write each one's sums into
    ``partial``.

    Planes: T behind the Gaussian, R = what lies behind it as seen from there, gradients of colour
    (3), depth and alpha, and the rank that finished the pixel. With v = <gradients, (k, 1)>, d loss
    / d log alpha = w (v - R), and R in front of the Gaussian is R + alpha (v - R). The sums: that
    slope's moments 1, x, y, x^2, xy, y^2 around the mean, and the gradients of k.
    """
    corner_x, corner_y = corners
    for e in range(end - 1, begin - 1, -1):
        prefetch(rows, u64(entries[max(e - AHEAD, begin)]) * u64(ROW))
        mx, my, a, b, c, log_opacity, k0, k1, k2, k3 = gaussian(rows, u64(entries[e]) * u64(ROW))
        xm, ym = block_x() + (f32(left + 0.5) - mx), block_y() + (f32(top + 0.5) - my)
        rank = f32(e - begin)
        s0 = sx = sy = sxx = sxy = syy = g0 = g1 = g2 = g3 = splat(ZERO)
        blocks = masks[e]
        while blocks != u64(0):
            block = lowest(blocks)
            blocks &= blocks - u64(1)
            plane = block * u64(BACKWARD * COUNT)
            dx, dy = xm + corner_x[block], ym + corner_y[block]
            power = log_opacity - (dx * (dx * a + dy * b) + dy * dy * c)
            taken = (power >= LOG_MIN) & (load(planes, plane + P7) >= rank)
            alpha = least(exp_negative(most(power, splat(LOG_FLOOR))), splat(TOP))
            alpha = select(taken, alpha, ZERO)
            through = load(planes, plane) * reciprocal(ONE - alpha)
            store(planes, plane, through)
            weight = alpha * through
            h0, h1, h2, h3 = (
                load(planes, plane + P2),
                load(planes, plane + P3),
                load(planes, plane + P4),
                load(planes, plane + P5),
            )
            behind = load(planes, plane + P1)
            gain = load(planes, plane + P6) + h0 * k0 + h1 * k1 + h2 * k2 + h3 * k3 - behind
            store(planes, plane + P1, behind + alpha * gain)
            change = select(alpha < TOP, weight * gain, ZERO)
            cx, cy = change * dx, change * dy
            s0, sx, sy = s0 + change, sx + cx, sy + cy
            sxx, sxy, syy = sxx + cx * dx, sxy + cx * dy, syy + cy * dy
            g0, g1, g2, g3 = g0 + weight * h0, g1 + weight * h1, g2 + weight * h2, g3 + weight * h3
        store_sums(partial, e * ROW, (s0, sx, sy, sxx, sxy, syy, g0, g1, g2, g3))
