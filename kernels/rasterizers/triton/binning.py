"""Which Gaussian touches which tile, front to back: torch's sorts, and a Triton kernel that fills
the lists.

Entries come in two orders. Ranked: Gaussian by Gaussian, by depth, so that a Gaussian's entries,
one for each tile of its box, are neighbours. Tiled: tile by tile, front to back within a tile, and
at the end those of the tiles that only the box meets: their tile is one past the last. Testing that
here, once, leaves nothing to be counted twice alike.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import torch
import triton
import triton.language as tl
from torch import Tensor

from ..projection import ALPHA_MIN

RANKS, STEP = 16, 16  # Gaussians of a program of `_fill`, and tiles of each that it writes at once
# the sort of so many tiles reads two bytes of a key instead of four
SMALL = torch.iinfo(torch.int16).max
_LOG_MIN = tl.constexpr(math.log(ALPHA_MIN))


@dataclass(frozen=True)
class Lists:
    """The tile lists of all views. P = V * N pairs of a view and a Gaussian, E entries.

    Args:
        order: [P] the pairs by depth
        counts: [P] int32, tiles of a pair's box
        ends: [P] where the entries of the pair of each rank end, in ranked order
        tiles: [E] int16 or int32, the tile of each entry in ranked order
        entries: [E] int32, pairs in tiled order
        ranked: [E] for each entry in tiled order its place in ranked order
        offsets: [tiles + 1] where each tile's list begins, in tiled order
    """

    order: Tensor
    counts: Tensor
    ends: Tensor
    tiles: Tensor
    entries: Tensor
    ranked: Tensor
    offsets: Tensor


@triton.jit
def _form(x, y, a, b, c, slack):
    """a x^2 + 2 b x y + c y^2, less a share of its terms."""
    return 2 * b * x * y + (1 - slack) * (a * x * x + c * y * y)


@triton.jit
def _meets(left, top, a, b, c, reach, TILE_W: tl.constexpr, TILE_H: tl.constexpr):
    """Whether the ellipse form <= reach, centred at 0, may hold a pixel of the tile whose first
    pixel is given.
    """
    right, bottom = left + (TILE_W - 1), top + (TILE_H - 1)
    # nearest to the centre
    x, y = tl.minimum(tl.maximum(left, 0.0), right), tl.minimum(tl.maximum(top, 0.0), bottom)
    # The least value lies on the nearer upright side, or on the nearer level one. Rounding must not
    # lose a tile.
    upright = _form(x, tl.minimum(tl.maximum(-b * x / c, top), bottom), a, b, c, 1e-5)
    level = _form(tl.minimum(tl.maximum(-b * y / a, left), right), y, a, b, c, 1e-5)
    return tl.minimum(upright, level) <= 1.01 * reach + 0.01


@triton.jit(do_not_specialize=["pairs", "columns", "rows", "tiles"])
def _fill(
    order_ptr, counts_ptr, ends_ptr, boxes_ptr, means2d_ptr, shapes_ptr, tiles_ptr, pairs_ptr,
    pairs, columns, rows, tiles,
    TILE_W: tl.constexpr, TILE_H: tl.constexpr, R: tl.constexpr, K: tl.constexpr,
):  # fmt: skip
    """Write the tile and the pair of every entry, in ranked order."""
    rank = tl.program_id(0) * R + tl.arange(0, R)
    inside = rank < pairs
    pair = tl.load(order_ptr + rank, inside, 0)
    count = tl.load(counts_ptr + pair, inside, 0)
    start = tl.load(ends_ptr + rank, inside, 0) - count
    first, across = (
        tl.load(boxes_ptr + pair * 2, inside, 0),
        tl.load(boxes_ptr + pair * 2 + 1, inside, 1),
    )
    # First pixel of the first tile, from the mean.
    left = (
        (first % columns * TILE_W).to(tl.float32)
        + 0.5
        - tl.load(means2d_ptr + pair * 2, inside, 0.0)
    )
    top = (
        (first // columns % rows * TILE_H).to(tl.float32)
        + 0.5
        - tl.load(means2d_ptr + pair * 2 + 1, inside, 0.0)
    )
    a, b = (
        tl.load(shapes_ptr + pair * 4, inside, 1.0),
        tl.load(shapes_ptr + pair * 4 + 1, inside, 0.0),
    )
    c, strength = (
        tl.load(shapes_ptr + pair * 4 + 2, inside, 1.0),
        tl.load(shapes_ptr + pair * 4 + 3, inside, 0.0),
    )
    reach = 2 * (strength - _LOG_MIN)
    most, done = tl.max(count, 0), 0
    while done < most:
        k = (done + tl.arange(0, K))[None, :]
        down, right = k // across[:, None], k % across[:, None]
        x, y = (
            left[:, None] + (right * TILE_W).to(tl.float32),
            top[:, None] + (down * TILE_H).to(tl.float32),
        )
        meets = _meets(x, y, a[:, None], b[:, None], c[:, None], reach[:, None], TILE_W, TILE_H)
        tile = tl.where(meets, first[:, None] + down * columns + right, tiles)
        slot, known = start[:, None] + k, k < count[:, None]
        tl.store(tiles_ptr + slot, tile.to(tiles_ptr.dtype.element_ty), known)
        tl.store(pairs_ptr + slot, tl.zeros([R, K], tl.int32) + pair.to(tl.int32)[:, None], known)
        done += K


def bin_pairs(
    means2d: Tensor, shapes: Tensor, depths: Tensor, boxes: Tensor, counts: Tensor, columns: int, rows: int,
    tile: dict[str, int],
) -> Lists:  # fmt: skip
    """Lists of ``rows`` x ``columns`` tiles per view of what `_project` says of V views of N
    Gaussians.

    ``boxes`` [V,N,2] int32: the first tile of the box and how many to a row; ``counts`` [V,N]
    int32: of how many tiles. Stable sorts, so that ties repeat bit for bit. Waits once for the
    device, to learn the number of entries.
    """
    last = len(depths) * rows * columns
    counts = counts.flatten()
    order = torch.sort(depths.flatten(), stable=True).indices
    ends = torch.cumsum(counts.index_select(0, order), 0)
    total = int(ends[-1])
    tiles = torch.empty(
        total, dtype=torch.int16 if last <= SMALL else torch.int32, device=depths.device
    )
    pairs = torch.empty(total, dtype=torch.int32, device=depths.device)
    _fill[triton.cdiv(len(order), RANKS),](
        order, counts, ends, boxes, means2d, shapes, tiles, pairs, len(order), columns, rows, last,
        R=RANKS, K=STEP, num_warps=4, **tile,
    )  # fmt: skip
    # All views at once: the sort by tile separates them again.
    ascending, ranked = torch.sort(tiles, stable=True)
    offsets = torch.searchsorted(
        ascending, torch.arange(last + 1, dtype=tiles.dtype, device=tiles.device)
    )
    return Lists(order, counts, ends, tiles, pairs.index_select(0, ranked), ranked, offsets)
