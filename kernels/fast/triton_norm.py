"""Group normalisation, with what `reference.add_norm_act` does around it, and its gradient as Triton
kernels, for images stored channels last.

An image [N,C,H,W] stored channels last is a table of N x H x W rows of C numbers. A group is a few
neighbouring columns of all rows of one picture, so its sums are taken per column over slabs of
rows, then joined. All arithmetic is float32, whatever the pictures are; the sums have a fixed
order, so the same input gives the same bits.
"""

from __future__ import annotations

import torch
import triton
import triton.language as tl
from torch import Tensor

from .launch import launcher
from .reference import Norm
from .triton_layers import ROWS, columns_of, stored

WARPS = 4  # that share one
# about as many as keep a large GPU busy; more only lengthen the list of partial sums
PROGRAMS = 2048
# few compilations
counting = triton.jit(do_not_specialize=["pixels", "tiles", "slabs", "width", "shift_stride"])


@triton.jit
def _activated(z, SILU: tl.constexpr):
    """The activation of z and its slope there."""
    if SILU:
        # its square is the sigmoid, in the fewest instructions
        root = tl.rsqrt(1 + tl.exp2(-1.4426950408889634 * z))
        gate = root * root
        y = z * gate
        return y, gate + y * (1 - gate)
    return z, tl.full(z.shape, 1.0, tl.float32)


@triton.jit
def _last_first():
    """Slab and picture of this program: from the end, where the layer before has written last,
    which the cache has.
    """
    return tl.num_programs(0) - 1 - tl.program_id(0), tl.num_programs(2) - 1 - tl.program_id(2)


@counting
def _column_sums(
    x_ptr, residual_ptr, shift_ptr, total_ptr, pivot_ptr, sums_ptr,
    pixels, channels, shift_stride, tiles, slabs,
    RESIDUAL: tl.constexpr, SHIFT: tl.constexpr, R: tl.constexpr, C: tl.constexpr,
):  # fmt: skip
    """Per column of a slab the sums of d and d^2, d = total - the column's first value; stores
    total if it is new.
    """
    part, n = _last_first()
    column = tl.program_id(1) * C + tl.arange(0, C)
    known = column < channels
    base = n.to(tl.int64) * pixels * channels
    shift = tl.zeros([C], tl.float32)
    if SHIFT:
        shift += tl.load(shift_ptr + n * shift_stride + column, known, 0.0).to(tl.float32)
    pivot = tl.load(x_ptr + base + column, known, 0.0).to(tl.float32) + shift
    if RESIDUAL:
        pivot += tl.load(residual_ptr + base + column, known, 0.0).to(tl.float32)
    first, second = tl.zeros([R, C], tl.float32), tl.zeros([R, C], tl.float32)
    tile = part * tiles
    # not range: Triton's interpreter cannot count to a number it is given
    while tile < (part + 1) * tiles:
        row = tile * R + tl.arange(0, R)
        inside = (row < pixels)[:, None] & known[None, :]
        index = base + row[:, None] * channels + column[None, :]
        value = tl.load(x_ptr + index, inside, 0.0).to(tl.float32) + shift[None, :]
        if RESIDUAL:
            value += tl.load(residual_ptr + index, inside, 0.0).to(tl.float32)
            rounded = value.to(total_ptr.dtype.element_ty)
            tl.store(total_ptr + index, rounded, inside)
            value = rounded.to(tl.float32)
        d = tl.where(inside, value - pivot[None, :], 0.0)
        first += d
        second += d * d
        tile += 1
    out = sums_ptr + ((n * slabs + part) * 2).to(tl.int64) * channels + column
    tl.store(out, tl.sum(first, 0), known)
    tl.store(out + channels, tl.sum(second, 0), known)
    if part == 0:
        tl.store(pivot_ptr + n * channels + column, pivot, known)


