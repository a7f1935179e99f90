"""Score Distillation Sampling (DreamFusion, Poole et al. 2022)."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

import torch
from torch import Tensor

from ..priors.base import Prior
from ..priors.conditioning import Conditioning
from .base import Views, draw_noise, guided
from .timestep import TimestepLoss


def sds(
    prior: Prior,
    latents: Tensor,
    t: Tensor,
    noise: Tensor,
    text: Conditioning,
    negative: Conditioning,
    guidance: Tensor | float,
) -> Tensor:
    """SDS direction e_cfg - eps (DreamFusion, equation 3, without w(t)); the U-Net's Jacobian is
    dropped.

    latents, noise [B,C,h,w], t [B] steps, guidance in the standard form, one for all or [B,1,1,1].
    Returns d loss / d latents [B,C,h,w].
    """
    z_t = prior.schedule.alpha(t) * latents.detach() + prior.schedule.sigma(t) * noise
    e_c, e_u = prior.predict(z_t, t, [text, negative])
    return guided(e_c, e_u, guidance) - noise


@dataclass(frozen=True)
class SDS(TimestepLoss):
    """Score Distillation Sampling (DreamFusion, arXiv 2209.14988).

    Noise a render, ask the prior for that noise, and descend the difference. Mean-seeking: it needs
    a high guidance and then saturates colours. One random t and one random noise per view and step.
    DreamFusion weighs by 1-abar and draws from 2 % to 98 % of the steps throughout; here the upper
    end comes down, as in later work. Denoiser evaluations per step and view: 2.
    """

    guidance: float = 101.0  # standard form s; DreamFusion's w = 100 is s = 101

    name: ClassVar[str] = "SDS"

    def direction(
        self,
        prior: Prior,
        latents: Tensor,
        t: Tensor,
        views: Views,
        guidance: Tensor | float,
        generator: torch.Generator,
    ) -> Tensor:
        noise = draw_noise(tuple(latents.shape), generator, latents)
        return sds(prior, latents, t, noise, views.text, views.negative, guidance)
