"""Front-to-back compositing and its derivative as Triton kernels.

A program, one warp, owns the pixels of one tile, and goes through the tile's list one Gaussian
after the other: the Gaussian is a few scalars, the pixels are the lanes. The next Gaussian's
numbers are on their way meanwhile. Gradients go to a row of the list's own, which a second kernel
sums per Gaussian: no two programs ever write the same number, so results repeat bit for bit. A
pixel is finished once less than 1e-4 of the light is left.
"""

from __future__ import annotations

import math

import triton
import triton.language as tl

from ..projection import ALPHA_MAX, ALPHA_MIN

TILE_WIDTH, TILE_HEIGHT = 16, 8  # pixels, powers of two; four to a lane
WARPS = 1  # that share a tile: more would have to meet at every sum over its pixels
# numbers per row of the pack, two of them unused: each row begins at a multiple of 16 bytes
ROW = 12
LANES = 64  # pairs of a program of `_pack`
PAIRS, STEP = 16, 8  # of a program of `_sum_entries`, and entries of each that it adds at once
LOG2_E = math.log2(math.e)
counting = triton.jit(  # few compilations
    do_not_specialize=[
        "pairs",
        "count",
        "color_stride",
        "plane",
        "width",
        "height",
        "columns",
        "rows",
        "tiles",
    ]
)

_TOP, _MIN, _OPAQUE = tl.constexpr(ALPHA_MAX), tl.constexpr(ALPHA_MIN), tl.constexpr(1e-4)
_ROW, _LOG2_E, _CHECK = tl.constexpr(ROW), tl.constexpr(LOG2_E), tl.constexpr(16)
_NOTHING = tl.constexpr(-1e4)  # log2 of an alpha that is 0


@counting
def _pack(
    means2d_ptr, shapes_ptr, colors_ptr, depths_ptr, rows_ptr, pairs, count, color_stride, B: tl.constexpr
):  # fmt: skip
    """Rows of mean, conic and log opacity as `_alpha` takes them, colour and depth, one per view
    and Gaussian.
    """
    pair = (tl.program_id(0) * B + tl.arange(0, B)).to(tl.int64)[:, None]
    column = tl.arange(0, 16)[None, :]
    inside = pair < pairs
    view = pair // count
    color = colors_ptr + view * color_stride + (pair - view * count) * 3
    value = tl.load(means2d_ptr + pair * 2 + column, inside & (column < 2), 0.0)
    value += tl.load(shapes_ptr + pair * 4 + column - 2, inside & (column >= 2) & (column < 6), 0.0)
    value += tl.load(color + column - 6, inside & (column >= 6) & (column < 9), 0.0)
    value += tl.load(depths_ptr + pair + column - 9, inside & (column == 9), 0.0)
    scale = tl.where((column == 2) | (column == 4), -0.5 * _LOG2_E, 1.0)
    scale = tl.where(column == 3, -_LOG2_E, tl.where(column == 5, _LOG2_E, scale))
    tl.store(rows_ptr + pair * _ROW + column, value * scale, inside & (column < 10))


@triton.jit
def _row(rows_ptr, pair, DEPTH: tl.constexpr):
    row = rows_ptr + pair.to(tl.int64) * _ROW
    mx, my, a, b, c = (
        tl.load(row),
        tl.load(row + 1),
        tl.load(row + 2),
        tl.load(row + 3),
        tl.load(row + 4),
    )
    peak, red, green, blue = tl.load(row + 5), tl.load(row + 6), tl.load(row + 7), tl.load(row + 8)
    z = tl.load(row + 9) if DEPTH else 0.0
    return mx, my, a, b, c, peak, red, green, blue, z


@triton.jit
def _alpha(dx, dy, a, b, c, peak, through):
    """A Gaussian's alpha at every pixel of the tile, before the clamp and as it counts."""
    along, down = peak + a * dx * dx, c * dy * dy
    raw = tl.exp2((along[None, :] + down[:, None]) + dy[:, None] * (b * dx)[None, :])
    return raw, tl.where((raw >= _MIN) & (through > _OPAQUE), tl.minimum(raw, _TOP), 0.0)


