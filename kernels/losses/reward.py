"""Reward-weighted sampling (RewardSDS, Chachy et al. 2025): noise draws that lead to better
pictures count more."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any, ClassVar

import torch
from torch import Tensor

from ..priors.base import Prior
from ..priors.conditioning import Conditioning
from .base import Loss, LossRun, Views, check_choice, check_range
from .picture import pictured
from .timestep import TimestepLoss, TimestepRun

if TYPE_CHECKING:
    from typing_extensions import Self

STRATEGIES = ("softmax", "best", "best less worst")
BEST, WORST, WORST_SHARE = 2, 2, 0.1  # of "best less worst"; the authors'

# images [B,3,H,W] in 0..1 -> scores [B], more is better
Scorer = Callable[[Tensor], Tensor]


def draw_weights(scores: Tensor, strategy: str, sharpness: float = 1.0) -> Tensor:
    """What each of N draws counts [N,...], by its score [N,...]; they add up to 1, or in "best less
    worst" to 0.8.

    "softmax": exp(sharpness x score) over its sum; "best": the one best; "best less worst": 0.9 of
    the mean of the two best, less 0.1 of that of the two worst (RewardSDS's three strategies).
    """
    if strategy == "softmax":
        return torch.softmax(sharpness * scores, 0)
    count = len(scores)
    order = scores.argsort(0, descending=True)
    ranks = torch.zeros_like(scores)
    if strategy == "best":
        return ranks.scatter(0, order[:1], 1.0)
    best, worst = min(BEST, count), min(WORST, count)
    share = (1 - WORST_SHARE) / best
    ranks = ranks.scatter_add(0, order[:best], torch.full_like(scores[:best], share))
    return ranks.scatter_add(
        0, order[count - worst :], torch.full_like(scores[:worst], -WORST_SHARE / worst)
    )


class Witness:
    """A prior that remembers the first noisy latents that it is asked about."""

    def __init__(self, prior: Prior) -> None:
        self._prior = prior
        self.first: tuple[Tensor, Tensor] | None = None

    def __getattr__(self, name: str) -> Any:
        return getattr(self._prior, name)

    def predict(self, z_t: Tensor, t: Tensor, conditionings: list[Conditioning]) -> list[Tensor]:
        if self.first is None:
            self.first = (z_t, t)
        return self._prior.predict(z_t, t, conditionings)


@dataclass(frozen=True)
class Reward:
    """A loss at one random timestep whose direction is a mean over several draws of noise, weighed
    by how a model scores the pictures that the prior makes of the noised renders (RewardSDS, arXiv
    2503.09601).

    Each draw costs the loss's own evaluations and two a step of its picture, which is decoded too.
    A loss that learns (VSD, TraCe) learns once a draw.

    Args:
        loss: whose draws are weighed
        scorer: of pictures; not part of the settings' text
        draws: of noise per step and view; the authors: 6
        strategy: one of STRATEGIES
        sharpness: of "softmax", per unit of the score; the authors: 1
        steps: of the sampler for a picture; the authors: 15 from pure noise, fewer below
        until: share of the run, 0..1, after which the loss goes on alone; the authors: 0.5
    """

    loss: TimestepLoss
    scorer: Scorer
    draws: int = 6
    strategy: str = "softmax"
    sharpness: float = 1.0
    steps: int = 8
    until: float = 0.5

    name: ClassVar[str] = "Reward"

    @property
    def losses(self) -> tuple[Loss, ...]:
        return (self.loss,)

    def __repr__(self) -> str:
        rest = (self.draws, self.strategy, self.sharpness, self.steps, self.until)
        return f"Reward({self.loss!r}, {', '.join(map(repr, rest))})"

    def check(self) -> None:
        """Raises ValueError naming the setting that is wrong."""
        owner = "Reward Loss"
        self.loss.check()
        check_range(owner, "draws", self.draws, 2, 64)
        check_choice(owner, "strategy", self.strategy, STRATEGIES)
        check_range(owner, "sharpness", self.sharpness, 0, 1e6)
        check_range(owner, "steps", self.steps, 1, 100)
        check_range(owner, "until", self.until, 0, 1)

    @staticmethod
    def check_loss(loss: Any) -> None:
        """Raises ValueError for a loss that draws no timestep of its own."""
        if not isinstance(loss, TimestepLoss):
            raise ValueError(
                f"Reward Loss: loss is {loss.name}, which does not draw one timestep and one noise"
                " a step. Link SDS, CSD, NFSD, ISM, SDI, SCTD, VSD, TraCe or RFDS Loss."
            )

    def below(self, top: int) -> Self:
        """See `Loss.below`."""
        return replace(self, loss=self.loss.below(top))

    def near(self, t: int) -> Self:
        """See `Loss.near`."""
        return replace(self, loss=self.loss.near(t))

    def guidance_at(self, progress: float) -> float:
        """See `Loss.guidance_at`."""
        return self.loss.guidance_at(progress)

    def start(
        self,
        prior: Prior,
        latent_shape: tuple[int, int, int],
        generator: torch.Generator,
        state: Mapping[str, Tensor] | None = None,
    ) -> LossRun:
        """Begin, or continue the loss whose ``state`` is given. Raises ValueError on bad settings,
        and for a loss that draws no timestep of its own."""
        self.check_loss(self.loss)
        self.check()
        witness = Witness(prior)
        run = self.loss.start(witness, latent_shape, generator, state)  # type: ignore[arg-type]
        assert isinstance(run, TimestepRun)
        return _Run(self, run, witness, prior)


@dataclass
class _Run:
    settings: Reward
    run: TimestepRun
    witness: Witness
    prior: Prior

    def __call__(
        self, latents: Tensor, views: Views, generator: torch.Generator
    ) -> tuple[Tensor, dict[str, Tensor]]:
        reward, loss = self.settings, self.run.settings
        if views.progress >= reward.until:
            return self.run(latents, views, generator)
        t = views.alike(
            loss.drawn(len(latents), loss.progress(views), generator, latents.device)
        )  # the same for all draws, whose scores are compared
        guidance = loss.guidance * views.guidance_factor
        directions, scores = [], []
        logs: dict[str, Tensor] = {}
        for _ in range(reward.draws):
            self.witness.first = None
            direction, logs = self.run.direction(latents.detach(), t, views, guidance, generator)
            directions.append(direction)
            scores.append(self._scored(views, guidance))
        found = torch.stack(scores)  # [N,V]
        weights = draw_weights(found, reward.strategy, reward.sharpness)
        mean = (weights[:, :, None, None, None] * torch.stack(directions)).sum(0)
        told = {"reward": found.mean(), "reward_best": found.amax(0).mean()}
        return self.run.injected(latents, t, mean, logs | told)

    @torch.no_grad()
    def _scored(self, views: Views, guidance: Tensor | float) -> Tensor:
        """Scores [V] of the pictures of the latents that the loss asked about first; views that are
        judged together have one."""
        assert self.witness.first is not None
        z_t, t = self.witness.first
        clean = pictured(
            self.prior, z_t, t, self.settings.steps, views.text, views.negative, guidance
        )
        scores = self.settings.scorer(self.prior.decode(clean).float()).to(z_t.device).float()
        groups = scores.view(-1, views.views_per_group).mean(1)
        return groups.repeat_interleave(views.views_per_group)

    def state(self) -> dict[str, Tensor]:
        return self.run.state()
