"""Renderings as ComfyUI's pictures."""

from __future__ import annotations

import torch
from PIL import Image
from torch import Tensor


def image(color: Tensor) -> Tensor:
    """[...,H,W,3] as an IMAGE: float32 on the CPU, 0..1."""
    return color.detach().clamp(0, 1).to("cpu", torch.float32)


def depth_image(depth: Tensor, alpha: Tensor) -> Tensor:
    """Depth [V,H,W,1] as a grey IMAGE [V,H,W,3]: nearest white, farthest dark, nothing black.

    One range for the whole batch, so that a turntable does not flicker.
    """
    seen = alpha > 0.5
    if not bool(seen.any()):
        return torch.zeros(*depth.shape[:3], 3)
    near, far = depth[seen].min(), depth[seen].max()
    nearness = (far - depth) / (far - near).clamp_min(1e-6)
    return image(torch.where(seen, 0.15 + 0.85 * nearness, 0.0).expand(*depth.shape[:3], 3))


def picture(frame: Tensor, size: int) -> Image.Image:
    """One [H,W,3] 0..1 frame as a PIL picture with ``size`` pixels on the longer side."""
    data = (image(frame) * 255).round().to(torch.uint8).numpy()
    result = Image.fromarray(data)
    share = size / max(result.size)
    return result.resize((round(result.width * share), round(result.height * share)), Image.Resampling.BICUBIC)
