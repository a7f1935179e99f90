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
from .base import LossRun, Views, check_range, draw_noise, guided, restored
from .ode import estimates, ode_step
from .timestep import TimestepLoss, TimestepRun, null_text


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
) -> tuple[Tensor, Tensor]:
    """SCTD's two parts, consistency z_e'' - z_e and guidance z_e - z_e', after the official public
    code.

    z_e [B,C,h,w] variance-exploding, at the segment's lower edge e <= s <= t [B] steps. The null
    text's ODE leads e -> s -> t; from there one guided step leads to s and then the null text back
    to e (z_e''), another straight to e (z_e'). Both are scaled by alpha(e), since the code compares
    noisy latents; without w(t). Descended as they are.
    """
    schedule = prior.schedule
    (e_e,) = estimates(prior, z_e, e, [null])
    z_s = ode_step(schedule, z_e, e_e, e, s)
    (e_s,) = estimates(prior, z_s, s, [null])
    z_t = ode_step(schedule, z_s, e_s, s, t)
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
    single step for low t, its flips and its pixel constraint are left out. Denoiser evaluations per
    step and view: 5.

    Args:
        guidance: standard form s; SegmentDreamer's value; enters twice, in e_cfg and in s + 1
        weighting: w(t): the code's
        segments: between t_min and the highest step, of equal length; the code's default
        gap: least distance of t from its segment's lower edge, steps; the code's delta_t
        margin: s is drawn between e + margin and t - margin; the code's value
    """

    guidance: float = 7.5
    weighting: str = "sigma/alpha"
    segments: int = 4
    gap: int = 80
    margin: int = 10

    name: ClassVar[str] = "SCTD"

    def check(self) -> None:
        """Raises ValueError naming the setting that is wrong."""
        super().check()
        check_range(self.owner, "segments", self.segments, 1, 100)
        check_range(self.owner, "margin", self.margin, 0, 500)
        check_range(self.owner, "gap", self.gap, 1, 1000)
        if self.gap <= 2 * self.margin:
            raise ValueError(
                f"{self.owner}: gap {self.gap} leaves no step between two margins of {self.margin}."
                f" Raise gap above {2 * self.margin}, or lower margin."
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
        return replace(lower, gap=gap, margin=min(self.margin, (gap - 1) // 2), segments=segments)

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
            return _Run(self, prior, draw_noise(latent_shape, generator, like))
        return _Run(self, prior, restored(self.owner, state, "noise", latent_shape, like))

    def drawn(
        self, count: int, progress: float, generator: torch.Generator, device: torch.device
    ) -> Tensor:
        t = super().drawn(count, progress, generator, device)
        return torch.maximum(t, self.edge_below(t) + self.gap)

    def edge_below(self, t: Tensor) -> Tensor:
        """The lower edge of the segment that t [B] lies in."""
        place = ((t - self.t_min) / self.length).floor().clamp(max=self.segments - 1)
        return (self.t_min + place * self.length).long()

    def between(self, e: Tensor, t: Tensor, generator: torch.Generator) -> Tensor:
        """s [B], drawn from e + margin .. t - margin, both ends included."""
        room = t - e - 2 * self.margin + 1
        share = send(torch.rand(len(t), generator=generator, device=generator.device), t.device)
        return e + self.margin + torch.minimum((share * room).long(), room - 1)


@dataclass
class _Run(TimestepRun):
    noise: Tensor  # [C,h,w]

    def direction(
        self,
        latents: Tensor,
        t: Tensor,
        views: Views,
        guidance: Tensor | float,
        generator: torch.Generator,
    ) -> tuple[Tensor, dict[str, Tensor]]:
        e = self.settings.edge_below(t)
        s = views.alike(self.settings.between(e, t, generator))
        z_e = latents + self.prior.schedule.ratio(e) * self.noise.to(latents)
        null = null_text(self.prior, views.text)
        consistency, pull = sctd(
            self.prior, z_e, e, s, t, views.text, views.negative, null, guidance
        )
        return consistency + (guidance + 1) * pull, {"t_edge": e.float().mean()}

    def state(self) -> dict[str, Tensor]:
        return {"noise": self.noise}
