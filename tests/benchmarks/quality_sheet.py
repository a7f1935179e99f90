"""Pictures of quality.py: results beside the truth, and how they came about over the steps."""

from __future__ import annotations

import base64
import io
from pathlib import Path
from typing import Any

import torch
from quality_plan import Task
from quality_statistics import groups
from torch import Tensor

# pixels: of the whole sheet at most, of captions, of the header, between
WIDTH, BAND, HEAD, GAP = 2400, 16, 44, 6
CURVES = (("iou", "IoU"), ("psnr", "PSNR, dB"))
AXES = (("step", "steps"), ("evaluations", "rows through the denoiser"))


def strip(pictures: Tensor) -> bytes:
    """Pictures [V,H,W,3] 0..1 side by side as a JPEG."""
    from PIL import Image

    row = torch.cat(list(pictures.clamp(0, 1)), 1)
    stream = io.BytesIO()
    Image.fromarray((row * 255).round().byte().cpu().numpy()).save(stream, "JPEG", quality=92)
    return stream.getvalue()


def save_sheet(
    file: Path,
    rows: list[dict[str, Any]],
    strips: dict[str, str],
    tasks: list[Task],
    count: int = 8,
    views: int = 4,
) -> None:
    """Results of the first ``count`` captions (lowest seed): a line each, first the truth, then
    every loss.

    The header names config and loss with their mean IoU and PSNR over all rows. ``views``: 2 or 4
    of the strip's.
    """
    from PIL import Image, ImageDraw, ImageFont

    captions = list(dict.fromkeys(t.caption.text for t in tasks))[:count]
    columns = list(dict.fromkeys((t.config, t.loss) for t in tasks))
    seed, by_group = min(t.seed for t in tasks), groups(rows)
    side = max(48, min(128, (WIDTH // (len(columns) + 1) - GAP) // views))
    step, font = views * side + GAP, ImageFont.load_default(13)
    sheet = Image.new(
        "RGB", (step * (len(columns) + 1), HEAD + (side + BAND) * len(captions)), "white"
    )
    draw = ImageDraw.Draw(sheet)

    def paste(key: str, x: int, y: int) -> None:
        if key in strips:
            whole = Image.open(io.BytesIO(base64.b64decode(strips[key])))
            size = whole.height
            shown = [
                whole.crop((k * size, 0, (k + 1) * size, size)) for k in range(0, 4, 4 // views)
            ]
            for place, picture in enumerate(shown):
                sheet.paste(
                    picture.resize((side, side), Image.Resampling.LANCZOS), (x + place * side, y)
                )

    def line(text: str, x: int, y: int) -> None:
        while len(text) > 1 and draw.textlength(text, font=font) > step - GAP:
            text = text[:-1]
        draw.text((x, y), text, "black", font=font)

    line("truth", 2, 4)
    for j, (config, loss) in enumerate(columns, 1):
        line(loss if config == "default" else f"{config}: {loss}", j * step, 4)
        line(_means(by_group.get((config, loss), [])), j * step, 22)
    for i, caption in enumerate(captions):
        y = HEAD + i * (side + BAND)
        draw.text((2, y), caption, "black", font=font)
        paste(f"truth|{caption}", 0, y + BAND)
        for j, (config, loss) in enumerate(columns, 1):
            paste(f"{config}|{loss}|{caption}|{seed}", j * step, y + BAND)
            found = [
                r
                for r in by_group.get((config, loss), [])
                if (r["caption"], r["seed"]) == (caption, seed)
            ]
            if found:
                line(_means(found), j * step, y)
    file.parent.mkdir(parents=True, exist_ok=True)
    sheet.save(file)


def _means(rows: list[dict[str, Any]]) -> str:
    parts = []
    for name, form in (("iou", "IoU {:.3f}"), ("psnr", "{:.1f} dB")):
        values = [row[name] for row in rows if row.get(name) is not None]
        if values:
            parts.append(form.format(sum(values) / len(values)))
    return ", ".join(parts)


def save_curves(file: Path, rows: list[dict[str, Any]]) -> None:
    """IoU and PSNR, the mean over captions and seeds, over steps and over what went through the
    denoiser.
    """
    import matplotlib

    matplotlib.use("Agg")
    import matplotlib.pyplot as plt

    figure, axes = plt.subplots(2, 2, figsize=(11, 8), sharey="row", layout="constrained")
    for (config, loss), members in groups(
        r for r in rows if r.get("curve") and "diverged" not in r
    ).items():
        label = loss if config == "default" else f"{config}: {loss}"
        for line, (score, title) in zip(axes, CURVES, strict=True):
            for axis, (along, unit) in zip(line, AXES, strict=True):
                usable = [r["curve"] for r in members if None not in r["curve"][score]]
                if usable:
                    axis.plot(
                        *(_mean([c[key] for c in usable]) for key in (along, score)),
                        label=label,
                        marker=".",
                    )
                axis.set(xlabel=unit, ylabel=title)
                axis.grid(alpha=0.3)
    axes[0, 0].legend(fontsize="small")
    file.parent.mkdir(parents=True, exist_ok=True)
    figure.savefig(file, dpi=110)
    plt.close(figure)


def _mean(curves: list[list[float]]) -> list[float]:
    """Point by point; a group's runs have one number of steps."""
    return [sum(values) / len(values) for values in zip(*curves, strict=True)]
