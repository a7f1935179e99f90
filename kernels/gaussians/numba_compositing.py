"""Front-to-back compositing and its derivative as compiled loops over tiles.

Each tile owns its pixels, so no two threads ever write the same number: results repeat bit for bit. Within a tile a
Gaussian visits the blocks of pixels that its ellipse meets, a block being one vector (see `numba_lanes`).
A pixel is finished, like in 3DGS, once less than OPAQUE of the light is left: going on would underflow the
transmittance, out of which the way back divides one Gaussian after the other.
numba keeps compiled kernels beside this file and renews them when it changes, but not when an imported constant does.
"""

from __future__ import annotations

from math import log
from typing import Any

import numpy as np
from numba import njit

from .compiled import compiled
from .numba_binning import TILE_HEIGHT, TILE_WIDTH
from .numba_lanes import (
    BLOCK,
    COUNT,
    any_of,
    block_x,
    block_y,
    least,
    load,
    most,
    reciprocal,
    root,
    select,
    splat,
    store,
    store_run,
    store_sums,
    store_whole,
)
from .projection import ALPHA_MAX, ALPHA_MIN

ROW = 16  # floats per projected Gaussian; `numba_projection` says which
BLOCK_HEIGHT = COUNT // BLOCK
COLUMNS, ROWS = TILE_WIDTH // BLOCK, TILE_HEIGHT // BLOCK_HEIGHT  # blocks of a tile
BLOCKS = COLUMNS * ROWS
PIXELS = BLOCKS * COUNT
FORWARD, BACKWARD = 6, 8  # planes of a tile's pixels, interleaved block by block
BATCH = 32  # Gaussians whose blocks are listed at once, and after which finished tiles are left
store_columns = store_run(COLUMNS)
SLACK = 0.01  # px by which ellipses are taken larger, so that rounding loses no pixel

f32, u64 = np.float32, np.uint64
ZERO, ONE = f32(0), f32(1)
TOP, OPAQUE = f32(ALPHA_MAX), f32(1e-4)
NEVER = f32(1e9)  # above every rank
LOG_MIN = f32(log(ALPHA_MIN))
LOG_FLOOR = f32(log(ALPHA_MIN) - 0.05)  # keeps the polynomial below within its interval
# exp(x/8) on [-6.05, 0], relative least squares at Chebyshev nodes; its 8th power is exp(x) to 2.3e-6.
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
def gaussian(rows: Any, at: Any) -> tuple:
    """Mean (2), A/2, B, C/2, log opacity, colour (3) and depth of the Gaussian whose row begins at ``at``."""
    mx, my, a, b, c = rows[at], rows[at + u64(1)], rows[at + u64(2)], rows[at + u64(3)], rows[at + u64(4)]
    k0, k1, k2, k3 = rows[at + u64(6)], rows[at + u64(7)], rows[at + u64(8)], rows[at + u64(9)]
    return mx, my, a, b, c, rows[at + u64(5)], k0, k1, k2, k3


@njit(boundscheck=False, error_model="numpy")
def within(value: float, limit: int) -> int:
    """The whole part, at least 0 and at most the limit."""
    return int(min(max(value, ZERO), f32(limit)))


@njit(boundscheck=False, error_model="numpy")
def list_blocks(work: Any, rows: Any, entries: Any, begin: int, end: int, left: int, top: int) -> None:
    """List the blocks of the tile that the ellipses of a batch of entries meet: `Work`'s items and starts.

    On a strip of pixel rows an ellipse reaches furthest to the right where it does so at all, or on the strip's
    edge nearest to there; to the left likewise, mirrored at the mean.
    """
    items, starts, spans, guide = work
    number = 0
    for e in range(begin, end):
        starts[e - begin] = number
        at = u64(entries[e]) * u64(ROW)
        x, y = rows[at] - f32(left + 0.5), rows[at + u64(1)] - f32(top + 0.5)
        b, ey, det = rows[at + u64(3)], rows[at + u64(11)], rows[at + u64(12)]
        width, peak = rows[at + u64(13)], rows[at + u64(14)]
        for part in range(0, 2 * ROWS, COUNT):
            side = load(guide, part)
            near = load(guide, 2 * ROWS + part) - y
            height = least(most(near, side * peak), near + f32(BLOCK_HEIGHT - 1))
            reach = side * root(most((ey * ey - height * height) * det, splat(ZERO))) - height * b
            block = (reach * width + x + load(guide, 4 * ROWS + part)) * f32(1 / BLOCK)
            store_whole(spans, part, least(most(block, splat(ZERO)), splat(f32(COLUMNS))))
        first = within((y - ey + f32(1 - SLACK)) / f32(BLOCK_HEIGHT), ROWS)
        last = within((y + ey + f32(BLOCK_HEIGHT + SLACK)) / f32(BLOCK_HEIGHT), ROWS)
        for row in range(first, last):
            begin_x, end_x = spans[u64(ROWS + row)], spans[u64(row)]
            store_columns(items, number, row * COLUMNS + begin_x)
            number += max(end_x - begin_x, 0)
    starts[end - begin] = number


