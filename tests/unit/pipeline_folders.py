"""A StableDiffusionPipeline of a few thousand random weights, on disk."""

import json

import pytest
import torch


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


def edit(path, **changes):
    content = json.loads(path.read_text(encoding="utf-8")) if path.exists() else {}
    path.write_text(json.dumps({**content, **changes}), encoding="utf-8")
