"""A sheet of labelled strips of views."""

from __future__ import annotations

from pathlib import Path

import torch

BAND = 14  # pixels of a label


def save_sheet(file: Path, lines: list[tuple[str, torch.Tensor]]) -> None:
    """Each line a label above its views [V,size,size,3] 0..1, side by side."""
    from PIL import Image, ImageDraw

    count, size = lines[0][1].shape[:2]
    sheet = Image.new("RGB", (size * count, (size + BAND) * len(lines)), "white")
    draw = ImageDraw.Draw(sheet)
    for i, (text, views) in enumerate(lines):
        draw.text((3, i * (size + BAND) + 1), text, "black")
        strip = (torch.cat(list(views), 1).clamp(0, 1) * 255).round().byte().numpy()
        sheet.paste(Image.fromarray(strip), (0, i * (size + BAND) + BAND))
    file.parent.mkdir(parents=True, exist_ok=True)
    sheet.save(file)
