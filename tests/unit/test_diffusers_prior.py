"""A diffusers folder as a prior: a tiny pipeline of random weights is saved, loaded and held
against its parts.
"""

import importlib.util
import json
import shutil
import subprocess
import sys
from dataclasses import replace

import pytest
import torch
from safetensors.torch import load_file, save_file

from distill3d.kernels.losses.base import Views
from distill3d.kernels.losses.cds import CDS
from distill3d.kernels.losses.sds import SDS
from distill3d.kernels.losses.vdm import VDM
from distill3d.kernels.priors import folder
from distill3d.kernels.priors.diffusers.loading import load_diffusers
from distill3d.kernels.priors.prompts import view_prompts

WORDS = "a red blue mug front side back overhead view".split()


def tokenizer():
    from transformers import CLIPTokenizer

    letters = [*map(chr, range(ord("a"), ord("z") + 1)), ","]
    tokens = [piece for letter in letters for piece in (letter, letter + "</w>")]
    vocabulary = {token: k for k, token in enumerate([*tokens, "<|startoftext|>", "<|endoftext|>"])}
    return CLIPTokenizer(vocab=vocabulary, merges=[], model_max_length=32)


@pytest.fixture(scope="session")
def pipeline_folder(tmp_path_factory):
    """A StableDiffusionPipeline of a few thousand weights: latents 3x8x8 of 16-pixel images,
    shifted and scaled.
    """
    from diffusers import (
        AutoencoderKL,
        DDIMScheduler,
        StableDiffusionPipeline,
        UNet2DConditionModel,
    )
    from transformers import CLIPTextConfig, CLIPTextModel

    with torch.random.fork_rng():
        torch.manual_seed(0)
        unet = UNet2DConditionModel(
            sample_size=8,
            in_channels=3,
            out_channels=3,
            block_out_channels=(8, 16),
            layers_per_block=1,
            down_block_types=("DownBlock2D", "CrossAttnDownBlock2D"),
            up_block_types=("CrossAttnUpBlock2D", "UpBlock2D"),
            cross_attention_dim=16,
            attention_head_dim=2,
            norm_num_groups=4,
        )
        vae = AutoencoderKL(
            latent_channels=3,
            block_out_channels=(8, 16),
            down_block_types=("DownEncoderBlock2D",) * 2,
            up_block_types=("UpDecoderBlock2D",) * 2,
            norm_num_groups=4,
            scaling_factor=0.5,
            shift_factor=0.25,
        )
        text = CLIPTextModel(
            CLIPTextConfig(
                vocab_size=56,
                hidden_size=16,
                intermediate_size=32,
                num_hidden_layers=2,
                num_attention_heads=2,
                max_position_embeddings=32,
                bos_token_id=54,
                eos_token_id=55,
                pad_token_id=55,
            )
        )
    scheduler = DDIMScheduler(
        beta_start=0.00085,
        beta_end=0.012,
        beta_schedule="scaled_linear",
        clip_sample=False,
        steps_offset=1,
    )
    pipeline = StableDiffusionPipeline(
        vae, text, tokenizer(), unet, scheduler, None, None, requires_safety_checker=False
    )
    folder = tmp_path_factory.mktemp("priors") / "tiny"
    pipeline.save_pretrained(folder, safe_serialization=True)
    return folder


@pytest.fixture(scope="module")
def prior(pipeline_folder):
    return load_diffusers(pipeline_folder)


@pytest.fixture
def copy(pipeline_folder, tmp_path):
    """A folder to spoil."""
    return shutil.copytree(pipeline_folder, tmp_path / "copy")


def edit(path, **changes):
    content = json.loads(path.read_text(encoding="utf-8")) if path.exists() else {}
    path.write_text(json.dumps({**content, **changes}), encoding="utf-8")


def normal(seed, *shape):
    return torch.randn(shape, generator=torch.Generator().manual_seed(seed))


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


def test_missing_folder_and_files_are_named(copy, tmp_path):
    with pytest.raises(ValueError, match="nowhere does not exist"):
        load_diffusers(tmp_path / "nowhere")
    (copy / "vae" / "config.json").unlink()
    (copy / "tokenizer" / "tokenizer_config.json").unlink()
    weights = copy / "unet" / "diffusion_pytorch_model.safetensors"
    weights.rename(weights.with_suffix(".bin"))
    with pytest.raises(
        ValueError,
        match=(
            r"copy lacks vae/config.json, tokenizer/tokenizer_config.json, unet/diff.*safetensors"
        ),
    ):
        load_diffusers(copy)


