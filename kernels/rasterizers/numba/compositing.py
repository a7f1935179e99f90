"""Front-to-back compositing and its derivative as compiled loops over tiles.

Each tile owns its pixels, so no two threads ever write the same number: results repeat bit for bit.
"""

from __future__ import annotations

from typing import Any

import numpy as np
from numba import njit

from ...devices.compiled import compiled
from .binning import TILE_HEIGHT, TILE_WIDTH
from .lanes import (
    BLOCK,
    COUNT,
    splat,
)
from .memory import claim, load, store
from .projection import ROW
from .tile import (
    BACKWARD,
    BLOCK_HEIGHT,
    FORWARD,
    NEVER,
    ONE,
    PIXELS,
    ZERO,
    block_corners,
    f32,
    new_guide,
    tile_backward,
    tile_forward,
    u64,
)


@njit(boundscheck=False, error_model="numpy")
def corner(tile: int, width: int, height: int) -> tuple[Any, ...]:
    """View, left and top pixel of a tile."""
    columns, rows = -(-width // TILE_WIDTH), -(-height // TILE_HEIGHT)
    return (
        tile // (columns * rows),
        tile % columns * TILE_WIDTH,
        tile // columns % rows * TILE_HEIGHT,
    )


@njit(boundscheck=False, error_model="numpy")
def lane(x: int, y: int) -> int:
    """Where a pixel of a tile is in a plane of its own."""
    return (y // BLOCK_HEIGHT * 8 + x // BLOCK) * COUNT + y % BLOCK_HEIGHT * BLOCK + x % BLOCK


@njit(boundscheck=False, error_model="numpy")
def interleaved(pixel: int, planes: int) -> int:
    """The same place in the first of so many interleaved planes."""
    return pixel // COUNT * (planes * COUNT) + pixel % COUNT


@compiled(boundscheck=False)
def composite_share(
    worker: int,
    workers: int,
    work_queue: Any,
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
    masks: Any,
) -> None:
    """Fill color [V,H,W,3], alpha and depth [V,H,W], and for the way back through and ranks
    [tiles*PIXELS], lasts [tiles] and masks [E].

    ``work_queue`` [1]: how many tiles the workers have taken, 0. ``order``: the tiles in the order to
    take them. ``rows`` [V*N*ROW].
    """
    _, height, width = alpha.shape
    planes, guide, corners = np.empty(FORWARD * PIXELS, np.float32), new_guide(), block_corners()
    while True:
        turn = claim(work_queue, 1)
        if turn >= order.shape[0]:
            return
        tile = order[turn]
        v, left, top = corner(tile, width, height)
        for block in range(0, FORWARD * PIXELS, FORWARD * COUNT):
            for plane in range(FORWARD):
                blank = ONE if plane == 0 else (NEVER if plane == FORWARD - 1 else ZERO)
                store(planes, block + plane * COUNT, splat(blank))
        lasts[tile] = tile_forward(
            planes,
            guide,
            corners,
            rows,
            entries,
            masks,
            offsets[tile],
            offsets[tile + 1],
            left,
            top,
        )
        for block in range(0, PIXELS, COUNT):
            store(through, tile * PIXELS + block, load(planes, block * FORWARD))
            store(
                ranks, tile * PIXELS + block, load(planes, block * FORWARD + (FORWARD - 1) * COUNT)
            )
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
    work_queue: Any,
    order: Any,
    entries: Any,
    offsets: Any,
    rows: Any,
    through: Any,
    ranks: Any,
    lasts: Any,
    masks: Any,
    color: Any,
    alpha: Any,
    depth: Any,
    partial: Any,
) -> None:
    """From the gradients of color, alpha and depth fill ``partial`` [E*ROW], per entry the sums of
    `tile_backward`.
    """
    _, height, width = alpha.shape
    planes, corners = np.empty(BACKWARD * PIXELS, np.float32), block_corners()
    while True:
        turn = claim(work_queue, 1)
        if turn >= order.shape[0]:
            return
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
                store(partial, e * ROW + d, splat(ZERO))
        tile_backward(
            planes, corners, rows, entries, masks, offsets[tile], lasts[tile], left, top, partial
        )


@njit(boundscheck=False, error_model="numpy")
def gather(
    m: int, partial: Any, slot_entries: Any, firsts: Any, rows: Any, means2d: Any, grads: Any
) -> None:
    """Sum the gradients that tiles left for one Gaussian into its row of ``grads``."""
    for d in range(0, ROW, COUNT):
        sums = splat(ZERO)
        for slot in range(firsts[m], firsts[m + 1]):
            sums = sums + load(partial, slot_entries[slot] * ROW + d)
        store(grads, m * ROW + d, sums)
    at = u64(m * ROW)
    a, b, c = rows[at + u64(2)], rows[at + u64(3)], rows[at + u64(4)]
    s0, sx, sy = grads[at], grads[at + u64(1)], grads[at + u64(2)]
    sxx, sxy, syy = grads[at + u64(3)], grads[at + u64(4)], grads[at + u64(5)]
    means2d[m, 0], means2d[m, 1] = (a + a) * sx + b * sy, b * sx + (c + c) * sy
    grads[at + u64(2)], grads[at + u64(3)], grads[at + u64(4)] = (
        f32(-0.5) * sxx,
        -sxy,
        f32(-0.5) * syy,
    )
    grads[at + u64(5)] = s0


@compiled(boundscheck=False)
def gather_share(
    worker: int,
    workers: int,
    partial: Any,
    slot_entries: Any,
    firsts: Any,
    rows: Any,
    means2d: Any,
    grads: Any,
) -> None:
    """Add up what lies in ``partial`` for each Gaussian, in the order of its ``slot_entries``: gradients
    of means2d [V*N,2] and of the rest of ``rows``, ``grads`` [V*N*ROW], where A, B and C stand for
    the conic itself."""
    total = means2d.shape[0]
    for m in range(worker * total // workers, (worker + 1) * total // workers):
        gather(m, partial, slot_entries, firsts, rows, means2d, grads)
