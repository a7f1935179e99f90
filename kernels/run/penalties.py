"""Penalties on the cloud and on its renders that the prior's score does not express: no haze, no
needles, no strays.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from dataclasses import dataclass, fields

from torch import Tensor

from ..gaussians.cloud import SH_C0


@dataclass(frozen=True, kw_only=True)
class Regularizers:
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
        lambda_tv_color: mean absolute difference of neighbouring pixels' colour (LucidDreamer: 1)
        lambda_tv_alpha: the same of the rendered alpha: smooth silhouettes
        lambda_gamut: summed squared distance of base colours from 0..1: no glowing haze for a
            surface
        lambda_bounds: summed squared distance beyond bounds_radius, world units^2: pulls strays
            back
        bounds_radius: world units; the toybox's objects stay inside it
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

    def check(self) -> None:
        for field in fields(Regularizers):
            value = getattr(self, field.name)
            if not (math.isfinite(value) and value >= 0):
                raise ValueError(f"{field.name} is {value}; give a finite number of 0 or more.")
        if self.bounds_radius == 0:
            raise ValueError(
                "bounds_radius is 0; give a positive radius in world units (0.62 holds the unit"
                " object)."
            )


def total_variation(image: Tensor) -> Tensor:
    """Mean absolute difference of horizontally plus vertically neighbouring pixels of ``image``
    [V,H,W,C].
    """
    rows, columns = image[:, 1:] - image[:, :-1], image[:, :, 1:] - image[:, :, :-1]
    return rows.abs().mean() + columns.abs().mean()


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
    weights: Regularizers, cloud: Mapping[str, Tensor], color: Tensor, alpha: Tensor
) -> dict[str, Tensor]:
    """Weighted penalties by name, scalars; only those with a weight above 0.

    ``cloud``: the parameter tensors by field name; ``color`` [V,H,W,3] and ``alpha`` [V,H,W,1]:
    their render.
    """
    w, opacities = weights, cloud["opacity_logits"].sigmoid()
    terms: dict[str, tuple[float, Callable[[], Tensor]]] = {
        "opacity": (w.lambda_opacity, opacities.mean),
        "binary_opacity": (w.lambda_binary_opacity, lambda: binarity(opacities)),
        "scale": (w.lambda_scale, lambda: cloud["log_scales"].exp().mean()),
        "binary_alpha": (w.lambda_binary_alpha, lambda: binarity(alpha)),
        "tv_color": (w.lambda_tv_color, lambda: total_variation(color)),
        "tv_alpha": (w.lambda_tv_alpha, lambda: total_variation(alpha)),
        "gamut": (w.lambda_gamut, lambda: out_of_gamut(cloud["sh"])),
        "bounds": (w.lambda_bounds, lambda: out_of_bounds(cloud["means"], w.bounds_radius)),
    }
    return {name: weight * term() for name, (weight, term) in terms.items() if weight > 0}
