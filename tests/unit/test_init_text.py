"""Init from Text: the shipped text-to-points model, what it makes of held-out captions, and how it
was trained.
"""

from __future__ import annotations

import json
import shutil
import time
from pathlib import Path
from statistics import fmean

import pytest
import torch
from kit import seeded
from safetensors.torch import load_file, save_file

from distill3d.kernels.evaluate.judge import held_out_captions
from distill3d.kernels.evaluate.metrics import compare
from distill3d.kernels.init import text
from distill3d.kernels.init.text import from_text, load_point_model
from distill3d.kernels.toybox import train_points
from distill3d.kernels.toybox.captions import CATEGORIES, COLORS, held_out, parse
from distill3d.kernels.toybox.meshes import mesh
from distill3d.kernels.toybox.point_model import NOISE, PointModel, word_ids
from distill3d.kernels.toybox.roles import ACCENTS, MAIN, ROLES
from distill3d.kernels.toybox.shapes import shape

FLOOR_IOU, FLOOR_PSNR = 0.75, 22.0
FILE = Path(__file__).parents[2] / "models" / "text_to_points" / "points.safetensors"


@pytest.fixture(scope="module")
def model():
    return load_point_model(FILE)


def test_points_follow_the_flow_to_where_it_leads():
    """Of a flow that leads straight to one place, Euler's steps of any length arrive there."""
    model, place = PointModel(), torch.tensor([0.3, -0.2, 0.1])
    asked = []

    def velocity(points, times, code):
        asked.append(float(times[0, 0]))
        return (place - points) / (1 - times)[..., None]

    model.velocity = velocity
    points, colors = model.sample(word_ids([parse("a red mug")]), 50, seeded(), steps=7)
    torch.testing.assert_close(points, place.expand(1, 50, 3), atol=1e-5, rtol=0)
    assert colors.shape == (1, 50, 3) and colors.min() >= 0 and colors.max() <= 1
    assert asked[0] == 0 and asked == sorted(asked) and asked[-1] < 1 and len(asked) == 7


def test_points_begin_as_noise_of_the_size_that_was_trained():
    model = PointModel()
    model.velocity = lambda points, times, code: torch.zeros_like(points)
    points, _ = model.sample(word_ids([parse("a red mug")]), 20_000, seeded())
    assert points.std().item() == pytest.approx(NOISE, rel=0.02)


def test_the_order_of_words_counts_and_what_follows_them_does_not(model):
    striped, other = parse("a red mug with white stripes"), parse("a white mug with red stripes")
    alone = model.read(word_ids([parse("a red mug")]))
    both = model.read(word_ids([parse("a red mug"), striped]))
    torch.testing.assert_close(both[:1], alone)
    assert (model.read(word_ids([striped])) - model.read(word_ids([other]))).abs().max() > 0.1


@pytest.mark.parametrize("caption", held_out_captions(6, 11), ids=lambda caption: caption.text)
def test_points_of_held_out_captions_lie_on_the_true_surface_and_cover_it(model, caption):
    toy = shape(caption.category)
    points = from_text(model, caption.text).means
    assert toy.distance(points).abs().median() < 0.02
    assert (toy.distance(points).abs() < 0.06).float().mean() > 0.95
    vertices, _ = mesh(caption.category, 48)
    gaps = torch.cdist(vertices, points).amin(1)
    assert (gaps < 0.06).float().mean() > 0.95


def test_parts_have_their_own_colours_under_every_colour_of_the_caption(model):
    """The wheels of a car are dark, its body as the caption says; light takes up to half."""
    for color in ("red", "white", "cyan"):
        cloud = from_text(model, f"a {color} car", 4000)
        role = shape("car").roles(cloud.means)
        wanted = torch.tensor([COLORS[color] if r == MAIN else ACCENTS[r] for r in ROLES])
        clear = shape("car").distance(cloud.means).abs() < 0.02
        for name in (MAIN, "dark"):
            of = clear & (role == ROLES.index(name))
            mean, full = cloud.colors[of].mean(0), wanted[ROLES.index(name)]
            assert of.sum() > 100
            assert (mean <= full + 0.08).all() and (mean >= 0.45 * full - 0.08).all(), (color, name)


def test_the_same_seed_makes_the_same_cloud_and_another_one_the_same_shape(model):
    first, again = (from_text(model, "a blue duck", 500, seeded(3)) for _ in range(2))
    other = from_text(model, "a blue duck", 500, seeded(4))
    assert torch.equal(first.means, again.means) and torch.equal(first.sh, again.sh)
    assert not torch.equal(first.means, other.means)
    torch.testing.assert_close(first.means.mean(0), other.means.mean(0), atol=0.03, rtol=0)


def test_large_counts_are_made_in_parts_that_tell_of_themselves(model, monkeypatch):
    monkeypatch.setattr(text, "PART", 40)
    told = []
    cloud = from_text(
        model, "a mug", 100, opacity_logit=-1.0, on_part=lambda *done: told.append(done)
    )
    assert len(cloud) == 100 and told == [(40, 112), (80, 112), (112, 112)]
    assert (cloud.opacity_logits == -1).all() and cloud.means.abs().max() < 0.7

    def end(done, drawn):
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        from_text(model, "a mug", 100, on_part=end)


