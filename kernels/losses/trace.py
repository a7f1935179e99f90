"""Trajectory-Centric Distillation (TraCe, NeurIPS 2025)."""

from __future__ import annotations

from dataclasses import dataclass
from functools import cache
from typing import ClassVar

import torch
from torch import Tensor

from ..priors.base import Adapter, Prior
from ..priors.noise_schedule import clean_from_noise
from ..settings.option import option
from .base import LossRun, Views, check_range, draw_noise, guided
from .degradation import AdamState
from .schedule import annealed
from .timestep import noised
from .vsd import VSD, VSDRun

# of the bridge's noise per step, at its ends; their square roots grow evenly over STEPS, of which
# the first half is taken, there and back
BETA_START, BETA_END, STEPS = 1e-4, 3e-4, 1000


@cache
def bridge_spreads() -> tuple[Tensor, Tensor]:
    """Standard deviations [1000] of the noise that a bridge gathers from its target up to a step,
    and from there on to the render."""
    roots = torch.linspace(BETA_START**0.5, BETA_END**0.5, STEPS, dtype=torch.float64)
    half = roots[: STEPS // 2].square()
    betas = torch.cat([half, half.flip(0)])
    return betas.cumsum(0).sqrt(), betas.flip(0).cumsum(0).flip(0).sqrt()


def bridged(target: Tensor, latents: Tensor, step: int, noise: Tensor) -> tuple[Tensor, Tensor]:
    """A point [B,C,h,w] at ``step`` of the Schroedinger bridge from ``target`` to ``latents``, and
    its noise as seen from the target, (x - target) / std (I2SB's target, which TraCe's LoRA
    learns).

    The bridge at that step is normal, its mean (b^2 target + a^2 latents) / (a^2 + b^2), its
    variance a^2 b^2 / (a^2 + b^2), with a, b the noise gathered on either side.
    """
    a, b = (float(spread[step]) for spread in bridge_spreads())
    both = a**2 + b**2
    x = (b**2 * target + a**2 * latents) / both + a * b / both**0.5 * noise
    return x, (x - target) / a


@dataclass(frozen=True)
class TraCe(VSD):
    """Trajectory-Centric Distillation (arXiv 2511.05609), after its public code.

    A bridge is laid from the render to its target, the guided clean estimate at a random timestep;
    a LoRA learns the noise along it, and the render descends what the bridge's noise is more than
    the LoRA expects. The bridge's step falls from bridge_start to bridge_end. Their camera
    embedding, classifier-free training and image-space term are left out, and their two networks
    are one. Denoiser evaluations per step and view: 3, and one with its backward pass.

    Args:
        guidance: of the target, standard form s; the authors: 20, with a negative prompt
        weighting: w(t); the authors: one
        t_max_start: highest step that targets are estimated at; the authors: 700
        t_max_end: and from t_anneal_share on; the authors: 500, from step 700 of 1700
        lora_lr: the authors: 1e-3
        lora_text: the authors: prompt
        bridge_start: the bridge's step at the start, 0..999; 0 is the target, 999 the render
        bridge_end: and at the end, linear in between
    """

    guidance: float = 20.0
    weighting: str = "one"
    t_max_start: int = 700
    t_max_end: int = 500
    t_anneal: str = "jump"
    t_anneal_share: float = 0.41
    lora_lr: float = 1e-3
    lora_text: str = option("prompt")
    bridge_start: int = 500
    bridge_end: int = 20

    name: ClassVar[str] = "TraCe"

    def check(self) -> None:
        """Raises ValueError naming the setting that is wrong."""
        super().check()
        check_range(self.owner, "bridge_start", self.bridge_start, 0, STEPS - 1)
        check_range(self.owner, "bridge_end", self.bridge_end, 0, STEPS - 1)

    def begun(self, prior: Prior, adapter: Adapter, lora: AdamState) -> LossRun:
        """See `VSD.begun`."""
        return _Run(self, prior, adapter, lora)


@dataclass
class _Run(VSDRun):
    def direction(
        self,
        latents: Tensor,
        t: Tensor,
        views: Views,
        guidance: Tensor | float,
        generator: torch.Generator,
    ) -> tuple[Tensor, dict[str, Tensor]]:
        settings, schedule = self.settings, self.prior.schedule
        z_t, _ = noised(self.prior, latents, t, generator)
        e_c, e_u = self.prior.predict(z_t, t, [views.text, views.negative])
        e = guided(e_c, e_u, guidance)
        target = clean_from_noise(z_t, e, schedule.alpha(t), schedule.sigma(t))

        step = round(annealed(settings.bridge_start, settings.bridge_end, settings.progress(views)))
        fresh = draw_noise(tuple(latents.shape), generator, latents)
        x, noise = bridged(target, latents, step, fresh)
        s, text = torch.full_like(t, step), settings.said(views)
        e_q = self.adapter.predict(self.lora.parameters, x, s, text)
        # the LoRA reads x as a noisy latent of step s, whose noise this is
        clean = clean_from_noise(x, noise, schedule.alpha(s), schedule.sigma(s))
        logs = {"lora_loss": self.learn(clean, noise, s, text), "bridge": s.float().mean()}
        return noise - e_q, logs
