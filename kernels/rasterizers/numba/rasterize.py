"""The CPU rasterizer of compiled loops. Importing this module imports numba; `rasterize` guards
it.
"""

from __future__ import annotations

from typing import Any

import numpy as np
import torch
from torch import Tensor
from torch.autograd.function import once_differentiable

from ...cameras.pinhole import Cameras
from ...devices.autograd import Function
from ...devices.workers import spread, team
from ...gaussians.cloud import Gaussians
from ..projection import Layers, pinhole
from .binning import TILE_HEIGHT, TILE_WIDTH, bin_share
from .compositing import composite_back_share, composite_share, gather_share
from .projection import ROW, project_share
from .pullback import pull_back_share
from .tile import PIXELS

GRAIN = 256  # Gaussians that are worth waking a thread for


def rasterize_numba(
    gaussians: Gaussians, cameras: Cameras, antialiased: bool, depth: bool
) -> Layers:
    """Render a float32 cloud on the CPU. The first call compiles for some seconds."""
    screens = _Screens(cameras, antialiased)
    means2d, rows, visible = _Project.apply(*gaussians.tensors().values(), screens)
    color, alpha, layer = _Composite.apply(means2d, rows, screens)
    return Layers(color, alpha, layer if depth else None, means2d, visible)


class _Screens:
    """The cameras as arrays, and what the projection leaves for the tile lists."""

    depths: np.ndarray  # [V,N]
    boxes: np.ndarray  # [V,N,4] first and one past the last column, then row of tiles
    lengths: np.ndarray  # [workers,V*tiles] Gaussians per tile that each worker found

    def __init__(self, cameras: Cameras, antialiased: bool) -> None:
        single = torch.zeros((), dtype=torch.float32)
        self.width, self.height = int(cameras.width), int(cameras.height)
        tensors = cameras.viewmats, torch.cat(pinhole(cameras, single), 1), cameras.positions
        arrays = (tensor.detach().to(single).contiguous().numpy() for tensor in tensors)
        self.arguments = (*arrays, self.width, self.height, bool(antialiased))
        self.views = len(cameras)
        self.columns, self.rows = -(-self.width // TILE_WIDTH), -(-self.height // TILE_HEIGHT)

    def bin(self) -> tuple[np.ndarray, ...]:
        """Tile lists of all views: entries [E], offsets [tiles+1] into them, slots [E], firsts
        [V*N+1].
        """
        offsets = np.concatenate((np.zeros(1, np.int64), np.cumsum(self.lengths.sum(0))))
        number, tiles = int(offsets[-1]), self.columns * self.rows
        entries, slots = np.empty(number, np.int32), np.empty(number, np.int32)
        firsts = np.empty(self.depths.size + 1, np.int64)
        by_view = np.lib.stride_tricks.sliding_window_view(offsets, tiles + 1)[::tiles]
        given = self.boxes, self.depths, self.columns, np.ascontiguousarray(by_view)
        spread(bin_share, self.views, *given, entries, slots, firsts)
        return entries, offsets, slots, firsts

    def order(self, work: np.ndarray) -> np.ndarray:
        """The tiles view by view, so that the caches hold one view's Gaussians, and most work
        first.
        """
        return np.lexsort((-work, np.arange(len(work)) // (self.columns * self.rows)))


def new_queue() -> np.ndarray:
    """A counter for workers that take the next piece of work whenever they are done with one."""
    return np.zeros(1, np.int64)


def flat(tensor: Tensor) -> np.ndarray:
    """The numbers of a CPU tensor as one row, without copying where they lie in order."""
    return tensor.detach().reshape(-1).numpy()


class _Project(Function):
    @staticmethod
    def forward(
        ctx: Any,
        means: Tensor,
        log_scales: Tensor,
        quats: Tensor,
        logits: Tensor,
        sh: Tensor,
        screens: _Screens,
    ) -> tuple[Tensor, ...]:
        views, count = screens.views, len(means)
        with np.errstate(over="ignore"):
            strengths = -np.log1p(np.exp(-flat(logits)))
            scales = np.exp(flat(log_scales))
        ctx.cloud = flat(means), scales, flat(quats), strengths, flat(sh)
        means2d, rows = means.new_empty(views, count, 2), means.new_empty(views, count, ROW)
        visible = means.new_empty(views, count, dtype=torch.bool)
        screens.depths, screens.boxes = (
            np.empty((views, count), np.float32),
            np.empty((views, count, 4), np.int16),
        )
        workers = team(count // GRAIN)
        screens.lengths = np.zeros((workers, views * screens.columns * screens.rows), np.int64)
        outputs = (
            flat(means2d),
            flat(rows),
            screens.depths.ravel(),
            flat(visible),
            screens.boxes.ravel(),
        )
        spread(project_share, workers, ctx.cloud, screens.arguments, (*outputs, screens.lengths))
        ctx.save_for_backward(means, log_scales, quats, logits, sh, rows)
        ctx.screens = screens
        ctx.mark_non_differentiable(visible)
        return means2d, rows, visible

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, *grads: Tensor) -> tuple[Tensor | None, ...]:
        *inputs, rows = ctx.saved_tensors
        outputs = [
            torch.empty_like(tensor, memory_format=torch.contiguous_format) for tensor in inputs
        ]
        given = flat(rows), flat(grads[0]), flat(grads[1])
        arguments = (
            ctx.cloud,
            ctx.screens.arguments,
            given,
            tuple(flat(output) for output in outputs),
        )
        spread(pull_back_share, len(inputs[0]) // GRAIN, *arguments)
        outputs[3] *= torch.sigmoid(-inputs[3])
        return *outputs, None


class _Composite(Function):
    @staticmethod
    def forward(ctx: Any, means2d: Tensor, rows: Tensor, screens: _Screens) -> tuple[Tensor, ...]:
        views, width, height = screens.views, screens.width, screens.height
        color = means2d.new_empty(views, height, width, 3)
        alpha, depth = (
            means2d.new_empty(views, height, width, 1),
            means2d.new_empty(views, height, width, 1),
        )
        entries, offsets, *slot_entries = screens.bin()
        tiles = screens.lengths.shape[1]
        kept = [np.empty(tiles * PIXELS, np.float32), np.empty(tiles * PIXELS, np.float32)]
        kept += [np.empty(tiles, np.int64), np.empty(len(entries), np.uint64)]
        images = color.numpy(), alpha[..., 0].numpy(), depth[..., 0].numpy()
        order = screens.order(np.diff(offsets))
        spread(
            composite_share, tiles, new_queue(), order, entries, offsets, flat(rows), *images, *kept
        )
        ctx.save_for_backward(rows)
        ctx.lists, ctx.slot_entries, ctx.screens = (entries, offsets, *kept), slot_entries, screens
        return color, alpha, depth

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, *grads: Tensor) -> tuple[Tensor | None, ...]:
        (rows,) = ctx.saved_tensors
        entries, offsets, *kept = ctx.lists
        color, alpha, depth = (grad.contiguous().numpy() for grad in grads)
        images = color, alpha[..., 0], depth[..., 0]
        partial = np.empty(len(entries) * ROW, np.float32)
        order = ctx.screens.order(kept[2] - offsets[:-1])
        spread(
            composite_back_share,
            len(order),
            new_queue(),
            order,
            entries,
            offsets,
            flat(rows),
            *kept,
            *images,
            partial,
        )
        to_means2d, to_rows = rows.new_empty(*rows.shape[:2], 2), torch.empty_like(rows)
        gathered = to_means2d.view(-1, 2).numpy(), flat(to_rows)
        spread(
            gather_share, rows.shape[1] // GRAIN, partial, *ctx.slot_entries, flat(rows), *gathered
        )
        return to_means2d, to_rows, None
