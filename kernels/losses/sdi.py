"""Score Distillation via Inversion (Lukoianov et al., Score Distillation via Reparametrized DDIM,
NeurIPS 2024).
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import ClassVar

import torch
from torch import Tensor

from ..devices.streams import send
from ..priors.base import Prior
from ..priors.conditioning import Conditioning
from ..settings.option import option
from .base import Views, check_range, draw_noise, guided
from .ode import estimates, even_levels, inverted
from .timestep import TimestepLoss


def sdi(
    prior: Prior,
    latents: Tensor,
    kappa: Tensor,
    t: Tensor,
    text: Conditioning,
    negative: Conditioning,
    guidance: Tensor | float,
) -> Tensor:
    """SDI direction e_cfg(z_t) - kappa at z_t = z0 + sigma(t) kappa, without w(t).

    SDI, arXiv 2405.15891: SDS whose random noise is replaced by kappa [B,C,h,w], the noise that
    inverting the render finds. With w = sigma/alpha this is z0 - x0_cfg(z_t), the gradient of 0.5
    |z0 - sg x0_cfg|^2.
    """
    e_c, e_u = estimates(prior, latents + prior.schedule.ratio(t) * kappa, t, [text, negative])
    return guided(e_c, e_u, guidance) - kappa


def pfd(
    prior: Prior,
    latents: Tensor,
    kappa: Tensor,
    t: Tensor,
    text: Conditioning,
    negative: Conditioning,
    guidance: Tensor | float,
    steps: int,
) -> Tensor:
    """`sdi` with the guided clean latent found in so many even DDIM steps down from t, not in one.

    With w = sigma/alpha this is z0 less where the probability-flow ODE leads (Probability-Flow
    Distillation, arXiv 2605.09071, by its abstract: its text and code were not at hand).
    """
    schedule = prior.schedule
    z, ratio = latents + schedule.ratio(t) * kappa, schedule.ratio(t)
    for left in range(steps, 0, -1):
        at = t * left // steps
        e_c, e_u = estimates(prior, z, at, [text, negative])
        below = schedule.ratio(t * (left - 1) // steps) if left > 1 else torch.zeros_like(ratio)
        z = z + (below - schedule.ratio(at)) * guided(e_c, e_u, guidance)
    return (latents - z) / ratio


@dataclass(frozen=True)
class SDI(TimestepLoss):
    """Score Distillation via Inversion (arXiv 2405.15891), after threestudio's public code.

    The noise that is added to a render is the one that leads the prior back to it: found by DDIM
    inversion, under guidance away from the prompt so that guidance towards it on the way back fits.
    t comes down over the run without chance. The noise found a random part of a stride above t is
    used at t, as the paper's text has it. Denoiser evaluations per step and view: 2 + 2
    ceil(min(t_max + stride - 1, 999) / stride), 22 at t_max 980 and 10 at 250.

    Args:
        guidance: standard form s; threestudio's w = 7.5 without Perp-Neg; its config has it, and with
            it s is w: 7.5
        weighting: w(t): makes the direction render - guided x0, the code's loss
        t_min: lowest step, for t_random only
        t_random: draw t from t_min on, instead of taking the annealed upper end (threestudio's
            t_anneal off)
        t_max_end: t at the end of the run; threestudio: 25 %
        inversion_guidance: standard form s of the inversion; threestudio's w = -7.5 without
            Perp-Neg, with it -7.5
        stride: steps of the schedule per step of the inversion; threestudio: 10 steps in all
        eta: share of DDIM's random part (Song et al. 2021, equation 16) in the inversion;
            threestudio: 0.3
        first_level: step of the inversion's first level above the render, which counts as noisy to
            step 0; the others follow a stride apart, the last is t and a random part of a stride;
            0: levels of a stride each from a clean render; threestudio: 1
        remap: use the noise found a random part of a stride above t at t, as the paper's text has
            it; threestudio takes the latent found there for one at t
    """

    guidance: float = 8.5
    weighting: str = "sigma/alpha"
    t_min: int = 20
    t_max_end: int = 250
    t_random: bool = False
    inversion_guidance: float = -6.5
    stride: int = 100
    eta: float = 0.3
    first_level: int = option(0)
    remap: bool = option(True)
    reverse_steps: int = option(1)

    name: ClassVar[str] = "SDI"

    def check(self) -> None:
        """Raises ValueError naming the setting that is wrong."""
        super().check()
        check_range(self.owner, "inversion_guidance", self.inversion_guidance, -1000, 1000)
        check_range(self.owner, "stride", self.stride, 1, 1000)
        check_range(self.owner, "eta", self.eta, 0, 1)
        check_range(self.owner, "first_level", self.first_level, 0, self.stride)
        check_range(self.owner, "reverse_steps", self.reverse_steps, 1, 100)

    def drawn(
        self, count: int, progress: float, generator: torch.Generator, device: torch.device
    ) -> Tensor:
        if self.t_random:
            return super().drawn(count, progress, generator, device)
        return torch.full((count,), self.timesteps.t_max(progress), device=device)

    def direction(
        self,
        prior: Prior,
        latents: Tensor,
        t: Tensor,
        views: Views,
        guidance: Tensor | float,
        generator: torch.Generator,
    ) -> Tensor:
        schedule, last = prior.schedule, len(prior.schedule) - 1
        factor = self.inversion_guidance * views.guidance_factor

        def estimate(z: Tensor, at: Tensor) -> Tensor:
            e_c, e_u = estimates(prior, z, at, [views.text, views.negative])
            return guided(e_c, e_u, factor)

        def kick(z: Tensor, at: Tensor, above: Tensor) -> Tensor:
            # DDIM's random part, sigma_i / sigma_j sqrt(1 - abar_j / abar_i), divided by alpha_j
            spread = (schedule.ratio(above) ** 2 - schedule.ratio(at) ** 2).sqrt()
            share = self.eta * schedule.sigma(at) / schedule.sigma(above)
            return share * spread * draw_noise(tuple(z.shape), generator, z)

        over = torch.randint(
            0, self.stride, (len(t),), generator=generator, device=generator.device
        )
        over = views.alike(send(over, t.device))
        t_max, to = self.timesteps.t_max(self.progress(views)), (t + over).clamp(max=last)
        z, highest = latents, min(t_max + self.stride - 1, last)
        levels = even_levels(to, self.stride, math.ceil(highest / self.stride))
        if self.first_level:
            z = latents / schedule.alpha(levels[0])
            below = range(self.first_level, t_max, self.stride)
            levels = [levels[0], *(torch.where(t > level, level, to) for level in below), to]
        z = inverted(schedule, z, levels, estimate, kick if self.eta > 0 else None)
        if self.remap:
            kappa = (z - latents) / schedule.ratio(to)
        else:
            kappa = (schedule.alpha(to) / schedule.alpha(t) * z - latents) / schedule.ratio(t)
        texts = views.text, views.negative
        if self.reverse_steps == 1:
            return sdi(prior, latents, kappa, t, *texts, guidance)
        return pfd(prior, latents, kappa, t, *texts, guidance, self.reverse_steps)
