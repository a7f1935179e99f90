import itertools
import json
from types import SimpleNamespace

import pytest
import torch

from distill3d.kernels.cameras.pinhole import orbit
from distill3d.kernels.priors.diffusers.loading import load_diffusers
from distill3d.kernels.toybox import data, models, train, training_stage
from distill3d.kernels.toybox.captions import (
    CATEGORIES,
    COLORS,
    FINISHES,
    SIDES,
    VIEW_WORDS,
    VIEWS,
    Caption,
    vocabulary,
)
from distill3d.kernels.toybox.data import NO_VIEW, Atlas, Batch, draw, training_cameras
from distill3d.kernels.toybox.render import render_layers
from distill3d.kernels.toybox.scene_captions import SCENE_WORDS
from distill3d.kernels.toybox.scene_data import SceneAtlas, draw_scenes


def seeded(seed=0):
    return torch.Generator().manual_seed(seed)


def noise_atlas(size=128, views=2):
    """Random layers in place of renders."""
    count = len(CATEGORIES) * views
    layers = torch.randint(256, (count, 8, size, size), generator=seeded(), dtype=torch.uint8)
    layers[:, 1:4] = torch.minimum(layers[:, 1:4], layers[:, :1])
    view = torch.randint(len(VIEWS), (count,), generator=seeded(1))
    return Atlas(layers, torch.arange(len(CATEGORIES)).repeat_interleave(views), view, view, view)


def small_autoencoder(channels=(8, 8, 8)):
    return models.autoencoder(channels)


def small_denoiser():
    return models.denoiser((16, 16, 16), 1)


def judge_run(folder, seed=0, steps=8):
    torch.manual_seed(seed)
    judge = models.Judge(8)
    judge.to(memory_format=torch.channels_last)  # as in training
    return training_stage.Run("judge", {"judge": judge}, steps, 1e-2, folder), judge


def judge_steps(run, judge, atlas, steps):
    for step in steps:
        run.update(train.judge_loss(judge, draw(atlas, 3, seeded(step)), seeded(100 + step)))


def test_a_resumed_run_is_the_uninterrupted_one(tmp_path):
    (tmp_path / "a").mkdir()
    (tmp_path / "b").mkdir()
    atlas = noise_atlas(64)
    whole, judge = judge_run(tmp_path / "a")
    judge_steps(whole, judge, atlas, range(4))
    first, judge = judge_run(tmp_path / "b")
    judge_steps(first, judge, atlas, range(2))
    first.losses, first.elapsed = [0.5, 0.25], 7.5
    first.save()
    # other initial weights: all must come from the file
    second, judge = judge_run(tmp_path / "b", seed=1)
    assert (second.step, second.losses, second.elapsed) == (2, [0.5, 0.25], 7.5)
    judge_steps(second, judge, atlas, range(2, 4))
    for ours, theirs in zip(whole.parameters, second.parameters, strict=True):
        assert torch.equal(ours, theirs)
        assert torch.equal(
            whole.optimizer.state[ours]["exp_avg_sq"], second.optimizer.state[theirs]["exp_avg_sq"]
        )
        # a fused AdamW needs it
        assert second.optimizer.state[theirs]["exp_avg"].stride() == theirs.stride()
    assert all(torch.equal(a, b) for a, b in zip(whole.average, second.average, strict=True))
    assert not list(tmp_path.rglob("*.partial"))


def test_the_rate_warms_up_then_falls_to_two_percent(tmp_path):
    weight = torch.nn.Linear(1, 1)
    run = training_stage.Run("linear", {"linear": weight}, 1000, 0.5, tmp_path)
    rates = []
    for _ in range(1000):
        run.update(weight(torch.ones(1, 1)).sum())
        rates.append(run.optimizer.param_groups[0]["lr"])
    assert rates[0] == pytest.approx(0.5 / 200, rel=0.01)
    assert max(rates) == rates[199] > 0.4
    assert rates[-1] == pytest.approx(0.01, rel=0.01)


def test_the_average_follows_the_weights_and_can_take_their_place(tmp_path):
    weight = torch.nn.Linear(1, 1, bias=False)
    run = training_stage.Run("linear", {"linear": weight}, 10, 0.1, tmp_path)
    average = weight.weight.item()
    for step in range(3):
        run.update(weight(torch.ones(1, 1)).sum())
        decay = min(0.999, (1 + step) / (10 + step))
        average = decay * average + (1 - decay) * weight.weight.item()
    assert run.average[0].item() == pytest.approx(average)
    run.use_average()
    assert weight.weight.item() == pytest.approx(average)


