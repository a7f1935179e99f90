"""Classifier Score Distillation (Yu et al., ICLR 2024)."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

import torch
from torch import Tensor

from ..priors.base import Prior, check_guided
from .base import Views
from .timestep import TimestepLoss, noised


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
    noise in the gradient, hence little variance; it saturates if the run is long. The paper's
    annealed negative prompt, a third estimate besides the null text's, is left out: a negative
    prompt takes the null text's place. Denoiser evaluations per step and view: 2.
    """

    # standard form s; the direction is s - 1 times the classifier part, only its size
    guidance: float = 7.5

    name: ClassVar[str] = "CSD"

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
        e_c, e_u = prior.predict(z_t, t, [views.text, views.negative])
        return csd(e_c, e_u, guidance)