@counting
def _group_moments(
    pivot_ptr, sums_ptr, mean_ptr, rstd_ptr, pixels, channels, groups, width, slabs, eps,
    S: tl.constexpr, W: tl.constexpr,
):  # fmt: skip
    """Mean and 1 / standard deviation of a group from its columns' sums."""
    g, n = tl.program_id(0), tl.program_id(1)
    lane = tl.arange(0, W)
    column, known = g * width + lane, lane < width
    first, second = tl.zeros([S, W], tl.float32), tl.zeros([S, W], tl.float32)
    start = 0
    while start < slabs:
        part = start + tl.arange(0, S)
        inside = (part < slabs)[:, None] & known[None, :]
        index = ((n * slabs + part) * 2).to(tl.int64)[:, None] * channels + column[None, :]
        first += tl.load(sums_ptr + index, inside, 0.0)
        second += tl.load(sums_ptr + index + channels, inside, 0.0)
        start += S
    total = tl.sum(first, 0)
    means = tl.load(pivot_ptr + n * channels + column, known, 0.0) + total / pixels
    mean = tl.sum(tl.where(known, means, 0.0), 0) / width
    spread = tl.sum(second, 0) - total * total / pixels + pixels * (means - mean) * (means - mean)
    variance = tl.sum(tl.where(known, spread, 0.0), 0) / (pixels * width)
    tl.store(mean_ptr + n * groups + g, mean)
    tl.store(rstd_ptr + n * groups + g, 1 / tl.sqrt(tl.maximum(variance, 0.0) + eps))


@counting
def _normalise(
    x_ptr, shift_ptr, weight_ptr, bias_ptr, mean_ptr, rstd_ptr, y_ptr,
    pixels, channels, groups, width, shift_stride,
    SHIFT: tl.constexpr, SILU: tl.constexpr, R: tl.constexpr, C: tl.constexpr,
):  # fmt: skip
    row, n = tl.program_id(0) * R + tl.arange(0, R), tl.program_id(2)
    column = tl.program_id(1) * C + tl.arange(0, C)
    known = column < channels
    inside = (row < pixels)[:, None] & known[None, :]
    index = n.to(tl.int64) * pixels * channels + row[:, None] * channels + column[None, :]
    group = n * groups + column // width
    mean, rstd = tl.load(mean_ptr + group, known, 0.0), tl.load(rstd_ptr + group, known, 0.0)
    scale = rstd * tl.load(weight_ptr + column, known, 0.0).to(tl.float32)
    if SHIFT:
        mean -= tl.load(shift_ptr + n * shift_stride + column, known, 0.0).to(tl.float32)
    offset = tl.load(bias_ptr + column, known, 0.0).to(tl.float32) - mean * scale
    x = tl.load(x_ptr + index, inside, 0.0).to(tl.float32)
    y, _ = _activated(x * scale[None, :] + offset[None, :], SILU)
    tl.store(y_ptr + index, y.to(y_ptr.dtype.element_ty), inside)


@counting
def _gradient_sums(
    x_ptr, grad_ptr, shift_ptr, weight_ptr, bias_ptr, mean_ptr, rstd_ptr, sums_ptr,
    pixels, channels, groups, width, shift_stride, tiles, slabs,
    SHIFT: tl.constexpr, SILU: tl.constexpr, R: tl.constexpr, C: tl.constexpr,
):  # fmt: skip
    """Per column of a slab the sums of dL/dnormal and of dL/dnormal * normal."""
    part, n = _last_first()
    column = tl.program_id(1) * C + tl.arange(0, C)
    known = column < channels
    base = n.to(tl.int64) * pixels * channels
    group = n * groups + column // width
    mean, rstd = tl.load(mean_ptr + group, known, 0.0), tl.load(rstd_ptr + group, known, 0.0)
    weight = tl.load(weight_ptr + column, known, 0.0).to(tl.float32)
    if SHIFT:
        mean -= tl.load(shift_ptr + n * shift_stride + column, known, 0.0).to(tl.float32)
    scale = rstd * weight
    offset = tl.load(bias_ptr + column, known, 0.0).to(tl.float32) - mean * scale
    first, second = tl.zeros([R, C], tl.float32), tl.zeros([R, C], tl.float32)
    tile = part * tiles
    while tile < (part + 1) * tiles:
        row = tile * R + tl.arange(0, R)
        inside = (row < pixels)[:, None] & known[None, :]
        index = base + row[:, None] * channels + column[None, :]
        x = tl.load(x_ptr + index, inside, 0.0).to(tl.float32)
        # 0 outside: adds nothing to the sums
        grad = tl.load(grad_ptr + index, inside, 0.0).to(tl.float32)
        _, slope = _activated(x * scale[None, :] + offset[None, :], SILU)
        first += grad * slope
        second += (grad * slope) * (x * rstd[None, :] - (mean * rstd)[None, :])
        tile += 1
    out = sums_ptr + ((n * slabs + part) * 2).to(tl.int64) * channels + column
    tl.store(out, tl.sum(first, 0) * weight, known)
    tl.store(out + channels, tl.sum(second, 0) * weight, known)


