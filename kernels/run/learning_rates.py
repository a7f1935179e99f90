"""Learning rates over a run: one per parameter group, each decaying exponentially to its own final
share.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import torch
from torch import Tensor

# 3DGS (Kerbl et al. 2023): view-dependent colour learns 20 times slower than its mean
SH_REST_SHARE = 1 / 20


@dataclass(frozen=True, kw_only=True)
class LearningRates:
    """Adam's step sizes, roughly what a parameter moves per step while its gradient keeps its sign.

    A group's rate at progress p (0 at the schedule's start, 1 at its end) is ``lr * final ** p``.
    LucidDreamer's values (5000 steps, object of radius about 0.5), for comparison: means 5.6e-4
    with final 0.01, scales 5e-3 with 0.2, quats 1e-3 with 0.2, opacities 5e-2, colors 5e-3 with
    0.6. The defaults here are larger because runs of a few hundred steps are the common case.

    Args:
        lr_means: world units (the object fills a cube of side 1)
        lr_scales: natural-log units
        lr_quats: of a unit quaternion, so radians / 2
        lr_opacities: logit units
        lr_colors: of the constant SH coefficient (0.28 colour units); higher bands get 1/20 of it
        final_means: share of lr_means left at the end; short runs end noisy without the decay
    """

    lr_means: float = 4e-3
    lr_scales: float = 1e-2
    lr_quats: float = 5e-3
    lr_opacities: float = 5e-2
    lr_colors: float = 3e-2
    final_means: float = 0.2
    final_scales: float = 0.2
    final_quats: float = 0.2
    final_opacities: float = 0.2
    final_colors: float = 0.2

    def check(self) -> None:
        for group in ("means", "scales", "quats", "opacities", "colors"):
            rate, final = getattr(self, f"lr_{group}"), getattr(self, f"final_{group}")
            if not (math.isfinite(rate) and rate >= 0):
                raise ValueError(
                    f"lr_{group} is {rate}; give a finite learning rate of 0 (frozen) or more."
                )
            if not 0 < final <= 1:
                raise ValueError(
                    f"final_{group} is {final}; give the share of lr_{group} left at the end, in"
                    " (0, 1]."
                )

    def at(self, progress: float) -> dict[str, float]:
        """Rates by the cloud's field names at ``progress`` 0..1 of the schedule."""
        groups = {
            "means": (self.lr_means, self.final_means),
            "log_scales": (self.lr_scales, self.final_scales),
            "quats": (self.lr_quats, self.final_quats),
            "opacity_logits": (self.lr_opacities, self.final_opacities),
            "sh": (self.lr_colors, self.final_colors),
        }
        return {name: rate * final**progress for name, (rate, final) in groups.items()}


def sh_shares(sh: Tensor) -> Tensor:
    """Share of the colour learning rate per SH coefficient, [K,1] for ``sh`` [N,K,3]."""
    shares = torch.full((sh.shape[1], 1), SH_REST_SHARE, dtype=sh.dtype, device=sh.device)
    shares[:1] = 1.0
    return shares
