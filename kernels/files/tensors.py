"""Tensors written to a safetensors file one after the other, so that no second copy of them all is
ever in memory.
"""

from __future__ import annotations

import json
import os
from collections.abc import Mapping

import torch
from torch import Tensor

from .atomic import atomic_write

# by the format's own names; those that a training state or a cloud can hold
NAMES = {
    torch.float64: "F64",
    torch.float32: "F32",
    torch.float16: "F16",
    torch.bfloat16: "BF16",
    torch.int64: "I64",
    torch.int32: "I32",
    torch.int16: "I16",
    torch.int8: "I8",
    torch.uint8: "U8",
    torch.bool: "BOOL",
}
PIECE = 1 << 24  # bytes that are fetched and written at once


def write_tensors(
    path: str | os.PathLike[str], tensors: Mapping[str, Tensor], metadata: Mapping[str, str]
) -> None:
    """Write tensors by name as safetensors; atomic. Those on a device come over piece by piece.

    Raises ValueError for a kind of number that the format lacks, and as `atomic_write`.
    """
    header: dict[str, object] = {"__metadata__": dict(metadata)}
    begin = 0
    # wide numbers first, as the format's own writer has them, so that all are aligned
    order = sorted(tensors, key=lambda name: (-tensors[name].element_size(), name))
    for name in order:
        value = tensors[name]
        if value.dtype not in NAMES:
            raise ValueError(f"{name} is {value.dtype}; a safetensors file cannot hold that.")
        end = begin + value.numel() * value.element_size()
        header[name] = {
            "dtype": NAMES[value.dtype],
            "shape": list(value.shape),
            "data_offsets": [begin, end],
        }
        begin = end
    text = json.dumps(header, separators=(",", ":")).encode()
    text += b" " * (-len(text) % 8)
    with atomic_write(path) as file:
        file.write(len(text).to_bytes(8, "little") + text)
        for name in order:
            flat = tensors[name].detach().reshape(-1)
            rows = PIECE // flat.element_size()
            for start in range(0, len(flat), rows):
                piece = flat[start : start + rows].cpu().contiguous().view(torch.uint8)
                file.write(piece.numpy().data)
