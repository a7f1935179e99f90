"""The CPU rasterizer of compiled loops. Importing this module imports numba; `rasterize` guards it."""

from __future__ import annotations

from typing import Any

import numpy as np
import torch
from torch import Tensor
from torch.autograd.function import once_differentiable

from .cameras import Cameras
from .cloud import Gaussians
from .numba_binning import TILE_HEIGHT, TILE_WIDTH, count_share, fill_share
from .numba_compositing import PIXELS, composite_back_share, composite_share, gather_share
from .numba_projection import ROW, project_share
from .numba_pullback import pull_back_share
from .projection import Layers, pinhole
from .workers import spread

GRAIN = 256  # Gaussians that are worth waking a thread for


def rasterize_numba(gaussians: Gaussians, cameras: Cameras, antialiased: bool, depth: bool) -> Layers:
    """Render a float32 cloud on the CPU. The first call compiles for some seconds."""
    screens = _Screens(cameras, antialiased)
    means2d, rows, extents, depths, visible = _Project.apply(*gaussians.tensors().values(), screens)
    color, alpha, layer = _Composite.apply(means2d, rows, extents, depths, visible, screens)
    return Layers(color, alpha, layer if depth else None, means2d, visible)


class _Screens:
    """The cameras as arrays."""

    def __init__(self, cameras: Cameras, antialiased: bool) -> None:
        single = torch.zeros((), dtype=torch.float32)
        self.width, self.height = int(cameras.width), int(cameras.height)
        tensors = cameras.viewmats, torch.cat(pinhole(cameras, single), 1), cameras.positions
        arrays = (tensor.detach().to(single).contiguous().numpy() for tensor in tensors)
        self.arguments = (*arrays, self.width, self.height, bool(antialiased))
        self.views = len(cameras)


def flat(tensor: Tensor) -> np.ndarray:
    return tensor.detach().reshape(-1).numpy()


class _Project(torch.autograd.Function):
    @staticmethod
    def forward(
        ctx: Any, means: Tensor, log_scales: Tensor, quats: Tensor, logits: Tensor, sh: Tensor, screens: _Screens
    ) -> tuple[Tensor, ...]:
        views, count = screens.views, len(means)
        with np.errstate(over="ignore"):
            strengths = -np.log1p(np.exp(-flat(logits)))
            scales = np.exp(flat(log_scales))
        ctx.cloud = flat(means), scales, flat(quats), strengths, flat(sh)
        means2d, rows, extents = (means.new_empty(views, count, size) for size in (2, ROW, 2))
        depths, visible = means.new_empty(views, count), means.new_empty(views, count, dtype=torch.bool)
        outputs = means2d, rows, extents, depths, visible
        arguments = ctx.cloud, screens.arguments, tuple(flat(output) for output in outputs)
        spread(project_share, count // GRAIN, *arguments)
        ctx.save_for_backward(means, log_scales, quats, logits, sh, rows)
        ctx.screens = screens
        ctx.mark_non_differentiable(*outputs[2:])
        return outputs

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, *grads: Tensor) -> tuple[Tensor | None, ...]:
        *inputs, rows = ctx.saved_tensors
        outputs = [torch.empty_like(tensor, memory_format=torch.contiguous_format) for tensor in inputs]
        given = flat(rows), flat(grads[0]), flat(grads[1])
        arguments = ctx.cloud, ctx.screens.arguments, given, tuple(flat(output) for output in outputs)
        spread(pull_back_share, len(inputs[0]) // GRAIN, *arguments)
        outputs[3] *= torch.sigmoid(-inputs[3])
        return *outputs, None


class _Composite(torch.autograd.Function):
    @staticmethod
    def forward(
        ctx: Any, means2d: Tensor, rows: Tensor, extents: Tensor, depths: Tensor, visible: Tensor, screens: _Screens
    ) -> tuple[Tensor, ...]:
        views, width, height = screens.views, screens.width, screens.height
        color = means2d.new_empty(views, height, width, 3)
        alpha, depth = means2d.new_empty(views, height, width, 1), means2d.new_empty(views, height, width, 1)
        projected = tuple(tensor.detach().numpy() for tensor in (means2d, extents, depths, visible))
        lists = _bin(projected, width, height)
        entries, offsets = lists[:2]
        tiles = len(offsets) - 1
        rest = np.empty(tiles * PIXELS, np.float32), np.empty(tiles * PIXELS, np.float32), np.empty(tiles, np.int64)
        rest = *rest, np.empty(len(entries), np.uint64)
        order = np.lexsort((-np.diff(offsets), np.arange(tiles) // (tiles // views)))  # dealt out long to short, the shares weigh the same
        pictures = color.numpy(), alpha[..., 0].numpy(), depth[..., 0].numpy()
        spread(composite_share, tiles, order, entries, offsets, flat(rows), *pictures, *rest)
        ctx.save_for_backward(rows)
        ctx.lists = (*lists, *rest)
        return color, alpha, depth

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, *grads: Tensor) -> tuple[Tensor | None, ...]:
        (rows,) = ctx.saved_tensors
        entries, offsets, places, firsts, *rest = ctx.lists
        pictures = [grad.contiguous().numpy() for grad in grads]
        pictures[1:] = [picture[..., 0] for picture in pictures[1:]]
        partial = np.empty(len(entries) * ROW, np.float32)
        order = np.lexsort((offsets[:-1] - rest[2], np.arange(len(offsets) - 1) // ((len(offsets) - 1) // rows.shape[0])))
        lists = order, entries, offsets
        spread(composite_back_share, len(order), *lists, flat(rows), *rest, *pictures, partial)
        to_means2d, to_rows = rows.new_empty(*rows.shape[:2], 2), torch.empty_like(rows)
        gathered = to_means2d.view(-1, 2).numpy(), flat(to_rows)
        spread(gather_share, rows.shape[1] // GRAIN, partial, places, firsts, flat(rows), *gathered)
        return to_means2d, to_rows, None, None, None, None


def _bin(projected: tuple[np.ndarray, ...], width: int, height: int) -> tuple[np.ndarray, ...]:
    """Tile lists of all views: entries [E], offsets [tiles+1] into them, slots [E], firsts [V*N+1]."""
    means2d, extents, depths, visible = projected
    views, count = visible.shape
    lengths = np.zeros((views, -(-height // TILE_HEIGHT), -(-width // TILE_WIDTH)), np.int64)
    touched = np.zeros((views, count), np.int64)
    spread(count_share, views, means2d, extents, visible, width, height, lengths, touched)
    offsets, firsts = running_sum(lengths), running_sum(touched)
    entries, slots = np.empty(offsets[-1], np.int32), np.empty(offsets[-1], np.int32)
    places = offsets[:-1].reshape(lengths.shape).copy()
    spread(fill_share, views, means2d, extents, depths, visible, width, height, places, firsts, entries, slots)
    return entries, offsets, slots, firsts


def running_sum(counts: np.ndarray) -> np.ndarray:
    """Where each run begins when runs of these lengths follow each other, and where the last ends."""
    return np.concatenate((np.zeros(1, np.int64), np.cumsum(counts)))
