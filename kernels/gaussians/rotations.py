"""Quaternions and what they turn."""

from __future__ import annotations

import torch
from torch import Tensor


def rotations(quats: Tensor) -> Tensor:
    """Rotation matrices [N,3,3] of wxyz quaternions [N,4] of any non-zero length."""
    w, x, y, z = torch.nn.functional.normalize(quats, dim=-1).unbind(-1)
    rows = (
        *(1 - 2 * (y * y + z * z), 2 * (x * y - w * z), 2 * (x * z + w * y)),
        *(2 * (x * y + w * z), 1 - 2 * (x * x + z * z), 2 * (y * z - w * x)),
        *(2 * (x * z - w * y), 2 * (y * z + w * x), 1 - 2 * (x * x + y * y)),
    )
    return torch.stack(rows, -1).view(*quats.shape[:-1], 3, 3)


def facing(normals: Tensor) -> Tensor:
    """Quaternions [N,4] wxyz that turn the local Z axis to the normals [N,3]."""
    x, y, z = torch.nn.functional.normalize(normals, dim=-1).unbind(-1)
    zero = torch.zeros_like(z)
    # Half-way rotation (1 + z.n, z x n); straight down has none, so it turns about X.
    quats = torch.stack([1 + z, -y, x, zero], -1)
    down = torch.tensor([0.0, 1, 0, 0]).to(quats)
    return torch.nn.functional.normalize(torch.where((z < -1 + 1e-6)[:, None], down, quats), dim=-1)
