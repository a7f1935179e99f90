"""MVDream's files: folder, checkpoint, half precision, parts; wrong ones are refused."""

import json
import shutil

import mvdream_reference as reference
import pytest
import tiny_mvdream
import tiny_prior
import torch
from kit import seeded
from mvdream_priors import agree, answers, question

from distill3d.kernels.priors.diffusers import ldm
from distill3d.kernels.priors.diffusers.loading import load_diffusers
from distill3d.kernels.priors.diffusers.multiview import (
    load_multiview_file,
)


@pytest.fixture(scope="module")
def folder(mvdream):
    return mvdream[0]


@pytest.fixture(scope="module")
def weights(mvdream):
    return mvdream[1]


@pytest.fixture(scope="module")
def reader(tmp_path_factory):
    """A folder with the tokenizer, and the size of its vocabulary."""
    place = tmp_path_factory.mktemp("tokenizer")
    vocabulary = tiny_prior.write_tokenizer(place)
    vocabulary["!"], vocabulary["a"] = vocabulary["a"], vocabulary["!"]  # CLIP's begins with "!"
    (place / "vocab.json").write_text(json.dumps(vocabulary), encoding="utf-8")
    return place, len(vocabulary)


@pytest.mark.parametrize("kind", tiny_mvdream.FILES)
def test_file_answers_as_the_networks_written_down_plainly(tmp_path, reader, kind):
    tokenizer, vocabulary = reader
    file = tmp_path / f"mvdream-{kind}.safetensors"
    whole = tiny_mvdream.write_checkpoint(file, kind, vocabulary)
    assert ldm.holds_multiview(file)
    prior = load_multiview_file(file, tokenizer)

    def part(prefix):
        return {
            name.removeprefix(prefix): v for name, v in whole.items() if name.startswith(prefix)
        }

    z, t, texts = question(prior)
    expected = answers(prior, part("model.diffusion_model."), tiny_mvdream.FILES[kind], z, t, texts)
    agree(prior.predict(z, t, texts), expected)
    pictures = torch.rand(2, 3, 16, 16, generator=seeded())
    mean = reference.encoder(part("first_stage_model."), pictures * 2 - 1)
    agree([prior.encode(pictures)], [0.18215 * mean])
    torch.testing.assert_close(
        prior.schedule.alphas_cumprod, whole["alphas_cumprod"], atol=1e-6, rtol=1e-5
    )
    if kind == "sd2":
        tokens = prior.tokenizer("a red mug", padding="max_length", max_length=77)["input_ids"]
        assert tokens[-1] == 0 and len(tokens) == 77  # filled up as OpenCLIP does
        agree(
            prior.embed(["a red mug"]).embeddings,
            [reference.openclip(part("cond_stage_model.model."), tokens, 64)],
        )
    else:
        assert prior.tokenizer.pad_token == "<|endoftext|>"
    assert prior.decode(prior.encode(pictures)).shape == (2, 3, 16, 16)


def test_half_precision_weights_and_their_variant_load(folder, weights, tmp_path):
    place = shutil.copytree(folder, tmp_path / "half")
    unet = place / "unet" / "diffusion_pytorch_model.safetensors"
    unet.rename(unet.with_name("diffusion_pytorch_model.fp16.safetensors"))
    half = load_diffusers(place, dtype=torch.float16)
    assert half.dtype == torch.float16 and half.unet.conv_in.weight.dtype == torch.float16
    assert torch.equal(half.unet.conv_in.weight, weights["input_blocks.0.0.weight"].half())


def test_weights_in_several_files_load(folder, weights, tmp_path):
    from safetensors.torch import save_file

    place = shutil.copytree(folder, tmp_path / "parts")
    whole = place / "unet" / "diffusion_pytorch_model.safetensors"
    whole.unlink()
    index = {}
    for number, names in enumerate((list(weights)[::2], list(weights)[1::2])):
        part = whole.with_name(f"diffusion_pytorch_model-{number}.safetensors")
        save_file({name: weights[name] for name in names}, part)
        index |= dict.fromkeys(names, part.name)
    whole.with_suffix(".safetensors.index.json").write_text(
        json.dumps({"weight_map": index}), encoding="utf-8"
    )
    found = load_diffusers(place).unet.state_dict()
    assert torch.equal(found["class_embedding.linear_2.bias"], weights["camera_embed.2.bias"])


