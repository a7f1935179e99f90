"""A diffusers folder as a prior: a tiny pipeline of random weights is saved, loaded and held
against its parts.
"""

import shutil
from dataclasses import replace

import pytest
import torch
from kit import normal
from pipeline_folders import edit

from distill3d.kernels.devices.workers import openmp
from distill3d.kernels.losses.base import Views
from distill3d.kernels.losses.cds import CDS
from distill3d.kernels.losses.sds import SDS
from distill3d.kernels.losses.vdm import VDM
from distill3d.kernels.priors.diffusers.loading import load_diffusers
from distill3d.kernels.priors.prompts import view_prompts

WORDS = "a red blue mug front side back overhead view".split()


@pytest.fixture(scope="module")
def prior(pipeline_folder):
    return load_diffusers(pipeline_folder)


@pytest.fixture
def copy(pipeline_folder, tmp_path):
    """A folder to spoil."""
    return shutil.copytree(pipeline_folder, tmp_path / "copy")


def test_geometry_and_schedule_come_from_the_configs(prior):
    assert (prior.name, prior.image_size, prior.latent_channels, prior.downscale) == (
        "tiny",
        16,
        3,
        2,
    )
    assert prior.vocabulary is None and prior.background is None
    assert prior.dtype == torch.float32 and prior.device.type == "cpu"
    torch.testing.assert_close(
        prior.schedule.alpha(torch.tensor([500])).item(), 0.526, atol=5e-4, rtol=0
    )


def test_prediction_is_the_unets_own_output_for_each_conditioning(prior):
    z_t, t = normal(1, 2, 3, 8, 8), torch.tensor([40, 900])
    conditionings = [prior.embed(["a red mug", "a blue mug"]), prior.embed(["", ""])]
    for noise, conditioning in zip(
        prior.predict(z_t, t, conditionings), conditionings, strict=True
    ):
        with torch.no_grad():
            direct = prior.unet(z_t, t, encoder_hidden_states=conditioning.embeddings).sample
        torch.testing.assert_close(noise, direct)


def test_prediction_is_one_network_call_without_gradients(prior, monkeypatch):
    calls = []
    forward = prior.unet.forward

    def watched(*args, **options):
        calls.append(torch.is_grad_enabled())
        return forward(*args, **options)

    monkeypatch.setattr(prior.unet, "forward", watched)
    z_t = normal(1, 2, 3, 8, 8).requires_grad_()
    noises = prior.predict(z_t, torch.tensor([5, 5]), [prior.embed(["", ""])] * 3)
    assert calls == [False] and not any(noise.requires_grad for noise in noises)


@pytest.mark.skipif(openmp() is None, reason="needs torch's own OpenMP runtime")
def test_on_two_threads_each_has_rows_of_its_own_and_the_answers_are_the_same(prior, monkeypatch):
    rows, forward = [], prior.unet.forward

    def watched(sample, *args, **options):
        rows.append(len(sample))
        return forward(sample, *args, **options)

    monkeypatch.setattr(prior.unet, "forward", watched)
    z_t, t, pictures = normal(1, 2, 3, 8, 8), torch.tensor([40, 900]), normal(2, 2, 3, 16, 16)
    text = [prior.embed(["a red mug", "a blue mug"]), prior.embed(["", ""])]
    answers, before = [], torch.get_num_threads()
    try:
        for threads in (1, 2):
            torch.set_num_threads(threads)
            images = pictures.sigmoid().requires_grad_()
            latents = prior.encode(images)
            (latents**2).sum().backward()
            answers.append([*prior.predict(z_t, t, text), latents.detach(), images.grad])
    finally:
        torch.set_num_threads(before)
    assert rows == [4, 2, 2]
    for alone, together in zip(*answers, strict=True):
        torch.testing.assert_close(together, alone, rtol=1e-4, atol=1e-5)


