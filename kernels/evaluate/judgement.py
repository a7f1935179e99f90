"""What the judge, a classifier trained on true renders only, says of one object: whether it shows
its caption.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from functools import cache

import torch
from torch import Tensor

from ..cameras.pinhole import Cameras, orbit
from ..toybox.captions import (
    CATEGORIES,
    COLORS,
    FINISHES,
    SYMMETRIC,
    VIEWS,
    Caption,
    all_captions,
    view_of,
)
from ..toybox.data import FOV_Y, SIZE
from ..toybox.models import Judge
from .judge import held_out_captions, judge_logits, match_colors, most_likely

# Azimuths and elevations in degrees, clear of the borders between two view words.
AZIMUTHS = (-20.0, 20.0, 75.0, 105.0, -75.0, -105.0, 160.0, 180.0, -160.0, 0.0, 180.0)
ELEVATIONS = (15.0,) * 9 + (75.0,) * 2
WORDS = tuple(view_of(a, e) for a, e in zip(AZIMUTHS, ELEVATIONS, strict=True))


def judge_cameras(size: int = SIZE) -> Cameras:
    """The eleven views that are judged: all around, and twice from above."""
    return orbit(torch.tensor(AZIMUTHS), torch.tensor(ELEVATIONS), 2.0, FOV_Y, size)


@cache
def benchmark_captions() -> tuple[Caption, ...]:
    """The 32 held-out captions that the benchmark begins with, whatever part of them a call runs.

    Lenient rivals: hardly any two of them share a colour and a pattern, so an object that is taken
    for another one of the right colour still comes first. `every_caption` has that other one.
    """
    return tuple(dict.fromkeys(held_out_captions(32, 0)))


@cache
def every_caption() -> tuple[Caption, ...]:
    """All 11,424 captions with a colour: for each caption, every other object, colour and pattern
    alone changed.

    Not the held-out ones only: of these a caption has about four rivals that differ in the object
    alone.
    """
    return tuple(all_captions())


def log_likelihoods(logits: dict[str, Tensor], captions: Sequence[Caption]) -> Tensor:
    """How likely the judge finds each caption in each picture: log-probabilities [B, captions], of
    logits per head.

    The sum over category, colour and finish, and over the second colour where there is a pattern.
    Which of its two colours is the object's cannot be seen of stripes and checks (see
    `match_colors`): there the likelihoods of both orders add up. So do those of all colours, but the
    pattern's, for a caption without one: it is at least as likely as the same with a colour, and to
    be compared with others without one only, see `rivals_of`.
    """
    log = {name: values.double().log_softmax(-1) for name, values in logits.items()}
    names = list(COLORS)
    category = torch.tensor([CATEGORIES.index(c.category) for c in captions])
    finish = torch.tensor([FINISHES.index(c.finish) for c in captions])
    first = torch.tensor([names.index(c.color or c.second or names[0]) for c in captions])
    second = torch.tensor([names.index(c.second or c.color or names[0]) for c in captions])
    ordered = log["color"][:, first] + log["second"][:, second]
    either = torch.logaddexp(ordered, log["color"][:, second] + log["second"][:, first])
    plain, dotted = finish == 0, finish == FINISHES.index("dotted")
    colors = torch.where(plain, log["color"][:, first], torch.where(dotted, ordered, either))
    not_color, not_second = (
        torch.log(-torch.expm1(log[head][:, second])) for head in ("color", "second")
    )
    dots = log["second"][:, second] + not_color
    in_pair = torch.logaddexp(dots, log["color"][:, second] + not_second)
    unsaid = torch.where(plain, 0.0, torch.where(dotted, dots, in_pair))
    colors = torch.where(torch.tensor([c.color is None for c in captions]), unsaid, colors)
    return log["category"][:, category] + log["finish"][:, finish] + colors


def rivals_of(caption: Caption, captions: Sequence[Caption]) -> list[Caption]:
    """What ``captions`` say that the caption does not, in the words it uses: without colours if it
    names none, since a red mug is a mug too."""
    spoken = captions if caption.color else [replace(other, color=None) for other in captions]
    return [other for other in dict.fromkeys(spoken) if other != caption]


def r_precision(logits: dict[str, Tensor], caption: Caption, captions: Sequence[Caption]) -> float:
    """Share of the pictures for which none of `rivals_of` is likelier than the object's own caption
    (R-precision at rank 1).

    A rival that says the same of the picture, as the reverse order of two striped colours, is none.
    Of red and white stripes "a mug with red stripes" and "a mug with white stripes" are both right,
    and which comes first is chance.

    logits: [V,classes] by head.
    """
    scores = log_likelihoods(logits, [caption, *rivals_of(caption, captions)])
    return float((scores[:, :1] >= scores[:, 1:] - 1e-9).all(-1).float().mean())


@dataclass(frozen=True)
class Judgement:
    """Shares of the judged views, 0..1; None where a question does not apply to the caption.

    Args:
        judge_category: the right object
        judge_color: the right colours; None for a caption without one
        judge_view: the view it is; None for objects that look alike from all sides
        janus: a side or the back taken for the front
        r_precision: the own caption is likelier than its rivals among the 32 `benchmark_captions`
        r_precision_all: than those among `every_caption`: all it says is seen
    """

    judge_category: float
    judge_color: float | None
    judge_view: float | None
    janus: float | None
    r_precision: float
    r_precision_all: float


def judgement(judge: Judge, images: Tensor, caption: Caption) -> Judgement:
    """The judge on images [11,3,H,W] in 0..1 from `judge_cameras`."""
    logits = judge_logits(judge, images)
    answers, count = most_likely(logits), len(images)
    right_color = view = janus = None
    if caption.color:
        names = (caption.color, caption.second or caption.color)
        color, second = (torch.full((count,), list(COLORS).index(name)) for name in names)
        finish = torch.full((count,), FINISHES.index(caption.finish))
        right_color = float(match_colors(answers, color, second, finish).float().mean())
    if caption.category not in SYMMETRIC:
        wanted = torch.tensor([VIEWS.index(word) for word in WORDS])
        away = torch.tensor([word in ("side", "back") for word in WORDS])
        view = float((answers["view"] == wanted).float().mean())
        janus = float((answers["view"] == VIEWS.index("front"))[away].float().mean())
    return Judgement(
        float((answers["category"] == CATEGORIES.index(caption.category)).float().mean()),
        right_color,
        view,
        janus,
        r_precision(logits, caption, benchmark_captions()),
        r_precision(logits, caption, every_caption()),
    )
