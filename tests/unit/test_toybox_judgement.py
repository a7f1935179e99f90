"""What the judge is asked of one object, with the shipped judge on true renders and with logits
made up.
"""

from pathlib import Path

import pytest
import torch

from distill3d.kernels.evaluate import judgement as j
from distill3d.kernels.toybox.captions import CATEGORIES, COLORS, FINISHES, Caption, held_out, parse
from distill3d.kernels.toybox.models import HEADS, load_judge
from distill3d.kernels.toybox.render import render_truth

JUDGE = Path(__file__).resolve().parents[2] / "models" / "judge"


def logits(**shares):
    """One picture's logits in which each head gives the named classes these shares; all else is
    next to nothing.
    """
    names = {
        "category": CATEGORIES,
        "color": list(COLORS),
        "second": list(COLORS),
        "finish": FINISHES,
    }
    result = {}
    for head, size in HEADS.items():
        probabilities = torch.full((1, size), 1e-9)
        for name, share in shares.get(head, {}).items():
            probabilities[0, names[head].index(name)] = share
        result[head] = probabilities.log()
    return result


def likelihood(seen, text):
    return j.log_likelihoods(seen, [parse(text)]).exp().item()


def test_a_caption_is_as_likely_as_its_parts_together():
    seen = logits(
        category={"mug": 0.8, "cube": 0.2},
        color={"red": 0.5, "blue": 0.5},
        second={"white": 0.6, "red": 0.3, "blue": 0.1},
        finish={"plain": 0.4, "dotted": 0.4, "striped": 0.2},
    )
    assert likelihood(seen, "a red mug") == pytest.approx(0.8 * 0.5 * 0.4, rel=1e-4)
    assert likelihood(seen, "a mug") == pytest.approx(0.8 * 0.4, rel=1e-4)
    assert likelihood(seen, "a mug with white dots") == pytest.approx(0.8 * 0.4 * 0.6, rel=1e-4)
    assert likelihood(seen, "a red mug with white dots") == pytest.approx(
        0.8 * 0.4 * 0.5 * 0.6, rel=1e-4
    )
    assert likelihood(seen, "a white mug with red dots") < 1e-6  # dots are told from their ground
    stripes = 0.8 * 0.2 * (0.5 * 0.3 + 0.5 * 0.1)  # blue with red ones, or red with blue ones
    assert likelihood(seen, "a blue mug with red stripes") == pytest.approx(stripes, rel=1e-4)
    assert likelihood(seen, "a red mug with blue stripes") == likelihood(
        seen, "a blue mug with red stripes"
    )


def test_a_caption_without_a_colour_is_as_likely_as_that_with_any_colour():
    """It stands for all of them: their likelihoods add up, whatever the pattern."""
    seen = {
        head: torch.randn(3, size, generator=torch.Generator().manual_seed(size))
        for head, size in HEADS.items()
    }
    for pattern in ("", " with white stripes", " with white checks", " with white dots"):
        colors = [color for color in COLORS if not pattern or color != "white"]
        all_colors = j.log_likelihoods(
            seen, [parse(f"a {color} mug{pattern}") for color in colors]
        ).logsumexp(1)
        torch.testing.assert_close(
            j.log_likelihoods(seen, [parse(f"a mug{pattern}")])[:, 0], all_colors
        )


def test_a_caption_without_a_colour_competes_with_others_without_one():
    unsure = {"color": dict.fromkeys(COLORS, 1 / 12), "finish": {"plain": 1.0}}
    cube, mug = (
        logits(category={"mug": share, "cube": 1 - share}, **unsure) for share in (0.4, 0.6)
    )
    for captions in (j.benchmark_captions(), j.every_caption()):
        assert all(rival.color is None for rival in j.rivals_of(parse("a mug"), captions))
        assert parse("a mug") not in j.rivals_of(parse("a mug"), captions)
    assert len(j.rivals_of(parse("a mug"), j.every_caption())) == 28 * (1 + 3 * 12) - 1
    assert j.r_precision(cube, parse("a mug"), j.every_caption()) == 0
    assert j.r_precision(mug, parse("a mug"), j.every_caption()) == 1
    red = logits(category={"mug": 1.0}, color={"red": 1.0}, finish={"plain": 1.0})
    assert j.r_precision(red, parse("a mug"), j.every_caption()) == 1  # a red mug is a mug
    dotted = logits(
        category={"mug": 1.0}, color={"red": 1.0}, second={"white": 1.0}, finish={"dotted": 1.0}
    )
    assert j.r_precision(dotted, parse("a mug"), j.every_caption()) == 0
    assert j.r_precision(dotted, parse("a mug with white dots"), j.every_caption()) == 1
    assert j.r_precision(dotted, parse("a mug with cyan dots"), j.every_caption()) == 0


