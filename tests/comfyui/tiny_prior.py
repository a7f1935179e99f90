"""A diffusers pipeline folder with random weights: it does all that Stable Diffusion's does, in no
time.
"""

from __future__ import annotations

import json
import string
from pathlib import Path

import torch

TOKENS, IMAGE_SIZE = 77, 32
WORDS = ("a", "red", "blue", "mug", "chair", "front", "side", "back", "overhead", "view")


def write_tiny_prior(folder: Path, width: int = 32) -> None:
    """Write a whole pipeline and its distill3d.json into ``folder``; width: of a token's
    embedding.
    """
    from diffusers import AutoencoderKL, DDPMScheduler, UNet2DConditionModel
    from transformers import CLIPTextConfig, CLIPTextModel

    torch.manual_seed(0)
    AutoencoderKL(
        down_block_types=("DownEncoderBlock2D",) * 2,
        up_block_types=("UpDecoderBlock2D",) * 2,
        block_out_channels=(8, 16),
        norm_num_groups=4,
        mid_block_add_attention=False,
    ).save_pretrained(folder / "vae")
    UNet2DConditionModel(
        sample_size=IMAGE_SIZE // 2,
        block_out_channels=(8, 16),
        layers_per_block=1,
        down_block_types=("DownBlock2D", "CrossAttnDownBlock2D"),
        up_block_types=("CrossAttnUpBlock2D", "UpBlock2D"),
        cross_attention_dim=width,
        attention_head_dim=2,
        norm_num_groups=4,
    ).save_pretrained(folder / "unet")
    DDPMScheduler(
        beta_start=0.00085, beta_end=0.012, beta_schedule="scaled_linear"
    ).save_pretrained(folder / "scheduler")
    vocab = write_tokenizer(folder / "tokenizer")
    CLIPTextModel(
        CLIPTextConfig(
            vocab_size=len(vocab),
            hidden_size=width,
            intermediate_size=width,
            num_hidden_layers=1,
            num_attention_heads=2,
            max_position_embeddings=TOKENS,
            bos_token_id=vocab["<|startoftext|>"],
            eos_token_id=vocab["<|endoftext|>"],
            pad_token_id=vocab["<|endoftext|>"],
        )
    ).save_pretrained(folder / "text_encoder")
    _write_json(folder / "model_index.json", {"_class_name": "StableDiffusionPipeline"})
    _write_json(
        folder / "distill3d.json",
        {"vocabulary": WORDS, "background": [0.25, 0.75], "image_size": IMAGE_SIZE},
    )


def write_tiny_control(prior: Path, folder: Path) -> None:
    """Write a ControlNet with random weights for the prior of `write_tiny_prior` in ``prior``."""
    from diffusers import ControlNetModel, UNet2DConditionModel

    torch.manual_seed(0)
    unet = UNet2DConditionModel.from_pretrained(prior / "unet", use_safetensors=True)
    control = ControlNetModel.from_unet(unet, conditioning_embedding_out_channels=(8, 16))
    for zero in (*control.controlnet_down_blocks, control.controlnet_mid_block):
        torch.nn.init.normal_(zero.weight, std=0.1)
    torch.nn.init.normal_(control.controlnet_cond_embedding.conv_out.weight)
    control.save_pretrained(folder)


def write_tokenizer(folder: Path) -> dict[str, int]:
    """CLIP's byte-pair tokenizer without a single merge: every letter is a token."""
    letters = string.ascii_lowercase + string.digits + string.punctuation
    symbols = [
        *letters,
        *(letter + "</w>" for letter in letters),
        "<|startoftext|>",
        "<|endoftext|>",
    ]
    vocab = {symbol: index for index, symbol in enumerate(symbols)}
    special = {"bos_token": "<|startoftext|>", "eos_token": "<|endoftext|>"}
    special |= {"pad_token": "<|endoftext|>", "unk_token": "<|endoftext|>"}
    folder.mkdir(parents=True, exist_ok=True)
    _write_json(folder / "vocab.json", vocab)
    (folder / "merges.txt").write_text("#version: 0.2\n", encoding="utf-8")
    _write_json(
        folder / "tokenizer_config.json",
        {"tokenizer_class": "CLIPTokenizer", "model_max_length": TOKENS, **special},
    )
    _write_json(folder / "special_tokens_map.json", special)
    return vocab


def _write_json(path: Path, content: object) -> None:
    path.write_text(json.dumps(content), encoding="utf-8")
