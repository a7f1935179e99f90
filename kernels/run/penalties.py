"""Penalties on the cloud and on its renders that the prior's score does not express: no haze, no
needles, no strays.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from dataclasses import dataclass, fields

import torch
from torch import Tensor

from ..gaussians.cloud import SH_C0
from ..settings.option import Settings, option

TV_KINDS = ("absolute", "squared")


@dataclass(frozen=True, kw_only=True)
class Regularizers(Settings):
    """Weights of the penalties, added to the distillation loss as they are; 0 turns one off at no
    cost.

    The distillation losses sum over the latent pixels of a view and average over views, the
    penalties are means (bounds: a sum), so useful weights grow with the latent's size.

    Args:
        lambda_opacity: mean opacity 0..1 of the Gaussians: fades floaters the views do not need
        lambda_binary_opacity: mean 4 o (1 - o), 1 at o = 0.5: each Gaussian either solid or gone
        lambda_scale: mean standard deviation, world units (LucidDreamer: 1): no blobs larger than
            details
        lambda_binary_alpha: mean 4 a (1 - a) of the rendered alpha: crisp silhouettes, no
            translucent shell
        lambda_tv_color: mean absolute difference of neighbouring pixels' colour; LucidDreamer: 1,
            of the squared kind
        lambda_tv_alpha: the same of the rendered alpha: smooth silhouettes
        lambda_gamut: summed squared distance of base colours from 0..1: no glowing haze for a
            surface
        lambda_bounds: summed squared distance beyond bounds_radius, world units^2: pulls strays
            back
        bounds_radius: world units; the toybox's objects stay inside it
        lambda_tv_depth: the same as lambda_tv_color of the `disparity` picture; LucidDreamer: 1
        tv_kind: "absolute" | "squared", twice the mean squared difference, as LucidDreamer has it
    """

    lambda_opacity: float = 0.0
    lambda_binary_opacity: float = 0.0
    lambda_scale: float = 0.0
    lambda_binary_alpha: float = 0.0
    lambda_tv_color: float = 0.0
    lambda_tv_alpha: float = 0.0
    lambda_gamut: float = 0.0
    lambda_bounds: float = 1.0
    bounds_radius: float = 0.62
    lambda_tv_depth: float = option(0.0)
    tv_kind: str = option("absolute")

    def check(self) -> None:
        if self.tv_kind not in TV_KINDS:
            raise ValueError(f"tv_kind is {self.tv_kind!r}; choose one of {', '.join(TV_KINDS)}.")
        for field in fields(Regularizers):
            value = getattr(self, field.name)
            if field.name == "tv_kind":
                continue
            if not (math.isfinite(value) and value >= 0):
                raise ValueError(f"{field.name} is {value}; give a finite number of 0 or more.")
        if self.bounds_radius == 0:
            raise ValueError(
                "bounds_radius is 0; give a positive radius in world units (0.62 holds the unit"
                " object)."
            )


def total_variation(image: Tensor, kind: str = "absolute") -> Tensor:
    """Mean absolute difference of horizontally plus vertically neighbouring pixels of ``image``
    [V,H,W,C]; of the "squared" kind twice the mean squared one (LucidDreamer's tv_loss).
    """
    rows, columns = image[:, 1:] - image[:, :-1], image[:, :, 1:] - image[:, :, :-1]
    if kind == "squared":
        return 2 * (rows.square().mean() + columns.square().mean())
    return rows.abs().mean() + columns.abs().mean()


def disparity(depth: Tensor, alpha: Tensor, focal: Tensor | float) -> Tensor:
    """Nearness [V,H,W,1] 0..1 as LucidDreamer shows depth to the prior: focal / distance, empty
    space 10 units away, stretched view by view from the farthest opaque pixel to the nearest.

    depth [V,H,W,1] world units, where there is something; alpha [V,H,W,1]; focal, one for all or
    [V,1,1,1], lengths of the picture's side.
    """
    near = focal / (depth * alpha + 10 * (1 - alpha) + 1e-5)
    flat, opaque = near.flatten(1), alpha.flatten(1) >= 0.9
    lowest = torch.where(opaque, flat, torch.inf).amin(1)
    lowest = torch.where(opaque.any(1), lowest, flat.amin(1))[:, None, None, None]
    highest = flat.amax(1)[:, None, None, None]
    return ((near - lowest) / (highest - lowest).clamp(min=1e-12)).clamp(0, 1)


def binarity(value: Tensor) -> Tensor:
    """Mean of 4 v (1 - v): 0 where every value is 0 or 1, 1 where all are 0.5."""
    return (4 * value * (1 - value)).mean()


def out_of_bounds(means: Tensor, radius: float) -> Tensor:
    """Squared distance beyond ``radius``, summed over ``means`` [N,3]: each stray's pull is its
    own.
    """
    # 1e-12: no NaN gradient at the origin
    beyond = ((means.square().sum(-1) + 1e-12).sqrt() - radius).clamp(min=0)
    return beyond.square().sum()


def out_of_gamut(sh: Tensor) -> Tensor:
    """Squared distance of the view-independent colours beyond 0..1, summed over ``sh`` [N,K,3]: a
    translucent Gaussian brighter than white looks like a solid one, and keeps the silhouette empty.
    """
    color = 0.5 + SH_C0 * sh[:, 0]
    return (color - color.clamp(0, 1)).square().sum()


def penalties(
    weights: Regularizers,
    cloud: Mapping[str, Tensor],
    color: Tensor,
    alpha: Tensor,
    near: Callable[[], Tensor] | None = None,
) -> dict[str, Tensor]:
    """Weighted penalties by name, scalars; only those with a weight above 0.

    ``cloud``: the parameter tensors by field name; ``color`` [V,H,W,3] and ``alpha`` [V,H,W,1]:
    their render; ``near`` gives its `disparity`.
    """
    w, opacities = weights, cloud["opacity_logits"].sigmoid()
    terms: dict[str, tuple[float, Callable[[], Tensor]]] = {
        "opacity": (w.lambda_opacity, opacities.mean),
        "binary_opacity": (w.lambda_binary_opacity, lambda: binarity(opacities)),
        "scale": (w.lambda_scale, lambda: cloud["log_scales"].exp().mean()),
        "binary_alpha": (w.lambda_binary_alpha, lambda: binarity(alpha)),
        "tv_color": (w.lambda_tv_color, lambda: total_variation(color, w.tv_kind)),
        "tv_alpha": (w.lambda_tv_alpha, lambda: total_variation(alpha, w.tv_kind)),
        "tv_depth": (
            0.0 if near is None else w.lambda_tv_depth,
            lambda: total_variation(alpha if near is None else near(), w.tv_kind),
        ),
        "gamut": (w.lambda_gamut, lambda: out_of_gamut(cloud["sh"])),
        "bounds": (w.lambda_bounds, lambda: out_of_bounds(cloud["means"], w.bounds_radius)),
    }
    return {name: weight * term() for name, (weight, term) in terms.items() if weight > 0}