def test_perp_neg_is_the_combination_of_single_predictions_in_one_call(prior, monkeypatch):
    prompts = view_prompts(prior, "a mug", interpolate=True, perp_neg=1.0)
    text, negative = prompts.at(torch.tensor([30.0, 180]), torch.zeros(2)), prompts.negative_rows(2)
    z_t, t = normal(1, 2, 3, 8, 8), torch.tensor([40, 900])
    (front, front_weights), (side, side_weights) = text.against.branches
    own, e_front, e_side, null = prior.predict(
        z_t, t, [replace(text, against=None), front, side, negative]
    )
    expected = own
    for other, weights in ((e_front, front_weights), (e_side, side_weights)):
        x, y = other - null, own - null
        away = x - (x * y).sum((1, 2, 3), keepdim=True) / (y * y).sum((1, 2, 3), keepdim=True) * y
        expected = expected + torch.tensor(weights)[:, None, None, None] * away
    counts, forward = [], prior.unet.forward
    monkeypatch.setattr(
        prior.unet, "forward", lambda z, *a, **k: counts.append(len(z)) or forward(z, *a, **k)
    )
    found = prior.predict(z_t, t, [text, negative])
    torch.testing.assert_close(found[0], expected, rtol=1e-4, atol=1e-5)
    torch.testing.assert_close(found[1], null, rtol=1e-4, atol=1e-5)
    assert counts == [2 + 2 + 2 + 2]  # from 30 degrees and from the back, both texts count


def test_v_prediction_is_converted_exactly(copy, prior):
    edit(copy / "scheduler" / "scheduler_config.json", prediction_type="v_prediction")
    z_t, t = normal(1, 2, 3, 8, 8), torch.tensor([40, 900])
    (noise,) = load_diffusers(copy).predict(z_t, t, [prior.embed(["a mug"] * 2)])
    (v,) = prior.predict(z_t, t, [prior.embed(["a mug"] * 2)])
    torch.testing.assert_close(noise, prior.schedule.sigma(t) * z_t + prior.schedule.alpha(t) * v)


def test_encoding_is_the_scaled_posterior_and_differentiable(prior):
    images = torch.rand(2, 3, 16, 16, generator=torch.Generator().manual_seed(2)).requires_grad_()
    latents = prior.encode(images)
    posterior = prior.vae.encode(images * 2 - 1).latent_dist
    torch.testing.assert_close(latents, (posterior.mean - 0.25) * 0.5)
    latents.square().sum().backward()
    assert torch.isfinite(images.grad).all() and images.grad.abs().sum() > 0

    samples = [prior.encode(images, torch.Generator().manual_seed(seed)) for seed in (3, 3, 4)]
    assert torch.equal(samples[0], samples[1]) and not torch.equal(samples[0], samples[2])
    torch.testing.assert_close(
        (samples[0] - latents) / 0.5, posterior.std * normal(3, *latents.shape)
    )


def test_decoding_undoes_the_scaling_and_gives_images(prior):
    latents = normal(5, 1, 3, 8, 8)
    images = prior.decode(latents)
    expected = (prior.vae.decode(latents / 0.5 + 0.25).sample / 2 + 0.5).clamp(0, 1)
    torch.testing.assert_close(images, expected)
    assert images.shape == (1, 3, 16, 16)


def test_embeddings_are_the_text_encoders_and_cached_by_text(prior, monkeypatch):
    ids = prior.tokenizer(
        "a red mug, side view", padding="max_length", max_length=32, return_tensors="pt"
    ).input_ids
    assert len(ids.unique()) > 10  # a tokenizer read wrongly gives one id for everything
    with torch.no_grad():
        expected = prior.text_encoder(ids)[0]
    texts = ["a red mug, side view", "a new text", "a new text"]
    torch.testing.assert_close(prior.embed(texts).embeddings[:1], expected)
    monkeypatch.setattr(prior.text_encoder, "forward", None)
    assert len(prior.embed(texts[::-1])) == 3