@triton.jit
def _place(width, height, columns, rows, TILE_W: tl.constexpr, TILE_H: tl.constexpr):
    """Coordinates of the tile's pixels, which of them are of the picture, and their numbers among
    all views'.
    """
    tile = tl.program_id(0)
    view, at = tile // (rows * columns), tile % (rows * columns)
    x = at % columns * TILE_W + tl.arange(0, TILE_W)
    y = at // columns * TILE_H + tl.arange(0, TILE_H)
    known = (y < height)[:, None] & (x < width)[None, :]
    pixel = (view.to(tl.int64) * height + y)[:, None] * width + x[None, :]
    return x.to(tl.float32) + 0.5, y.to(tl.float32) + 0.5, known, pixel


@triton.jit
def _blend(
    x, y, through, out0, out1, out2, out3, mx, my, a, b, c, peak, red, green, blue, z, DEPTH: tl.constexpr
):  # fmt: skip
    """Light that is left and the sums, with one more Gaussian."""
    _, alpha = _alpha(x - mx, y - my, a, b, c, peak, through)
    weight = alpha * through
    if DEPTH:
        out3 += weight * z
    return through - weight, out0 + weight * red, out1 + weight * green, out2 + weight * blue, out3


@counting
def _composite(
    rows_ptr, entries_ptr, offsets_ptr, planes_ptr, reached_ptr, plane, width, height, columns, rows,
    DEPTH: tl.constexpr, TILE_W: tl.constexpr, TILE_H: tl.constexpr,
):  # fmt: skip
    """Sums of weight times colour, of the weights and of weight times depth; how much of its list
    the tile has used.
    """
    tile = tl.program_id(0)
    x, y, known, pixel = _place(width, height, columns, rows, TILE_W, TILE_H)
    first = tl.load(offsets_ptr + tile)
    length = (tl.load(offsets_ptr + tile + 1) - first).to(tl.int32)
    list_ptr = entries_ptr + first
    through = tl.where(known, 1.0, 0.0)
    out0, out1 = tl.zeros([TILE_H, TILE_W], tl.float32), tl.zeros([TILE_H, TILE_W], tl.float32)
    out2, out3 = tl.zeros([TILE_H, TILE_W], tl.float32), tl.zeros([TILE_H, TILE_W], tl.float32)
    pair0 = tl.load(list_ptr, length > 0, 0)
    pair1, pair2 = (
        tl.load(list_ptr + 1, length > 1, pair0),
        tl.load(list_ptr + 2, length > 2, pair0),
    )
    mx, my, a, b, c, peak, red, green, blue, z = _row(rows_ptr, pair0, DEPTH)
    i, light = 0, tl.max(through)
    while (i < length) & (light > _OPAQUE):
        end = tl.minimum(i + _CHECK, length)
        # two by two, so that the next one's numbers are on their way; the last may be drawn as
        # nothing
        while i < end:
            mx1, my1, a1, b1, c1, peak1, red1, green1, blue1, z1 = _row(rows_ptr, pair1, DEPTH)
            pair1 = tl.load(list_ptr + i + 3, i + 3 < length, pair1)
            through, out0, out1, out2, out3 = _blend(
                x,
                y,
                through,
                out0,
                out1,
                out2,
                out3,
                mx,
                my,
                a,
                b,
                c,
                peak,
                red,
                green,
                blue,
                z,
                DEPTH,
            )
            mx, my, a, b, c, peak, red, green, blue, z = _row(rows_ptr, pair2, DEPTH)
            pair2 = tl.load(list_ptr + i + 4, i + 4 < length, pair2)
            peak1 = tl.where(i + 1 < length, peak1, _NOTHING)
            through, out0, out1, out2, out3 = _blend(
                x,
                y,
                through,
                out0,
                out1,
                out2,
                out3,
                mx1,
                my1,
                a1,
                b1,
                c1,
                peak1,
                red1,
                green1,
                blue1,
                z1,
                DEPTH,
            )
            i += 2
        light = tl.max(through)
    tl.store(reached_ptr + tile, tl.minimum(i, length))
    plane = plane.to(tl.int64)
    tl.store(planes_ptr + pixel, out0, known)
    tl.store(planes_ptr + plane + pixel, out1, known)
    tl.store(planes_ptr + 2 * plane + pixel, out2, known)
    tl.store(planes_ptr + 3 * plane + pixel, 1.0 - through, known)
    if DEPTH:
        tl.store(planes_ptr + 4 * plane + pixel, out3, known)


