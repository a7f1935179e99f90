"""Losses add and follow one another: a weighted sum of losses is a loss, and so is a schedule."""

from __future__ import annotations

import copy
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from itertools import pairwise
from typing import TYPE_CHECKING, ClassVar

import torch
from torch import Tensor

from ..priors.base import Prior
from .base import Loss, LossRun, Views, check_choice, check_range

if TYPE_CHECKING:
    from typing_extensions import Self

SPANS = ("own share", "whole run")


@dataclass(frozen=True)
class _Several:
    losses: Sequence[Loss]

    def below(self, top: int) -> Self:
        """Every loss `Loss.below` the top."""
        return replace(self, losses=[loss.below(top) for loss in self.losses])

    def near(self, t: int) -> Self:
        """Every loss `Loss.near` the timestep."""
        return replace(self, losses=[loss.near(t) for loss in self.losses])

    def check_each(self) -> None:
        """Raises ValueError when one of the losses is wrong."""
        for loss in self.losses:
            loss.check()

    def start_each(
        self,
        prior: Prior,
        latent_shape: tuple[int, int, int],
        generator: torch.Generator,
        state: Mapping[str, Tensor] | None,
    ) -> dict[str, LossRun]:
        """Runs by place and name, in their order, each with its part of ``state``."""
        runs = {}
        for place, loss in enumerate(self.losses):
            key = f"{place}.{loss.name}."
            part = (
                None
                if state is None
                else {k[len(key) :]: v for k, v in state.items() if k.startswith(key)}
            )
            runs[key] = loss.start(prior, latent_shape, generator, part)
        return runs


@dataclass(frozen=True)
class Combined(_Several):
    """sum_i weight_i loss_i, each on the same renders; every loss asks the prior for itself.

    The losses draw from the one generator in their order. Logs and state carry the loss's place and
    name, as in "0.CDS.t".
    """

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
        self.check_each()

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
        runs = self.start_each(prior, latent_shape, generator, state)
        return _Sum(runs, tuple(self.weights))


@dataclass(frozen=True)
class Scheduled(_Several):
    """Losses one after the other, each over a share of the run.

    All of them start with the run, so that the random numbers of one do not depend on when another
    begins; only the one whose turn it is asks the prior. Logs and state carry the loss's place and
    name, as in "1.Picture.t".

    Args:
        losses: in their order
        starts: share of the run, 0..1, after which each begins; the first 0. One that begins where
            the next does has no share; 1: never
        spans: over what each loss anneals: "own share" of the run | "whole run"
    """

    starts: Sequence[float]
    spans: Sequence[str]

    name: ClassVar[str] = "Scheduled"

    def check(self) -> None:
        """Raises ValueError when lists do not match, a share or a span is wrong, or one of the
        losses is.
        """
        owner, count = "Schedule Losses", len(self.losses)
        if not count or {len(self.starts), len(self.spans)} != {count}:
            raise ValueError(
                f"{owner}: {count} losses with {len(self.starts)} starts and {len(self.spans)}"
                " spans; give at least one loss, and one start and one span for each."
            )
        for place, start in enumerate(self.starts):
            check_range(owner, f"start {place + 1}", start, 0, 1)
        if self.starts[0] != 0 or any(a > b for a, b in pairwise(self.starts)):
            raise ValueError(
                f"{owner}: the starts are {', '.join(f'{s:g}' for s in self.starts)}; the first"
                " must be 0, and none may lie before the one ahead of it."
            )
        for place, span in enumerate(self.spans):
            check_choice(owner, f"span {place + 1}", span, SPANS)
        self.check_each()

    def guidance_at(self, progress: float) -> float:
        """That of the loss whose turn it is."""
        place, own = self.turn(progress)
        return self.losses[place].guidance_at(own)

    def turn(self, progress: float) -> tuple[int, float]:
        """The place of the loss whose turn it is at ``progress`` 0..1, and that loss's own
        progress.
        """
        begun = [p for p, start in enumerate(self.starts) if start <= progress and start < 1]
        place = begun[-1]
        if self.spans[place] == "whole run":
            return place, progress
        start, end = self.starts[place], next(iter(self.starts[place + 1 :]), 1.0)
        return place, (progress - start) / (end - start)

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
        return _Sequence(self.start_each(prior, latent_shape, generator, state), self)


@dataclass(frozen=True)
class _Runs:
    runs: Mapping[str, LossRun]

    def __copy__(self) -> _Runs:
        """With copies of the parts, which remember things of their own."""
        return replace(self, runs={key: copy.copy(run) for key, run in self.runs.items()})

    def state(self) -> dict[str, Tensor]:
        return {
            key + name: value
            for key, run in self.runs.items()
            for name, value in run.state().items()
        }


def part_of(run: LossRun, log: str) -> LossRun:
    """The part of a sum or a schedule, at any depth, that gave the log of that name."""
    while isinstance(run, _Runs):
        key = next(key for key in run.runs if log.startswith(key))
        run, log = run.runs[key], log[len(key) :]
    return run


@dataclass(frozen=True)
class _Sum(_Runs):
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


@dataclass(frozen=True)
class _Sequence(_Runs):
    settings: Scheduled

    def __call__(
        self, latents: Tensor, views: Views, generator: torch.Generator
    ) -> tuple[Tensor, dict[str, Tensor]]:
        place, own = self.settings.turn(views.progress)
        key, run = list(self.runs.items())[place]
        value, logs = run(latents, replace(views, own_progress=own), generator)
        return value, {key + name: log for name, log in logs.items()}