def test_the_loop_ends_with_the_schedule_and_saves(tmp_path):
    weight = torch.nn.Linear(1, 1)
    run = training_stage.Run("linear", {"linear": weight}, 120, 0.1, tmp_path)
    assert list(training_stage.loop(run, lambda: weight(torch.ones(1, 1)).square().sum(), 1e9)) == [
        50,
        100,
    ]
    assert run.step == 120 and len(run.losses) == 2 and run.losses[1] < run.losses[0]
    again = training_stage.Run("linear", {"linear": torch.nn.Linear(1, 1)}, 120, 0.1, tmp_path)
    assert (again.step, again.done, again.losses) == (120, 1.0, run.losses)
    assert list(training_stage.loop(again, lambda: pytest.fail("the schedule is over"), 1e9)) == []


def test_a_schedule_by_the_clock_goes_on_where_it_was_until_its_time_is_up(tmp_path, monkeypatch):
    seconds = itertools.count()  # a second at every look at the clock
    monkeypatch.setattr(training_stage, "time", SimpleNamespace(monotonic=lambda: next(seconds)))
    weight = torch.nn.Linear(1, 1)
    run = training_stage.Run("linear", {"linear": weight}, 1, 0.1, tmp_path, seconds=40)
    list(training_stage.loop(run, lambda: weight(torch.ones(1, 1)).sum(), 20))
    assert run.step == 10 and run.done == 0.5
    run = training_stage.Run("linear", {"linear": weight}, 1, 0.1, tmp_path, seconds=40)
    list(training_stage.loop(run, lambda: weight(torch.ones(1, 1)).sum(), 1e9))
    assert run.step == 20 and run.done == 1


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


def test_training_in_small_writes_a_prior_that_loads_and_resumes(tmp_path, monkeypatch):
    pytest.importorskip("matplotlib")  # for the picture of the losses; an extra of training
    monkeypatch.setattr(train, "render_atlas", lambda views, seed, device: noise_atlas(views=1))
    monkeypatch.setattr(train, "autoencoder", small_autoencoder)
    monkeypatch.setattr(train, "denoiser", small_denoiser)
    monkeypatch.setattr(train, "latent_scale", lambda vae, atlas, generator: 0.5)
    paths = [
        "--work",
        str(tmp_path / "work"),
        "--out",
        str(tmp_path / "out"),
        "--judge-out",
        str(tmp_path / "judge"),
    ]
    sizes = "--device cpu --pool 8 --batch 4 --autoencoder-batch 2 --judge-batch 2".split()
    train.main(
        [
            *paths,
            *sizes,
            *"--steps 1 --autoencoder-steps 1 --judge-steps 1 --stages autoencoder,judge".split(),
        ]
    )
    train.main([*paths, *sizes, *"--steps 1 --autoencoder-steps 1 --judge-steps 2".split()])
    record = json.loads((tmp_path / "out" / "training.json").read_text())
    assert {name: run["steps"] for name, run in record["runs"].items()} == {
        "autoencoder": 1,
        "judge": 2,
        "denoiser": 1,
    }
    prior = load_diffusers(tmp_path / "out")
    assert (
        prior.vocabulary == frozenset(vocabulary())
        and prior.image_size == 128
        and prior.scaling == 0.5
    )
    assert prior.embed(["a red mug, front view"]).embeddings.shape == (1, 77, models.TEXT_WIDTH)
    judge = models.load_judge(tmp_path / "judge")
    logits = judge(torch.rand(2, 3, 128, 128, generator=seeded()))
    assert {name: x.shape for name, x in logits.items()} == {
        name: (2, size) for name, size in models.HEADS.items()
    }


def small_scenes(count, seed, device):
    """Black pictures in place of renders."""
    kinds = len(CATEGORIES)
    return SceneAtlas(
        torch.zeros(count, 2, kinds, 5, 128, 128, dtype=torch.uint8),
        torch.zeros(count, 2, kinds, 128, 128, dtype=torch.half),
        torch.zeros(count, 3, 128, 128, dtype=torch.uint8),
        *(torch.zeros(count, dtype=torch.long) for _ in range(2)),
    )


