"""Interval Score Matching (LucidDreamer, Liang et al., CVPR 2024)."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import ClassVar

import torch
from torch import Tensor

from ..priors.base import Prior
from ..priors.conditioning import Conditioning
from .base import Views, check_range, guided
from .ode import estimates, inverted, ode_step
from .timestep import TimestepLoss, null_text


def ism(
    prior: Prior,
    z_s: Tensor,
    s: Tensor,
    t: Tensor,
    text: Conditioning,
    negative: Conditioning,
    null: Conditioning,
    guidance: Tensor | float,
) -> Tensor:
    """ISM direction e_cfg(z_t, t) - e_null(z_s, s), z_t one null-text step of the ODE above z_s,
    without w(t).

    LucidDreamer, arXiv 2311.11284, the interval score; z_s [B,C,h,w] in variance-exploding form, s
    <= t [B] steps, guidance in the standard form. Descended, as SDS, with the null text's estimate
    at s in the noise's place.
    """
    (e_s,) = estimates(prior, z_s, s, [null])
    z_t = ode_step(prior.schedule, z_s, e_s, s, t)
    e_c, e_u = estimates(prior, z_t, t, [text, negative])
    return guided(e_c, e_u, guidance) - e_s


@dataclass(frozen=True)
class ISM(TimestepLoss):
    """Interval Score Matching (LucidDreamer, arXiv 2311.11284), after its official public code.

    The render is brought to step s = t - gap along the prior's own ODE with the null text, not by
    random noise, then to t; guided and null estimates at the two ends are compared. So the target
    is consistent from step to step. Unlike the code, the inversion begins at the render itself at
    step 0, without a little noise, and t is drawn per view. Denoiser evaluations per step and view:
    3 + ceil((t_max - gap) / stride), 8 at t_max 980 and 6 at 500.

    Args:
        guidance: standard form s; LucidDreamer's value
        weighting: w(t): LucidDreamer's
        gap: t - s, steps; LucidDreamer: 100, falling to 80
        stride: steps of the schedule per step of the inversion; LucidDreamer's value
    """

    guidance: float = 7.5
    weighting: str = "sigma/alpha"
    gap: int = 80
    stride: int = 200

    name: ClassVar[str] = "ISM"

    def check(self) -> None:
        """Raises ValueError naming the setting that is wrong."""
        super().check()
        for field in ("gap", "stride"):
            check_range(self.owner, field, getattr(self, field), 1, 1000)

    def direction(
        self,
        prior: Prior,
        latents: Tensor,
        t: Tensor,
        views: Views,
        guidance: Tensor | float,
        generator: torch.Generator,
    ) -> Tensor:
        null = null_text(prior, views.text)
        s = (t - self.gap).clamp(min=0)
        strides = math.ceil(max(self.timesteps.t_max(views.progress) - self.gap, 0) / self.stride)
        z_s = inverted(
            prior.schedule,
            latents,
            s,
            self.stride,
            strides,
            lambda z, at: estimates(prior, z, at, [null])[0],
        )
        return ism(prior, z_s, s, t, views.text, views.negative, null, guidance)
