"""The turn between our world (Y up, front +Z) and the frame of splat files (COLMAP and 3DGS: Y down, front -Z)."""

from __future__ import annotations

from dataclasses import replace

import torch

from ..gaussians.cloud import Gaussians

# Both frames are right-handed, so the turn is half a revolution about X: (x, y, z) -> (x, -y, -z), its own inverse.
# Every real spherical harmonic is even or odd in (y, z), so it only changes sign. Order as in 3DGS, degrees 0 to 3.
SH_SIGNS = (1, -1, -1, 1, -1, 1, 1, -1, 1, -1, 1, -1, -1, 1, -1, 1)


def to_file_frame(gaussians: Gaussians) -> Gaussians:
    """The cloud as splat files and ComfyUI's SPLAT hold it; the training state is dropped."""
    w, x, y, z = gaussians.quats.unbind(-1)
    return _turned(gaussians, torch.stack([-x, w, -z, y], -1))  # the quaternion i times q


def from_file_frame(gaussians: Gaussians) -> Gaussians:
    """The inverse of `to_file_frame`, exact to the bit."""
    w, x, y, z = gaussians.quats.unbind(-1)
    return _turned(gaussians, torch.stack([x, -w, z, -y], -1))  # -i times q


def _turned(gaussians: Gaussians, quats: torch.Tensor) -> Gaussians:
    signs = torch.tensor(SH_SIGNS[: gaussians.sh.shape[1]]).to(gaussians.sh)
    means = gaussians.means * torch.tensor([1.0, -1.0, -1.0]).to(gaussians.means)
    return replace(gaussians, means=means, quats=quats, sh=gaussians.sh * signs[:, None], training=None)