@counting
def _group_means(
    sums_ptr, means_ptr, pixels, channels, groups, width, slabs, S: tl.constexpr, W: tl.constexpr
):
    """Both sums of a group over its columns and slabs, divided by its size."""
    g, n = tl.program_id(0), tl.program_id(1)
    lane = tl.arange(0, W)
    first, second = tl.zeros([S, W], tl.float32), tl.zeros([S, W], tl.float32)
    start = 0
    while start < slabs:
        part = start + tl.arange(0, S)
        inside = (part < slabs)[:, None] & (lane < width)[None, :]
        index = (
            ((n * slabs + part) * 2).to(tl.int64)[:, None] * channels + g * width + lane[None, :]
        )
        first += tl.load(sums_ptr + index, inside, 0.0)
        second += tl.load(sums_ptr + index + channels, inside, 0.0)
        start += S
    out = means_ptr + (n * groups + g) * 2
    tl.store(out, tl.sum(tl.sum(first, 0), 0) / (pixels * width))
    tl.store(out + 1, tl.sum(tl.sum(second, 0), 0) / (pixels * width))


@counting
def _gradient(
    x_ptr, grad_ptr, further_ptr, shift_ptr, weight_ptr, bias_ptr, mean_ptr, rstd_ptr, means_ptr, out_ptr,
    pixels, channels, groups, width, shift_stride,
    FURTHER: tl.constexpr, SHIFT: tl.constexpr, SILU: tl.constexpr, R: tl.constexpr, C: tl.constexpr,
):  # fmt: skip
    """dL/dx = rstd (dL/dnormal - its mean - normal * mean of dL/dnormal normal), plus what reaches
    x besides.
    """
    row, n = tl.program_id(0) * R + tl.arange(0, R), tl.program_id(2)
    column = tl.program_id(1) * C + tl.arange(0, C)
    known = column < channels
    inside = (row < pixels)[:, None] & known[None, :]
    index = n.to(tl.int64) * pixels * channels + row[:, None] * channels + column[None, :]
    group = n * groups + column // width
    mean, rstd = tl.load(mean_ptr + group, known, 0.0), tl.load(rstd_ptr + group, known, 0.0)
    scale = rstd * tl.load(weight_ptr + column, known, 0.0).to(tl.float32)
    if SHIFT:
        mean -= tl.load(shift_ptr + n * shift_stride + column, known, 0.0).to(tl.float32)
    offset = tl.load(bias_ptr + column, known, 0.0).to(tl.float32) - mean * scale
    plain = rstd * tl.load(means_ptr + group * 2, known, 0.0)
    along = rstd * rstd * tl.load(means_ptr + group * 2 + 1, known, 0.0)
    level = mean * along - plain
    x = tl.load(x_ptr + index, inside, 0.0).to(tl.float32)
    grad = tl.load(grad_ptr + index, inside, 0.0).to(tl.float32)
    _, slope = _activated(x * scale[None, :] + offset[None, :], SILU)
    out = (grad * slope) * scale[None, :] + (level[None, :] - x * along[None, :])
    if FURTHER:
        out += tl.load(further_ptr + index, inside, 0.0).to(tl.float32)
    tl.store(out_ptr + index, out.to(out_ptr.dtype.element_ty), inside)