@triton.jit
def _both(first, second):
    """The sums of two vectors as a column [2,1], the first above, for the cost of one: each takes
    half of the lanes.
    """
    above = tl.arange(0, 2)[:, None] == 0
    return tl.sum(tl.where(above, first[None, :], second[None, :]), 1)[:, None]


@triton.jit
def _differentiate(
    x, y, column, through, rest, grad0, grad1, grad2, flat, grad3, mx, my, a, b, c, peak, red, green, blue, z,
    DEPTH: tl.constexpr,
):  # fmt: skip
    """Light and sum of w v that are left behind one more Gaussian, and the gradient of its row,
    [2,16]: numbers 0 and 1 one above the other in column 0, and so on."""
    dx, dy = x - mx, y - my
    raw, alpha = _alpha(dx, dy, a, b, c, peak, through)
    weight = alpha * through
    v = flat + grad0 * red + grad1 * green + grad2 * blue
    if DEPTH:
        v += grad3 * z
    rest -= weight * v
    root = tl.rsqrt(1 - alpha)  # its square is 1 / (1 - alpha), in the fewest instructions
    slope = alpha * (through * v - rest * (root * root))
    slope = tl.where(raw < _TOP, slope, 0.0)  # a clamped alpha does not move
    down = dy[:, None]
    q0, q1, q2 = tl.sum(slope, 0), tl.sum(slope * down, 0), tl.sum(slope * (down * down), 0)
    along, blues = q0 * dx, tl.sum(weight * grad2, 0)
    row = tl.where(column == 0, _both(a * along + 0.5 * b * q1, 0.5 * b * along + c * q1), 0.0)
    row = tl.where(column == 1, _both(along * dx, q1 * dx), row)
    row = tl.where(column == 2, _both(q2, q0), row)
    row = tl.where(column == 3, _both(tl.sum(weight * grad0, 0), tl.sum(weight * grad1, 0)), row)
    row = tl.where(column == 4, _both(blues, tl.sum(weight * grad3, 0) if DEPTH else blues), row)
    return through - weight, rest, row


@counting
def _composite_back(
    rows_ptr, entries_ptr, ranked_ptr, offsets_ptr, reached_ptr, planes_ptr, grads_ptr, partial_ptr,
    plane, width, height, columns, rows,
    DEPTH: tl.constexpr, TILE_W: tl.constexpr, TILE_H: tl.constexpr,
):  # fmt: skip
    """Every entry's share, summed over the tile's pixels, of the gradient of its Gaussian's row.

    With v = <grad_color, color> + grad_alpha + grad_depth z per Gaussian and pixel, w = alpha T the
    weight, d loss / d log alpha_i = alpha_i (T_i v_i - sum_{j>i} w_j v_j / (1 - alpha_i)); the sum
    over all j is known from the pictures, so the list is read from the front, as before.
    """
    tile = tl.program_id(0)
    x, y, known, pixel = _place(width, height, columns, rows, TILE_W, TILE_H)
    first = tl.load(offsets_ptr + tile)
    length = (tl.load(offsets_ptr + tile + 1) - first).to(tl.int32)
    list_ptr, place_ptr = entries_ptr + first, ranked_ptr + first
    reached = tl.load(reached_ptr + tile)
    plane = plane.to(tl.int64)
    grad0, grad1 = (
        tl.load(grads_ptr + pixel, known, 0.0),
        tl.load(grads_ptr + plane + pixel, known, 0.0),
    )
    grad2, flat = (
        tl.load(grads_ptr + 2 * plane + pixel, known, 0.0),
        tl.load(grads_ptr + 3 * plane + pixel, known, 0.0),
    )
    rest = grad0 * tl.load(planes_ptr + pixel, known, 0.0)
    rest += grad1 * tl.load(planes_ptr + plane + pixel, known, 0.0)
    rest += grad2 * tl.load(planes_ptr + 2 * plane + pixel, known, 0.0)
    rest += flat * tl.load(planes_ptr + 3 * plane + pixel, known, 0.0)
    grad3 = flat
    if DEPTH:
        grad3 = tl.load(grads_ptr + 4 * plane + pixel, known, 0.0)
        rest += grad3 * tl.load(planes_ptr + 4 * plane + pixel, known, 0.0)
    through = tl.where(known, 1.0, 0.0)
    stride = 10 if DEPTH else 9
    column = tl.arange(0, 16)[None, :]
    number = 2 * column + tl.arange(0, 2)[:, None]  # of a row, as `_differentiate` lays it out
    pair0 = tl.load(list_ptr, length > 0, 0)
    pair1, pair2 = (
        tl.load(list_ptr + 1, length > 1, pair0),
        tl.load(list_ptr + 2, length > 2, pair0),
    )
    mx, my, a, b, c, peak, red, green, blue, z = _row(rows_ptr, pair0, DEPTH)
    i = 0
    while i < reached:
        more = i + 1 < reached
        mx1, my1, a1, b1, c1, peak1, red1, green1, blue1, z1 = _row(rows_ptr, pair1, DEPTH)
        pair1 = tl.load(list_ptr + i + 3, i + 3 < length, pair1)
        place0, place1 = tl.load(place_ptr + i), tl.load(place_ptr + i + 1, more, 0)
        through, rest, row0 = _differentiate(
            x,
            y,
            column,
            through,
            rest,
            grad0,
            grad1,
            grad2,
            flat,
            grad3,
            mx,
            my,
            a,
            b,
            c,
            peak,
            red,
            green,
            blue,
            z,
            DEPTH,
        )
        tl.store(partial_ptr + place0 * stride + number, row0, number < stride)
        mx, my, a, b, c, peak, red, green, blue, z = _row(rows_ptr, pair2, DEPTH)
        pair2 = tl.load(list_ptr + i + 4, i + 4 < length, pair2)
        peak1 = tl.where(more, peak1, _NOTHING)
        through, rest, row1 = _differentiate(
            x, y, column, through, rest, grad0, grad1, grad2, flat, grad3,
            mx1, my1, a1, b1, c1, peak1, red1, green1, blue1, z1, DEPTH,
        )  # fmt: skip
        tl.store(partial_ptr + place1 * stride + number, row1, number < tl.where(more, stride, 0))
        i += 2
    i = reached
    while i < length:  # what lies behind the last light has no gradient
        k = i + tl.arange(0, 16)
        place16 = tl.load(place_ptr + k, k < length, 0)
        out = partial_ptr + place16[:, None] * stride + column
        tl.store(out, tl.zeros([16, 16], tl.float32), (k < length)[:, None] & (column < stride))
        i += 16


