"""What the toybox prior's networks learn from: losses, captions, pools and atlas."""

from types import SimpleNamespace

import pytest
import torch
from kit import seeded
from toybox_networks import noise_atlas, small_autoencoder, small_denoiser

from distill3d.kernels.cameras.pinhole import orbit
from distill3d.kernels.toybox import data, models, train
from distill3d.kernels.toybox.captions import (
    COLORS,
    FINISHES,
    SIDES,
    VIEW_WORDS,
    Caption,
)
from distill3d.kernels.toybox.data import NO_VIEW, Batch, draw, training_cameras
from distill3d.kernels.toybox.render import render_layers


def test_the_autoencoder_loss_is_finite_and_reaches_every_weight():
    torch.manual_seed(0)
    vae = small_autoencoder()
    loss = train.autoencoder_loss(vae, torch.rand(2, 3, 32, 32, generator=seeded()))
    loss.backward()
    assert loss.isfinite()
    assert all(p.grad is not None and p.grad.isfinite().all() for p in vae.parameters())


def test_the_denoiser_loss_is_finite_and_reaches_both_networks():
    torch.manual_seed(0)
    unet, text = small_denoiser(), models.text_encoder(40)
    ids = torch.full((2, models.TOKENS), 39)
    latents = torch.randn(2, 4, 8, 8, generator=seeded())
    loss = train.denoiser_loss(
        unet, text, latents, ids, models.scheduler().alphas_cumprod, seeded()
    )
    loss.backward()
    # an untrained net predicts nothing: the velocity's own variance is 1
    assert loss.isfinite() and 0.3 < loss < 3
    assert all(
        p.grad.isfinite().all()
        for p in [*unet.parameters(), *text.parameters()]
        if p.grad is not None
    )
    assert text.get_input_embeddings().weight.grad.abs().sum() > 0