@pytest.mark.parametrize("gray", [0.5, 0.7])
def test_an_empty_picture_shows_no_object_whether_a_colour_is_asked_for_or_not(gray):
    """What the judge takes an empty picture for is one caption at most."""
    judge, empty = load_judge(JUDGE), torch.full((11, 3, 128, 128), gray)
    seen = j.judge_logits(judge, empty)
    for color in (None, "red"):
        right = [
            j.r_precision(seen, Caption(category, color), j.benchmark_captions())
            for category in CATEGORIES
        ]
        assert sum(right) <= 1
    assert (
        sum(
            j.r_precision(seen, Caption(category, None), j.every_caption())
            for category in CATEGORIES
        )
        <= 1
    )


def test_only_a_likelier_caption_takes_the_first_place():
    seen = logits(
        category={"mug": 1.0},
        color={"red": 0.6, "blue": 0.4},
        second={"blue": 0.6, "red": 0.4},
        finish={"striped": 1.0},
    )
    own, reverse = parse("a red mug with blue stripes"), parse("a blue mug with red stripes")
    assert j.r_precision(seen, own, [own, reverse]) == 1  # they say the same
    assert j.r_precision(seen, own, [reverse, parse("a red cube")]) == 1
    plain = logits(category={"mug": 1.0}, color={"red": 0.6, "blue": 0.4}, finish={"plain": 1.0})
    assert j.r_precision(plain, parse("a blue mug"), [parse("a red mug")]) == 0
    assert j.r_precision(plain, parse("a red mug"), [parse("a blue mug")]) == 1


def test_the_lists_of_rivals_are_fixed():
    assert len(j.benchmark_captions()) == 32 and len(j.every_caption()) == 11424
    assert all(held_out(caption) for caption in j.benchmark_captions())


@pytest.mark.parametrize("other", [category for category in CATEGORIES if category != "mug"])
def test_another_object_of_the_right_colour_takes_the_first_place_in_the_strict_list(other):
    seen = logits(category={"mug": 0.1, other: 0.9}, color={"red": 1.0}, finish={"plain": 1.0})
    assert j.r_precision(seen, parse("a red mug"), j.every_caption()) == 0
    assert j.r_precision(seen, parse(f"a red {other}"), j.every_caption()) == 1


def test_every_word_of_a_caption_has_rivals_in_the_strict_list():
    for caption in j.benchmark_captions():
        rivals = set(j.every_caption())
        assert {
            Caption(c, caption.color, caption.finish, caption.second) for c in CATEGORIES
        } <= rivals
        colors = [color for color in COLORS if color != caption.second]
        assert {
            Caption(caption.category, color, caption.finish, caption.second) for color in colors
        } <= rivals


def test_true_renders_are_judged_right_and_wrong_captions_wrong():
    caption, judge = parse("a gray house with pink dots"), load_judge(JUDGE)
    with torch.no_grad():
        truth = (
            render_truth(caption, j.judge_cameras(), 0.5, supersample=2)
            .color.permute(0, 3, 1, 2)
            .contiguous()
        )
    right = j.judgement(judge, truth, caption)
    assert (
        right.judge_category > 0.9
        and right.judge_color > 0.8
        and right.judge_view > 0.8
        and right.janus < 0.2
    )
    assert right.r_precision > 0.9 and right.r_precision_all > 0.8
    for wrong in (
        Caption("castle", "gray", "dotted", "pink"),
        Caption("house", "gray", "dotted", "cyan"),
    ):
        score = j.judgement(judge, truth, wrong)
        assert score.r_precision_all < 0.1
    unsaid = j.judgement(judge, truth, Caption("house", None, "dotted", "pink"))
    assert unsaid.judge_color is None and unsaid.r_precision_all > 0.8
    assert (
        j.judgement(judge, truth, Caption("castle", None, "dotted", "pink")).r_precision_all < 0.1
    )
    # fronts where backs should be
    turned = j.judgement(judge, truth[[7, 8, 2, 3, 4, 5, 0, 1, 6, 9, 10]], caption)
    assert turned.janus > right.janus + 0.15 and turned.judge_view < right.judge_view
    assert j.judgement(judge, truth, Caption("tree", "gray")).janus is None
