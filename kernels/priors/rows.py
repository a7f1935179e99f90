"""A text as its own encoder gives it, where one tensor of a fixed size does not hold that."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor


@dataclass(frozen=True, eq=False)
class TextRow:
    """One text: tensors of any length, masks, token ids and plain values, by their encoder's names.

    Rows are told apart as objects, so that a prior can keep what it has made of one.
    """

    values: Mapping[str, Any]

    def to(self, device: torch.device | str) -> TextRow:
        """The same on another device; itself where it is there already."""
        moved = {
            name: value.to(device) if isinstance(value, Tensor) else value
            for name, value in self.values.items()
        }
        same = all(value is self.values[name] for name, value in moved.items())
        return self if same else TextRow(moved)


def blend(a: TextRow, b: TextRow, weight: float) -> TextRow:
    """(1 - weight) a + weight b. At 0 and 1 the rows themselves.

    Numbers are blended; masks, token ids and plain values cannot be, and are those of the nearer
    text, or of the longer where their sizes differ. Of texts of different lengths the shorter ends
    on its last token over and over.
    """
    if weight <= 0 or weight >= 1:
        return b if weight > 0 else a
    near, far = (b, a) if weight >= 0.5 else (a, b)
    return TextRow(
        {
            name: _blended(a.values.get(name), b.values.get(name), weight, value)
            if name in far.values
            else value
            for name, value in near.values.items()
        }
    )


def _blended(a: Any, b: Any, weight: float, near: Any) -> Any:
    if not isinstance(a, Tensor) or not isinstance(b, Tensor) or a.dim() != b.dim():
        return near
    if not a.is_floating_point():
        return near if a.shape == b.shape else max(a, b, key=Tensor.numel)
    for dim in range(a.dim()):
        size = max(a.shape[dim], b.shape[dim])
        a, b = lengthened(a, dim, size), lengthened(b, dim, size)
    return torch.lerp(a, b, weight)


def lengthened(value: Tensor, dim: int, size: int, repeat: bool = True) -> Tensor:
    """``value`` with ``size`` entries along ``dim``: its last one again and again, or zeros."""
    missing = size - value.shape[dim]
    if missing == 0:
        return value
    shape = [*value.shape]
    shape[dim] = missing
    if repeat and value.shape[dim]:
        more = value.narrow(dim, value.shape[dim] - 1, 1).expand(shape)
    else:
        more = value.new_zeros(shape)
    return torch.cat([value, more], dim)


def stacked(values: Sequence[Tensor]) -> Tensor:
    """[B,L,D] of texts [b,l,D], zeros behind the shorter ones."""
    longest = max(value.shape[1] for value in values)
    return torch.cat([lengthened(value, 1, longest, repeat=False) for value in values])
