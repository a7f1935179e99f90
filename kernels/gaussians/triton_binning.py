"""Which Gaussian touches which tile, front to back: torch's sorts, and a Triton kernel that fills the lists.

A list's entries come in two orders. Ranked: Gaussian by Gaussian, by depth, so that a Gaussian's entries are
neighbours. Tiled: tile by tile, front to back within a tile.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
import triton
import triton.language as tl
from torch import Tensor

RANKS, STEP = 16, 16  # Gaussians of a program of `_fill`, and tiles of each that it writes at once
SMALL = torch.iinfo(torch.int16).max  # the sort of so many tiles reads two bytes of a key instead of four


@dataclass(frozen=True)
class Lists:
    """The tile lists of all views. P = V * N pairs of a view and a Gaussian, E entries."""

    order: Tensor  # [P] the pairs by depth
    counts: Tensor  # [P] int32, tiles that a pair touches
    ends: Tensor  # [P] where the entries of the pair of each rank end, in ranked order
    entries: Tensor  # [E] int32, pairs in tiled order
    ranked: Tensor  # [E] for each entry in tiled order its place in ranked order
    offsets: Tensor  # [tiles + 1] where each tile's list begins, in tiled order


@triton.jit(do_not_specialize=["pairs", "columns"])
def _fill(
    order_ptr, counts_ptr, ends_ptr, boxes_ptr, tiles_ptr, pairs_ptr, pairs, columns,
    R: tl.constexpr, K: tl.constexpr,
):  # fmt: skip
    """Write the tile and the pair of every entry, in ranked order."""
    rank = tl.program_id(0) * R + tl.arange(0, R)
    inside = rank < pairs
    pair = tl.load(order_ptr + rank, inside, 0)
    count = tl.load(counts_ptr + pair, inside, 0)
    start = tl.load(ends_ptr + rank, inside, 0) - count
    first, across = tl.load(boxes_ptr + pair * 2, inside, 0), tl.load(boxes_ptr + pair * 2 + 1, inside, 1)
    most, done = tl.max(count, 0), 0
    while done < most:
        k = (done + tl.arange(0, K))[None, :]
        tile = first[:, None] + k // across[:, None] * columns + k % across[:, None]
        place, known = start[:, None] + k, k < count[:, None]
        tl.store(tiles_ptr + place, tile.to(tiles_ptr.dtype.element_ty), known)
        tl.store(pairs_ptr + place, tl.zeros([R, K], tl.int32) + pair.to(tl.int32)[:, None], known)
        done += K


def bin_pairs(depths: Tensor, boxes: Tensor, counts: Tensor, columns: int, tiles: int) -> Lists:
    """Lists of ``tiles`` tiles, ``columns`` to a row, of the pairs whose depths [V,N], boxes and counts are given.

    ``boxes`` [V,N,2] int32: the first tile and how many of a row; ``counts`` [V,N] int32: of how many tiles. Stable
    sorts, so that ties repeat bit for bit. Waits once for the device, to learn the number of entries.
    """
    counts = counts.flatten()
    order = torch.sort(depths.flatten(), stable=True).indices
    ends = torch.cumsum(counts.index_select(0, order), 0)
    total = int(ends[-1])
    keys = torch.empty(total, dtype=torch.int16 if tiles <= SMALL else torch.int32, device=depths.device)
    pairs = torch.empty(total, dtype=torch.int32, device=depths.device)
    grid = (triton.cdiv(len(order), RANKS),)
    _fill[grid](order, counts, ends, boxes, keys, pairs, len(order), columns, R=RANKS, K=STEP, num_warps=4)
    # All views at once: the sort by tile separates them again.
    keys, ranked = torch.sort(keys, stable=True)
    borders = torch.arange(tiles + 1, dtype=keys.dtype, device=keys.device)
    return Lists(order, counts, ends, pairs.index_select(0, ranked), ranked, torch.searchsorted(keys, borders))
