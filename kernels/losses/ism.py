"""Interval Score Matching (LucidDreamer, Liang et al., CVPR 2024)."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import ClassVar

import torch
from torch import Tensor

from ..priors.base import Prior
from ..priors.conditioning import Conditioning
from ..settings.option import option
from .base import Views, check_range, guided
from .ode import estimates, even_levels, inverted, ode_step
from .timestep import TimestepLoss, null_text, offset_noise


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
    is consistent from step to step. By default the inversion begins at the render itself at step 0,
    without a little noise, and t is drawn per view; the code's own ways are options. Denoiser
    evaluations per step and view: 3 + ceil((t_max - gap) / stride), 8 at t_max 980 and 6 at 500.

    Args:
        guidance: standard form s; LucidDreamer's value
        weighting: w(t): LucidDreamer's
        gap: t - s, steps; LucidDreamer: 80, 50 or 25, as its config has it
        stride: steps of the schedule per step of the inversion; LucidDreamer's value
        start_level: step that the inversion begins at, of the render with that much fresh noise; 0:
            the render itself; LucidDreamer: 1, with t_min 21
        gap_start: gap at the start of the run, falling to ``gap`` as t_max does; 0: ``gap``
            throughout; LucidDreamer: 100
        noise_offset: share of a normal number per channel in the noise of start_level; LucidDreamer:
            0.1
    """

    guidance: float = 7.5
    weighting: str = "sigma/alpha"
    gap: int = 80
    stride: int = 200
    start_level: int = option(0)
    gap_start: int = option(0)
    noise_offset: float = option(0.0)

    name: ClassVar[str] = "ISM"

    def check(self) -> None:
        """Raises ValueError naming the setting that is wrong."""
        super().check()
        for field in ("gap", "stride"):
            check_range(self.owner, field, getattr(self, field), 1, 1000)
        for field in ("start_level", "gap_start"):
            check_range(self.owner, field, getattr(self, field), 0, 1000)
        check_range(self.owner, "noise_offset", self.noise_offset, 0, 10)

    def gap_at(self, progress: float) -> int:
        """t - s at ``progress`` 0..1 of the schedule."""
        if self.gap_start == 0:
            return self.gap
        return int(
            self.gap + (1 - min(progress / self.t_anneal_share, 1)) * (self.gap_start - self.gap)
        )

    def direction(
        self,
        prior: Prior,
        latents: Tensor,
        t: Tensor,
        views: Views,
        guidance: Tensor | float,
        generator: torch.Generator,
    ) -> Tensor:
        null, progress = null_text(prior, views), self.progress(views)
        gap, start, z = self.gap_at(progress), self.start_level, latents
        if start > 0:
            noise = offset_noise(tuple(latents.shape), self.noise_offset, generator, latents)
            z = latents + prior.schedule.ratio(torch.full_like(t, start)) * noise
        s = (t - gap).clamp(min=start)
        room = max(self.timesteps.t_max(progress) - gap - start, 0)
        levels = even_levels(s, self.stride, math.ceil(room / self.stride), start)
        z_s = inverted(prior.schedule, z, levels, lambda z, at: estimates(prior, z, at, [null])[0])
        return ism(prior, z_s, s, t, views.text, views.negative, null, guidance)