class _Shape:
    """How a picture [N,C,H,W] is cut into tiles and slabs."""

    def __init__(self, x: Tensor, norm: Norm) -> None:
        self.n, self.channels, height, width = x.shape
        self.pixels, self.groups = height * width, norm.groups
        self.width = self.channels // norm.groups
        self.columns = columns_of(self.channels)
        across = triton.cdiv(self.channels, self.columns)
        wanted = self.n * self.pixels * across // PROGRAMS
        self.tiles = max(1, min(1024, triton.next_power_of_2(wanted + 1) // 2) // ROWS)  # per slab
        self.slabs = triton.cdiv(self.pixels, self.tiles * ROWS)
        self.slab_grid = (self.slabs, across, self.n)
        self.tile_grid = (triton.cdiv(self.pixels, ROWS), across, self.n)
        self.group_grid = (self.groups, self.n)
        lanes = triton.next_power_of_2(self.width)
        self.join = {"S": max(16, min(512, 4096 // lanes)), "W": lanes}
        self.tile = {"R": ROWS, "C": self.columns, "num_warps": WARPS}


def forward(
    x: Tensor, residual: Tensor | None, shift: Tensor | None, norm: Norm
) -> tuple[Tensor, ...]:
    """(x + residual + shift, or x without a residual; `norm_act`; mean; 1/std), the last two
    [N,groups] float32.
    """
    x, residual = stored(x), None if residual is None else stored(residual)
    cut = _Shape(x, norm)
    total = x if residual is None else torch.empty_like(x)
    y = torch.empty_like(x)
    sums = torch.empty((cut.n, cut.slabs, 2, cut.channels), device=x.device, dtype=torch.float32)
    pivot = torch.empty((cut.n, cut.channels), device=x.device, dtype=torch.float32)
    mean, rstd = torch.empty((2, cut.n, cut.groups), device=x.device, dtype=torch.float32).unbind(0)
    stride = 0 if shift is None or shift.dim() == 1 else shift.stride(0)
    launcher(_column_sums, cut.slab_grid)(
        x, residual, shift, total, pivot, sums, cut.pixels, cut.channels, stride, cut.tiles, cut.slabs,
        RESIDUAL=residual is not None, SHIFT=shift is not None, **cut.tile,
    )  # fmt: skip
    launcher(_group_moments, cut.group_grid)(
        pivot,
        sums,
        mean,
        rstd,
        cut.pixels,
        cut.channels,
        cut.groups,
        cut.width,
        cut.slabs,
        norm.eps,
        **cut.join,
    )
    left = None if residual is not None else shift  # a stored total has the shift in it
    launcher(_normalise, cut.tile_grid)(
        total, left, norm.weight, norm.bias, mean, rstd, y, cut.pixels, cut.channels, cut.groups, cut.width, stride,
        SHIFT=left is not None, SILU=norm.silu, **cut.tile,
    )  # fmt: skip
    return total, y, mean, rstd


def backward(
    total: Tensor,
    shift: Tensor | None,
    grad: Tensor,
    further: Tensor | None,
    norm: Norm,
    mean: Tensor,
    rstd: Tensor,
) -> Tensor:
    """dL/dx of `forward`, given dL/dy and, where the sum was used too, dL/dsum; shift if it is not
    in total.

    total, grad, further and the result [N,C,H,W]; mean, rstd [N, groups].
    """
    grad, further = stored(grad), None if further is None else stored(further)
    cut = _Shape(total, norm)
    sums = torch.empty(
        (cut.n, cut.slabs, 2, cut.channels), device=total.device, dtype=torch.float32
    )
    means = torch.empty((cut.n, cut.groups, 2), device=total.device, dtype=torch.float32)
    out = torch.empty_like(total)
    stride = 0 if shift is None or shift.dim() == 1 else shift.stride(0)
    sizes = (cut.pixels, cut.channels, cut.groups, cut.width)
    given = (shift, norm.weight, norm.bias, mean, rstd)
    how = {"SHIFT": shift is not None, "SILU": norm.silu, **cut.tile}
    launcher(_gradient_sums, cut.slab_grid)(
        total, grad, *given, sums, *sizes, stride, cut.tiles, cut.slabs, **how
    )
    launcher(_group_means, cut.group_grid)(sums, means, *sizes, cut.slabs, **cut.join)
    launcher(_gradient, cut.tile_grid)(
        total, grad, further, *given, means, out, *sizes, stride, FURTHER=further is not None, **how
    )
    return out
