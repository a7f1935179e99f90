"""Adaptive density control: more Gaussians where the picture pulls at them, none where nothing is
to be seen.

After Kerbl et al. 2023, section 5.2, with the opacity correction of Bulo et al. 2024 (Revising
Densification in Gaussian Splatting) and a limit on growth per round in place of a threshold that
depends on the scale of the loss.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass

import torch
from torch import Tensor

from ..settings.option import Settings, option
from .cloud import Gaussians
from .rotations import rotations

# Adam's first and second moments by parameter, first axis N
Moments = Mapping[str, tuple[Tensor, Tensor]]


SPLIT_OPACITIES = ("halved", "kept")


@dataclass(frozen=True)
class Densify(Settings):
    """When and how the cloud grows and shrinks during a run.

    Every ``every`` steps the Gaussians with the largest mean screen-space gradient are doubled:
    large ones are split in two smaller ones drawn from their own density, small ones are cloned.
    Gaussians that are nearly transparent, huge, outside the bounds or not finite are removed. 3DGS
    doubles all above a fixed gradient (2e-4; LucidDreamer 7.5e-4), which fits one loss only; here
    the best ``grow_share`` is taken, and the threshold is optional.

    Args:
        every: steps between rounds; 0 = never. 3DGS, LucidDreamer: 100
        start: share of the schedule, 0..1, before the first round. LucidDreamer: 100 of 5000 steps
        stop: share of the schedule after which no round takes place. LucidDreamer: 3000 of 5000
            steps
        grow_share: at most this share of the cloud, 0..1, is doubled per round. Papers: 1
        gradient_threshold: least mean gradient, loss per half picture, to be doubled. LucidDreamer:
            7.5e-4
        split_scale: world units; above it a Gaussian is split, below cloned. 3DGS: 0.01 scene radii
        split_shrink: the parts of a split Gaussian are smaller by this factor. 3DGS: 1.6
        prune_opacity: 0..1; fainter Gaussians are removed. 3DGS, LucidDreamer: 0.005
        prune_scale: world units; larger Gaussians are removed. 3DGS: 0.1 scene radii
        bounds: world units; removed if a coordinate is larger. Papers: none; the cameras see +-0.72
        reset_every: steps between opacity resets; 0 = never. LucidDreamer: 300, 3DGS: 3000
        reset_opacity: 0..1; a reset lowers every opacity to this. 3DGS, LucidDreamer: 0.01
        count_min: removal stops here: a cloud without Gaussians could never come back
        count_max: hard cap
        split_opacity: "halved", so that two let as much light through as the one before | "kept":
            3DGS, LucidDreamer
        grow_first: grow before removing, so that what is both huge and due is split; 3DGS,
            LucidDreamer
        summed_views: the loss is a sum over its views, not a mean (LucidDreamer)
    """

    every: int = 50
    start: float = 0.05
    stop: float = 0.6
    grow_share: float = 0.1
    gradient_threshold: float = 0.0
    split_scale: float = 0.02
    split_shrink: float = 1.6
    prune_opacity: float = 0.005
    prune_scale: float = 0.25
    bounds: float = 0.7
    reset_every: int = 0
    reset_opacity: float = 0.01
    count_min: int = 100
    count_max: int = 50_000
    split_opacity: str = option("halved")
    grow_first: bool = option(False)
    summed_views: bool = option(False)

    def check(self) -> None:
        """Raise ValueError naming the setting, its value, what is allowed and the cure."""
        limits = {
            "every": (0, 1_000_000, "steps"),
            "start": (0, 1, "as a share of the schedule"),
            "stop": (0, 1, "as a share of the schedule"),
            "grow_share": (0, 1, "as a share of the cloud"),
            "gradient_threshold": (0, math.inf, "loss per half picture"),
            "split_scale": (1e-6, 10, "world units"),
            "split_shrink": (1, 10, "as a factor"),
            "prune_opacity": (0, 0.9, "opacity"),
            "prune_scale": (1e-3, 1000, "world units"),
            "bounds": (1e-3, 1000, "world units"),
            "reset_every": (0, 1_000_000, "steps"),
            "reset_opacity": (1e-4, 0.9, "opacity"),
            "count_min": (1, 10_000_000, "Gaussians"),
            "count_max": (1, 10_000_000, "Gaussians"),
        }
        for key, (low, high, unit) in limits.items():
            value = getattr(self, key)
            if not low <= value <= high:  # also catches NaN
                raise ValueError(
                    f"Densify: {key} is {value}; choose a value within {low:g}..{high:g} {unit}."
                )
        for low_key, high_key in (("start", "stop"), ("count_min", "count_max")):
            low, high = getattr(self, low_key), getattr(self, high_key)
            if low > high:
                raise ValueError(
                    f"Densify: {low_key} {low:g} is above {high_key} {high:g}. Swap them."
                )
        if self.split_opacity not in SPLIT_OPACITIES:
            raise ValueError(
                f"Densify: split_opacity is {self.split_opacity!r}; choose one of"
                f" {', '.join(SPLIT_OPACITIES)}."
            )
        if self.reset_every and self.reset_opacity <= self.prune_opacity:
            raise ValueError(
                f"Densify: reset_opacity {self.reset_opacity:g} is not above prune_opacity"
                f" {self.prune_opacity:g}, so a round after a reset would remove everything. Lower"
                " prune_opacity."
            )

    def due(self, done: int, steps: int) -> bool:
        """Whether a round takes place after ``done`` steps of a schedule of ``steps``."""
        return _due(self.every, done) and self.start * steps <= done <= self.stop * steps

    def reset_due(self, done: int, steps: int) -> bool:
        """Whether the opacities are reset after ``done`` steps; never so late that they could not
        recover.
        """
        return _due(self.reset_every, done) and self.start * steps <= done < self.stop * steps


def fresh_statistics(cloud: Gaussians) -> dict[str, Tensor]:
    """What `gather` starts from, for a cloud of N: "gradient" [N] and "views" [N], all zero."""
    zeros = cloud.means.new_zeros(len(cloud))
    return {"gradient": zeros, "views": zeros.clone()}


def gather(
    statistics: Mapping[str, Tensor],
    gradient: Tensor,
    visible: Tensor,
    size: tuple[int, int],
    accept: Tensor | bool = True,
    summed_views: bool = False,
) -> dict[str, Tensor]:
    """Add one batch to the statistics; returns new ones, without waiting for the device.

    ``gradient`` [V,N,2] is that of the loss (a mean over the views, or ``summed_views``) with respect
    to ``Rendering.means2d``, in loss per pixel; it is scaled to loss per half picture and view, as
    3DGS counts it, so that the picture's size cancels. ``visible`` [V,N] bool, ``size`` (width,
    height) pixels; nothing is added where ``accept`` [] bool is False.
    """
    half = gradient.new_tensor([size[0] / 2, size[1] / 2])
    views = 1 if summed_views else gradient.shape[0]
    norms = (gradient.detach() * half * views).norm(dim=-1)
    counts = visible & norms.isfinite() & torch.as_tensor(accept, device=visible.device)
    return {
        "gradient": statistics["gradient"] + torch.where(counts, norms, 0.0).sum(0),
        "views": statistics["views"] + counts.sum(0),
    }


def densify_and_prune(
    strategy: Densify,
    cloud: Gaussians,
    statistics: Mapping[str, Tensor],
    moments: Moments,
    generator: torch.Generator,
    count_max: int | None = None,
) -> tuple[Gaussians, dict[str, tuple[Tensor, Tensor]]]:
    """One round: remove, clone and split Gaussians, and take the optimizer's moments along.

    ``statistics`` from `gather` (start anew after this: rows have moved); ``moments`` name -> (m,
    v), every tensor with first axis N; ``count_max`` lowers the strategy's cap. Rows of the result:
    the survivors in their order, then the clones, then both parts of every split Gaussian, all
    first parts before all second ones. Survivors keep their moments, new rows have zeros. Anchored
    rows neither grow nor go. The inputs stay as they are; the training state is dropped. Raises
    ValueError if tensors and rows do not match, or if not one Gaussian is finite.
    """
    n = len(cloud)
    for key, value in [*statistics.items(), *((k, m) for k, pair in moments.items() for m in pair)]:
        if value.shape[:1] != (n,):
            raise ValueError(
                f"Densify: {key} has {tuple(value.shape)[:1]} rows, but the cloud has {n}"
                " Gaussians."
            )
    cap = strategy.count_max if count_max is None else min(strategy.count_max, count_max)
    if cap < 1:
        raise ValueError(f"Densify: count_max is {cap}; at least 1 Gaussian is needed.")
    parameters = {key: value.detach() for key, value in cloud.tensors().items()}

    anchored = torch.zeros(n, dtype=torch.bool) if cloud.anchored is None else cloud.anchored
    anchored = anchored.to(cloud.device)
    first = strategy.grow_first
    alive = _finite(parameters) if first else _survivors(strategy, parameters, cap, anchored)
    budget = min(int(strategy.grow_share * n), cap - int(alive.sum()))
    growing = _growing(strategy, statistics, alive & ~anchored, budget)
    large = parameters["log_scales"].amax(-1) > math.log(strategy.split_scale)
    clone, split = growing & ~large, growing & large

    keep = alive & ~split
    clone_rows, split_rows = clone.nonzero()[:, 0], split.nonzero()[:, 0]
    # Two at the same place with opacity 1 - sqrt(1 - o) let as much light through as the one
    # before.
    halved = (
        (-torch.expm1(0.5 * torch.log1p(-parameters["opacity_logits"].sigmoid())))
        .clamp(1e-6, 1 - 1e-6)
        .logit()
    )
    if strategy.split_opacity == "halved":
        parameters["opacity_logits"] = torch.where(growing, halved, parameters["opacity_logits"])
    source = torch.cat([keep.nonzero()[:, 0], clone_rows, split_rows, split_rows])
    result = {key: value[source] for key, value in parameters.items()}
    first_part = len(source) - 2 * len(split_rows)
    result["means"][first_part:] += _inside(parameters, split_rows, generator)
    result["log_scales"][first_part:] -= math.log(strategy.split_shrink)

    old = int(keep.sum())

    def carried(moment: Tensor) -> Tensor:
        rows = moment.new_zeros(len(source), *moment.shape[1:])
        rows[:old] = moment.detach()[source[:old]]
        return rows

    rest = {key: (carried(m), carried(v)) for key, (m, v) in moments.items()}
    kept = anchored[source]
    if strategy.grow_first:
        stay = _survivors(strategy, result, cap, kept)
        kept, result = kept[stay], {key: value[stay] for key, value in result.items()}
        rest = {key: (m[stay], v[stay]) for key, (m, v) in rest.items()}
    return Gaussians(**result, anchored=None if cloud.anchored is None else kept), rest


def reset_opacities(
    strategy: Densify, cloud: Gaussians, moments: Moments
) -> tuple[Gaussians, dict[str, tuple[Tensor, Tensor]]]:
    """Lower every opacity to at most ``reset_opacity`` and forget its moments (3DGS: it removes
    floaters).

    What the picture needs comes back within some hundred steps, the rest is pruned.
    """
    highest = math.log(strategy.reset_opacity / (1 - strategy.reset_opacity))
    tensors = {key: value.detach() for key, value in cloud.tensors().items()}
    lowered = tensors["opacity_logits"].clamp_max(highest)
    if cloud.anchored is not None:
        lowered = torch.where(cloud.anchored, tensors["opacity_logits"], lowered)
    tensors["opacity_logits"] = lowered
    fresh = dict(moments)
    if "opacity_logits" in fresh:
        m, v = fresh["opacity_logits"]
        fresh["opacity_logits"] = (torch.zeros_like(m), torch.zeros_like(v))
    return Gaussians(**tensors, anchored=cloud.anchored), fresh


def _due(every: int, done: int) -> bool:
    return every > 0 and done > 0 and done % every == 0


def _finite(parameters: Mapping[str, Tensor]) -> Tensor:
    """[N] bool. Raises ValueError if no row is."""
    finite = torch.stack(
        [v.reshape(len(v), -1).isfinite().all(1) for v in parameters.values()]
    ).all(0)
    if not bool(finite.any()):
        raise ValueError(
            "Densify: not one Gaussian is finite. Lower the learning rates and start again."
        )
    return finite


def _survivors(
    strategy: Densify, parameters: Mapping[str, Tensor], cap: int, anchored: Tensor
) -> Tensor:
    """[N] bool: the rows that stay, the anchored first; at least count_min of them if so many are
    finite, at most ``cap``."""
    finite = _finite(parameters)
    opacities = parameters["opacity_logits"].sigmoid()
    inside = parameters["means"].abs().amax(-1) <= strategy.bounds
    small = parameters["log_scales"].amax(-1) <= math.log(strategy.prune_scale)
    sound = finite & (anchored | (inside & small & (opacities >= strategy.prune_opacity)))
    # Best first: sound ones before misplaced ones before those with NaNs, by opacity within each
    # class.
    rank = torch.where(finite, opacities + 2 * sound + (inside & small) + 4 * anchored, -1.0)
    order = torch.argsort(rank, descending=True, stable=True)
    wanted = min(max(int(sound.sum()), strategy.count_min), cap, int(finite.sum()))
    alive = torch.zeros_like(finite)
    alive[order[:wanted]] = True
    return alive


def _growing(
    strategy: Densify, statistics: Mapping[str, Tensor], alive: Tensor, budget: int
) -> Tensor:
    """[N] bool: the at most ``budget`` surviving rows with the largest mean gradient above the
    threshold.
    """
    mean = statistics["gradient"] / statistics["views"].clamp_min(1)
    mean = torch.where(alive & (mean > strategy.gradient_threshold), mean, 0.0)
    order = torch.argsort(mean, descending=True, stable=True)[: max(budget, 0)]
    growing = torch.zeros_like(alive)
    growing[order] = mean[order] > 0
    return growing


def _inside(parameters: Mapping[str, Tensor], rows: Tensor, generator: torch.Generator) -> Tensor:
    """Two offsets [2R,3] for each of the R ``rows``, drawn from the Gaussians' own densities."""
    draws = torch.randn(2 * len(rows), 3, generator=generator, device=generator.device).to(
        parameters["means"]
    )
    twice = torch.cat([rows, rows])
    local = parameters["log_scales"][twice].exp() * draws
    return (rotations(parameters["quats"][twice]) @ local[..., None])[..., 0]
