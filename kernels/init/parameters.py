"""What all initialisers end with: a checked cloud of the given places, sizes and colours."""

from __future__ import annotations

import torch
from torch import Tensor

from ..gaussians.cloud import SH_C0, Gaussians


def make_cloud(
    means: Tensor,
    log_scales: Tensor,
    quats: Tensor,
    opacity_logit: float,
    colors: Tensor,
    sh_degree: int,
) -> Gaussians:
    """A cloud of means [N,3] and log_scales [N,3] in world units, quats [N,4] wxyz, one opacity
    (logit) and colors [N,3] in 0..1, the same from all sides.
    """
    if sh_degree not in (0, 1, 2, 3):
        raise ValueError(f"sh_degree is {sh_degree}; choose 0, 1, 2 or 3.")
    sh = means.new_zeros(len(means), (sh_degree + 1) ** 2, 3)
    sh[:, 0] = (colors - 0.5) / SH_C0
    return Gaussians(
        means, log_scales, quats, torch.full_like(means[:, 0], opacity_logit), sh
    ).check()


def check_count(count: int) -> None:
    """Raises ValueError unless 1 <= count <= 10 million."""
    if not 1 <= count <= 10_000_000:
        raise ValueError(f"count is {count}; choose 1..10000000 Gaussians.")
