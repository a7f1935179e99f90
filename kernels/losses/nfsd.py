"""Noise-Free Score Distillation (Katzir et al., ICLR 2024)."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

import torch
from torch import Tensor

from ..priors.base import Prior, check_guided
from .base import Views, check_range
from .timestep import TimestepLoss, noised, null_text


def nfsd(
    e_text: Tensor,
    e_null: Tensor,
    e_negative: Tensor,
    t: Tensor,
    low: int,
    guidance: Tensor | float,
) -> Tensor:
    """NFSD direction d_D + s d_C, with d_C = e_c - e_u and d_D = e_u where t < low, else e_u -
    e_neg.

    NFSD, arXiv 2310.17590: e_u, of the null text, is a part that leads to the data and a part that
    is noise. At low t there is little noise; above, e_neg, of a prompt that names bad pictures, has
    the same noise and takes it away. The estimates are [B,C,h,w], t [B]; without w(t).
    """
    domain = torch.where((t < low)[:, None, None, None], e_null, e_null - e_negative)
    return domain + guidance * (e_text - e_null)


@dataclass(frozen=True)
class NFSD(TimestepLoss):
    """Noise-Free Score Distillation (arXiv 2310.17590).

    SDS without the noise that over-smooths it. It wants a negative prompt of quality words
    ("unrealistic, blurry, low quality, ..."): without one, the part that leads to the data is there
    at low t only, and above them this is CSD. Denoiser evaluations per step and view: 3 (2 would do
    for views at low t, but all views go in one call).

    Args:
        guidance: standard form s; the paper's value
        t_low: below this step the null text's estimate is taken whole; the paper's value
    """

    guidance: float = 7.5
    t_low: int = 200

    name: ClassVar[str] = "NFSD"

    def check_for(self, prior: Prior) -> None:
        """Raises ValueError on bad settings, steps beyond the prior's schedule, and a prior that
        cannot be guided."""
        super().check_for(prior)
        check_guided(self.owner, prior)

    def check(self) -> None:
        """Raises ValueError naming the setting that is wrong."""
        super().check()
        check_range(self.owner, "t_low", self.t_low, 0, 1000)

    def direction(
        self,
        prior: Prior,
        latents: Tensor,
        t: Tensor,
        views: Views,
        guidance: Tensor | float,
        generator: torch.Generator,
    ) -> Tensor:
        z_t, _ = noised(prior, latents, t, generator)
        e_c, e_null, e_neg = prior.predict(
            z_t, t, [views.text, null_text(prior, views), views.negative]
        )
        return nfsd(e_c, e_null, e_neg, t, self.t_low, guidance)
