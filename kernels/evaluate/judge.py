"""Measure the embedded prior with the judge: ``python -m distill3d.kernels.evaluate.judge --sheet
F.png --json F``.

Samples held-out captions in every view word; the judge, trained on true renders only, says what
they show.
"""

from __future__ import annotations

import argparse
import json
import random
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from ..toybox.captions import (
    CATEGORIES,
    COLORS,
    FINISHES,
    SYMMETRIC,
    VIEWS,
    Caption,
    all_captions,
    held_out,
)
from ..toybox.data import NO_VIEW, draw, render_atlas
from ..toybox.models import Judge, load_judge


def held_out_captions(count: int, seed: int) -> list[Caption]:
    """``count`` held-out captions, categories in turn, half of them plain."""
    rng = random.Random(seed)
    pool: dict[tuple[str, bool], list[Caption]] = {}
    for caption in all_captions():
        if held_out(caption):
            pool.setdefault((caption.category, caption.finish == "plain"), []).append(caption)
    order = rng.sample(CATEGORIES, len(CATEGORIES))
    return [
        rng.choice(pool[order[i % len(order)], (i + i // len(order)) % 2 == 0])
        for i in range(count)
    ]


@torch.no_grad()
def sample(
    pipeline: Any, texts: list[str], guidance: float, steps: int, seed: int, batch: int = 64
) -> Tensor:
    """Pictures [B,3,H,W] in 0..1 by the pipeline itself (DDIM)."""
    device, parts = pipeline.device, []
    for start in range(0, len(texts), batch):
        some = texts[start : start + batch]
        generator = torch.Generator().manual_seed(seed + start)
        latents = torch.randn(len(some), 4, 32, 32, generator=generator).to(
            device, pipeline.unet.dtype
        )
        out = pipeline(
            some,
            guidance_scale=guidance,
            num_inference_steps=steps,
            latents=latents,
            output_type="pt",
        )
        parts.append(out.images.float())
    return torch.cat(parts)


@torch.no_grad()
def judge_logits(judge: Judge, images: Tensor, batch: int = 256) -> dict[str, Tensor]:
    """The judge's logits [B,classes] per head, on the CPU, for images [B,3,H,W]."""
    parts = [judge(images[i : i + batch]) for i in range(0, len(images), batch)]
    return {name: torch.cat([p[name] for p in parts]).cpu() for name in parts[0]}


def judged(judge: Judge, images: Tensor, batch: int = 256) -> dict[str, Tensor]:
    """What the judge sees in images [B,3,H,W]: an index [B] per head, and ``pair`` [B,2], the two
    likeliest colours in ascending order."""
    return most_likely(judge_logits(judge, images, batch))


def most_likely(logits: dict[str, Tensor]) -> dict[str, Tensor]:
    """The classes that logits [B,classes] per head favour: see `judged`."""
    either = logits["color"].softmax(-1) + logits["second"].softmax(-1)
    pair = either.topk(2, -1).indices.sort(-1).values
    return {name: values.argmax(-1) for name, values in logits.items()} | {"pair": pair}


def match_colors(
    answers: dict[str, Tensor], color: Tensor, second: Tensor, finish: Tensor
) -> Tensor:
    """Whether the judge sees the right colours [B] bool: the object's colour and, where patterned,
    the pattern's.

    Stripes and checks fill as much of an object in one colour as in the other, so which of the two
    is the object's cannot be seen: there the unordered pair has to be right.
    """
    pair = (answers["pair"] == torch.stack([color, second], -1).sort(-1).values).all(-1)
    dotted = (answers["color"] == color) & (answers["second"] == second)
    return torch.where(
        finish == 0,
        answers["color"] == color,
        torch.where(finish == FINISHES.index("dotted"), dotted, pair),
    )


def _fraction(right: Tensor) -> float:
    return float(right.float().mean())


def score_samples(judge: Judge, captions: list[Caption], images: Tensor) -> dict[str, float]:
    """images [len(captions)*4,...], the four views of a caption in a row -> accuracies 0..1,
    views of symmetric categories left out."""
    answers = judged(judge, images)
    rows = [(c, v) for c in captions for v in range(len(VIEWS))]
    names = list(COLORS)
    color = torch.tensor([names.index(str(c.color)) for c, _ in rows])
    second = torch.tensor([names.index(c.second or "red") for c, _ in rows])
    finish = torch.tensor([FINISHES.index(c.finish) for c, _ in rows])
    turning = torch.tensor([c.category not in SYMMETRIC for c, _ in rows])
    return {
        "category": _fraction(
            answers["category"] == torch.tensor([CATEGORIES.index(c.category) for c, _ in rows])
        ),
        "color": _fraction(match_colors(answers, color, second, finish)),
        "view": _fraction((answers["view"] == torch.tensor([v for _, v in rows]))[turning]),
        "finish": _fraction(answers["finish"] == finish),
    }


def score_judge(
    judge: Judge, views: int, device: torch.device | str, seed: int = 12345
) -> dict[str, float]:
    """The judge on fresh true renders: cameras it never saw; views at least `BOUNDARY` from another
    word.
    """
    atlas = render_atlas(views, seed, device)
    batch = draw(atlas, 4096, torch.Generator(device).manual_seed(seed))
    answers = judged(judge, batch.images)
    category, color, finish, second = (
        x.cpu() for x in (batch.category, batch.color, batch.finish, batch.second)
    )
    turning = torch.tensor([c not in SYMMETRIC for c in CATEGORIES])[category]
    fair = turning & (batch.view_said.cpu() != NO_VIEW)
    return {
        "category": _fraction(answers["category"] == category),
        "color": _fraction(match_colors(answers, color, second, finish)),
        "view": _fraction((answers["view"] == batch.view.cpu())[fair]),
        "finish": _fraction(answers["finish"] == finish),
    }


def save_sheet(images: Tensor, columns: int, file: Path) -> None:
    """images [B,3,H,W] -> one PNG, row by row."""
    from PIL import Image

    rows = [
        torch.cat(list(images[i : i + columns]), 2)
        for i in range(0, len(images) - columns + 1, columns)
    ]
    Image.fromarray(
        (torch.cat(rows, 1).clamp(0, 1) * 255).byte().permute(1, 2, 0).cpu().numpy()
    ).save(file)


def main(arguments: list[str] | None = None) -> None:
    """Sample, judge and write what --sheet and --json ask for; prints the scores."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--prior", default="models/toybox")
    parser.add_argument("--judge", default="models/judge")
    parser.add_argument("--device", default="cuda" if torch.cuda.is_available() else "cpu")
    parser.add_argument("--captions", default=112, type=int)
    parser.add_argument("--guidance", default=3.0, type=float)
    parser.add_argument("--steps", default=40, type=int)
    parser.add_argument("--seed", default=0, type=int)
    parser.add_argument(
        "--judge-views", default=16, type=int, help="fresh views per category that judge the judge"
    )
    parser.add_argument("--sheet", type=Path, help="PNG: a caption a row pair, its four views")
    parser.add_argument("--json", type=Path)
    a = parser.parse_args(arguments)
    from diffusers import StableDiffusionPipeline

    pipeline = StableDiffusionPipeline.from_pretrained(
        a.prior,
        local_files_only=True,
        use_safetensors=True,
        safety_checker=None,
        torch_dtype=torch.float32,
    ).to(a.device)
    pipeline.set_progress_bar_config(disable=True)
    judge = load_judge(a.judge, a.device)
    captions = held_out_captions(a.captions, a.seed)
    images = sample(
        pipeline,
        [c.seen_from(v) for c in captions for v in VIEWS],
        a.guidance,
        a.steps,
        a.seed,
    )
    if a.sheet:
        save_sheet(images[: 56 * 4].cpu(), 16, a.sheet)
    result = {
        "captions": a.captions, "guidance": a.guidance, "steps": a.steps, "seed": a.seed,
        "prior": score_samples(judge, captions, images),
        "judge_on_fresh_renders": score_judge(judge, a.judge_views, a.device) if a.judge_views else None,
    }  # fmt: skip
    text = json.dumps(result, indent=2)
    if a.json:
        a.json.write_text(text + "\n")
    print(text)


if __name__ == "__main__":
    main()