def test_a_text_too_long_for_the_encoder_is_refused_not_cut(prior):
    with pytest.raises(
        ValueError, match=r"has \d+ tokens; prior 'tiny' reads 32, view words included. Shorten it"
    ):
        prior.embed(["a very long text, " * 10])


@pytest.mark.parametrize("loss", [SDS(), CDS(), VDM()], ids=lambda loss: loss.name)
def test_losses_run_under_comfyuis_inference_mode(pipeline_folder, loss):
    with torch.inference_mode():
        prior = load_diffusers(pipeline_folder).offload()
        prompts = view_prompts(prior, "a mug")
        with torch.inference_mode(False), torch.enable_grad():
            images = torch.rand(
                2, 3, 16, 16, generator=torch.Generator().manual_seed(2)
            ).requires_grad_()
            angles = torch.tensor([0.0, 90.0])
            views = Views(prompts.at(angles, angles * 0), prompts.negative_rows(2), None, 0, 10)
            generator = torch.Generator().manual_seed(0)
            run = loss.start(prior, (3, 8, 8), generator)
            value, _ = run(prior.encode(images), views, generator)
            value.backward()
    assert torch.isfinite(images.grad).all() and images.grad.abs().sum() > 0
    weights = [
        p for module in (prior.unet, prior.vae, prior.text_encoder) for p in module.parameters()
    ]
    assert all(w.grad is None and not w.requires_grad and not w.is_inference() for w in weights)


def test_moving_repairs_weights_that_another_move_made_inference_tensors(pipeline_folder):
    prior = load_diffusers(pipeline_folder)
    with torch.inference_mode():
        prior.vae.to(torch.float64).to(torch.float32)
    assert any(p.is_inference() for p in prior.vae.parameters())
    prior.to("cpu")
    prior.encode(torch.rand(1, 3, 16, 16).requires_grad_()).sum().backward()


def test_half_precision_keeps_latents_and_noise_in_float32(pipeline_folder, prior):
    half = load_diffusers(pipeline_folder, dtype=torch.bfloat16)
    assert half.dtype == torch.bfloat16
    images = torch.rand(2, 3, 16, 16, generator=torch.Generator().manual_seed(2)).requires_grad_()
    latents, exact = half.encode(images), prior.encode(images)
    (noise,) = half.predict(latents.detach(), torch.tensor([5, 700]), [half.embed(["a mug"] * 2)])
    (exact_noise,) = prior.predict(
        exact.detach(), torch.tensor([5, 700]), [prior.embed(["a mug"] * 2)]
    )
    assert latents.dtype == noise.dtype == torch.float32
    torch.testing.assert_close(latents, exact, atol=0.02, rtol=0.05)
    torch.testing.assert_close(noise, exact_noise, atol=0.05, rtol=0.05)


def test_card_tells_what_the_prior_was_trained_on(copy):
    edit(
        copy / "distill3d.json",
        vocabulary=WORDS,
        background=[0.25, 0.75],
        image_size=32,
        distance=2.0,
        fov_y=40,
    )
    prior = load_diffusers(copy)
    assert (prior.image_size, prior.background, prior.background_range) == (32, 0.5, (0.25, 0.75))
    assert (prior.distance, prior.fov_y) == (2.0, 40)
    with pytest.raises(ValueError, match="does not know 'dragon'"):
        view_prompts(prior, "a red dragon")
    view_prompts(prior, "A red mug")


def test_sizes_must_suit_the_unet(prior):
    prior.check_size(32)
    with pytest.raises(
        ValueError, match="image_size 18 does not fit prior 'tiny': it must be a multiple of 4"
    ):
        prior.check_size(18)


def test_conditioning_rows_must_match_the_latents(prior):
    with pytest.raises(ValueError, match="1 rows of conditioning for 2 latents"):
        prior.predict(normal(1, 2, 3, 8, 8), torch.tensor([1, 1]), [prior.embed([""])])
