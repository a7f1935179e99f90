"""Densification as a Markov chain: dead Gaussians move to where living ones are, new ones join them
up to a hard cap, and noise lets the nearly dead explore.

After Kheradmand et al. 2024, "3D Gaussian Splatting as Markov Chain Monte Carlo"
(arXiv 2404.09591), with gsplat's strategy of that name as the reference.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

import torch
from torch import Tensor

from ..devices.streams import send
from .cloud import Gaussians
from .densify import Moments
from .rotations import rotations

SHARERS_MAX = 51  # gsplat: so many Gaussians at most may share a place in one round


@dataclass(frozen=True)
class MCMC:
    """When and how the cloud is resampled during a run.

    Every ``every`` steps each Gaussian fainter than ``min_opacity`` is moved onto one drawn by
    opacity, and the cloud grows by the factor ``growth``, up to the cap, by more draws of that kind.
    Those that then share a place share its opacity and shrink, so that the picture stays
    (equation 9). After every step positions are moved by noise in the shape of each Gaussian's
    covariance, which fades with opacity (equation 8). There is no threshold, no split and no reset;
    the paper adds penalties on opacity and scale (`lambda_opacity`, `lambda_scale`: 0.01 each).

    Args:
        every: steps between rounds; 0 = never; gsplat: 100
        start: share of the schedule, 0..1, before the first round; gsplat: 500 of 30,000 steps
        stop: share of the schedule after which no round takes place; gsplat: 25,000 of 30,000
        growth: factor on the number of Gaussians per round; gsplat: 1.05
        min_opacity: 0..1; fainter Gaussians are dead; gsplat: 0.005
        noise: factor on lr_means for the noise; gsplat: 5e5 at rates of about 1.6e-4 scene radii,
            a product of 80; larger Gaussians want less
        noise_stop: share of the schedule after which there is no noise; gsplat: 1
        noise_opacity: 0..1, where noise has faded to a half; gsplat: 0.005
        noise_sharpness: of that fading; gsplat: 100
        count_max: hard cap
    """

    every: int = 25
    start: float = 0.05
    stop: float = 0.8
    growth: float = 1.05
    min_opacity: float = 0.005
    noise: float = 5e3
    noise_stop: float = 1.0
    noise_opacity: float = 0.005
    noise_sharpness: float = 100.0
    count_max: int = 50_000

    def check(self) -> None:
        """Raise ValueError naming the setting, its value, what is allowed and the cure."""
        limits = {
            "every": (0, 1_000_000, "steps"),
            "start": (0, 1, "as a share of the schedule"),
            "stop": (0, 1, "as a share of the schedule"),
            "growth": (1, 2, "as a factor"),
            "min_opacity": (1e-6, 0.9, "opacity"),
            "noise": (0, 1e9, "as a factor"),
            "noise_stop": (0, 1, "as a share of the schedule"),
            "noise_opacity": (0, 1, "opacity"),
            "noise_sharpness": (0, 1e6, "per opacity"),
            "count_max": (1, 10_000_000, "Gaussians"),
        }
        for key, (low, high, unit) in limits.items():
            value = getattr(self, key)
            if not low <= value <= high:  # also catches NaN
                raise ValueError(
                    f"MCMC: {key} is {value}; choose a value within {low:g}..{high:g} {unit}."
                )
        if self.start > self.stop:
            raise ValueError(f"MCMC: start {self.start:g} is above stop {self.stop:g}. Swap them.")

    def due(self, done: int, steps: int) -> bool:
        """Whether a round takes place after ``done`` steps of a schedule of ``steps``."""
        on_time = self.every > 0 and done > 0 and done % self.every == 0
        return on_time and self.start * steps <= done <= self.stop * steps


def shared(
    opacities: Tensor, scales: Tensor, sharers: Tensor, min_opacity: float
) -> tuple[Tensor, Tensor]:
    """Opacities [N] and scales [N,3] of each of ``sharers`` [N] Gaussians at one place that together
    look like the one given (equation 9); new opacities are at least ``min_opacity``, below which
    this no longer holds.
    """
    count = sharers.clamp(1, SHARERS_MAX)
    rest = torch.log1p(-opacities.double().clamp(max=1 - 1e-12))
    tiny = torch.finfo(opacities.dtype).eps
    each = (-torch.expm1(rest / count)).clamp(min_opacity, 1 - tiny)
    power = torch.arange(1, SHARERS_MAX + 1, device=opacities.device, dtype=torch.float64)
    terms = each[:, None] ** power / power.sqrt() * torch.where(power % 2 == 1, 1.0, -1.0)
    # sum over i of C(i - 1, k - 1), i up to the sharers, is C(sharers, k)
    n = count.double()[:, None]
    logs = torch.lgamma(n + 1) - torch.lgamma(power + 1) - torch.lgamma((n - power).clamp(0) + 1)
    ways = torch.where(power <= n, logs.exp(), 0.0)
    factor = opacities.double() / (ways * terms).sum(1)
    return each.to(opacities), (factor[:, None] * scales.double()).to(scales)


def resampled(
    strategy: MCMC,
    cloud: Gaussians,
    moments: Moments,
    generator: torch.Generator,
    count_max: int | None = None,
) -> tuple[Gaussians, dict[str, tuple[Tensor, Tensor]]]:
    """One round: relocate the dead, add new Gaussians, and take the optimizer's moments along.

    ``moments`` name -> (m, v), every tensor with first axis N; ``count_max`` lowers the strategy's
    cap. Rows keep their places, new ones follow; whoever shares its place loses its moments, new
    rows have none. Anchored rows stay and share with nobody. The inputs stay as they are; the
    training state is dropped. Raises ValueError if no Gaussian is finite and opaque enough.
    """
    cap = strategy.count_max if count_max is None else min(strategy.count_max, count_max)
    values = {key: value.detach().clone() for key, value in cloud.tensors().items()}
    fresh = {key: [m.detach().clone() for m in pair] for key, pair in moments.items()}
    anchored = torch.zeros(len(cloud), dtype=torch.bool, device=cloud.device)
    if cloud.anchored is not None:
        anchored = cloud.anchored.to(cloud.device)
    finite = torch.stack([v.flatten(1).isfinite().all(1) for v in _rows(values)]).all(0)
    opacities = values["opacity_logits"].sigmoid()
    dead = ~anchored & (~finite | (opacities <= strategy.min_opacity))
    sources = ~anchored & ~dead
    if not bool(sources.any()):
        raise ValueError(
            "MCMC: no Gaussian is finite and more opaque than min_opacity"
            f" {strategy.min_opacity:g}. Lower the learning rates or min_opacity and start again."
        )
    places = dead.nonzero()[:, 0]
    _share(strategy, values, fresh, sources, places, generator)
    new = max(0, min(cap, int(strategy.growth * len(cloud))) - len(cloud))
    if new:
        for key, value in values.items():
            values[key] = torch.cat([value, value.new_zeros(new, *value.shape[1:])])
            fresh[key] = [torch.cat([m, m.new_zeros(new, *m.shape[1:])]) for m in fresh[key]]
        places = torch.arange(len(cloud), len(cloud) + new, device=cloud.device)
        grown = torch.cat([~anchored, anchored.new_zeros(new)])
        _share(strategy, values, fresh, grown, places, generator)
    mask = None
    if cloud.anchored is not None:
        mask = torch.cat([anchored, anchored.new_zeros(new)])
    return Gaussians(**values, anchored=mask), {k: (m, v) for k, (m, v) in fresh.items()}


def perturbed(
    strategy: MCMC, cloud: Mapping[str, Tensor], lr_means: float, generator: torch.Generator
) -> Tensor:
    """The means [N,3], moved by noise: each Gaussian's covariance times normal numbers times
    lr_means, less the more opaque it is.
    """
    means = cloud["means"]
    normal = torch.randn(means.shape, generator=generator, device=generator.device)
    opacities = cloud["opacity_logits"].sigmoid()
    fading = torch.sigmoid(-strategy.noise_sharpness * (opacities - strategy.noise_opacity))
    drawn = send(normal, means.device).to(means) * fading[:, None] * (lr_means * strategy.noise)
    turned = rotations(cloud["quats"])
    axes = (turned.mT @ drawn[..., None])[..., 0] * (2 * cloud["log_scales"]).exp()
    moved: Tensor = means + (turned @ axes[..., None])[..., 0]
    return moved


def _rows(values: Mapping[str, Tensor]) -> list[Tensor]:
    return [value.reshape(len(value), -1) for value in values.values()]


def _share(
    strategy: MCMC,
    values: dict[str, Tensor],
    moments: dict[str, list[Tensor]],
    sources: Tensor,
    places: Tensor,
    generator: torch.Generator,
) -> None:
    """Put a Gaussian drawn by opacity from ``sources`` [N] bool into each row of ``places``, and let
    all that are then at one place share it.
    """
    if not len(places):
        return
    chances = values["opacity_logits"].sigmoid()[: len(sources)] * sources
    drawn = torch.multinomial(chances.cpu(), len(places), replacement=True, generator=generator)
    source = drawn.to(places.device)
    sharers = torch.bincount(source, minlength=len(sources))[source] + 1
    opacities, scales = shared(
        values["opacity_logits"][source].sigmoid(),
        values["log_scales"][source].exp(),
        sharers,
        strategy.min_opacity,
    )
    values["opacity_logits"][source] = opacities.logit()
    values["log_scales"][source] = scales.log()
    for value in values.values():
        value[places] = value[source]
    for pair in moments.values():
        for moment in pair:
            moment[source] = 0
            moment[places] = 0
