"""Classifier Score Distillation (Yu et al., ICLR 2024)."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

import torch
from torch import Tensor

from ..priors.base import Prior, check_guided
from ..settings.option import option
from .base import Views, check_range
from .schedule import annealed
from .timestep import TimestepLoss, noised, null_text


def csd(e_text: Tensor, e_negative: Tensor, guidance: Tensor | float) -> Tensor:
    """CSD direction (s - 1) (e_c - e_u): the classifier part of guidance, and nothing else.

    CSD, arXiv 2310.19415: the gradient of -log p(y | z_t) that the two estimates [B,C,h,w] imply,
    without w(t). This is SDS less its part e_c - eps; VDM with M the identity is the same.
    """
    return (guidance - 1) * (e_text - e_negative)


@dataclass(frozen=True)
class CSD(TimestepLoss):
    """Classifier Score Distillation (arXiv 2310.19415).

    Keeps of SDS only what guidance adds, the direction from the negative text to the prompt. No
    noise in the gradient, hence little variance; it saturates if the run is long. A negative
    prompt takes the null text's place, wholly or in part. Denoiser evaluations per step and view:
    2, 3 with a part.

    Args:
        guidance: standard form s; the direction is s - 1 times the classifier part, only its size;
            the official code: 2
        negative_start: share of the negative prompt in what is led away from, the rest the null
            text's, at the start of the run; the official code: 1
        negative_end: and at its end, linear in between; the official code: 0.5
    """

    guidance: float = 7.5
    negative_start: float = option(1.0)
    negative_end: float = option(1.0)

    name: ClassVar[str] = "CSD"

    def check(self) -> None:
        """Raises ValueError naming the setting that is wrong."""
        super().check()
        for field in ("negative_start", "negative_end"):
            check_range(self.owner, field, getattr(self, field), 0, 1)

    def check_for(self, prior: Prior) -> None:
        """Raises ValueError on bad settings, steps beyond the prior's schedule, and a prior that
        cannot be guided."""
        super().check_for(prior)
        check_guided(self.owner, prior)

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
        if self.negative_start == self.negative_end == 1:
            e_c, e_u = prior.predict(z_t, t, [views.text, views.negative])
            return csd(e_c, e_u, guidance)
        texts = [views.text, null_text(prior, views), views.negative]
        e_c, e_null, e_neg = prior.predict(z_t, t, texts)
        share = annealed(self.negative_start, self.negative_end, self.progress(views))
        return csd(e_c, torch.lerp(e_null, e_neg, share), guidance)
