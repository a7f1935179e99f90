"""Depth-sorted tile lists as compiled loops: a radix sort per view, then a counting sort by
tile.
"""

from __future__ import annotations

from typing import Any

import numpy as np
from numba import njit

from ...devices.compiled import compiled
from .lanes import BLOCK, COUNT, least, most, select, splat
from .memory import store_whole

TILE_WIDTH, TILE_HEIGHT = 8 * BLOCK, 8 * COUNT // BLOCK  # pixels: eight by eight blocks
SLACK = 0.01  # px by which ellipses are taken larger, so that rounding loses no pixel
# bits per pass of the radix sort: two passes cover an object in front of the camera, three any
# floats
DIGIT = 12
BUCKETS = 1 << DIGIT


@njit(error_model="numpy")
def tile_grid(width: int, height: int) -> tuple[int, int]:
    """Columns and rows of tiles of a picture."""
    return -(-width // TILE_WIDTH), -(-height // TILE_HEIGHT)


@njit(error_model="numpy")
def store_tiles(
    box: Any, mx: Any, my: Any, ex: Any, ey: Any, visible: Any, width: int, height: int
) -> None:
    """Which tiles COUNT Gaussians touch: into ``box`` [4*COUNT] the first and one past the last
    column, then row.
    """
    columns, rows = tile_grid(width, height)
    edges = (
        ((mx - ex + (0.5 - SLACK)) / np.float32(TILE_WIDTH), columns),
        ((mx + ex + (TILE_WIDTH - 0.5 + SLACK)) / np.float32(TILE_WIDTH), columns),
        ((my - ey + (0.5 - SLACK)) / np.float32(TILE_HEIGHT), rows),
        ((my + ey + (TILE_HEIGHT - 0.5 + SLACK)) / np.float32(TILE_HEIGHT), rows),
    )
    for i in range(4):
        edge, end = edges[i]
        inside = least(most(edge, splat(0.0)), splat(np.float32(end)))
        store_whole(box, i * COUNT, select(visible, inside, 0.0))


@njit(error_model="numpy")
def count_tiles(
    box: Any, number: int, boxes: Any, lengths: Any, v: int, width: int, height: int
) -> None:
    """Copy the first ``number`` Gaussians' tiles into ``boxes`` and count them in ``lengths``
    [V*tiles].
    """
    columns, rows = tile_grid(width, height)
    for i in range(number):
        x0, x1, y0, y1 = box[i], box[COUNT + i], box[2 * COUNT + i], box[3 * COUNT + i]
        boxes[4 * i], boxes[4 * i + 1], boxes[4 * i + 2], boxes[4 * i + 3] = x0, x1, y0, y1
        for y in range(y0, y1):
            for x in range(x0, x1):
                lengths[(v * rows + y) * columns + x] += 1


@njit(error_model="numpy", nogil=True)
def depth_order(depths: Any, order: Any) -> Any:
    """These indices front to back; ties keep their order."""
    keys = depths.view(np.int32)  # the bits of positive floats sort like the floats
    low, high = 2**31 - 1, 0
    for n in order:
        low, high = min(low, keys[n]), max(high, keys[n])
    pairs, spare = np.empty((len(order), 2), np.int32), np.empty((len(order), 2), np.int32)
    for i in range(len(order)):
        pairs[i, 0], pairs[i, 1] = keys[order[i]] - low, order[i]
    shift = 0
    while (high - low) >> shift > 0:
        cursors = np.zeros(BUCKETS + 1, np.int32)
        for i in range(len(order)):
            cursors[((pairs[i, 0] >> shift) & (BUCKETS - 1)) + 1] += 1
        for i in range(BUCKETS):
            cursors[i + 1] += cursors[i]
        for i in range(len(order)):
            digit = (pairs[i, 0] >> shift) & (BUCKETS - 1)
            cursor = cursors[digit]
            cursors[digit] = cursor + 1
            spare[cursor, 0], spare[cursor, 1] = pairs[i, 0], pairs[i, 1]
        pairs, spare = spare, pairs
        shift += DIGIT
    return pairs[:, 1]


@compiled(boundscheck=False)
def bin_share(
    worker: int,
    workers: int,
    boxes: Any,
    depths: Any,
    columns: int,
    offsets: Any,
    entries: Any,
    slots: Any,
    firsts: Any,
) -> None:
    """Fill ``entries`` [E] (view * N + Gaussian, tile by tile, front to back), ``slots`` [E] and
    ``firsts`` [V*N+1].

    A worker takes every ``workers``-th view. boxes [V,N,4], depths [V,N]. ``offsets`` [V,tiles+1]:
    where each tile's list begins. A Gaussian's entries are at the places that its consecutive slots
    from ``firsts`` on name.
    """
    views, count = depths.shape
    for v in range(worker, views, workers):
        firsts[v * count] = offsets[v, 0]
        order, visible = np.empty(count, np.int32), 0
        for n in range(count):
            x0, x1, y0, y1 = boxes[v, n, 0], boxes[v, n, 1], boxes[v, n, 2], boxes[v, n, 3]
            tiles = max(x1 - x0, 0) * max(y1 - y0, 0)
            firsts[v * count + n + 1] = firsts[v * count + n] + tiles
            order[visible] = n
            visible += tiles > 0
        cursors = offsets[v].copy()
        for n in depth_order(depths[v], order[:visible]):
            slot = firsts[v * count + n]
            for y in range(boxes[v, n, 2], boxes[v, n, 3]):
                for x in range(boxes[v, n, 0], boxes[v, n, 1]):
                    cursor = cursors[y * columns + x]
                    cursors[y * columns + x] = cursor + 1
                    entries[cursor] = v * count + n
                    slots[slot] = cursor
                    slot += 1