@pytest.mark.parametrize("part", ["unet", "vae", "text_encoder"])
def test_weights_that_are_cut_short_or_lacking_are_named(copy, part):
    file = copy / part / f"{folder.WEIGHTS[part]}.safetensors"
    whole, weights = (
        file.read_bytes(),
        {name: value.clone() for name, value in load_file(file).items()},
    )
    file.write_bytes(whole[: len(whole) // 2])
    with pytest.raises(ValueError, match=rf"its {part} cannot be read .*Download it again"):
        load_diffusers(copy)
    lost = next(name for name in weights if name.endswith("weight"))
    save_file(
        {name: value for name, value in weights.items() if name != lost}, file, {"format": "pt"}
    )
    with pytest.raises(
        ValueError,
        match=rf"its {part} (lacks 1 of its weights, .*{lost}|cannot be read .*lacks weights)",
    ):
        load_diffusers(copy)


@pytest.mark.parametrize("with_accelerate", [True, False])
def test_no_weight_is_left_to_chance_without_accelerate_either(copy, monkeypatch, with_accelerate):
    monkeypatch.setattr(importlib.util, "find_spec", lambda name: with_accelerate or None)
    file = copy / "unet" / f"{folder.WEIGHTS['unet']}.safetensors"
    weights = {
        name: value.clone() for name, value in load_file(file).items() if name != "conv_in.weight"
    }
    save_file(weights, file, {"format": "pt"})
    with pytest.raises(
        ValueError, match=r"its unet (lacks 1 of its weights, conv_in.weight|cannot be read)"
    ):
        load_diffusers(copy)


def test_a_tokenizer_without_words_is_refused_and_a_byte_order_mark_is_none_of_them(copy):
    config = copy / "scheduler" / "scheduler_config.json"
    config.write_text(config.read_text(), encoding="utf-8-sig")
    load_diffusers(copy)
    for file in ("tokenizer.json", "vocab.json"):
        (copy / "tokenizer" / file).unlink(missing_ok=True)
    with pytest.raises(ValueError, match=r"lacks tokenizer/vocab.json and tokenizer/merges.txt"):
        load_diffusers(copy)


@pytest.mark.parametrize("variant", ["fp16", "bf16", "fp32", "non_ema"])
def test_variant_files_are_found(copy, prior, variant):
    for part, stem in folder.WEIGHTS.items():
        (copy / part / f"{stem}.safetensors").rename(copy / part / f"{stem}.{variant}.safetensors")
    z_t, t = normal(1, 1, 3, 8, 8), torch.tensor([40])
    results = [p.predict(z_t, t, [p.embed(["a mug"])])[0] for p in (load_diffusers(copy), prior)]
    torch.testing.assert_close(*results)


def test_models_of_other_kinds_are_refused_by_name(copy):
    scheduler, unet = copy / "scheduler" / "scheduler_config.json", copy / "unet" / "config.json"
    edit(scheduler, prediction_type="sample")
    with pytest.raises(
        ValueError, match="DDIMScheduler with prediction 'sample'; only epsilon and v_prediction"
    ):
        load_diffusers(copy)
    edit(scheduler, prediction_type="epsilon", _class_name="FlowMatchEulerDiscreteScheduler")
    with pytest.raises(ValueError, match="FlowMatchEulerDiscreteScheduler"):
        load_diffusers(copy)
    edit(scheduler, _class_name="DDIMScheduler")
    edit(unet, addition_embed_type="text_time")
    with pytest.raises(ValueError, match="SDXL"):
        load_diffusers(copy)
    edit(unet, addition_embed_type=None, in_channels=9)
    with pytest.raises(ValueError, match="takes 9 channels per latent, but its vae makes 3"):
        load_diffusers(copy)
    edit(unet, in_channels=3, cross_attention_dim=1024)
    with pytest.raises(
        ValueError, match="takes 1024 values per token, but its text_encoder makes 16"
    ):
        load_diffusers(copy)
    edit(unet, cross_attention_dim=16)
    scheduler.write_text("{", encoding="utf-8")
    with pytest.raises(ValueError, match=r"scheduler_config.json is not valid JSON"):
        load_diffusers(copy)


@pytest.mark.parametrize(
    ("part", "change", "message"),
    [
        ("unet", {"_class_name": "UNet3DConditionModel"}, "a UNet3DConditionModel.*videos"),
        ("unet", {"time_cond_proj_dim": 256}, "distilled to few steps"),
        ("unet", {"addition_embed_type": "text_time"}, "Take SDXL's checkpoint file"),
        ("scheduler", {"_class_name": "EDMEulerScheduler"}, "EDMEulerScheduler.*none distilled"),
        ("scheduler", {"_class_name": "LCMScheduler"}, "LCMScheduler.*none distilled"),
    ],
)
def test_other_kinds_of_networks_are_refused_before_their_weights_are_read(
    copy, part, change, message
):
    edit(copy / part / folder.CONFIGS[part], **change)
    (copy / "unet" / f"{folder.WEIGHTS['unet']}.safetensors").write_bytes(b"")
    with pytest.raises(ValueError, match=message):
        load_diffusers(copy)


def test_a_config_that_is_no_table_is_refused_by_name(copy):
    (copy / "unet" / "config.json").write_text("[1]")
    with pytest.raises(
        ValueError, match=r"unet.config.json holds a list where names with values belong"
    ):
        load_diffusers(copy)


def test_loads_without_accelerate(pipeline_folder, monkeypatch):
    monkeypatch.setattr(importlib.util, "find_spec", lambda name: None)
    assert load_diffusers(pipeline_folder).dtype == torch.float32


def test_importing_the_module_imports_neither_diffusers_nor_transformers():
    code = (
        "import sys, distill3d.kernels.priors.diffusers.loading; "
        "sys.exit(bool({'diffusers', 'transformers'} & set(sys.modules)))"
    )
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0


def test_texts_embedded_before_need_no_text_encoder_and_pictures_none_at_all(pipeline_folder):
    prior = load_diffusers(pipeline_folder)
    z_t, t = normal(1, 2, 3, 8, 8), torch.tensor([40, 900])
    expected = prior.predict(z_t, t, [prior.embed(["a red mug", ""])])
    prior.to("meta", parts=["text_encoder"])  # where there are no weights
    assert prior.device.type == "cpu"
    torch.testing.assert_close(prior.predict(z_t, t, [prior.embed(["a red mug", ""])]), expected)
    prior.encode(torch.rand(1, 3, 16, 16).requires_grad_()).sum().backward()
