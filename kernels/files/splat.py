"""Gaussian clouds as the fields of ComfyUI's native SPLAT type, without importing ComfyUI.

A SPLAT holds positions (B,N,3), linear scales (B,N,3), rotations (B,N,4) wxyz of unit length,
opacities (B,N,1) in 0..1, sh (B,N,K,3) with the constant term first, and counts (B,) or None where
rows are padded with zeros. Its frame is that of splat files: Y down, Z forward.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor

from ..gaussians.cloud import Gaussians
from .frame import from_file_frame, to_file_frame

NAMES = ("positions", "scales", "rotations", "opacities", "sh")
OPACITY_MARGIN = 1e-6  # keeps the logit of an opacity of exactly 0 or 1 finite
SCALE_MIN = 1e-9  # world units; keeps the logarithm of a scale of 0 finite


def to_splat_fields(gaussians: Gaussians) -> dict[str, Tensor]:
    """The keyword arguments of ComfyUI's SPLAT: batches of one, float32 on the CPU. ValueError for
    a bad cloud.
    """
    cloud = to_file_frame(gaussians.check().map(lambda v: v.detach().to("cpu", torch.float32)))
    fields = {
        "positions": cloud.means,
        "scales": cloud.scales,
        "rotations": torch.nn.functional.normalize(cloud.quats, dim=-1),
        "opacities": cloud.opacities[:, None],
        "sh": cloud.sh,
    }
    return {key: value[None].contiguous() for key, value in fields.items()}


def from_splat_fields(splat: Mapping[str, Any] | Any, batch: int = 0) -> Gaussians:
    """The cloud at index ``batch`` of a SPLAT, or of a mapping with its fields; the inverse of
    `to_splat_fields`.

    Rows beyond ``counts`` are padding and dropped. Raises ValueError naming a field that is
    missing, misshapen or not finite, and for a batch without Gaussians.
    """
    values = {}
    for key in (*NAMES, "counts"):
        value = splat.get(key) if isinstance(splat, Mapping) else getattr(splat, key, None)
        if value is None and key != "counts":
            raise ValueError(f"The splat has no {key}; it needs {', '.join(NAMES)}.")
        values[key] = value
    tensors = {key: torch.as_tensor(values[key]).detach().float() for key in NAMES}
    size, rows = (
        tensors["positions"].shape[0],
        tensors["positions"].shape[1] if tensors["positions"].dim() > 1 else 0,
    )
    if not 0 <= batch < size:
        raise ValueError(
            f"The splat holds {size} clouds; there is none at index {batch}. Choose 0..{size - 1}."
        )
    shapes: dict[str, tuple[int, ...]] = {
        "positions": (3,),
        "scales": (3,),
        "rotations": (4,),
        "opacities": (1,),
    }
    shapes["sh"] = (tensors["sh"].shape[2] if tensors["sh"].dim() == 4 else 1, 3)
    for key, tail in shapes.items():
        if tuple(tensors[key].shape) != (size, rows, *tail):
            expected = (size, rows, *tail)
            raise ValueError(
                f"The splat's {key} has shape {tuple(tensors[key].shape)}, expected {expected}."
            )
    count = rows if values["counts"] is None else int(values["counts"][batch])
    if not 0 < count <= rows:
        raise ValueError(
            f"The splat's cloud {batch} holds {count} Gaussians in {rows} rows; at least 1 is"
            " needed."
        )
    row = {key: value[batch, :count] for key, value in tensors.items()}
    known = max(k for k in (1, 4, 9, 16) if k <= max(1, row["sh"].shape[1]))
    rotations = row["rotations"]
    cloud = Gaussians(
        means=row["positions"].contiguous(),
        log_scales=row["scales"].clamp_min(SCALE_MIN).log(),
        quats=torch.where(
            (rotations == 0).all(-1, keepdim=True),
            torch.tensor([1.0, 0, 0, 0]).to(rotations),
            rotations,
        ),
        opacity_logits=row["opacities"][:, 0].clamp(OPACITY_MARGIN, 1 - OPACITY_MARGIN).logit(),
        sh=row["sh"][:, :known].contiguous(),
    )
    return from_file_frame(cloud.check("splat"))
