"""What losses at one random timestep per view share: their settings, their checks and the step
around a direction.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any, ClassVar

import torch
from torch import Tensor

from ..priors.base import Prior
from ..priors.conditioning import Conditioning
from ..settings.option import Settings, option
from .base import (
    REDUCTIONS,
    WEIGHTINGS,
    LossRun,
    Views,
    check_choice,
    check_range,
    check_steps,
    cleaned,
    draw_noise,
    first_valid,
    gradient_logs,
    inject,
    reduction_factor,
    weighting,
)
from .schedule import TimestepRange

if TYPE_CHECKING:
    from typing_extensions import Self


@dataclass(frozen=True)
class TimestepLoss(Settings):
    """Settings of a loss whose gradient is weight w(t) direction(t), t drawn per view and step.

    A loss without memory says its `direction`; one with memory overrides `start` and gives its own
    `TimestepRun`.

    Args:
        guidance: standard form s
        weighting: w(t): one of WEIGHTINGS
        t_min: lowest step, of 0..999
        t_max_start: highest step at the start
        t_max_end: highest step once annealed
        t_anneal: constant | linear | sqrt | cosine | jump
        t_anneal_share: share of the run over which t_max comes down
        clip: clamp of every gradient value, latent units; 0 = off
        weight: factor on the gradient, after the clip
        reduction: the gradient is a sum over latent elements and a "mean" over views | a "sum" over
            both (LucidDreamer, SegmentDreamer) | a mean over both, "elements" (SDI)
        shared_t: one step for all views of a batch (LucidDreamer, SegmentDreamer)
        first_step: what the schedule counts the first step as; LucidDreamer, SegmentDreamer: 1
    """

    guidance: float = 7.5
    weighting: str = "1-abar"
    t_min: int = 20
    t_max_start: int = 980
    t_max_end: int = 500
    t_anneal: str = "linear"
    t_anneal_share: float = 1.0
    clip: float = 0.0
    weight: float = 1.0
    reduction: str = option("mean")
    shared_t: bool = option(False)
    first_step: int = option(0)

    name: ClassVar[str]

    @property
    def owner(self) -> str:
        return f"{self.name} Loss"

    @property
    def timesteps(self) -> TimestepRange:
        return TimestepRange(
            self.t_min, self.t_max_start, self.t_max_end, self.t_anneal, self.t_anneal_share
        )

    def check(self) -> None:
        """Raises ValueError naming the setting that is wrong."""
        check_choice(self.owner, "weighting", self.weighting, WEIGHTINGS)
        check_choice(self.owner, "reduction", self.reduction, REDUCTIONS)
        check_range(self.owner, "first_step", self.first_step, 0, 1)
        check_range(self.owner, "guidance", self.guidance, 0, 1000)
        check_range(self.owner, "clip", self.clip, 0, 1e6)
        check_range(self.owner, "weight", self.weight, 0, 1e6)
        self.timesteps.check(self.owner)

    def below(self, top: int) -> Self:
        """See `Loss.below`."""
        start, end = min(self.t_max_start, top), min(self.t_max_end, top)
        return replace(self, t_min=min(self.t_min, top // 2), t_max_start=start, t_max_end=end)

    def near(self, t: int) -> Self:
        """See `Loss.near`. A loss that needs a range, as one that splits it into segments, keeps
        its lower end.
        """
        wide = replace(self, t_max_start=t, t_max_end=t)
        return first_valid(replace(wide, t_min=t), wide, self)

    def guidance_at(self, progress: float) -> float:
        """See `Loss.guidance_at`."""
        return float(self.guidance)

    def check_for(self, prior: Prior) -> None:
        """Raises ValueError on bad settings, or steps beyond the prior's schedule."""
        self.check()
        check_steps(
            self.owner, prior, {"t_max_start": self.t_max_start, "t_max_end": self.t_max_end}
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
        self.check_for(prior)
        return TimestepRun(self, prior)

    def progress(self, views: Views) -> float:
        """Share of the schedule that is done, 0..1, as the loss counts it."""
        return min(views.progress + self.first_step / max(views.steps, 1), 1.0)

    def drawn(
        self, count: int, progress: float, generator: torch.Generator, device: torch.device
    ) -> Tensor:
        """The steps [count] of one batch."""
        draws = 1 if self.shared_t else count
        return self.timesteps.draw(draws, progress, generator, device).expand(count)

    def direction(
        self,
        prior: Prior,
        latents: Tensor,
        t: Tensor,
        views: Views,
        guidance: Tensor | float,
        generator: torch.Generator,
    ) -> Tensor:
        """d loss / d latents [V,C,h,w] in noise form, without w(t); latents are detached, guidance
        is per view.
        """
        raise NotImplementedError


@dataclass
class TimestepRun:
    """A `TimestepLoss` at work."""

    settings: Any  # the TimestepLoss
    prior: Prior

    def __call__(
        self, latents: Tensor, views: Views, generator: torch.Generator
    ) -> tuple[Tensor, dict[str, Tensor]]:
        settings = self.settings
        progress = settings.progress(views)
        t = views.alike(settings.drawn(len(latents), progress, generator, latents.device))
        direction, logs = self.direction(
            latents.detach(), t, views, settings.guidance * views.guidance_factor, generator
        )
        return self.injected(latents, t, direction, logs)

    def injected(
        self, latents: Tensor, t: Tensor, direction: Tensor, logs: dict[str, Tensor]
    ) -> tuple[Tensor, dict[str, Tensor]]:
        """The loss whose gradient is the weighted, clipped ``direction`` [B,C,h,w], and all logs."""
        settings = self.settings
        raw = weighting(self.prior.schedule, t, settings.weighting) * direction
        factor = settings.weight * reduction_factor(settings.reduction, latents)
        return inject(latents, factor * cleaned(raw, settings.clip)), {
            "t": t.float().mean(),
            **logs,
            **gradient_logs(factor * raw),
        }

    def direction(
        self,
        latents: Tensor,
        t: Tensor,
        views: Views,
        guidance: Tensor | float,
        generator: torch.Generator,
    ) -> tuple[Tensor, dict[str, Tensor]]:
        """The direction, and logs besides those that every loss gives."""
        return self.settings.direction(self.prior, latents, t, views, guidance, generator), {}

    def state(self) -> dict[str, Tensor]:
        return {}


def noised(
    prior: Prior, latents: Tensor, t: Tensor, generator: torch.Generator
) -> tuple[Tensor, Tensor]:
    """z_t = alpha(t) z0 + sigma(t) eps with fresh eps, and that eps; both [B,C,h,w]."""
    noise = draw_noise(tuple(latents.shape), generator, latents)
    return prior.schedule.alpha(t) * latents + prior.schedule.sigma(t) * noise, noise


def offset_noise(
    shape: tuple[int, ...], offset: float, generator: torch.Generator, like: Tensor
) -> Tensor:
    """Standard normal numbers [B,C,h,w] and, if ``offset`` > 0, so much of another one per channel,
    the same for the batch (LucidDreamer: 0.1).
    """
    noise = draw_noise(shape, generator, like)
    if offset == 0:
        return noise
    return noise + offset * draw_noise((1, shape[1], 1, 1), generator, like)


def null_text(prior: Prior, views: Views) -> Conditioning:
    """The null text, a row for each view and of it; `Views.negative` is it without a negative
    prompt.

    A run has prepared it once, since to embed in every step means to wait for the device.
    """
    if views.null is not None:
        return views.null
    text = views.text
    embedded = prior.embed([""] * len(text)).to(text.embeddings.device)
    return embedded.with_views(text.camera, text.hint)
