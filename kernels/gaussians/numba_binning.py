"""Depth-sorted tile lists as compiled loops: a radix sort per view, then a counting sort by tile."""

from __future__ import annotations

from typing import Any

import numpy as np
from numba import njit

from .compiled import compiled
from .numba_lanes import BLOCK, COUNT

TILE_WIDTH, TILE_HEIGHT = 8 * BLOCK, 8 * COUNT // BLOCK  # pixels
DIGIT = 11  # bits per pass of the radix sort; three passes cover a float32
BUCKETS = 1 << DIGIT


@njit(error_model="numpy", nogil=True)
def depth_order(depths: Any, visible: Any) -> Any:
    """Indices of the visible Gaussians of one view, front to back; ties keep the order of their index."""
    count = 0
    for n in range(visible.shape[0]):
        count += visible[n]
    order, spare = np.empty(count, np.int32), np.empty(count, np.int32)
    k = 0
    for n in range(visible.shape[0]):
        if visible[n]:
            order[k] = n
            k += 1
    keys = depths.view(np.int32)  # the bits of positive floats sort like the floats
    for shift in range(0, 32, DIGIT):
        places = np.zeros(BUCKETS + 1, np.int32)
        for i in range(count):
            places[((keys[order[i]] >> shift) & (BUCKETS - 1)) + 1] += 1
        for i in range(BUCKETS):
            places[i + 1] += places[i]
        for i in range(count):
            n = order[i]
            digit = (keys[n] >> shift) & (BUCKETS - 1)
            spare[places[digit]] = n
            places[digit] += 1
        order, spare = spare, order
    return order


@njit(error_model="numpy", nogil=True)
def span(mean: float, extent: float, size: int) -> tuple:
    """First and last pixel, along one axis, whose centre lies within the extent of the mean; last < first if none."""
    first = max(np.ceil(mean - extent - 0.5), 0.0)  # as floats: they may be too large for an integer
    last = min(np.floor(mean + extent - 0.5), size - 1.0)
    if last < first:
        return 0, -1
    return int(first), int(last)


@njit(error_model="numpy", nogil=True)
def tile_box(means2d: Any, extents: Any, v: int, n: int, width: int, height: int) -> tuple:
    """First and last column and row of the tiles that a Gaussian touches."""
    x0, x1 = span(means2d[v, n, 0], extents[v, n, 0], width)
    y0, y1 = span(means2d[v, n, 1], extents[v, n, 1], height)
    return x0 // TILE_WIDTH, x1 // TILE_WIDTH, y0 // TILE_HEIGHT, y1 // TILE_HEIGHT


@compiled()
def count_share(
    worker: int,
    workers: int,
    means2d: Any,
    extents: Any,
    visible: Any,
    width: int,
    height: int,
    lengths: Any,
    touched: Any,
) -> None:
    """Count each tile's Gaussians, ``lengths`` [V,rows,columns], and each Gaussian's tiles, ``touched`` [V,N].

    A worker takes every ``workers``-th view. Both outputs come zeroed.
    """
    for v in range(worker, visible.shape[0], workers):
        for n in range(visible.shape[1]):
            if visible[v, n]:
                x0, x1, y0, y1 = tile_box(means2d, extents, v, n, width, height)
                touched[v, n] = max(x1 - x0 + 1, 0) * max(y1 - y0 + 1, 0)
                for y in range(y0, y1 + 1):
                    for x in range(x0, x1 + 1):
                        lengths[v, y, x] += 1


@compiled()
def fill_share(
    worker: int,
    workers: int,
    means2d: Any,
    extents: Any,
    depths: Any,
    visible: Any,
    width: int,
    height: int,
    places: Any,
    firsts: Any,
    entries: Any,
    slots: Any,
) -> None:
    """Fill ``entries`` [E] (view * N + Gaussian, tile by tile, front to back) and ``slots`` [E].

    ``places`` [V,rows,columns]: where each tile's list begins (is overwritten). A Gaussian's entries own consecutive
    slots from ``firsts`` [V*N] on, in which its gradients can be left by whichever tile.
    """
    count = visible.shape[1]
    for v in range(worker, visible.shape[0], workers):
        for n in depth_order(depths[v], visible[v]):
            x0, x1, y0, y1 = tile_box(means2d, extents, v, n, width, height)
            slot = firsts[v * count + n]
            for y in range(y0, y1 + 1):
                for x in range(x0, x1 + 1):
                    place = places[v, y, x]
                    places[v, y, x] = place + 1
                    entries[place] = v * count + n
                    slots[slot] = place
                    slot += 1
