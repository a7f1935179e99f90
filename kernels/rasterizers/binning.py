"""Which Gaussian touches which tile of which screen, front to back, in plain torch operations."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from .projection import Projection


@dataclass(frozen=True)
class Bins:
    """The depth-sorted lists of all tiles of all views, one after the other.

    Args:
        entries: [E] view * N + Gaussian, tile by tile, front to back
        offsets: [V*rows*columns + 1] where each tile's list begins
        columns: tiles per row of one view
    """

    entries: Tensor
    offsets: Tensor
    columns: int
    rows: int


@torch.no_grad()
def bin_tiles(projection: Projection, width: int, height: int, tile: int) -> Bins:
    """Sort by depth, repeat each Gaussian for the tiles its box meets, then sort stably by tile."""
    views, count = projection.depths.shape
    columns, rows = -(-width // tile), -(-height // tile)
    size = projection.means2d.new_tensor((width - 1, height - 1))
    # First and last pixel whose centre lies in the box, clamped as floats: a stray mean may not fit
    # an integer.
    low, high = (
        projection.means2d - projection.extents - 0.5,
        projection.means2d + projection.extents - 0.5,
    )
    first = torch.minimum(torch.ceil(low).clamp_min(0), size).div_(tile).floor_().int().view(-1, 2)
    last = torch.minimum(torch.floor(high).clamp_min(0), size).div_(tile).floor_().int().view(-1, 2)
    spans = (last - first + 1).clamp_min_(0)
    counts = torch.where(projection.visible.reshape(-1), spans[:, 0] * spans[:, 1], 0)

    # All views at once: the sort by tile separates them again. Stable, so that ties repeat bit for
    # bit.
    order = torch.argsort(projection.depths.reshape(-1), stable=True)
    counts = counts[order]
    entries = torch.repeat_interleave(order, counts)
    before = torch.cumsum(counts, 0) - counts
    k = torch.arange(len(entries), device=entries.device) - torch.repeat_interleave(before, counts)
    first, nx = first[entries], spans[:, 0][entries]
    row = first[:, 1] + k // nx
    tiles = (
        (torch.div(entries, count, rounding_mode="floor") * rows + row) * columns
        + first[:, 0]
        + k % nx
    )
    tiles, permutation = torch.sort(tiles.int(), stable=True)
    borders = torch.arange(views * rows * columns + 1, device=tiles.device, dtype=torch.int32)
    return Bins(entries[permutation], torch.searchsorted(tiles, borders), columns, rows)