@counting
def _sum_entries(
    order_ptr, counts_ptr, ends_ptr, tiles_ptr, partial_ptr,
    grad_means2d_ptr, grad_shapes_ptr, grad_colors_ptr, grad_depths_ptr, pairs, tiles,
    DEPTH: tl.constexpr, R: tl.constexpr, K: tl.constexpr,
):  # fmt: skip
    """Sum the rows of each pair's entries, and undo what `_pack` did to the conic and the
    opacity.
    """
    rank = tl.program_id(0) * R + tl.arange(0, R)
    inside = rank < pairs
    pair = tl.load(order_ptr + rank, inside, 0)
    count = tl.load(counts_ptr + pair, inside, 0)
    start = tl.load(ends_ptr + rank, inside, 0) - count
    column = tl.arange(0, 16)
    stride = 10 if DEPTH else 9
    total = tl.zeros([R, 16], tl.float32)
    most, done = tl.max(count, 0), 0
    while done < most:
        k = (done + tl.arange(0, K))[None, :]
        entry = start[:, None] + k
        # else no tile has written there
        known = tl.load(tiles_ptr + entry, k < count[:, None], tiles) < tiles
        index = entry[:, :, None] * stride + column[None, None, :]
        total += tl.sum(
            tl.load(partial_ptr + index, known[:, :, None] & (column < stride)[None, None, :], 0.0),
            1,
        )
        done += K
    scale = tl.where(column < 2, -2 / _LOG2_E, 1.0)
    scale = tl.where(column == 3, -1.0, tl.where((column == 2) | (column == 4), -0.5, scale))
    total *= scale[None, :]
    pair, column, inside = pair[:, None], column[None, :], inside[:, None]
    tl.store(grad_means2d_ptr + pair * 2 + column, total, inside & (column < 2))
    tl.store(grad_shapes_ptr + pair * 4 + column - 2, total, inside & (column >= 2) & (column < 6))
    tl.store(grad_colors_ptr + pair * 3 + column - 6, total, inside & (column >= 6) & (column < 9))
    if DEPTH:
        tl.store(grad_depths_ptr + pair + column - 9, total, inside & (column == 9))
