"""How right an object is, measured against the toy that its caption names."""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass

import torch
from torch import Tensor
from torch.nn import functional as F

from ..cameras.pinhole import Cameras, orbit
from ..gaussians.cloud import Gaussians
from ..rasterizers.rasterize import Rendering, render
from ..toybox.captions import Caption
from ..toybox.data import FOV_Y
from ..toybox.render import Truth, render_truth

BACKGROUND = 0.5
# a truth with less has none to compare with
LEAST_SATURATION, LEAST_CONTRAST, LEAST_EDGES = 0.02, 0.005, 0.0005
LUMA = (0.2126, 0.7152, 0.0722)  # Rec. 709


def iou(alpha: Tensor, true_alpha: Tensor) -> float:
    """Silhouette overlap: pixels covered (alpha > 0.5) in both over pixels covered in either; all
    views pooled.

    alpha, true_alpha: [V,H,W,1] 0..1.
    """
    a, b = alpha > 0.5, true_alpha > 0.5
    return float((a & b).sum() / (a | b).sum().clamp_min(1))


def psnr(color: Tensor, true_color: Tensor) -> float:
    """Peak signal-to-noise ratio in dB of pictures in 0..1 on the same background; all views
    pooled.

    color, true_color: [V,H,W,3] 0..1.
    """
    return float(
        -10 * torch.log10((color.clamp(0, 1) - true_color).square().mean().clamp_min(1e-10))
    )


def saturation(color: Tensor, inside: Tensor) -> float:
    """Mean HSV saturation, 0..1, of images [V,H,W,3] in 0..1 over the pixels ``inside`` [V,H,W,1]
    bool.
    """
    high, low = color.clamp(0, 1).amax(-1), color.clamp(0, 1).amin(-1)
    values = ((high - low) / high.clamp_min(1e-6))[inside[..., 0]]
    return float(values.mean()) if len(values) else 0.0


def contrast(color: Tensor, inside: Tensor) -> float:
    """RMS contrast: standard deviation of the luma of images [V,H,W,3] in 0..1 over the pixels
    ``inside``.
    """
    luma = (color.clamp(0, 1) @ color.new_tensor(LUMA))[inside[..., 0]]
    return float(luma.std(correction=0)) if len(luma) else 0.0


def edge_energy(color: Tensor, inside: Tensor) -> float:
    """How crisp a picture is: the mean length of its luma's gradient, per pixel.

    Of images [V,H,W,3] in 0..1 by central differences, over the pixels ``inside`` [V,H,W,1] bool
    whose eight neighbours are inside too, so that the silhouette's own edge does not count.
    """
    luma = color.clamp(0, 1) @ color.new_tensor(LUMA)
    outside = (~inside[..., 0]).float()[:, None]
    core = F.max_pool2d(outside, 3, 1)[:, 0] == 0
    across = (luma[:, 1:-1, 2:] - luma[:, 1:-1, :-2]) / 2
    down = (luma[:, 2:, 1:-1] - luma[:, :-2, 1:-1]) / 2
    values = torch.hypot(across, down)[core]
    return float(values.mean()) if len(values) else 0.0


def ring_of_views(count: int = 24, size: int = 128) -> Cameras:
    """``count`` cameras around the object, elevations 0, 20 and 40 degrees in turn, as far as in
    training.
    """
    elevation = torch.tensor([0.0, 20.0, 40.0]).repeat(count // 3 + 1)[:count]
    return orbit(torch.arange(count) * (360.0 / count), elevation, 2.0, FOV_Y, size)


@dataclass(frozen=True)
class Score:
    """iou 0..1; psnr dB; ``false_alpha`` the share of all pixels covered outside the true
    silhouette, 0..1; saturation and contrast of the result over the truth's, both inside either
    silhouette (1 is right); ``edges`` the `edge_energy` of the result over the truth's, both inside
    both silhouettes: below 1 is too soft, above too rough.

    PSNR and the ratios are NaN for a caption without a colour; a ratio also where the truth has
    hardly any, as the saturation of a white toy.
    """

    iou: float
    psnr: float
    false_alpha: float
    saturation: float
    contrast: float
    edges: float


def score(rendering: Rendering, truth: Truth, colored: bool = True) -> Score:
    """Score renders against the truth from the same cameras, both on `BACKGROUND`."""
    outside = (rendering.alpha > 0.5) & (truth.alpha <= 0.01)
    either = (rendering.alpha > 0.5) | (truth.alpha > 0.5)
    both = (rendering.alpha > 0.5) & (truth.alpha > 0.5)

    def ratio(measure: Callable[[Tensor, Tensor], float], inside: Tensor, least: float) -> float:
        wanted = measure(truth.color, inside)
        return measure(rendering.color, inside) / wanted if colored and wanted > least else math.nan

    return Score(
        iou(rendering.alpha, truth.alpha),
        psnr(rendering.color, truth.color) if colored else math.nan,
        float(outside.float().mean()),
        ratio(saturation, either, LEAST_SATURATION),
        ratio(contrast, either, LEAST_CONTRAST),
        ratio(edge_energy, both, LEAST_EDGES),
    )


@torch.no_grad()
def compare(gaussians: Gaussians, caption: Caption, views: int = 24, size: int = 128) -> Score:
    """Score a cloud against its caption's toy over ``views`` views."""
    cameras = ring_of_views(views, size).to(gaussians.device)
    truth = render_truth(caption, cameras, BACKGROUND, supersample=2)
    return score(render(gaussians, cameras, BACKGROUND), truth, caption.color is not None)