def test_points_that_stand_alone_are_left_out(monkeypatch):
    """A tenth lies far off, each alone; the others fill a small ball."""
    model, near = PointModel(), 0.05

    def sample(words, count, generator, steps):
        points = near * torch.rand(1, count, 3, generator=generator)
        points[:, ::10] += torch.arange(len(points[0, ::10]))[:, None] + 1.0
        return points, torch.zeros(1, count, 3)

    model.sample = sample
    assert len(from_text(model, "a mug", 1)) == 1
    for count in (90, 900):
        cloud = from_text(model, "a mug", count)
        assert len(cloud) == count and cloud.means.max() <= near
    assert torch.equal(cloud.scales, cloud.scales[:1, :1].expand(900, 3))


def test_view_words_spelling_and_articles_do_not_count(model):
    plain = from_text(model, "a gray boat", 200)
    same = from_text(model, "Grey boat, front left view.", 200)
    assert torch.equal(plain.means, same.means)


@pytest.mark.parametrize(
    ("prompt", "wrong"),
    [
        ("a red dragon", "does not know 'dragon'"),
        ("mug a red", "is not a toybox caption"),
        ("", "the prompt is empty"),
        ("a red mug and a blue car on a green ground under a cyan sky", "use Init Scene"),
    ],
)
def test_other_texts_are_refused_with_what_to_use_instead(model, prompt, wrong):
    with pytest.raises(ValueError, match=r"^Init from Text knows one object") as caught:
        from_text(model, prompt)
    assert wrong in str(caught.value) and "Init from Shap-E" in str(caught.value)


def test_the_start_is_rough_yet_far_better_than_a_ball(model):
    """Held-out captions: the shape can be told, and what Optimize makes of it (IoU 0.93) not."""
    scores = [compare(from_text(model, c.text), c, 3, 64) for c in held_out_captions(4, 11)]
    iou, psnr = fmean(s.iou for s in scores), fmean(s.psnr for s in scores)
    assert FLOOR_IOU < iou < 0.88 and FLOOR_PSNR < psnr < 25.5, (iou, psnr)


def test_the_model_is_small_and_fast(model):
    assert FILE.stat().st_size <= 8 * 2**20
    seconds = []
    for seed in range(3):
        began = time.process_time()
        from_text(model, "a red mug", 4000, seeded(seed))
        seconds.append(time.process_time() - began)
    assert min(seconds) < 1.0  # of all cores together: half a second of two


def test_a_missing_or_damaged_model_is_refused_by_its_name(tmp_path):
    name = str(tmp_path / "points.safetensors")
    file = Path(name)
    with pytest.raises(ValueError, match="does not exist") as caught:
        load_point_model(file)
    assert name in str(caught.value) and "install the pack again" in str(caught.value)
    shutil.copy(FILE, file)
    file.write_bytes(file.read_bytes()[:-1000])
    weights = load_file(FILE)
    bad = [
        {**weights, "accents": weights["accents"] * torch.nan},
        {k: v for k, v in weights.items() if k != "accents"},
        {**weights, "accents": torch.zeros(2, 2)},
    ]
    for more in (None, *bad):
        if more is not None:
            save_file(more, file)
        with pytest.raises(ValueError, match="Init from Text: its model") as caught:
            load_point_model(file)
        assert name in str(caught.value)
    torch.save(weights, file)
    with pytest.raises(ValueError, match="cannot be read"):
        load_point_model(file)


def test_training_sees_no_held_out_caption_and_each_kind_in_its_share():
    captions = train_points.training_captions("cpu")
    wanted = {tuple(row.tolist()) for row in captions.words}
    held = [c for c in held_out_captions(200, 5) if held_out(c)]
    assert len(held) == 200 and not wanted & {tuple(r.tolist()) for r in word_ids(held)}
    rows = train_points.draw_captions(captions, 1000, seeded())
    plain = (captions.finish[rows] == 0).float().mean()
    assert len(rows) == 1000 and plain.item() == pytest.approx(0.4, abs=0.1)
    assert set(captions.category[rows].tolist()) == set(range(len(CATEGORIES)))


def test_the_colours_that_training_wants_are_the_toys_own(monkeypatch):
    """A model that paints as the toy is painted has no error left but the flow's."""
    monkeypatch.setattr(train_points, "CATEGORIES", ("car",))
    toys = train_points.surfaces(300, 0, "cpu")
    main = toys.main[0]
    assert torch.equal(main, shape("car").roles(toys.points[0]) == ROLES.index(MAIN))
    assert not toys.inside[0][~main].any() and not toys.inside[0, :, 0].any()
    assert (toys.fixed[0][main] == 0).all() and toys.fixed[0][~main].amax(1).min() > 0
    assert toys.light.min() > 0.4 and toys.light.max() <= 1


def test_training_goes_on_where_it_stopped_and_writes_what_loads(tmp_path, monkeypatch):
    monkeypatch.setattr(train_points, "mesh", lambda category: mesh(category, 32))
    words = ["--work", str(tmp_path / "work"), "--out", str(tmp_path / "out"), "--device", "cpu"]
    few = ["--batch", "8", "--points", "8", "--surface-points", "50"]
    for steps in ("50", "100"):
        train_points.main([*words, *few, "--steps", steps])
    record = json.loads((tmp_path / "out" / "training.json").read_text())
    assert record["steps"] == 100 and len(record["losses_per_50_steps"]) == 2
    assert record["losses_per_50_steps"][1] < record["losses_per_50_steps"][0]
    cloud = from_text(load_point_model(tmp_path / "out" / train_points.FILE), "a red cube", 10)
    assert len(cloud) == 10