@njit(boundscheck=False, error_model="numpy")
def new_work() -> tuple:
    """What `list_blocks` needs: items, starts, spans, and per row of blocks, for the right and for the left side of
    an ellipse, the sign, the first pixel row, and what added to a pixel's x makes the block's end or beginning."""
    items = np.empty(BATCH * BLOCKS + COLUMNS, np.int32)
    starts, spans, guide = np.empty(BATCH + 1, np.int32), np.empty(2 * ROWS, np.int32), np.empty(6 * ROWS, np.float32)
    for i in range(2 * ROWS):
        guide[i] = 1.0 if i < ROWS else -1.0
        guide[2 * ROWS + i] = i % ROWS * BLOCK_HEIGHT
        guide[4 * ROWS + i] = BLOCK + SLACK if i < ROWS else 1 - SLACK
    return items, starts, spans, guide


@njit(boundscheck=False, error_model="numpy")
def tile_forward(planes: Any, work: Any, rows: Any, entries: Any, begin: int, end: int, left: int, top: int) -> int:
    """Composite one tile into its planes; returns one past the last entry that was needed.

    Planes: T, three colours, depth, and the rank of the Gaussian that finished the pixel.
    """
    items, starts, _, _ = work
    for batch in range(begin, end, BATCH):
        stop, finished = min(batch + BATCH, end), False
        list_blocks(work, rows, entries, batch, stop, left, top)
        for e in range(batch, stop):
            mx, my, a, b, c, log_opacity, k0, k1, k2, k3 = gaussian(rows, u64(entries[e]) * u64(ROW))
            xm, ym = block_x() + (f32(left + 0.5) - mx), block_y() + (f32(top + 0.5) - my)
            for i in range(starts[e - batch], starts[e - batch + 1]):
                item = items[u64(i)]
                plane = item * (FORWARD * COUNT)
                dx, dy = xm + f32(item % COLUMNS * BLOCK), ym + f32(item // COLUMNS * BLOCK_HEIGHT)
                power = log_opacity - (dx * (dx * a + dy * b) + dy * dy * c)
                through = load(planes, plane)
                taken = (power >= LOG_MIN) & (through >= OPAQUE)
                alpha = least(exp_negative(most(power, splat(LOG_FLOOR))), splat(TOP))
                weight = select(taken, alpha, ZERO) * through
                through = through - weight
                store(planes, plane, through)
                store(planes, plane + COUNT, load(planes, plane + COUNT) + weight * k0)
                store(planes, plane + 2 * COUNT, load(planes, plane + 2 * COUNT) + weight * k1)
                store(planes, plane + 3 * COUNT, load(planes, plane + 3 * COUNT) + weight * k2)
                store(planes, plane + 4 * COUNT, load(planes, plane + 4 * COUNT) + weight * k3)
                now = taken & (through < OPAQUE)
                if any_of(now):
                    finished = True
                    rank = splat(f32(e - begin))
                    store(planes, plane + 5 * COUNT, select(now, rank, load(planes, plane + 5 * COUNT)))
        if finished and not clear(planes):
            return stop
    return end


@njit(boundscheck=False, error_model="numpy")
def clear(planes: Any) -> bool:
    """Whether any pixel of the tile is not finished."""
    most_light = splat(ZERO)
    for block in range(BLOCKS):
        most_light = most(most_light, load(planes, block * (FORWARD * COUNT)))
    return any_of(most_light >= OPAQUE)


@njit(boundscheck=False, error_model="numpy")
def tile_backward(
    planes: Any,
    work: Any,
    rows: Any,
    entries: Any,
    slots: Any,
    begin: int,
    end: int,
    left: int,
    top: int,
    partial: Any,
) -> None:
    """Walk one tile's needed entries from the last to the first and write each one's sums into its slot.

    Planes: T behind the Gaussian, R = what lies behind it as seen from there, gradients of colour (3), depth and
    alpha, and the rank that finished the pixel. With v = <gradients, (k, 1)>, d loss / d log alpha = w (v - R), and R
    in front of the Gaussian is R + alpha (v - R). The sums: that slope's moments 1, x, y, x^2, xy, y^2 around the
    mean, and the gradients of k.
    """
    items, starts, _, _ = work
    batch, stop = end, end
    while stop > begin:
        batch = max(stop - BATCH, begin)
        list_blocks(work, rows, entries, batch, stop, left, top)
        for e in range(stop - 1, batch - 1, -1):
            mx, my, a, b, c, log_opacity, k0, k1, k2, k3 = gaussian(rows, u64(entries[e]) * u64(ROW))
            xm, ym = block_x() + (f32(left + 0.5) - mx), block_y() + (f32(top + 0.5) - my)
            rank = f32(e - begin)
            s0 = sx = sy = sxx = sxy = syy = g0 = g1 = g2 = g3 = splat(ZERO)
            for i in range(starts[e - batch], starts[e - batch + 1]):
                item = items[u64(i)]
                plane = item * (BACKWARD * COUNT)
                dx, dy = xm + f32(item % COLUMNS * BLOCK), ym + f32(item // COLUMNS * BLOCK_HEIGHT)
                power = log_opacity - (dx * (dx * a + dy * b) + dy * dy * c)
                taken = (power >= LOG_MIN) & (load(planes, plane + 7 * COUNT) >= rank)
                alpha = least(exp_negative(most(power, splat(LOG_FLOOR))), splat(TOP))
                alpha = select(taken, alpha, ZERO)
                through = load(planes, plane) * reciprocal(ONE - alpha)
                store(planes, plane, through)
                weight = alpha * through
                h0, h1 = load(planes, plane + 2 * COUNT), load(planes, plane + 3 * COUNT)
                h2, h3 = load(planes, plane + 4 * COUNT), load(planes, plane + 5 * COUNT)
                behind = load(planes, plane + COUNT)
                gain = load(planes, plane + 6 * COUNT) + h0 * k0 + h1 * k1 + h2 * k2 + h3 * k3 - behind
                store(planes, plane + COUNT, behind + alpha * gain)
                change = select(alpha < TOP, weight * gain, ZERO)
                cx, cy = change * dx, change * dy
                s0, sx, sy = s0 + change, sx + cx, sy + cy
                sxx, sxy, syy = sxx + cx * dx, sxy + cx * dy, syy + cy * dy
                g0, g1, g2, g3 = g0 + weight * h0, g1 + weight * h1, g2 + weight * h2, g3 + weight * h3
            store_sums(partial, slots[e] * ROW, (s0, sx, sy, sxx, sxy, syy, g0, g1, g2, g3))
        stop = batch


@njit(boundscheck=False, error_model="numpy")
def corner(tile: int, width: int, height: int) -> tuple:
    """View, left and top pixel of a tile."""
    columns, rows = -(-width // TILE_WIDTH), -(-height // TILE_HEIGHT)
    return tile // (columns * rows), tile % columns * TILE_WIDTH, tile // columns % rows * TILE_HEIGHT


@njit(boundscheck=False, error_model="numpy")
def lane(x: int, y: int) -> int:
    """Where a tile's pixel is in a plane when the tile has just one."""
    return (y // BLOCK_HEIGHT * COLUMNS + x // BLOCK) * COUNT + y % BLOCK_HEIGHT * BLOCK + x % BLOCK


@njit(boundscheck=False, error_model="numpy")
def interleaved(place: int, planes: int) -> int:
    """The same pixel's place in the first of so many planes."""
    return place // COUNT * (planes * COUNT) + place % COUNT


@compiled(boundscheck=False)
def composite_share(
    worker: int,
    workers: int,
    order: Any,
    entries: Any,
    offsets: Any,
    rows: Any,
    color: Any,
    alpha: Any,
    depth: Any,
    through: Any,
    ranks: Any,
    lasts: Any,
) -> None:
    """Fill color [V,H,W,3], alpha and depth [V,H,W], and for the way back through and ranks [tiles*PIXELS], lasts.

    ``order``: the tiles of all views, most work first. ``rows`` [V*N*ROW].
    """
    _, height, width = alpha.shape
    planes, work = np.empty(FORWARD * PIXELS, np.float32), new_work()
    for turn in range(worker, order.shape[0], workers):
        tile = order[turn]
        v, left, top = corner(tile, width, height)
        for block in range(0, FORWARD * PIXELS, FORWARD * COUNT):
            for plane in range(FORWARD):
                blank = ONE if plane == 0 else (NEVER if plane == FORWARD - 1 else ZERO)
                store(planes, block + plane * COUNT, splat(blank))
        lasts[tile] = tile_forward(planes, work, rows, entries, offsets[tile], offsets[tile + 1], left, top)
        for block in range(0, PIXELS, COUNT):
            store(through, tile * PIXELS + block, load(planes, block * FORWARD))
            store(ranks, tile * PIXELS + block, load(planes, block * FORWARD + (FORWARD - 1) * COUNT))
        for y in range(top, min(top + TILE_HEIGHT, height)):
            for x in range(left, min(left + TILE_WIDTH, width)):
                i = interleaved(lane(x - left, y - top), FORWARD)
                alpha[v, y, x] = ONE - planes[i]
                for d in range(3):
                    color[v, y, x, d] = planes[i + (1 + d) * COUNT]
                depth[v, y, x] = planes[i + 4 * COUNT]


@compiled(boundscheck=False)
def composite_back_share(
    worker: int,
    workers: int,
    order: Any,
    entries: Any,
    slots: Any,
    offsets: Any,
    rows: Any,
    through: Any,
    ranks: Any,
    lasts: Any,
    color: Any,
    alpha: Any,
    depth: Any,
    partial: Any,
) -> None:
    """From the gradients of color, alpha and depth fill ``partial`` [E*ROW], per slot the sums of `tile_backward`."""
    _, height, width = alpha.shape
    planes, work = np.empty(BACKWARD * PIXELS, np.float32), new_work()
    for turn in range(worker, order.shape[0], workers):
        tile = order[turn]
        v, left, top = corner(tile, width, height)
        for block in range(0, PIXELS, COUNT):
            for plane in range(BACKWARD):
                store(planes, block * BACKWARD + plane * COUNT, splat(ZERO))
            store(planes, block * BACKWARD, load(through, tile * PIXELS + block))
            store(planes, block * BACKWARD + 7 * COUNT, load(ranks, tile * PIXELS + block))
        for y in range(top, min(top + TILE_HEIGHT, height)):
            for x in range(left, min(left + TILE_WIDTH, width)):
                i = interleaved(lane(x - left, y - top), BACKWARD)
                for d in range(3):
                    planes[i + (2 + d) * COUNT] = color[v, y, x, d]
                planes[i + 5 * COUNT] = depth[v, y, x]
                planes[i + 6 * COUNT] = alpha[v, y, x]
        for e in range(lasts[tile], offsets[tile + 1]):
            for d in range(0, ROW, COUNT):
                store(partial, slots[e] * ROW + d, splat(ZERO))
        tile_backward(
            planes, work, rows, entries, slots, offsets[tile], lasts[tile], left, top, partial
        )


@compiled(boundscheck=False)
def gather_share(
    worker: int, workers: int, partial: Any, firsts: Any, rows: Any, means2d: Any, grads: Any
) -> None:
    """Add up each Gaussian's slots, in their order: gradients of means2d [V*N,2] and of the rest of ``rows``, ``grads``
    [V*N*ROW], where A, B and C stand for the conic itself."""
    total = means2d.shape[0]
    for m in range(worker * total // workers, (worker + 1) * total // workers):
        for d in range(0, ROW, COUNT):
            sums = splat(ZERO)
            for slot in range(firsts[m], firsts[m + 1]):
                sums = sums + load(partial, slot * ROW + d)
            store(grads, m * ROW + d, sums)
        at = u64(m * ROW)
        a, b, c = rows[at + u64(2)], rows[at + u64(3)], rows[at + u64(4)]
        s0, sx, sy = grads[at], grads[at + u64(1)], grads[at + u64(2)]
        sxx, sxy, syy = grads[at + u64(3)], grads[at + u64(4)], grads[at + u64(5)]
        means2d[m, 0], means2d[m, 1] = (a + a) * sx + b * sy, b * sx + (c + c) * sy
        grads[at + u64(2)], grads[at + u64(3)], grads[at + u64(4)] = f32(-0.5) * sxx, -sxy, f32(-0.5) * syy
        grads[at + u64(5)] = s0
