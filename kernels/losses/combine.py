"""Losses add: a weighted sum of losses is a loss."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import ClassVar

import torch
from torch import Tensor

from ..priors.base import Prior
from .base import Loss, LossRun, Views, check_range


@dataclass(frozen=True)
class Combined:
    """sum_i weight_i loss_i, each on the same renders; every loss asks the prior for itself.

    The losses draw from the one generator in their order. Logs and state carry the loss's place and
    name, as in "0.CDS.t".
    """

    losses: Sequence[Loss]
    weights: Sequence[float]  # one factor >= 0 per loss, on top of its own weight

    name: ClassVar[str] = "Combined"

    def check(self) -> None:
        """Raises ValueError when lists do not match, a weight is wrong, or one of the losses is."""
        if not self.losses or len(self.losses) != len(self.weights):
            raise ValueError(
                f"Combine Losses: {len(self.losses)} losses with {len(self.weights)} weights; "
                "give at least one loss and one weight for each."
            )
        for place, weight in enumerate(self.weights):
            check_range("Combine Losses", f"weight {place + 1}", weight, 0, 1e6)
        if not any(self.weights):
            raise ValueError(
                "Combine Losses: every weight is 0, so nothing would be learned. Raise one."
            )
        for loss in self.losses:
            loss.check()

    def below(self, top: int) -> Combined:
        """Every loss `Loss.below` the top."""
        return replace(self, losses=[loss.below(top) for loss in self.losses])

    def near(self, t: int) -> Combined:
        """Every loss `Loss.near` the timestep."""
        return replace(self, losses=[loss.near(t) for loss in self.losses])

    def guidance_at(self, progress: float) -> float:
        """That of the first loss with a weight."""
        return next(
            loss for loss, weight in zip(self.losses, self.weights, strict=True) if weight
        ).guidance_at(progress)

    def start(
        self,
        prior: Prior,
        latent_shape: tuple[int, int, int],
        generator: torch.Generator,
        state: Mapping[str, Tensor] | None = None,
    ) -> LossRun:
        """Start every loss, each with its part of ``state``. Raises ValueError on bad settings or a
        foreign state.
        """
        self.check()
        runs = {}
        for place, loss in enumerate(self.losses):
            key = f"{place}.{loss.name}."
            part = (
                None
                if state is None
                else {k[len(key) :]: v for k, v in state.items() if k.startswith(key)}
            )
            runs[key] = loss.start(prior, latent_shape, generator, part)
        return _Run(runs, tuple(self.weights))


@dataclass(frozen=True)
class _Run:
    runs: Mapping[str, LossRun]
    weights: tuple[float, ...]

    def __call__(
        self, latents: Tensor, views: Views, generator: torch.Generator
    ) -> tuple[Tensor, dict[str, Tensor]]:
        total, logs = latents.new_zeros(()), {}
        for weight, (key, run) in zip(self.weights, self.runs.items(), strict=True):
            if weight == 0:  # costs a network call or two and adds nothing
                continue
            value, own = run(latents, views, generator)
            total = total + weight * value
            logs.update({key + name: log for name, log in own.items()})
        return total, logs

    def state(self) -> dict[str, Tensor]:
        return {
            key + name: value
            for key, run in self.runs.items()
            for name, value in run.state().items()
        }
