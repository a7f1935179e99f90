"""Consistency Distillation Sampling (Consistent3D, Wu et al., CVPR 2024)."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import Any, ClassVar

import torch
from torch import Tensor

from ..cameras.pinhole import sectors
from ..devices.streams import send
from ..priors.base import Prior
from ..priors.conditioning import Conditioning
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
    restored,
)
from .ode import estimates, ode_step
from .schedule import annealed

CDS_WEIGHTINGS = ("uniform", "1-abar")


def cds(
    prior: Prior,
    latents: Tensor,
    t: Tensor,
    t_next: Tensor,
    noise: Tensor,
    text: Conditioning,
    negative: Conditioning,
    guidance: Tensor | float,
    shared_unconditional: bool = False,
    pull: float = 0.0,
) -> Tensor:
    """CDS direction e_t - e_next (Consistent3D, compute_grad_consistency of its official code),
    without c(t), and pull (z0 - picture) / sigma, which is ours.

    latents [B,C,h,w]; t > t_next [B] steps; noise [C,h,w] or [B,C,h,w], the same for the whole run;
    guidance in the standard form, one for all or [B,1,1,1]. Returns d loss / d latents [B,C,h,w].
    Works in the variance-exploding form z = z0 + sigma eps, where the probability-flow ODE is
    dz/dsigma = e. Reading the paper as
    |D(z) - sg D(z_next)|^2 with a unit Jacobian gives the opposite sign, which diverges.

    shared_unconditional takes e_u at t for e_u at t_next, which makes the direction s (e_c,t -
    e_c,next) and leaves (1 - s)(e_u,t - e_u,next) out. That vanishes with the gap between the
    levels, but no faster than the direction.

    pull: along what no picture of the prior varies in, haze for one, both estimates agree and
    nothing moves (a prior that knows one picture gives exactly zero). The pull leads back from
    there, to the picture that the flow arrives at: the clean estimate at z_next, at no further
    evaluation. The sum is (1 - pull sigma_next / sigma) CDS + pull SDS, SDS with the run's noise:
    from a pull of 1 on mostly SDS. 0 is the paper's loss.
    """
    sigma, sigma_next = prior.schedule.ratio(t), prior.schedule.ratio(t_next)
    z = latents.detach() + sigma * noise
    e_c, e_u = estimates(prior, z, t, [text, negative])
    e = guided(e_c, e_u, guidance)
    z_next = ode_step(prior.schedule, z, e, t, t_next)
    if shared_unconditional:
        (e_c,) = estimates(prior, z_next, t_next, [text])
    else:
        e_c, e_u = estimates(prior, z_next, t_next, [text, negative])
    e_next = guided(e_c, e_u, guidance)
    picture = z_next - sigma_next * e_next
    return e - e_next + pull * (latents.detach() - picture) / sigma if pull else e - e_next


@dataclass(frozen=True)
class CDS(Settings):
    """Consistency Distillation Sampling (Consistent3D, arXiv 2401.09050), after the paper's
    official public code.

    One fixed noise starts a deterministic flow; the render is noised with it to step t, the prior
    takes one step down to t_next, and its noise estimate there corrects the one at t. Both levels
    anneal down together, because the result keeps about sigma(t) of the fixed noise: a run that
    stops early stays noisy, and so does one of a wide gap. The defaults are the code's coarse
    stage; `coarse`, `refine` and `texture` build the three stages.

    Args:
        t_start: t_next at the start of the run, steps of 0..999; coarse 700, refine 300, texture
            500
        t_end: t_next at the end, approached as sqrt(progress); coarse 100, refine and texture 20
        t_min: floor of t_next, steps; coarse 100, refine and texture 20
        t_max: ceiling of t, steps; refine 500
        gap: least distance t - t_next, steps; 100 in all of the paper's stages, less leaves less
            noise
        perturb: t is t_next + gap + U{0 .. perturb-1}, per view; coarse 200, refine and texture 100
        guidance_start: standard form s (the code's w + 1) at the start
        guidance_end: and at the end, linear in between; coarse 51, refine 31, texture 51 throughout
        clip_start: clamp of every gradient value, latent units, at the start; both 0 = never clamp
        clip_end: and at the end, linear in between
        weighting: c(t): "uniform" (coarse) | "1-abar" (refine, texture)
        weight: factor on the gradient, after the clip; the code's is 1
        noise_groups: equal sectors of azimuth, the first around the front, each with its own fixed
            noise
        pull: share of the direction to the picture the flow arrives at: clears haze (ours; the
            paper's is 0)
        shared_unconditional: one for both levels: a quarter cheaper, another and longer direction
            (ours)
        reduction: of the views' gradients, see `reduction_factor`; the code: mean
    """

    t_start: int = 700
    t_end: int = 100
    t_min: int = 100
    t_max: int = 980
    gap: int = 100
    perturb: int = 200
    guidance_start: float = 101.0
    guidance_end: float = 51.0
    clip_start: float = 2.0
    clip_end: float = 8.0
    weighting: str = "uniform"
    weight: float = 1.0
    noise_groups: int = 1
    pull: float = 0.0
    shared_unconditional: bool = False
    reduction: str = option("mean")

    name: ClassVar[str] = "CDS"

    @classmethod
    def coarse(cls, **changes: Any) -> CDS:
        """The paper's first stage: shape, from high noise."""
        return cls(**changes)

    @classmethod
    def refine(cls, **changes: Any) -> CDS:
        """The paper's second stage: geometry (there on normal maps of a mesh)."""
        stage = {
            "t_start": 300,
            "t_end": 20,
            "t_min": 20,
            "t_max": 500,
            "perturb": 100,
            "guidance_end": 31.0,
        }
        return cls(**{**stage, "weighting": "1-abar", **changes})

    @classmethod
    def texture(cls, **changes: Any) -> CDS:
        """The paper's last stage: appearance, down to low noise at a constant guidance."""
        stage = {"t_start": 500, "t_end": 20, "t_min": 20, "perturb": 100, "guidance_start": 51.0}
        return cls(**{**stage, "weighting": "1-abar", **changes})

    def below(self, top: int) -> CDS:
        """See `Loss.below`. Of the two levels t_start is the lower one; the upper one is at most at
        t_max.
        """
        gap = min(self.gap, top // 2)
        start = min(self.t_start, top - gap)
        low, high = min(self.t_min, top // 2), min(self.t_max, top)
        return replace(
            self, gap=gap, t_start=start, t_end=min(self.t_end, start), t_min=low, t_max=high
        )

    def near(self, t: int) -> CDS:
        """See `Loss.near`. Of the two levels a gap apart the upper one becomes t."""
        wide, gap = replace(self, t_max=t), max(1, min(self.gap, t))
        narrow = replace(wide, t_min=t - gap, t_start=t - gap, t_end=t - gap, gap=gap, perturb=1)
        return first_valid(narrow, wide, self)

    def guidance_at(self, progress: float) -> float:
        """See `Loss.guidance_at`."""
        return annealed(self.guidance_start, self.guidance_end, progress)

    def check(self) -> None:
        """Raises ValueError naming the setting that is wrong."""
        owner = "CDS Loss"
        if self.t_end > self.t_start:
            raise ValueError(
                f"{owner}: t_end {self.t_end} is above t_start {self.t_start}; the schedule anneals"
                " downward. Swap them."
            )
        for field in ("t_end", "t_min"):
            if getattr(self, field) < 0:
                raise ValueError(
                    f"{owner}: {field} is {getattr(self, field)}; timesteps begin at 0."
                )
        for field in ("gap", "perturb"):
            if getattr(self, field) < 1:
                raise ValueError(
                    f"{owner}: {field} is {getattr(self, field)}; it must be at least 1 step."
                )
        if self.t_min + self.gap > self.t_max:
            raise ValueError(
                f"{owner}: t_min {self.t_min} + gap {self.gap} is above t_max {self.t_max}, which"
                " leaves no step to take. Lower t_min or gap, or raise t_max."
            )
        if (self.clip_start == 0) != (self.clip_end == 0):
            raise ValueError(
                f"{owner}: clip_start {self.clip_start:g} and clip_end {self.clip_end:g}: 0 means"
                " never clamp and cannot be annealed to or from. Set both to 0 or both above 0."
            )
        check_choice(owner, "weighting", self.weighting, CDS_WEIGHTINGS)
        check_choice(owner, "reduction", self.reduction, REDUCTIONS)
        for field in ("guidance_start", "guidance_end"):
            check_range(owner, field, getattr(self, field), 0, 1000)
        for field in ("clip_start", "clip_end", "weight", "pull"):
            check_range(owner, field, getattr(self, field), 0, 1e6)
        check_range(owner, "noise_groups", self.noise_groups, 1, 360)

    def t_next(self, progress: float) -> int:
        """The lower of the two levels, one for the whole batch."""
        step = int(self.t_start + (self.t_end - self.t_start) * math.sqrt(progress))
        return max(self.t_min, min(step, self.t_max - self.gap))

    def timesteps(
        self, count: int, progress: float, generator: torch.Generator, device: torch.device
    ) -> tuple[Tensor, Tensor]:
        """t and t_next, both [count]; t lies gap .. gap + perturb - 1 above t_next, and at most at
        t_max.
        """
        t_next = torch.full((count,), self.t_next(progress), device=device)
        up = torch.randint(
            self.gap,
            self.gap + self.perturb,
            (count,),
            generator=generator,
            device=generator.device,
        )
        return (t_next + send(up, device)).clamp(max=self.t_max), t_next

    def start(
        self,
        prior: Prior,
        latent_shape: tuple[int, int, int],
        generator: torch.Generator,
        state: Mapping[str, Tensor] | None = None,
    ) -> LossRun:
        """Draw the run's noise, or take it from ``state``. Raises ValueError on bad settings or a
        foreign state.
        """
        self.check()
        check_steps("CDS Loss", prior, {"t_max": self.t_max})
        like = torch.empty((), device=prior.device)
        shape = latent_shape if self.noise_groups == 1 else (self.noise_groups, *latent_shape)
        if state is None:
            return _Run(self, prior, draw_noise(shape, generator, like))
        saved = state.get("noise")
        if saved is not None and saved.shape[-3:] == latent_shape and saved.shape != shape:
            groups = len(saved) if saved.dim() == 4 else 1
            raise ValueError(
                f"CDS Loss: noise_groups is {self.noise_groups}, but the run to go on from has"
                f" {groups}. Use {groups}, or start afresh from a cloud without training state."
            )
        return _Run(self, prior, restored("CDS Loss", state, "noise", shape, like))


@dataclass(frozen=True)
class _Run:
    settings: CDS
    prior: Prior
    noise: Tensor  # [C,h,w], or [noise_groups,C,h,w]

    def __call__(
        self, latents: Tensor, views: Views, generator: torch.Generator
    ) -> tuple[Tensor, dict[str, Tensor]]:
        settings, k = self.settings, views.progress
        t, t_next = map(views.alike, settings.timesteps(len(latents), k, generator, latents.device))
        guidance = (
            annealed(settings.guidance_start, settings.guidance_end, k) * views.guidance_factor
        )
        noise, texts = self._noise(views).to(latents), (views.text, views.negative)
        direction = cds(
            self.prior,
            latents,
            t,
            t_next,
            noise,
            *texts,
            guidance,
            settings.shared_unconditional,
            settings.pull,
        )
        c = self.prior.schedule.sigma(t).square() if settings.weighting == "1-abar" else 1.0
        clamped = cleaned(c * direction, annealed(settings.clip_start, settings.clip_end, k))
        logs = {
            "t": t.float().mean(),
            "t_next": t_next.float().mean(),
            **gradient_logs(c * direction),
        }
        factor = settings.weight * reduction_factor(settings.reduction, latents)
        return inject(latents, factor * clamped), logs

    def _noise(self, views: Views) -> Tensor:
        if self.settings.noise_groups == 1:
            return self.noise
        return self.noise[
            sectors(views.cameras.azimuths, self.settings.noise_groups).to(self.noise.device)
        ]

    def state(self) -> dict[str, Tensor]:
        return {"noise": self.noise}
