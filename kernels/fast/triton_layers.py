"""Sums, layer normalisation and GEGLU of `reference` as Triton kernels, and how a table is cut into
tiles.

All arithmetic is float32, whatever the tensors are.
"""

from __future__ import annotations

import torch
import triton
import triton.language as tl
from torch import Tensor

from .launch import launcher

ROWS = 32  # of a tile


@triton.jit
def _add(x_ptr, residual_ptr, shift_ptr, out_ptr, rows, channels, R: tl.constexpr, C: tl.constexpr):
    row, column = tl.program_id(0) * R + tl.arange(0, R), tl.program_id(1) * C + tl.arange(0, C)
    known = column < channels
    inside = (row < rows)[:, None] & known[None, :]
    index = row.to(tl.int64)[:, None] * channels + column[None, :]
    value = tl.load(x_ptr + index, inside, 0.0).to(tl.float32) + tl.load(
        residual_ptr + index, inside, 0.0
    ).to(tl.float32)
    value += tl.load(shift_ptr + column, known, 0.0).to(tl.float32)[None, :]
    tl.store(out_ptr + index, value.to(out_ptr.dtype.element_ty), inside)


@triton.jit
def _layer_norm(
    x_ptr,
    shift_ptr,
    weight_ptr,
    bias_ptr,
    y_ptr,
    rows,
    channels,
    eps,
    R: tl.constexpr,
    C: tl.constexpr,
):
    row, column = tl.program_id(0) * R + tl.arange(0, R), tl.arange(0, C)
    known = column < channels
    inside = (row < rows)[:, None] & known[None, :]
    index = row.to(tl.int64)[:, None] * channels + column[None, :]
    x = tl.load(x_ptr + index, inside, 0.0).to(tl.float32)
    x += tl.load(shift_ptr + column, known, 0.0).to(tl.float32)[None, :]
    d = tl.where(inside, x - (tl.sum(x, 1) / channels)[:, None], 0.0)
    rstd = 1 / tl.sqrt(tl.sum(d * d, 1) / channels + eps)
    weight = tl.load(weight_ptr + column, known, 0.0).to(tl.float32)[None, :]
    bias = tl.load(bias_ptr + column, known, 0.0).to(tl.float32)[None, :]
    tl.store(y_ptr + index, (d * rstd[:, None] * weight + bias).to(y_ptr.dtype.element_ty), inside)


@triton.jit
def _geglu(x_ptr, y_ptr, rows, channels, R: tl.constexpr, C: tl.constexpr):
    row, column = tl.program_id(0) * R + tl.arange(0, R), tl.program_id(1) * C + tl.arange(0, C)
    inside = (row < rows)[:, None] & (column < channels)[None, :]
    index = row.to(tl.int64)[:, None] * 2 * channels + column[None, :]
    a = tl.load(x_ptr + index, inside, 0.0).to(tl.float32)
    b = tl.load(x_ptr + index + channels, inside, 0.0).to(tl.float32)
    y = a * (0.5 * b * (1 + tl.math.erf(b * 0.7071067811865476)))
    out = row.to(tl.int64)[:, None] * channels + column[None, :]
    tl.store(y_ptr + out, y.to(y_ptr.dtype.element_ty), inside)


def columns_of(channels: int) -> int:
    """Columns of a tile: a power of two that divides the channels if one of 32 or more does."""
    return max(min(channels & -channels, 128), min(32, int(triton.next_power_of_2(channels))))


def stored(x: Tensor) -> Tensor:
    """x [N,C,H,W] in the memory order of the kernels, channels last."""
    return x.contiguous(memory_format=torch.channels_last)


def add(x: Tensor, residual: Tensor, shift: Tensor) -> Tensor:
    """`reference.add` of [N,C,H,W]."""
    x, residual = stored(x), stored(residual)
    out, channels = torch.empty_like(x), x.shape[1]
    rows, columns = x.numel() // channels, columns_of(channels)
    launcher(_add, (triton.cdiv(rows, ROWS), triton.cdiv(channels, columns)))(
        x, residual, shift, out, rows, channels, ROWS, columns
    )
    return out


def layer_norm(x: Tensor, shift: Tensor, weight: Tensor, bias: Tensor, eps: float) -> Tensor:
    """`reference.layer_norm` of [N,C]."""
    rows, channels = x.shape
    y, columns = torch.empty_like(x), triton.next_power_of_2(channels)
    height = max(1, 4096 // columns)
    launcher(_layer_norm, (triton.cdiv(rows, height),))(
        x, shift, weight, bias, y, rows, channels, eps, height, columns
    )
    return y


def geglu(x: Tensor) -> Tensor:
    """`reference.geglu` of [N,2C]."""
    rows, channels = x.shape[0], x.shape[1] // 2
    y, columns = x.new_empty((rows, channels)), columns_of(channels)
    launcher(_geglu, (triton.cdiv(rows, ROWS), triton.cdiv(channels, columns)))(
        x, y, rows, channels, ROWS, columns
    )
    return y
