"""Picture Loss: renders are drawn to what the prior makes of them in a few steps (this project's
own).
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import ClassVar

import torch
from torch import Tensor

from ..priors.base import Prior
from ..priors.conditioning import Conditioning
from ..priors.noise_schedule import clean_from_noise
from ..settings.option import Settings, option
from .base import (
    REDUCTIONS,
    LossRun,
    Views,
    check_choice,
    check_range,
    check_steps,
    cleaned,
    draw_noise,
    first_valid,
    gradient_logs,
    guided,
    inject,
    reduction_factor,
)
from .schedule import TimestepRange

FALL = 200  # steps above t_min to which the upper end of the range comes down
OWNER = "Picture Loss"


def pictured(
    prior: Prior,
    z_t: Tensor,
    t: Tensor,
    steps: int,
    text: Conditioning,
    negative: Conditioning,
    guidance: Tensor | float,
) -> Tensor:
    """What the prior makes of z_t [B,C,h,w] at t [B] in ``steps`` equal steps down to 0: DDIM (Song
    et al. 2021), guided in the standard form. One step is the usual estimate of x0, a mean of all
    pictures that z_t may have been, hence soft; a few give one sharp picture of them."""
    for k in range(steps):
        at, below = (torch.div(t * (steps - i), steps, rounding_mode="floor") for i in (k, k + 1))
        if not isinstance(guidance, Tensor) and guidance == 1:
            (noise,) = prior.predict(z_t, at, [text])
        else:
            e_c, e_u = prior.predict(z_t, at, [text, negative])
            noise = guided(e_c, e_u, guidance)
        x0 = clean_from_noise(z_t, noise, prior.schedule.alpha(at), prior.schedule.sigma(at))
        z_t = prior.schedule.alpha(below) * x0 + prior.schedule.sigma(below) * noise
    return x0


@dataclass(frozen=True)
class Picture(Settings):
    """Draws each render to a picture that the prior makes of it: the direction is z0 - picture.

    The render is noised to step t and brought back in a few guided sampler steps (`pictured`). One
    step would give the usual estimate of x0, a mean that leaves shapes soft and hazy; the direction
    is then that of SDS with w = sigma/alpha. Ours, for the second part of a run: it sharpens an
    object and makes none. The range of t narrows over the run or over this loss's share of it.

    Args:
        guidance: standard form s; 1 leaves out the unconditional branch, which halves the cost
        steps: denoiser steps per picture
        t_min: lowest step, of 0..999
        t_max: highest step at first; comes down linearly to 200 above t_min
        shared_t: one step for all views of a batch
        clip: clamp of every gradient value, latent units; 0 = off
        weight: factor on the gradient, after the clip
        reduction: of the views' gradients, see `reduction_factor`
    """

    guidance: float = 4.0
    steps: int = 3
    t_min: int = 300
    t_max: int = 800
    shared_t: bool = True
    clip: float = 0.0
    weight: float = 1.0
    reduction: str = option("mean")

    name: ClassVar[str] = "Picture"

    @property
    def timesteps(self) -> TimestepRange:
        return TimestepRange(self.t_min, self.t_max, min(self.t_min + FALL, self.t_max))

    def below(self, top: int) -> Picture:
        """See `Loss.below`."""
        return replace(self, t_min=min(self.t_min, top // 2), t_max=min(self.t_max, top))

    def near(self, t: int) -> Picture:
        """See `Loss.near`."""
        wide = replace(self, t_max=t)
        return first_valid(replace(wide, t_min=t), wide, self)

    def guidance_at(self, progress: float) -> float:
        """See `Loss.guidance_at`."""
        return float(self.guidance)

    def check(self) -> None:
        """Raises ValueError naming the setting that is wrong."""
        check_choice(OWNER, "reduction", self.reduction, REDUCTIONS)
        check_range(OWNER, "guidance", self.guidance, 0, 1000)
        check_range(OWNER, "steps", self.steps, 1, 50)
        for name in ("clip", "weight"):
            check_range(OWNER, name, getattr(self, name), 0, 1e6)
        if not 0 <= self.t_min <= self.t_max:
            raise ValueError(
                f"{OWNER}: t_min {self.t_min} does not lie between 0 and t_max {self.t_max}. Swap"
                " or widen them."
            )

    def start(
        self,
        prior: Prior,
        latent_shape: tuple[int, int, int],
        generator: torch.Generator,
        state: Mapping[str, Tensor] | None = None,
    ) -> LossRun:
        """A run of this loss; it remembers nothing between steps. Raises ValueError on bad
        settings.
        """
        self.check()
        check_steps(OWNER, prior, {"t_max": self.t_max})
        return _Run(self, prior)


@dataclass(frozen=True)
class _Run:
    settings: Picture
    prior: Prior

    def __call__(
        self, latents: Tensor, views: Views, generator: torch.Generator
    ) -> tuple[Tensor, dict[str, Tensor]]:
        settings, schedule, z0 = self.settings, self.prior.schedule, latents.detach()
        draws = 1 if settings.shared_t else len(z0)
        t = views.alike(
            settings.timesteps.draw(draws, views.progress, generator, z0.device).expand(len(z0))
        )
        noise = draw_noise(tuple(z0.shape), generator, z0)
        z_t = schedule.alpha(t) * z0 + schedule.sigma(t) * noise
        guidance = settings.guidance * views.guidance_factor
        picture = pictured(self.prior, z_t, t, settings.steps, views.text, views.negative, guidance)
        raw = z0 - picture
        factor = settings.weight * reduction_factor(settings.reduction, latents)
        logs = {"t": t.float().mean(), **gradient_logs(factor * raw)}
        return inject(latents, factor * cleaned(raw, settings.clip)), logs

    def state(self) -> dict[str, Tensor]:
        return {}