def test_training_on_scenes_too_goes_on_from_a_prior_of_objects(tmp_path, monkeypatch):
    pytest.importorskip("matplotlib")
    monkeypatch.setattr(train, "render_atlas", lambda views, seed, device: noise_atlas(views=1))
    monkeypatch.setattr(train, "render_scene_atlas", small_scenes)
    monkeypatch.setattr(train, "autoencoder", small_autoencoder)
    monkeypatch.setattr(train, "denoiser", small_denoiser)
    monkeypatch.setattr(train, "latent_scale", lambda vae, atlas, generator: 0.5)
    drawn = []
    monkeypatch.setattr(train, "draw_scenes", lambda *a: drawn.append(a[1]) or draw_scenes(*a))
    sizes = (
        "--device cpu --pool 8 --batch 4 --autoencoder-batch 4 --steps 1 --autoencoder-steps 1"
        " --judge-steps 1"
    )
    common = [
        "--work",
        str(tmp_path / "work"),
        "--judge-out",
        str(tmp_path / "judge"),
        *sizes.split(),
    ]
    common += ["--stages", "autoencoder,denoiser,export"]
    train.main([*common, "--out", str(tmp_path / "objects")])
    assert not drawn
    more = "--scenes 0.5 --scene-cameras 1 --decoder-only --autoencoder-rate 1 --from".split()
    common[1] = str(tmp_path / "more")
    train.main([*common, "--out", str(tmp_path / "scenes"), *more, str(tmp_path / "objects")])
    assert drawn == [2, 4, 1]  # the autoencoder's batch, the pool, what a step renews
    old, new = load_diffusers(tmp_path / "objects"), load_diffusers(tmp_path / "scenes")
    assert old.vocabulary == frozenset(vocabulary())
    assert new.vocabulary == old.vocabulary | frozenset(SCENE_WORDS)
    card = json.loads((tmp_path / "scenes" / "distill3d.json").read_text())
    assert card["outward"][1] == "outward front left"
    assert "outward" not in json.loads((tmp_path / "objects" / "distill3d.json").read_text())
    same = {n: torch.equal(p, new.vae.get_parameter(n)) for n, p in old.vae.named_parameters()}
    assert all(
        same[n] == n.startswith(("encoder.", "quant_conv.")) for n in same if n.endswith(".weight")
    )
    text = "a red mug and a blue chair on a green ground under a cyan sky, outward front view"
    assert len(new.tokenizer(text).input_ids) == 21  # a token a word, the comma, start and end


@pytest.mark.parametrize("share", ["1", "-0.1"])
def test_a_share_of_scenes_that_leaves_no_objects_is_refused(tmp_path, share):
    with pytest.raises(ValueError, match="0 to below 1"):
        train.main(["--work", str(tmp_path), "--device", "cpu", "--scenes", share])


def test_going_on_from_a_pipeline_keeps_what_its_words_mean(tmp_path, monkeypatch):
    torch.manual_seed(0)
    words = vocabulary()
    monkeypatch.setattr(
        models, "vocabulary", lambda: tuple(w for w in words if w not in ("left", "right"))
    )
    old_tokenizer = models.write_tokenizer(tmp_path / "tokenizer")
    parts = small_autoencoder(), small_denoiser(), models.text_encoder(len(old_tokenizer))
    wanted = [
        {name: p.detach().half().float() for name, p in net.named_parameters()} for net in parts
    ]
    models.save_pipeline(tmp_path, *parts, old_tokenizer)
    monkeypatch.setattr(models, "vocabulary", lambda: words)

    tokenizer = models.write_tokenizer(tmp_path / "new")
    vae, unet, text = small_autoencoder(), small_denoiser(), models.text_encoder(len(tokenizer))
    fresh = text.get_input_embeddings().weight.detach().clone()
    models.load_pipeline(tmp_path, vae, unet, text, tokenizer)

    for net, weights in zip((vae, unet), wanted, strict=False):
        assert all(torch.equal(p, weights[name]) for name, p in net.named_parameters())
    caption = "a red mug with white stripes, side view"
    old_ids, ids = models.tokenize(old_tokenizer, [caption]), models.tokenize(tokenizer, [caption])
    assert not torch.equal(old_ids, ids)  # or there was nothing to match
    old_text = parts[2].float()
    torch.testing.assert_close(text(ids)[0], old_text(old_ids)[0])
    new = tokenizer.get_vocab()["left</w>"]
    assert torch.equal(text.get_input_embeddings().weight[new], fresh[new])