def test_a_denoiser_that_knows_the_answer_has_no_loss():
    scheduler = models.scheduler()
    latents, steps = torch.randn(16, 4, 8, 8, generator=seeded()), []

    def unet(noisy, t, words, return_dict):
        steps.append(t)
        a, s = (
            x[t].sqrt()[:, None, None, None]
            for x in (scheduler.alphas_cumprod, 1 - scheduler.alphas_cumprod)
        )
        noise = (noisy - a * latents) / s
        return (scheduler.get_velocity(latents, noise, t),)

    ids = torch.zeros(16, 1, dtype=torch.long)
    loss = train.denoiser_loss(
        unet, lambda ids: (ids,), latents, ids, scheduler.alphas_cumprod, seeded()
    )
    assert loss < 1e-6
    # one step in each sixteenth of the schedule
    assert torch.equal(steps[0] * 16 // 1000, torch.arange(16))


def judged_batch(**changes):
    batch = draw(noise_atlas(64), 4, seeded(5))
    fields = {**batch.__dict__, "finish": torch.tensor([0, 0, 1, 2]), **changes}
    return Batch(**fields)


def test_the_judges_loss_counts_only_fair_questions():
    torch.manual_seed(0)
    judge = models.Judge(8)

    def loss(**changes):
        return train.judge_loss(judge, judged_batch(**changes), seeded()).item()

    said = torch.tensor([0, NO_VIEW, 1, 2])
    base = loss(second=torch.tensor([0, 1, 2, 3]), view=torch.tensor([0, 1, 1, 2]), view_said=said)
    plain = loss(second=torch.tensor([7, 8, 2, 3]), view=torch.tensor([0, 1, 1, 2]), view_said=said)
    unfair = loss(
        second=torch.tensor([0, 1, 2, 3]), view=torch.tensor([0, 3, 1, 2]), view_said=said
    )
    assert base == plain == unfair
    assert (
        loss(second=torch.tensor([0, 1, 9, 3]), view=torch.tensor([0, 1, 1, 2]), view_said=said)
        != base
    )
    assert (
        loss(second=torch.tensor([0, 1, 2, 3]), view=torch.tensor([3, 1, 1, 2]), view_said=said)
        != base
    )


def test_the_judges_loss_is_finite_without_patterns_or_fair_views():
    torch.manual_seed(0)
    judge = models.Judge(8)
    batch = judged_batch(
        finish=torch.zeros(4, dtype=torch.long), view_said=torch.full((4,), NO_VIEW)
    )
    loss = train.judge_loss(judge, batch, seeded())
    loss.backward()
    assert loss.isfinite() and all(p.grad.isfinite().all() for p in judge.parameters())


def test_what_is_said_is_dropped_at_the_documented_rates():
    count = 200_000
    words = [
        torch.randint(high, (count,), generator=seeded(i))
        for i, high in enumerate((28, 12, 4, 12, 4, 18))
    ]
    category, color, finish, second, view = train.drop_words(words, seeded(9))
    silent, colorless, viewless = category < 0, color == len(COLORS), view == NO_VIEW
    plain = words[2] == 0
    for share, wanted in (
        (silent, 0.10),
        (colorless[plain], 0.05),
        (viewless, 0.12),
        (viewless & silent, 0.012),
    ):
        assert share.float().mean().item() == pytest.approx(wanted, abs=0.003)
    assert not colorless[~plain].any()
    assert torch.equal(category[~silent], words[0][~silent]) and torch.equal(
        color[~colorless], words[1][~colorless]
    )
    fine = view[~viewless] == words[5][~viewless]
    assert ((view == words[4]) | (view == words[5]))[~viewless].all()
    coarse_only = words[4] != words[5]
    assert fine[coarse_only[~viewless]].float().mean().item() == pytest.approx(0.7, abs=0.005)
    assert torch.equal(finish, words[2]) and torch.equal(second, words[3])


@pytest.mark.parametrize("size", [12, 10])
def test_a_pool_renews_all_its_rows_in_turn(size):
    made = 0

    def fresh(count):
        nonlocal made
        numbers = torch.arange(made, made + count)
        made += count
        return numbers, -numbers

    pool = train.Pool(size, fresh)
    assert pool.rows[0].tolist() == list(range(size))
    pool.draw(5, 4, seeded())
    assert pool.rows[0].tolist() == [*range(size, size + 4), *range(4, size)]
    for step in range(2):
        drawn = pool.draw(5, 4, seeded(step))
    assert (pool.rows[0] >= size).all() and len(pool.rows[0]) == size
    assert len(drawn[0]) == 5 and torch.equal(drawn[1], -drawn[0])  # rows stay together
    assert set(drawn[0].tolist()) <= set(pool.rows[0].tolist())


def test_a_pool_larger_than_a_chunk_is_filled():
    pool = train.Pool(600, lambda count: (torch.full((count, 2), float(count)),))
    assert pool.rows[0].shape == (600, 2)
    assert pool.rows[0][:, 0].tolist() == [256.0] * 512 + [88.0] * 88


@pytest.fixture
def small_renders(monkeypatch):
    monkeypatch.setattr(data, "SIZE", 24)
    monkeypatch.setattr(data, "CATEGORIES", ("mug", "car"))


def test_painting_the_atlas_is_painting_the_render(small_renders):
    views, seed = 3, 4
    atlas = data.render_atlas(views, seed, "cpu", chunk=2)
    assert atlas.layers.shape == (6, 8, 24, 24) and atlas.category.tolist() == [0, 0, 0, 1, 1, 1]
    generator = seeded(seed)
    rows, seconds = (
        torch.arange(views),
        {"plain": None, "striped": "white", "checkered": "cyan", "dotted": "red"},
    )
    for index, category in enumerate(("mug", "car")):
        layers = render_layers(category, training_cameras(views, generator))
        for finish, second in seconds.items():
            caption = Caption(category, "orange", finish, second)
            background = torch.tensor([0.25, 0.5, 0.75])
            indices = [
                torch.full((views,), i)
                for i in (5, FINISHES.index(finish), list(COLORS).index(second) if second else 0)
            ]
            got = atlas.paint(rows + index * views, *indices, background)
            wanted = layers.paint(caption, background[:, None, None, None]).permute(0, 3, 1, 2)
            assert (got - wanted).abs().max() < 2.5 / 255  # a few layers, each rounded to 8 bits
            assert (got - wanted).abs().mean() < 0.5 / 255


def test_the_atlas_knows_the_view_words_and_where_none_is_fair(monkeypatch):
    monkeypatch.setattr(data, "SIZE", 4)
    monkeypatch.setattr(data, "CATEGORIES", ("sphere",))
    atlas = data.render_atlas(300, 0, "cpu")
    cameras = training_cameras(300, seeded(0))
    turn, up = cameras.azimuths.abs(), cameras.elevations > 60
    wanted = torch.where(up, 3, torch.where(turn <= 45, 0, torch.where(turn >= 135, 2, 1)))
    assert torch.equal(atlas.view, wanted)
    unfair = ~up & (torch.minimum((turn - 45).abs(), (turn - 135).abs()) < 8)
    assert torch.equal(atlas.view_said, torch.where(unfair, NO_VIEW, wanted))
    assert 0.1 < unfair.float().mean() < 0.25
    sectors = (cameras.azimuths.remainder(360) / 45).round().long() % 8
    finer = [
        (f"overhead {SIDES[k]}" if high else SIDES[k])
        for k, high in zip(sectors.tolist(), up.tolist(), strict=True)
    ]
    assert [VIEW_WORDS[k] for k in atlas.side.tolist()] == finer


def test_training_cameras_cover_what_they_document():
    cameras = training_cameras(4000, seeded())
    low = cameras.elevations < 55
    assert low.float().mean().item() == pytest.approx(0.82, abs=0.02)
    assert -15 <= cameras.elevations[low].min() < -13 and 48 < cameras.elevations[low].max() <= 50
    assert 62 <= cameras.elevations[~low].min() < 63 and 87 < cameras.elevations[~low].max() <= 88
    assert 1.97 <= cameras.distances.min() < 1.975 and 2.025 < cameras.distances.max() <= 2.03
    share = torch.histc(cameras.azimuths, 8, -180, 180) / 4000
    assert ((share - 1 / 8).abs() < 0.02).all()
    assert orbit(0.0, 0.0, 2.0, data.FOV_Y).intrinsics[0, 0, 0] == cameras.intrinsics[0, 0, 0]


def test_the_latent_scale_makes_latents_of_unit_spread():
    class Vae:
        def encode(self, pictures):
            mean = 3 * pictures[:, :1]
            return SimpleNamespace(latent_dist=SimpleNamespace(mean=mean))

    atlas = noise_atlas(8)
    scale = train.latent_scale(Vae(), atlas, seeded(1))
    pictures = draw(atlas, 2048, seeded(2)).images * 2 - 1
    assert (scale * 3 * pictures[:, :1]).std().item() == pytest.approx(1, abs=0.03)
    # the same at every call, or the net would be off
    assert scale == train.latent_scale(Vae(), atlas, seeded(3))
