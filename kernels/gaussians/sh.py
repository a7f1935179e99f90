"""Real spherical harmonics in the order and signs of 3DGS (Kerbl et al. 2023)."""

from __future__ import annotations

import torch
from torch import Tensor

from ..cameras.pinhole import Cameras
from .cloud import SH_C0, Gaussians

SH_C1 = 0.4886025119029199
SH_C2 = (
    1.0925484305920792,
    -1.0925484305920792,
    0.31539156525252005,
    -1.0925484305920792,
    0.5462742152960396,
)
SH_C3 = (
    -0.5900435899266435,
    2.890611442640554,
    -0.4570457994644658,
    0.3731763325901154,
    -0.4570457994644658,
    1.445305721320277,
    -0.5900435899266435,
)


def sh_basis(directions: Tensor, degree: int) -> Tensor:
    """The (degree+1)^2 harmonics [...,K] of unit directions [...,3], degree 0..3."""
    x, y, z = directions.unbind(-1)
    basis = [torch.full_like(x, SH_C0)]
    if degree > 0:
        basis += [-SH_C1 * y, SH_C1 * z, -SH_C1 * x]
    if degree > 1:
        xx, yy, zz = x * x, y * y, z * z
        terms = (x * y, y * z, 2 * zz - xx - yy, x * z, xx - yy)
        basis += [c * term for c, term in zip(SH_C2, terms, strict=True)]
    if degree > 2:
        terms3 = (
            y * (3 * xx - yy),
            x * y * z,
            y * (4 * zz - xx - yy),
            z * (2 * zz - 3 * xx - 3 * yy),
            x * (4 * zz - xx - yy),
            z * (xx - yy),
            x * (xx - 3 * yy),
        )
        basis += [c * term for c, term in zip(SH_C3, terms3, strict=True)]
    return torch.stack(basis, -1)


def view_colors(gaussians: Gaussians, cameras: Cameras) -> Tensor:
    """Colours [V,N,3] as the cameras see them; [1,N,3] at degree 0, where every view sees the same.

    0.5 + sum_k Y_k(d) sh_k with d the unit vector from the camera to the Gaussian, clamped below at
    0 like in 3DGS and every viewer of its files (so a negative colour gets no gradient).
    """
    if gaussians.sh_degree == 0:
        return gaussians.colors.clamp_min(0)[None]
    offsets = gaussians.means - cameras.positions.to(gaussians.means)[:, None]
    directions = torch.nn.functional.normalize(offsets, dim=-1)
    basis = sh_basis(directions, gaussians.sh_degree)
    return (0.5 + torch.einsum("vnk,nkc->vnc", basis, gaussians.sh)).clamp_min(0)
