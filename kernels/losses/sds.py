"""Score Distillation Sampling (DreamFusion, Poole et al. 2022)."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import ClassVar

import torch
from torch import Tensor

from ..priors.base import Conditioning, Prior
from .base import (
    WEIGHTINGS,
    LossRun,
    Views,
    check_choice,
    check_range,
    check_steps,
    cleaned,
    draw_noise,
    gradient_logs,
    guided,
    inject,
    weighting,
)
from .schedule import TimestepRange


def sds(
    prior: Prior,
    latents: Tensor,
    t: Tensor,
    noise: Tensor,
    text: Conditioning,
    negative: Conditioning,
    guidance: Tensor | float,
) -> Tensor:
    """SDS direction e_cfg - eps (DreamFusion, equation 3, without w(t)); the U-Net's Jacobian is dropped.

    latents, noise [B,C,h,w], t [B] steps, guidance in the standard form, one for all or [B,1,1,1]. Returns
    d loss / d latents [B,C,h,w].
    """
    z_t = prior.schedule.alpha(t) * latents.detach() + prior.schedule.sigma(t) * noise
    e_c, e_u = prior.predict(z_t, t, [text, negative])
    return guided(e_c, e_u, guidance) - noise


@dataclass(frozen=True)
class SDS:
    """Score Distillation Sampling (DreamFusion, arXiv 2209.14988).

    Noise a render, ask the prior for that noise, and descend the difference. Mean-seeking: it needs a high guidance
    and then saturates colours. One random t and one random noise per view and step.
    """

    guidance: float = 101.0  # standard form s; DreamFusion's w = 100 is s = 101
    weighting: str = "1-abar"  # w(t): "1-abar" (DreamFusion) | "sigma/alpha" (LucidDreamer) | "one"
    t_min: int = 20  # lowest step, of 0..999; DreamFusion: 2 %
    t_max_start: int = 980  # highest step at the start; DreamFusion: 98 %
    t_max_end: int = 500  # highest step once annealed; DreamFusion does not anneal (980)
    t_anneal: str = "linear"  # constant | linear | sqrt | cosine
    t_anneal_share: float = 1.0  # share of the run over which t_max comes down
    clip: float = 0.0  # clamp of every gradient value, latent units; 0 = off
    weight: float = 1.0  # factor on the gradient, which is a sum over latent elements and a mean over views

    name: ClassVar[str] = "SDS"

    @property
    def timesteps(self) -> TimestepRange:
        return TimestepRange(self.t_min, self.t_max_start, self.t_max_end, self.t_anneal, self.t_anneal_share)

    def check(self) -> None:
        """Raises ValueError naming the setting that is wrong."""
        owner = "SDS Loss"
        check_choice(owner, "weighting", self.weighting, WEIGHTINGS)
        check_range(owner, "guidance", self.guidance, 0, 1000)
        check_range(owner, "clip", self.clip, 0, 1e6)
        check_range(owner, "weight", self.weight, 0, 1e6)
        self.timesteps.check(owner)

    def start(
        self,
        prior: Prior,
        latent_shape: tuple[int, int, int],
        generator: torch.Generator,
        state: Mapping[str, Tensor] | None = None,
    ) -> LossRun:
        """A run of this loss; it remembers nothing between steps. Raises ValueError on bad settings."""
        self.check()
        check_steps("SDS Loss", prior, {"t_max_start": self.t_max_start, "t_max_end": self.t_max_end})
        return _Run(self, prior)


@dataclass(frozen=True)
class _Run:
    settings: SDS
    prior: Prior

    def __call__(self, latents: Tensor, views: Views, generator: torch.Generator) -> tuple[Tensor, dict[str, Tensor]]:
        settings = self.settings
        t = settings.timesteps.draw(len(latents), views.progress, generator, latents.device)
        noise = draw_noise(tuple(latents.shape), generator, latents)
        guidance = settings.guidance * views.guidance_factor
        direction = sds(self.prior, latents, t, noise, views.text, views.negative, guidance)
        raw = settings.weight * weighting(self.prior.schedule, t, settings.weighting) * direction
        logs = {"t": t.float().mean(), **gradient_logs(raw)}
        return inject(latents, cleaned(raw, settings.clip)), logs

    def state(self) -> dict[str, Tensor]:
        return {}
