"""Segmented Consistency Trajectory Distillation (SegmentDreamer, Zhu et al., ICCV 2025)."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import ClassVar

import torch
from torch import Tensor

from ..devices.streams import send
from ..priors.base import Prior
from ..priors.conditioning import Conditioning
from ..settings.option import option
from .base import LossRun, Views, check_range, guided, restored
from .ode import estimates, ode_step
from .timestep import TimestepLoss, TimestepRun, null_text, offset_noise


def sctd(
    prior: Prior,
    z_e: Tensor,
    e: Tensor,
    s: Tensor,
    t: Tensor,
    text: Conditioning,
    negative: Conditioning,
    null: Conditioning,
    guidance: Tensor | float,
    stop: Tensor | None = None,
) -> tuple[Tensor, Tensor]:
    """SCTD's two parts, consistency z_e'' - z_e and guidance z_e - z_e', after the official public
    code.

    z_e [B,C,h,w] variance-exploding, at the segment's lower edge e <= s <= t [B] steps. The null
    text's ODE leads e -> s -> t, or by another ``stop`` [B] than s; from there one guided step
    leads to s and then the null text back to e (z_e''), another straight to e (z_e'). Both are
    scaled by alpha(e), since the code compares noisy latents; without w(t). Descended as they are.
    """
    schedule = prior.schedule
    (e_e,) = estimates(prior, z_e, e, [null])
    stop = s if stop is None else stop
    z_s = ode_step(schedule, z_e, e_e, e, stop)
    (e_s,) = estimates(prior, z_s, stop, [null])
    z_t = ode_step(schedule, z_s, e_s, stop, t)
    e_c, e_u = estimates(prior, z_t, t, [text, negative])
    e_t = guided(e_c, e_u, guidance)
    back_s = ode_step(schedule, z_t, e_t, t, s)
    (e_back,) = estimates(prior, back_s, s, [null])
    back_e = ode_step(schedule, back_s, e_back, s, e)
    alpha = schedule.alpha(e)
    return alpha * (back_e - z_e), alpha * (z_e - ode_step(schedule, z_t, e_t, t, e))


@dataclass(frozen=True)
class SCTD(TimestepLoss):
    """Segmented Consistency Trajectory Distillation (SegmentDreamer, arXiv 2507.05256), after its
    official public code.

    The steps are split into segments, and consistency along the ODE is asked for within one only,
    between t and the segment's lower edge; a part of its own pulls along the guidance. One noise,
    drawn once, starts every trajectory. Direction: consistency + (s + 1) guidance. The code's
    pixel constraint, off in its settings, is left out; its window of t that comes down, its noise
    per place in the batch and its single step for low t are options. Denoiser evaluations per step
    and view: 5.

    Args:
        guidance: standard form s; SegmentDreamer's value; enters twice, in e_cfg and in s + 1
        weighting: w(t): the code's
        segments: between t_min and the highest step, of equal length; the code's default
        gap: least distance of t from its segment's lower edge, steps; the code's delta_t
        margin: s is drawn between e + margin and t - margin; the code's value
        margin_above: the margin below t, where it is another; 0: ``margin``; the code: 11
        t_low_start: lowest step at the start of the run, coming down as t_max does to t_low_end;
            0: t_min throughout; the code: 501
        t_low_end: lowest step once that is over; the code: 21, over segments from t_min 20 on
        single_below: up to this t the way from e leads there in one step; the code: 150
        noise_per_view: a fixed noise of its own for each place in the batch, as in the code
        noise_offset: share of a fixed normal number per channel in that noise; the code: 0.1
    """

    guidance: float = 7.5
    weighting: str = "sigma/alpha"
    segments: int = 4
    gap: int = 80
    margin: int = 10
    margin_above: int = option(0)
    t_low_start: int = option(0)
    t_low_end: int = option(0)
    single_below: int = option(0)
    noise_per_view: bool = option(False)
    noise_offset: float = option(0.0)

    name: ClassVar[str] = "SCTD"

    def check(self) -> None:
        """Raises ValueError naming the setting that is wrong."""
        super().check()
        check_range(self.owner, "segments", self.segments, 1, 100)
        check_range(self.owner, "margin", self.margin, 0, 500)
        check_range(self.owner, "gap", self.gap, 1, 1000)
        for field in ("margin_above", "t_low_start", "t_low_end", "single_below"):
            check_range(self.owner, field, getattr(self, field), 0, 1000)
        check_range(self.owner, "noise_offset", self.noise_offset, 0, 10)
        if self.gap <= self.margin + self.above:
            raise ValueError(
                f"{self.owner}: gap {self.gap} leaves no step between margins of {self.margin} and"
                f" {self.above}. Raise gap above {self.margin + self.above}, or lower them."
            )
        for progress in (0.0, 1.0):
            if self.t_low_start and not self.t_min <= self.low(progress) <= self.highest(progress):
                raise ValueError(
                    f"{self.owner}: t_low_start {self.t_low_start} and t_low_end {self.t_low_end}:"
                    f" {self.low(progress)} does not lie between t_min {self.t_min} and the highest"
                    f" step then, {self.highest(progress)}. Lower t_low_start, or set both to 0."
                )
        if self.gap >= self.length:
            raise ValueError(
                f"{self.owner}: gap {self.gap} does not fit into a segment of {self.length:g} steps"
                f" ({self.segments} between t_min {self.t_min} and the highest step). Lower gap or"
                " segments, or widen the steps."
            )

    def below(self, top: int) -> SCTD:
        """See `Loss.below`. The gap has to fit into a segment, the margins into the gap."""
        lower = super().below(top)
        room = top - lower.t_min
        gap = min(self.gap, room // 2)
        segments = max(1, min(self.segments, room // (gap + 1)))
        margin = min(self.margin, (gap - 1) // 2)
        low = (self.t_low_start, self.t_low_end) if top >= self.t_max_start else (0, 0)
        return replace(
            lower,
            gap=gap,
            margin=margin,
            segments=segments,
            margin_above=min(self.margin_above, gap - margin - 1),
            t_low_start=low[0],
            t_low_end=low[1],
        )

    @property
    def above(self) -> int:
        return self.margin_above or self.margin

    def highest(self, progress: float) -> int:
        return self.timesteps.t_max(progress)

    def low(self, progress: float) -> int:
        """The lowest step that t is drawn from."""
        if self.t_low_start == 0:
            return self.t_min
        low = replace(self.timesteps, t_max_start=self.t_low_start, t_max_end=self.t_low_end)
        return low.t_max(progress)

    @property
    def length(self) -> float:
        """Steps per segment."""
        return (max(self.t_max_start, self.t_max_end) - self.t_min) / self.segments

    def start(
        self,
        prior: Prior,
        latent_shape: tuple[int, int, int],
        generator: torch.Generator,
        state: Mapping[str, Tensor] | None = None,
    ) -> LossRun:
        """Draw the run's one noise, or take it from ``state``. Raises ValueError on bad settings or
        a foreign state.
        """
        self.check_for(prior)
        like = torch.empty((), device=prior.device)
        if state is None:
            if self.noise_per_view:  # how many views there are, the first step tells
                return _Run(self, prior, None)
            noise = offset_noise((1, *latent_shape), self.noise_offset, generator, like)[0]
            return _Run(self, prior, noise)
        shape: tuple[int, ...] = latent_shape
        if self.noise_per_view and "noise" in state:
            shape = (len(state["noise"]), *latent_shape)
        return _Run(self, prior, restored(self.owner, state, "noise", shape, like))

    def drawn(
        self, count: int, progress: float, generator: torch.Generator, device: torch.device
    ) -> Tensor:
        window = replace(self.timesteps, t_min=self.low(progress))
        t = window.draw(1 if self.shared_t else count, progress, generator, device).expand(count)
        return torch.maximum(t, self.edge_below(t) + self.gap)

    def edge_below(self, t: Tensor) -> Tensor:
        """The lower edge of the segment that t [B] lies in."""
        place = ((t - self.t_min) / self.length).floor().clamp(max=self.segments - 1)
        return (self.t_min + place * self.length).long()

    def between(self, e: Tensor, t: Tensor, generator: torch.Generator) -> Tensor:
        """s [B], drawn from e + margin .. t - margin, both ends included; one for all with
        shared_t.
        """
        room = t - e - self.margin - self.above + 1
        draws = 1 if self.shared_t else len(t)
        share = send(torch.rand(draws, generator=generator, device=generator.device), t.device)
        return e + self.margin + torch.minimum((share * room).long(), room - 1)


@dataclass
class _Run(TimestepRun):
    noise: Tensor | None  # [C,h,w], or [V,C,h,w]; None: the first step draws it

    def direction(
        self,
        latents: Tensor,
        t: Tensor,
        views: Views,
        guidance: Tensor | float,
        generator: torch.Generator,
    ) -> tuple[Tensor, dict[str, Tensor]]:
        settings = self.settings
        e = settings.edge_below(t)
        if self.noise is None:
            shape, like = tuple(latents.shape), latents.float()
            self.noise = offset_noise(shape, settings.noise_offset, generator, like)
        if self.noise.dim() == 4 and len(self.noise) != len(latents):
            raise ValueError(
                f"{settings.owner}: there are {len(latents)} views, but the run's noise_per_view has"
                f" {len(self.noise)} noises. Use {len(self.noise)} views, or start afresh from a"
                " cloud without training state."
            )
        s = views.alike(settings.between(e, t, generator))
        z_e = latents + self.prior.schedule.ratio(e) * self.noise.to(latents)
        null = null_text(self.prior, views)
        consistency, pull = sctd(
            self.prior,
            z_e,
            e,
            s,
            t,
            views.text,
            views.negative,
            null,
            guidance,
            torch.where(t < settings.single_below, e, s),
        )
        return consistency + (guidance + 1) * pull, {"t_edge": e.float().mean()}

    def state(self) -> dict[str, Tensor]:
        return {} if self.noise is None else {"noise": self.noise}