@pytest.mark.parametrize(
    ("heads", "linear", "text", "count"),
    [
        ({"num_head_channels": 64}, True, 1024, 865_910_724),
        ({"num_heads": 8}, False, 768, 859_520_964),
    ],
)
def test_the_true_shapes_are_those_of_stable_diffusion_and_a_camera(
    monkeypatch, heads, linear, text, count
):
    """sd-v2.1-base-4view and sd-v1.5-4view as their codebase builds them, without their numbers."""
    config = {
        "in_channels": 4,
        "out_channels": 4,
        "model_channels": 320,
        "attention_resolutions": [4, 2, 1],
    }
    config |= {
        "num_res_blocks": 2,
        "channel_mult": [1, 2, 4, 4],
        "context_dim": text,
        "camera_dim": 16,
        **heads,
    }

    def add(self, name, *shape, **_):
        self[name] = torch.empty(shape, device="meta")

    monkeypatch.setattr(tiny_mvdream._Weights, "add", add)
    weights = {
        ldm.UNET + name: value for name, value in tiny_mvdream.unet_weights(config, linear).items()
    }
    unet = ldm.make_unet(weights, ldm.read_config(weights), torch.float32, "checkpoint")
    assert unet.num_parameters() == count + (16 + 1) * 1280 + (1280 + 1) * 1280
    assert unet.config.attention_head_dim == ([5, 10, 20, 20] if linear else 8)
    assert unet.config.use_linear_projection == linear and unet.config.sample_size == 32


def test_wrong_models_are_refused_with_the_reason(folder, weights, reader, tmp_path):
    from safetensors.torch import save_file

    for name, changes, message in (
        ("imagedream", {"ip_dim": 16}, "is an ImageDream model: it wants a reference picture"),
        ("odd", {"resblock_updown": True}, "resblock_updown"),
        ("uneven", {"num_res_blocks": [1, 2, 1]}, "num_res_blocks"),
        ("narrow", {"context_dim": 32}, "32 values per token, but its text_encoder makes 64"),
        ("inpainting", {"in_channels": 9}, "9 channels per latent"),
        ("deeper", {"channel_mult": [1, 2, 2, 2]}, "do not make a UNet2DConditionModel"),
    ):
        tiny_mvdream.write_tiny_mvdream(tmp_path / name, **changes)
        with pytest.raises(ValueError, match=message):
            load_diffusers(tmp_path / name)
    tokenizer, vocabulary = reader
    whole = tiny_mvdream.write_checkpoint(tmp_path / "whole.safetensors", "sd2", vocabulary)
    unet = "model.diffusion_model."
    for name, content, message in (
        (
            "no-text",
            {k: v for k, v in whole.items() if not k.startswith("cond_stage")},
            "holds no text encoder",
        ),
        (
            "no-vae",
            {k: v for k, v in whole.items() if not k.startswith("first_stage")},
            "holds no VAE",
        ),
        (
            "imagedream",
            whole | {f"{unet}image_embed.latents": torch.zeros(1, 4)},
            "is an ImageDream model",
        ),
        (
            "imagedream-too",  # whose autoencoder has another name
            {k.replace("first_stage_model.", "vae_model."): v for k, v in whole.items()}
            | {
                f"{unet}middle_block.1.transformer_blocks.0.attn2.to_k_ip.weight": torch.zeros(4, 4)
            },
            "is an ImageDream model",
        ),
    ):
        save_file(content, tmp_path / f"{name}.safetensors")
        with pytest.raises(ValueError, match=f"checkpoint '{name}.safetensors' {message}"):
            load_multiview_file(tmp_path / f"{name}.safetensors", tokenizer)
    plain = {k: v for k, v in whole.items() if "camera_embed" not in k}
    save_file(plain, tmp_path / "plain.safetensors")
    assert not ldm.holds_multiview(tmp_path / "plain.safetensors")
    (tmp_path / "cut.safetensors").write_bytes((tmp_path / "whole.safetensors").read_bytes()[:1000])
    assert not ldm.holds_multiview(tmp_path / "cut.safetensors")
