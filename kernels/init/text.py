"""Points that a small model makes of a caption of the toybox: a rough start for the embedded
prior.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from pathlib import Path

import torch

from ..gaussians.cloud import Gaussians
from ..priors.weights import check_finite, read_whole
from ..toybox.captions import Caption, parse
from ..toybox.point_model import PointModel, word_ids
from .parameters import check_count
from .points import from_points, spacing

PART = 20_000  # points that pass the model together; more take no less time each
STEPS = 12  # of the model's flow
LEFT_OUT = 0.1  # of the points drawn: those farthest from others, most of which missed the surface


def load_point_model(file: str | Path) -> PointModel:
    """The text-to-points model of a safetensors file, float32 on the CPU.

    Raises ValueError that names the file if it is missing, damaged or another model's.
    """
    from safetensors.torch import load_file

    file, model = Path(file), PointModel()
    owner = f"Init from Text: its model {file}"
    if not file.is_file():
        raise ValueError(
            f"{owner} does not exist. It comes with this node pack: install the pack again."
        )
    with read_whole(owner):
        model.load_state_dict({name: value.float() for name, value in load_file(file).items()})
    check_finite(owner, model)
    return model.eval().requires_grad_(False)


def from_text(
    model: PointModel,
    prompt: str,
    count: int = 4000,
    generator: torch.Generator | None = None,
    opacity_logit: float = 0.0,
    on_part: Callable[[int, int], None] = lambda done, drawn: None,
) -> Gaussians:
    """``count`` round Gaussians on the points that the model makes of a caption, in their colours.

    More are drawn, and the `LEFT_OUT` that stand alone are not used. All are as wide as most lie
    apart. Y up, front +Z, in the cube of side 1. The same draws give the same cloud; without a
    generator: seed 0. View words in the prompt do not count. ``on_part`` (points done, points in
    all) is called now and then, and may raise to end the work. Raises ValueError for a text that is
    no caption of one object of the toybox.
    """
    check_count(count)
    words = word_ids([caption_of(prompt)])
    generator = generator or torch.Generator().manual_seed(0)
    drawn, parts = math.ceil(count / (1 - LEFT_OUT)), []
    for start in range(0, drawn, PART):
        parts.append(model.sample(words, min(PART, drawn - start), generator, STEPS))
        on_part(min(start + PART, drawn), drawn)
    points, colors = (torch.cat(each, 1)[0] for each in zip(*parts, strict=True))
    apart = spacing(points)
    kept = apart.topk(count, largest=False).indices.sort().values
    # One width for all: the own distance of one that stands alone would make a large blot of it.
    # 0.7: as in `from_mesh`.
    width = 0.7 * float(apart[kept].median())
    return from_points(points[kept], colors[kept], scale=width, opacity_logit=opacity_logit)


def caption_of(prompt: str) -> Caption:
    """The caption that a prompt is. Raises ValueError that says what is unknown and what to use
    instead.
    """
    try:
        return parse(prompt)
    except ValueError as error:
        raise ValueError(
            f"Init from Text knows one object of the embedded prior at a time: {error} For a scene"
            " use Init Scene; for other texts Init from Shap-E or Init Gaussians."
        ) from error
