"""Training the toybox prior in small: what is resumed, what the schedule says, what comes out."""

import itertools
import json
from types import SimpleNamespace

import pytest
import torch
from kit import seeded
from toybox_networks import noise_atlas, small_autoencoder, small_denoiser

from distill3d.kernels.priors.diffusers.loading import load_diffusers
from distill3d.kernels.toybox import models, train, training_stage
from distill3d.kernels.toybox.captions import (
    CATEGORIES,
    vocabulary,
)
from distill3d.kernels.toybox.data import draw
from distill3d.kernels.toybox.scene_captions import SCENE_WORDS
from distill3d.kernels.toybox.scene_data import SceneAtlas, draw_scenes

pytestmark = pytest.mark.nightly(reason="trains networks")


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
