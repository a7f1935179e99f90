"""Front-to-back compositing and its derivative as compiled loops over tiles.

Each tile owns its pixels, so no two threads ever write the same number: results repeat bit for bit. The inner loop,
over the tile's rows that a Gaussian's box meets, is written for the vectoriser: one flat float32 buffer whose planes
lie a constant apart, unsigned indices (signed ones would bring a wrap-around branch), selects instead of branches.
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
from .numba_binning import TILE_HEIGHT, TILE_WIDTH, span
from .projection import ALPHA_MAX, ALPHA_MIN

PIXELS = TILE_WIDTH * TILE_HEIGHT
CHECK = 16  # Gaussians between two looks at whether all of a tile's pixels are finished
# Without "ninf" and "nnan" the selects would not vectorise; NaN Gaussians were dropped as invisible.
FAST = {"nnan", "ninf", "nsz", "arcp", "contract", "afn", "reassoc"}

f32, u64 = np.float32, np.uint64
ZERO, HALF, ONE = f32(0), f32(0.5), f32(1)
TOP, OPAQUE = f32(ALPHA_MAX), f32(1e-4)
LOG_MIN = f32(log(ALPHA_MIN))
LOG_FLOOR = f32(log(ALPHA_MIN) - 0.05)  # keeps the polynomial below within its interval
# exp(x/8) on [-6.05, 0], relative least squares at Chebyshev nodes; its 8th power is exp(x) to 2.3e-6.
E0, E1, E2 = f32(0.9999998890160103), f32(0.12499863246970226), f32(0.007809987049600102)
E3, E4, E5 = f32(0.00032381106051966336), f32(9.634457896359487e-06), f32(1.7285751365923085e-07)


@njit(fastmath=FAST, boundscheck=False, error_model="numpy")
def exp_negative(x: Any) -> Any:
    """exp(x) for -6.05 <= x <= 0 in operations that vectorise; numba's own exp is scalar without Intel's SVML."""
    p = E0 + x * (E1 + x * (E2 + x * (E3 + x * (E4 + x * E5))))
    p *= p
    p *= p
    return p * p


@njit(fastmath=FAST, boundscheck=False, error_model="numpy")
def rows_forward(
    planes: Any,
    i0: Any,
    i1: Any,
    xm: Any,
    ym: Any,
    a: Any,
    b: Any,
    c: Any,
    log_opacity: Any,
    k0: Any,
    k1: Any,
    k2: Any,
    k3: Any,
    rank: Any,
) -> None:
    """Add one Gaussian to the pixels i0..i1.

    Planes: T, three colours, depth, the rank of the last Gaussian before the pixel was finished, and its x and y.
    ``xm``, ``ym``: from the mean to the tile's first pixel; ``a``, ``c``: half the conic's A and C.
    """
    for i in range(u64(i0), u64(i1)):
        dx, dy = xm + planes[i + u64(6 * PIXELS)], ym + planes[i + u64(7 * PIXELS)]
        power = log_opacity - (dx * (a * dx + b * dy) + c * dy * dy)
        alpha = min(exp_negative(max(power, LOG_FLOOR)), TOP)
        alpha = alpha if power >= LOG_MIN else ZERO
        through = planes[i]
        alpha = alpha if through >= OPAQUE else ZERO
        planes[i + u64(5 * PIXELS)] = rank if through >= OPAQUE else planes[i + u64(5 * PIXELS)]
        weight = alpha * through
        planes[i] = through - weight
        planes[i + u64(PIXELS)] += weight * k0
        planes[i + u64(2 * PIXELS)] += weight * k1
        planes[i + u64(3 * PIXELS)] += weight * k2
        planes[i + u64(4 * PIXELS)] += weight * k3


@njit(fastmath=FAST, boundscheck=False, error_model="numpy")
def rows_backward(
    planes: Any,
    i0: Any,
    i1: Any,
    xm: Any,
    ym: Any,
    a: Any,
    b: Any,
    c: Any,
    log_opacity: Any,
    k0: Any,
    k1: Any,
    k2: Any,
    k3: Any,
    rank: Any,
) -> tuple:
    """Undo one Gaussian on the pixels i0..i1 and return its sums over them.

    Planes: T behind the Gaussian, S = the sum of w v over what lies behind, gradients of colour (3), depth and alpha,
    the last rank, x and y. With v = <gradients, (k, 1)>, d loss / d log alpha = alpha (T v - S / (1 - alpha)).
    Returns that slope's moments 1, x, y, x^2, xy, y^2 around the mean, and the gradients of k.
    """
    s0 = sx = sy = sxx = sxy = syy = g0 = g1 = g2 = g3 = ZERO
    for i in range(u64(i0), u64(i1)):
        dx, dy = xm + planes[i + u64(8 * PIXELS)], ym + planes[i + u64(9 * PIXELS)]
        power = log_opacity - (dx * (a * dx + b * dy) + c * dy * dy)
        alpha = min(exp_negative(max(power, LOG_FLOOR)), TOP)
        alpha = alpha if power >= LOG_MIN else ZERO
        alpha = alpha if rank <= planes[i + u64(7 * PIXELS)] else ZERO
        clear = ONE / (ONE - alpha)
        through = planes[i] * clear
        planes[i] = through
        weight = alpha * through
        h0, h1 = planes[i + u64(2 * PIXELS)], planes[i + u64(3 * PIXELS)]
        h2, h3 = planes[i + u64(4 * PIXELS)], planes[i + u64(5 * PIXELS)]
        value = planes[i + u64(6 * PIXELS)] + h0 * k0 + h1 * k1 + h2 * k2 + h3 * k3
        behind = planes[i + u64(PIXELS)]
        slope = alpha * (through * value - behind * clear)
        slope = slope if alpha < TOP else ZERO
        planes[i + u64(PIXELS)] = behind + weight * value
        s0 += slope
        sx += slope * dx
        sy += slope * dy
        sxx += slope * dx * dx
        sxy += slope * dx * dy
        syy += slope * dy * dy
        g0 += weight * h0
        g1 += weight * h1
        g2 += weight * h2
        g3 += weight * h3
    return s0, sx, sy, sxx, sxy, syy, g0, g1, g2, g3


@njit(fastmath=FAST, boundscheck=False, error_model="numpy")
def clearest(planes: Any) -> float:
    """The largest transmittance of the tile."""
    most = ZERO
    for i in range(PIXELS):
        most = max(most, planes[i])
    return most


@njit(boundscheck=False, error_model="numpy")
def row_span(my: Any, ey: Any, top: int) -> tuple:
    """First and last row of the tile that begins at pixel row ``top`` which the box of a Gaussian meets."""
    first, last = span(my, ey, top + TILE_HEIGHT)
    return max(first - top, 0), max(last - top, -1)


@njit(boundscheck=False, error_model="numpy")
def tile_forward(
    planes: Any,
    entries: Any,
    begin: int,
    end: int,
    left: int,
    top: int,
    means2d: Any,
    shapes: Any,
    extents: Any,
    colors: Any,
    depths: Any,
) -> int:
    """Composite one tile into its planes; returns one past the last entry that was needed."""
    for e in range(begin, end):
        m = entries[e]
        k = m % colors.shape[0]
        mx, my = means2d[m, 0], means2d[m, 1]
        first, last = row_span(my, extents[m, 1], top)
        rows_forward(
            planes,
            first * TILE_WIDTH,
            (last + 1) * TILE_WIDTH,
            f32(left + 0.5) - mx,
            f32(top + 0.5) - my,
            HALF * shapes[m, 0],
            shapes[m, 1],
            HALF * shapes[m, 2],
            shapes[m, 3],
            colors[k, 0],
            colors[k, 1],
            colors[k, 2],
            depths[m],
            f32(e - begin),
        )
        if (e - begin) % CHECK == CHECK - 1 and clearest(planes) < OPAQUE:
            return e + 1
    return end


@njit(boundscheck=False, error_model="numpy")
def tile_backward(
    planes: Any,
    entries: Any,
    slots: Any,
    begin: int,
    end: int,
    left: int,
    top: int,
    means2d: Any,
    shapes: Any,
    extents: Any,
    colors: Any,
    depths: Any,
    partial: Any,
) -> None:
    """Walk one tile's needed entries from the last to the first and write each one's gradients into its slot."""
    for e in range(end - 1, begin - 1, -1):
        m = entries[e]
        k = m % colors.shape[0]
        mx, my = means2d[m, 0], means2d[m, 1]
        a, b, c = shapes[m, 0], shapes[m, 1], shapes[m, 2]
        first, last = row_span(my, extents[m, 1], top)
        s0, sx, sy, sxx, sxy, syy, g0, g1, g2, g3 = rows_backward(
            planes,
            first * TILE_WIDTH,
            (last + 1) * TILE_WIDTH,
            f32(left + 0.5) - mx,
            f32(top + 0.5) - my,
            HALF * a,
            b,
            HALF * c,
            shapes[m, 3],
            colors[k, 0],
            colors[k, 1],
            colors[k, 2],
            depths[m],
            f32(e - begin),
        )
        row = slots[e]
        partial[row, 0], partial[row, 1] = a * sx + b * sy, b * sx + c * sy
        partial[row, 2], partial[row, 3], partial[row, 4] = -HALF * sxx, -sxy, -HALF * syy
        partial[row, 5], partial[row, 6], partial[row, 7], partial[row, 8], partial[row, 9] = s0, g0, g1, g2, g3


@njit(boundscheck=False, error_model="numpy")
def blank_planes(count: int) -> Any:
    """Uninitialised planes of one tile, the last two of which hold the x and y of its pixels."""
    planes = np.empty((count + 2) * PIXELS, np.float32)
    for i in range(PIXELS):
        planes[count * PIXELS + i] = i % TILE_WIDTH
        planes[(count + 1) * PIXELS + i] = i // TILE_WIDTH
    return planes


@compiled(boundscheck=False)
def composite_share(
    worker: int,
    workers: int,
    order: Any,
    entries: Any,
    offsets: Any,
    means2d: Any,
    shapes: Any,
    extents: Any,
    colors: Any,
    depths: Any,
    color: Any,
    alpha: Any,
    depth: Any,
    through: Any,
    ranks: Any,
    lasts: Any,
) -> None:
    """Fill color [V,H,W,3], alpha and depth [V,H,W], and for the way back through, ranks [tiles,256], lasts [tiles].

    ``order``: the tiles of all views, most work first. means2d [V*N,2], shapes [V*N,4], extents [V*N,2],
    colors [N or V*N,3], depths [V*N].
    """
    _, height, width = alpha.shape
    columns, rows = -(-width // TILE_WIDTH), -(-height // TILE_HEIGHT)
    planes = blank_planes(6)
    for rank in range(worker, order.shape[0], workers):
        tile = order[rank]
        left, top = tile % columns * TILE_WIDTH, tile // columns % rows * TILE_HEIGHT
        v = tile // (columns * rows)
        for i in range(6 * PIXELS):
            planes[i] = ONE if i < PIXELS else ZERO
        lasts[tile] = tile_forward(
            planes, entries, offsets[tile], offsets[tile + 1], left, top, means2d, shapes, extents, colors, depths
        )
        for i in range(PIXELS):
            through[tile, i] = planes[i]
            ranks[tile, i] = planes[5 * PIXELS + i]
        for y in range(top, min(top + TILE_HEIGHT, height)):
            for x in range(left, min(left + TILE_WIDTH, width)):
                i = (y - top) * TILE_WIDTH + x - left
                alpha[v, y, x] = ONE - planes[i]
                color[v, y, x, 0] = planes[PIXELS + i]
                color[v, y, x, 1] = planes[2 * PIXELS + i]
                color[v, y, x, 2] = planes[3 * PIXELS + i]
                depth[v, y, x] = planes[4 * PIXELS + i]


@compiled(boundscheck=False)
def composite_back_share(
    worker: int,
    workers: int,
    order: Any,
    entries: Any,
    slots: Any,
    offsets: Any,
    means2d: Any,
    shapes: Any,
    extents: Any,
    colors: Any,
    depths: Any,
    through: Any,
    ranks: Any,
    lasts: Any,
    color: Any,
    alpha: Any,
    depth: Any,
    partial: Any,
) -> None:
    """From the gradients of color, alpha and depth fill ``partial`` [E,10].

    Per slot: gradients of mean (2), conic (3), log opacity, colour (3) and depth.
    """
    _, height, width = alpha.shape
    columns, rows = -(-width // TILE_WIDTH), -(-height // TILE_HEIGHT)
    planes = blank_planes(8)
    for rank in range(worker, order.shape[0], workers):
        tile = order[rank]
        left, top = tile % columns * TILE_WIDTH, tile // columns % rows * TILE_HEIGHT
        v = tile // (columns * rows)
        for i in range(PIXELS, 7 * PIXELS):
            planes[i] = ZERO
        for i in range(PIXELS):
            planes[i] = through[tile, i]
            planes[7 * PIXELS + i] = ranks[tile, i]
        for y in range(top, min(top + TILE_HEIGHT, height)):
            for x in range(left, min(left + TILE_WIDTH, width)):
                i = (y - top) * TILE_WIDTH + x - left
                planes[2 * PIXELS + i] = color[v, y, x, 0]
                planes[3 * PIXELS + i] = color[v, y, x, 1]
                planes[4 * PIXELS + i] = color[v, y, x, 2]
                planes[5 * PIXELS + i] = depth[v, y, x]
                planes[6 * PIXELS + i] = alpha[v, y, x]
        for e in range(lasts[tile], offsets[tile + 1]):
            for d in range(10):
                partial[slots[e], d] = ZERO
        tile_backward(
            planes,
            entries,
            slots,
            offsets[tile],
            lasts[tile],
            left,
            top,
            means2d,
            shapes,
            extents,
            colors,
            depths,
            partial,
        )


@compiled(boundscheck=False)
def gather_share(
    worker: int, workers: int, partial: Any, firsts: Any, means2d: Any, shapes: Any, colors: Any, depths: Any
) -> None:
    """Sum each Gaussian's slots into the gradients means2d [V*N,2], shapes [V*N,4], colors [N or V*N,3], depths [V*N].

    A Gaussian adds up its own slots in their order, whichever thread does it.
    """
    shared, total = colors.shape[0], depths.shape[0]
    sums = np.empty(10, np.float32)
    for n in range(worker * shared // workers, (worker + 1) * shared // workers):
        for d in range(3):
            colors[n, d] = ZERO
        for m in range(n, total, shared):
            for d in range(10):
                sums[d] = ZERO
            for slot in range(firsts[m], firsts[m + 1]):
                for d in range(10):
                    sums[d] += partial[slot, d]
            means2d[m, 0], means2d[m, 1] = sums[0], sums[1]
            shapes[m, 0], shapes[m, 1], shapes[m, 2], shapes[m, 3] = sums[2], sums[3], sums[4], sums[5]
            for d in range(3):
                colors[n, d] += sums[6 + d]
            depths[m] = sums[9]
