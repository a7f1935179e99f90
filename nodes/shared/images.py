"""Renderings as ComfyUI's pictures."""

from __future__ import annotations

import torch
from PIL import Image, ImageDraw, ImageFont
from torch import Tensor


def image(color: Tensor) -> Tensor:
    """[...,H,W,3] as an IMAGE: float32 on the CPU, 0..1."""
    return color.detach().clamp(0, 1).to("cpu", torch.float32)


def depth_image(depth: Tensor, alpha: Tensor) -> Tensor:
    """Depth [V,H,W,1] as a grey IMAGE [V,H,W,3]: nearest white, farthest dark, nothing black.

    One range for the whole batch, so that a turntable does not flicker.
    """
    visible = alpha > 0.5
    if not bool(visible.any()):
        return torch.zeros(*depth.shape[:3], 3)
    near, far = depth[visible].min(), depth[visible].max()
    nearness = (far - depth) / (far - near).clamp_min(1e-6)
    return image(torch.where(visible, 0.15 + 0.85 * nearness, 0.0).expand(*depth.shape[:3], 3))


def to_pil(frame: Tensor, size: int) -> Image.Image:
    """One [H,W,3] 0..1 frame as a PIL picture with ``size`` pixels on the longer side."""
    data = (image(frame) * 255).round().to(torch.uint8).numpy()
    result = Image.fromarray(data)
    share = size / max(result.size)
    return result.resize(
        (round(result.width * share), round(result.height * share)), Image.Resampling.BICUBIC
    )


LABEL = 20  # pixels of a label's height


def labelled(columns: list[tuple[str, Tensor]], least: int = 160) -> Tensor:
    """Columns of pictures [V,H,W,3] side by side, each under its label, as an IMAGE [V,H',W',3].

    Pictures smaller than ``least`` pixels are enlarged by a whole number, so that labels can be
    read.
    """
    height, width = columns[0][1].shape[1:3]
    factor = max(1, -(-least // min(height, width)))
    cells = [
        image(cell).repeat_interleave(factor, 1).repeat_interleave(factor, 2) for _, cell in columns
    ]
    band = Image.new("RGB", (width * factor * len(cells), LABEL), "white")
    draw, font = ImageDraw.Draw(band), ImageFont.load_default(13)
    for place, (text, _) in enumerate(columns):
        draw.text((place * width * factor + 4, 2), text, "black", font=font)
    labels = (
        torch.frombuffer(bytearray(band.tobytes()), dtype=torch.uint8).view(1, LABEL, -1, 3).float()
        / 255
    )
    rows = torch.cat(cells, 2)
    return torch.cat([labels.expand(len(rows), -1, -1, -1), rows], 1)
