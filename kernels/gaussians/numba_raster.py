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
from .numba_projection import project_share, pull_back_share
from .projection import Layers, pinhole
from .sh import view_colors
from .workers import spread

GRAIN = 256  # Gaussians that are worth waking a thread for


def rasterize_numba(gaussians: Gaussians, cameras: Cameras, antialiased: bool, depth: bool) -> Layers:
    """Render a float32 cloud on the CPU. The first call compiles for some seconds."""
    screens = _Screens(cameras, antialiased)
    parameters = (gaussians.means, gaussians.log_scales, gaussians.quats, gaussians.opacity_logits)
    means2d, shapes, depths, extents, visible = _Project.apply(*parameters, screens)
    colors = view_colors(gaussians, cameras)
    color, alpha, layer = _Composite.apply(means2d, shapes, colors, depths, extents, visible, screens)
    return Layers(color, alpha, layer if depth else None, means2d, visible)


class _Screens:
    """The cameras as arrays."""

    def __init__(self, cameras: Cameras, antialiased: bool) -> None:
        double = torch.zeros((), dtype=torch.float64)
        self.views = cameras.viewmats.detach().to(double).contiguous().numpy()
        self.pinholes = torch.cat(pinhole(cameras, double), 1).detach().contiguous().numpy()
        self.width, self.height, self.antialiased = int(cameras.width), int(cameras.height), bool(antialiased)

    @property
    def arguments(self) -> tuple:
        return self.views, self.pinholes, self.width, self.height, self.antialiased


def arrays(*tensors: Tensor) -> tuple[np.ndarray, ...]:
    return tuple(tensor.detach().contiguous().numpy() for tensor in tensors)


class _Project(torch.autograd.Function):
    @staticmethod
    def forward(
        ctx: Any, means: Tensor, log_scales: Tensor, quats: Tensor, logits: Tensor, screens: _Screens
    ) -> tuple[Tensor, ...]:
        views, count = len(screens.views), len(means)
        outputs = [means.new_empty(views, count, *rest) for rest in ((2,), (4,), (), (2,))]
        outputs.append(means.new_empty(views, count, dtype=torch.bool))
        inputs = arrays(means, log_scales, quats, logits)
        spread(project_share, count // GRAIN, inputs, screens.arguments, arrays(*outputs))
        ctx.save_for_backward(means, log_scales, quats, logits)
        ctx.screens = screens
        ctx.mark_non_differentiable(*outputs[3:])
        return tuple(outputs)

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, *grads: Tensor) -> tuple[Tensor | None, ...]:
        inputs = ctx.saved_tensors
        outputs = [torch.empty_like(tensor, memory_format=torch.contiguous_format) for tensor in inputs]
        tuples = arrays(*inputs), ctx.screens.arguments, arrays(*grads[:3]), arrays(*outputs)
        spread(pull_back_share, len(outputs[0]) // GRAIN, *tuples)
        return *outputs, None


class _Composite(torch.autograd.Function):
    @staticmethod
    def forward(
        ctx: Any,
        means2d: Tensor,
        shapes: Tensor,
        colors: Tensor,
        depths: Tensor,
        extents: Tensor,
        visible: Tensor,
        screens: _Screens,
    ) -> tuple[Tensor, ...]:
        views, width, height = len(screens.views), screens.width, screens.height
        color = means2d.new_empty(views, height, width, 3)
        alpha, depth = means2d.new_empty(views, height, width, 1), means2d.new_empty(views, height, width, 1)
        lists = _bin(arrays(means2d, extents, depths, visible), width, height)
        entries, offsets = lists[:2]
        tiles = len(offsets) - 1
        rest = np.empty((tiles, PIXELS), np.float32), np.empty((tiles, PIXELS), np.float32), np.empty(tiles, np.int64)
        order = np.argsort(-np.diff(offsets), kind="stable")  # dealt out long to short, the shares weigh the same
        flat = arrays(*flatten(means2d, shapes, extents, colors, depths))
        pictures = arrays(color, alpha[..., 0], depth[..., 0])
        spread(composite_share, tiles, order, entries, offsets, *flat, *pictures, *rest)
        ctx.save_for_backward(means2d, shapes, colors, depths, extents)
        ctx.lists = (*lists, *rest)
        return color, alpha, depth

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, grad_color: Tensor, grad_alpha: Tensor, grad_depth: Tensor) -> tuple[Tensor | None, ...]:
        means2d, shapes, colors, depths, extents = ctx.saved_tensors
        entries, offsets, slots, firsts, *rest = ctx.lists
        flat = arrays(*flatten(means2d, shapes, extents, colors, depths))
        pictures = arrays(grad_color, grad_alpha[..., 0], grad_depth[..., 0])
        grads = [torch.empty_like(t, memory_format=torch.contiguous_format) for t in (means2d, shapes, colors, depths)]
        partial = np.empty((len(entries), 10), np.float32)
        order = np.argsort(offsets[:-1] - rest[-1], kind="stable")
        lists = order, entries, slots, offsets
        spread(composite_back_share, len(order), *lists, *flat, *rest, *pictures, partial)
        spread(gather_share, colors.shape[1] // GRAIN, partial, firsts, *arrays(*flatten(*grads)))
        return *grads, None, None, None


def flatten(*tensors: Tensor) -> list[Tensor]:
    """[V,N,...] as [V*N,...]"""
    return [tensor.detach().flatten(0, 1) for tensor in tensors]


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
