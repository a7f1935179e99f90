"""The rasterizer of Triton kernels for GPUs. Importing this module imports triton; `rasterize`
guards it.
"""

from __future__ import annotations

from contextlib import nullcontext
from typing import Any

import torch
import triton
from torch import Tensor
from torch.autograd.function import once_differentiable

from ...cameras.pinhole import Cameras
from ...devices.autograd import Function
from ...gaussians.cloud import Gaussians
from ...gaussians.sh import view_colors
from ..projection import Layers
from . import compositing, projection
from .binning import bin_pairs


def rasterize_triton(
    gaussians: Gaussians, cameras: Cameras, antialiased: bool, depth: bool
) -> Layers:
    """Render a float32 cloud. The first call compiles for some seconds, once on a machine."""
    with torch.cuda.device(gaussians.device) if gaussians.means.is_cuda else nullcontext():
        screens = _Screens(gaussians, cameras, antialiased, depth)
        parameters = (
            gaussians.means,
            gaussians.log_scales,
            gaussians.quats,
            gaussians.opacity_logits,
        )
        means2d, shapes, depths, boxes, counts, visible = _Project.apply(*parameters, screens)
        colors = view_colors(gaussians, cameras)
        images = _Composite.apply(means2d, shapes, colors, depths, boxes, counts, screens)
    return Layers(images[0], images[1], images[2] if depth else None, means2d, visible)


class _Screens:
    """The cameras and their tiles, as the kernels take them."""

    def __init__(
        self, gaussians: Gaussians, cameras: Cameras, antialiased: bool, depth: bool
    ) -> None:
        self.matrices = cameras.viewmats.detach().to(gaussians.means).contiguous()
        self.intrinsics = cameras.intrinsics.detach().to(gaussians.means).contiguous()
        self.views, self.antialiased, self.depth = len(cameras), bool(antialiased), bool(depth)
        self.width, self.height = int(cameras.width), int(cameras.height)
        self.tile = {"TILE_W": compositing.TILE_WIDTH, "TILE_H": compositing.TILE_HEIGHT}
        self.columns = triton.cdiv(self.width, compositing.TILE_WIDTH)
        self.rows = triton.cdiv(self.height, compositing.TILE_HEIGHT)
        self.tiles = self.views * self.rows * self.columns
        self.sizes = (self.width, self.height, self.columns, self.rows)


class _Project(Function):
    @staticmethod
    def forward(
        ctx: Any,
        means: Tensor,
        log_scales: Tensor,
        quats: Tensor,
        logits: Tensor,
        screens: _Screens,
    ) -> tuple[Tensor, ...]:
        inputs = tuple(tensor.contiguous() for tensor in (means, log_scales, quats, logits))
        views, count = screens.views, len(means)
        means2d, shapes, depths = (
            means.new_empty(views, count, *rest) for rest in ((2,), (4,), ())
        )
        boxes, counts = (
            means.new_empty((views, count, *rest), dtype=torch.int32) for rest in ((2,), ())
        )
        outputs = (
            means2d,
            shapes,
            depths,
            boxes,
            counts,
            means.new_empty((views, count), dtype=torch.bool),
        )
        grid = (triton.cdiv(count, projection.LANES), views)
        projection._project[grid](
            *inputs, screens.matrices, screens.intrinsics, *outputs, count, *screens.sizes,
            ANTIALIASED=screens.antialiased, B=projection.LANES, **screens.tile, num_warps=4,
        )  # fmt: skip
        ctx.save_for_backward(*inputs)
        ctx.screens = screens
        ctx.mark_non_differentiable(*outputs[3:])
        return outputs

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, *grads: Tensor) -> tuple[Tensor | None, ...]:
        inputs, screens = ctx.saved_tensors, ctx.screens
        outputs = [torch.empty_like(tensor) for tensor in inputs]
        count = len(inputs[0])
        projection._pull_back[triton.cdiv(count, projection.LANES_BACK),](
            *inputs, screens.matrices, screens.intrinsics, *(grad.contiguous() for grad in grads[:3]), *outputs,
            count, screens.views, screens.width, screens.height,
            ANTIALIASED=screens.antialiased, B=projection.LANES_BACK, num_warps=2,
        )  # fmt: skip
        return *outputs, None


class _Composite(Function):
    @staticmethod
    def forward(
        ctx: Any,
        means2d: Tensor,
        shapes: Tensor,
        colors: Tensor,
        depths: Tensor,
        boxes: Tensor,
        counts: Tensor,
        screens: _Screens,
    ) -> tuple[Tensor, ...]:
        lists = bin_pairs(
            means2d, shapes, depths, boxes, counts, screens.columns, screens.rows, screens.tile
        )
        views, count = depths.shape
        rows = means2d.new_empty(views * count, compositing.ROW)
        color_stride = 3 * count if len(colors) > 1 else 0
        compositing._pack[triton.cdiv(len(rows), compositing.LANES),](
            means2d, shapes, colors.contiguous(), depths, rows, len(rows), count, color_stride,
            B=compositing.LANES, num_warps=4,
        )  # fmt: skip
        planes = means2d.new_empty(5 if screens.depth else 4, views, screens.height, screens.width)
        reached = torch.empty(screens.tiles, dtype=torch.int32, device=rows.device)
        compositing._composite[screens.tiles,](
            rows, lists.entries, lists.offsets, planes, reached, planes[0].numel(), *screens.sizes,
            DEPTH=screens.depth, **screens.tile, num_warps=compositing.WARPS,
        )  # fmt: skip
        tiled = (rows, lists.entries, lists.ranked, lists.offsets, reached, planes)
        ctx.save_for_backward(*tiled, lists.order, lists.counts, lists.ends, lists.tiles)
        ctx.screens, ctx.views, ctx.count, ctx.shared = screens, views, count, len(colors) < views
        return planes[:3].permute(1, 2, 3, 0).contiguous(), *(
            layer[..., None] for layer in planes[3:]
        )

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, *grads: Tensor) -> tuple[Tensor | None, ...]:
        saved, screens, views, count = ctx.saved_tensors, ctx.screens, ctx.views, ctx.count
        rows, entries = saved[:2]
        planes = torch.cat([grad.permute(3, 0, 1, 2) for grad in grads])
        partial = rows.new_empty(len(entries), 10 if screens.depth else 9)
        compositing._composite_back[screens.tiles,](
            *saved[:6], planes, partial, planes[0].numel(), *screens.sizes,
            DEPTH=screens.depth, **screens.tile, num_warps=compositing.WARPS,
        )  # fmt: skip
        outputs = [rows.new_empty(views, count, *rest) for rest in ((2,), (4,), (3,))]
        outputs.append(rows.new_empty(views, count) if screens.depth else None)
        compositing._sum_entries[triton.cdiv(len(rows), compositing.PAIRS),](
            *saved[6:], partial, *outputs, len(rows), screens.tiles,
            DEPTH=screens.depth, R=compositing.PAIRS, K=compositing.STEP, num_warps=4,
        )  # fmt: skip
        to_means2d, to_shapes, to_colors, to_depths = outputs
        if ctx.shared:
            to_colors = to_colors.sum(0, keepdim=True)
        return to_means2d, to_shapes, to_colors, to_depths, None, None, None
