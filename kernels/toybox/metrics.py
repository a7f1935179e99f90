"""How right an object is, measured against the toy that its caption names."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from ..gaussians.cameras import Cameras, orbit
from ..gaussians.cloud import Gaussians
from ..gaussians.rasterize import render
from .captions import Caption
from .data import FOV_Y
from .render import Truth, render_truth

BACKGROUND = 0.5


def iou(alpha: Tensor, true_alpha: Tensor) -> float:
    """Silhouette overlap: pixels covered (alpha > 0.5) in both over pixels covered in either; all views pooled."""
    a, b = alpha > 0.5, true_alpha > 0.5
    return float((a & b).sum() / (a | b).sum().clamp_min(1))


def psnr(color: Tensor, true_color: Tensor) -> float:
    """Peak signal-to-noise ratio in dB of pictures in 0..1 on the same background; all views pooled."""
    return float(-10 * torch.log10((color.clamp(0, 1) - true_color).square().mean().clamp_min(1e-10)))


def ring_of_views(count: int = 24, size: int = 128) -> Cameras:
    """``count`` cameras around the object, elevations 0, 20 and 40 degrees in turn, as far as in training."""
    elevation = torch.tensor([0.0, 20.0, 40.0]).repeat(count // 3 + 1)[:count]
    return orbit(torch.arange(count) * (360.0 / count), elevation, 2.0, FOV_Y, size)


@dataclass(frozen=True)
class Score:
    """iou 0..1; psnr dB; ``false_alpha`` the share of all pixels covered outside the true silhouette, 0..1."""

    iou: float
    psnr: float
    false_alpha: float


def compare(gaussians: Gaussians, caption: Caption, views: int = 24, size: int = 128) -> Score:
    """Score a cloud against its caption's toy over ``views`` views. PSNR is NaN for a caption without a colour."""
    cameras = ring_of_views(views, size).to(gaussians.device)
    with torch.no_grad():
        picture = render(gaussians, cameras, BACKGROUND)
        truth: Truth = render_truth(caption, cameras, BACKGROUND, supersample=2)
    outside = (picture.alpha > 0.5) & (truth.alpha <= 0.01)
    ratio = psnr(picture.color, truth.color) if caption.color else float("nan")
    return Score(iou(picture.alpha, truth.alpha), ratio, float(outside.float().mean()))
