"""MVDream with random weights in its two forms on disk: a diffusers folder as published, and one
whole checkpoint.
"""

from __future__ import annotations

import json
import math
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import save_file
from tiny_prior import TOKENS, write_tokenizer
from torch import Tensor

IMAGE_SIZE = 16
TEXT = 64  # width of a token's embedding: one head of the text encoder
# Fields as convert_mvdream_to_diffusers writes them. One level less than MVDream has, and thinner.
FOLDER = {
    "_class_name": "MultiViewUNetModel", "_diffusers_version": "0.28.0", "image_size": 8, "in_channels": 4,
    "out_channels": 4, "model_channels": 32, "attention_resolutions": [2, 1], "num_res_blocks": 1,
    "channel_mult": [1, 2, 2], "num_head_channels": 16, "transformer_depth": 1, "context_dim": TEXT,
    "use_checkpoint": False, "camera_dim": 16,
}  # fmt: skip
# A file says nothing of its heads: those of Stable Diffusion 2.x have 64 channels, in 1.x there are
# 8.
FILES: dict[str, dict[str, Any]] = {
    "sd2": FOLDER | {"model_channels": 64, "num_head_channels": 64, "linear": True},
    "sd1": (
        {k: v for k, v in FOLDER.items() if k != "num_head_channels"}
        | {"num_heads": 8, "linear": False}
    ),
}


class _Weights(dict[str, Tensor]):
    """Random weights by name, of a size that lets a signal pass."""

    def __init__(self, seed: int) -> None:
        super().__init__()
        self.generator = torch.Generator().manual_seed(seed)

    def add(self, name: str, *shape: int, spread: float = 1.0, centre: float = 0.0) -> None:
        self[name] = centre + spread * torch.randn(shape, generator=self.generator)

    def layer(self, name: str, out: int, *into: int, bias: bool = True) -> None:
        self.add(f"{name}.weight", out, *into, spread=1 / math.sqrt(math.prod(into)))
        if bias:
            self.add(f"{name}.bias", out, spread=0.1)

    def norm(self, name: str, width: int) -> None:
        self.add(f"{name}.weight", width, spread=0.1, centre=1.0)
        self.add(f"{name}.bias", width, spread=0.1)

    def residual(self, name: str, into: int, out: int, time: int) -> None:
        self.norm(f"{name}.in_layers.0", into)
        self.layer(f"{name}.in_layers.2", out, into, 3, 3)
        self.layer(f"{name}.emb_layers.1", out, time)
        self.norm(f"{name}.out_layers.0", out)
        self.layer(f"{name}.out_layers.3", out, out, 3, 3)
        if into != out:
            self.layer(f"{name}.skip_connection", out, into, 1, 1)

    def transformer(self, name: str, width: int, text: int, linear: bool) -> None:
        pixel = () if linear else (1, 1)
        self.norm(f"{name}.norm", width)
        self.layer(f"{name}.proj_in", width, width, *pixel)
        block = f"{name}.transformer_blocks.0"
        for attention, read in (("attn1", width), ("attn2", text)):
            self.layer(f"{block}.{attention}.to_q", width, width, bias=False)
            self.layer(f"{block}.{attention}.to_k", width, read, bias=False)
            self.layer(f"{block}.{attention}.to_v", width, read, bias=False)
            self.layer(f"{block}.{attention}.to_out.0", width, width)
        self.layer(f"{block}.ff.net.0.proj", 8 * width, width)
        self.layer(f"{block}.ff.net.2", width, 4 * width)
        for place in (1, 2, 3):
            self.norm(f"{block}.norm{place}", width)
        self.layer(f"{name}.proj_out", width, width, *pixel)

    def coder_block(self, name: str, into: int, out: int) -> None:
        self.norm(f"{name}.norm1", into)
        self.layer(f"{name}.conv1", out, into, 3, 3)
        self.norm(f"{name}.norm2", out)
        self.layer(f"{name}.conv2", out, out, 3, 3)
        if into != out:
            self.layer(f"{name}.nin_shortcut", out, into, 1, 1)

    def coder_middle(self, name: str, width: int) -> None:
        self.coder_block(f"{name}.block_1", width, width)
        self.norm(f"{name}.attn_1.norm", width)
        for part in ("q", "k", "v", "proj_out"):
            self.layer(f"{name}.attn_1.{part}", width, width, 1, 1)
        self.coder_block(f"{name}.block_2", width, width)


def unet_weights(config: dict[str, Any], linear: bool = True, seed: int = 0) -> dict[str, Tensor]:
    """The U-Net that a config of MultiViewUNetModel describes, under its names."""
    weights, base = _Weights(seed), config["model_channels"]
    time, text = 4 * base, config["context_dim"]
    for name, into in (("time_embed", base), ("camera_embed", config["camera_dim"])):
        weights.layer(f"{name}.0", time, into)
        weights.layer(f"{name}.2", time, time)
    weights.layer("input_blocks.0.0", base, config["in_channels"], 3, 3)
    width, widths, block = base, [base], 1
    for level, times in enumerate(config["channel_mult"]):
        attentive = 2**level in config["attention_resolutions"]
        for _ in range(config["num_res_blocks"]):
            weights.residual(f"input_blocks.{block}.0", width, times * base, time)
            width = times * base
            if attentive:
                weights.transformer(f"input_blocks.{block}.1", width, text, linear)
            widths.append(width)
            block += 1
        if level < len(config["channel_mult"]) - 1:
            weights.layer(f"input_blocks.{block}.0.op", width, width, 3, 3)
            widths.append(width)
            block += 1
    weights.residual("middle_block.0", width, width, time)
    weights.transformer("middle_block.1", width, text, linear)
    weights.residual("middle_block.2", width, width, time)
    block = 0
    for level, times in reversed(list(enumerate(config["channel_mult"]))):
        attentive = 2**level in config["attention_resolutions"]
        for place in range(config["num_res_blocks"] + 1):
            weights.residual(f"output_blocks.{block}.0", width + widths.pop(), times * base, time)
            width = times * base
            if attentive:
                weights.transformer(f"output_blocks.{block}.1", width, text, linear)
            if level and place == config["num_res_blocks"]:
                weights.layer(f"output_blocks.{block}.{1 + attentive}.conv", width, width, 3, 3)
            block += 1
    weights.norm("out.0", width)
    weights.layer("out.2", config["out_channels"], width, 3, 3)
    return dict(weights)


def vae_weights(seed: int = 1, widths: tuple[int, ...] = (32, 64)) -> dict[str, Tensor]:
    """An autoencoder of 4 channels that halves its pictures between its widths."""
    weights, wide, last = _Weights(seed), widths[-1], len(widths) - 1
    weights.layer("encoder.conv_in", widths[0], 3, 3, 3)
    for level, width in enumerate(widths):
        into = widths[max(level - 1, 0)]
        weights.coder_block(f"encoder.down.{level}.block.0", into, width)
        if level < last:
            weights.layer(f"encoder.down.{level}.downsample.conv", width, width, 3, 3)
    weights.coder_middle("encoder.mid", wide)
    weights.norm("encoder.norm_out", wide)
    weights.layer("encoder.conv_out", 8, wide, 3, 3)
    weights.layer("quant_conv", 8, 8, 1, 1)
    weights.layer("post_quant_conv", 4, 4, 1, 1)
    weights.layer("decoder.conv_in", wide, 4, 3, 3)
    weights.coder_middle("decoder.mid", wide)
    for level, width in reversed(list(enumerate(widths))):
        into = widths[min(level + 1, last)]
        for block in range(2):
            weights.coder_block(
                f"decoder.up.{level}.block.{block}", into if block == 0 else width, width
            )
        if level:
            weights.layer(f"decoder.up.{level}.upsample.conv", width, width, 3, 3)
    weights.norm("decoder.norm_out", widths[0])
    weights.layer("decoder.conv_out", 3, widths[0], 3, 3)
    return dict(weights)


def openclip_weights(
    vocabulary: int, blocks: int = 3, width: int = TEXT, seed: int = 2
) -> dict[str, Tensor]:
    """OpenCLIP's text transformer, the pooled text's projection included."""
    weights = _Weights(seed)
    weights.add("token_embedding.weight", vocabulary, width)
    weights.add("positional_embedding", TOKENS, width, spread=0.1)
    for block in range(blocks):
        own = f"transformer.resblocks.{block}"
        weights.norm(f"{own}.ln_1", width)
        weights.norm(f"{own}.ln_2", width)
        weights.add(f"{own}.attn.in_proj_weight", 3 * width, width, spread=1 / math.sqrt(width))
        weights.add(f"{own}.attn.in_proj_bias", 3 * width, spread=0.1)
        weights.layer(f"{own}.attn.out_proj", width, width)
        weights.layer(f"{own}.mlp.c_fc", 4 * width, width)
        weights.layer(f"{own}.mlp.c_proj", width, 4 * width)
    weights.norm("ln_final", width)
    weights.add("text_projection", width, width)
    weights["logit_scale"] = torch.tensor(4.6)
    return dict(weights)


def clip_weights(vocabulary: int, seed: int = 3) -> dict[str, Tensor]:
    """transformers' CLIP text encoder, as Stable Diffusion 1's files hold it."""
    encoder = _text_encoder(vocabulary, "quick_gelu", seed)
    weights = {
        "text_model." + name.removeprefix("text_model."): v
        for name, v in encoder.state_dict().items()
    }
    return weights | {"text_model.embeddings.position_ids": torch.arange(TOKENS)[None]}


def _text_encoder(vocabulary: int, act: str, seed: int) -> Any:
    from transformers import CLIPTextConfig, CLIPTextModel

    with torch.random.fork_rng():
        torch.manual_seed(seed)
        config = CLIPTextConfig(
            vocab_size=vocabulary, hidden_size=TEXT, intermediate_size=2 * TEXT, num_hidden_layers=2,
            num_attention_heads=1, max_position_embeddings=TOKENS, hidden_act=act, bos_token_id=vocabulary - 2,
            eos_token_id=vocabulary - 1, pad_token_id=0,
        )  # fmt: skip
        return CLIPTextModel(config)


def write_tiny_mvdream(folder: Path, **changes: Any) -> dict[str, Tensor]:
    """Write an MVDreamPipeline folder; changes: of its U-Net's config.json. Returns the U-Net's
    weights.
    """
    from diffusers import AutoencoderKL, DDIMScheduler

    vocabulary = write_tokenizer(folder / "tokenizer")
    _text_encoder(len(vocabulary), "gelu", 3).save_pretrained(folder / "text_encoder")
    with torch.random.fork_rng():
        torch.manual_seed(4)
        AutoencoderKL(
            down_block_types=("DownEncoderBlock2D",) * 2,
            up_block_types=("UpDecoderBlock2D",) * 2,
            block_out_channels=(8, 16),
            norm_num_groups=4,
        ).save_pretrained(folder / "vae")
    DDIMScheduler(
        beta_start=0.00085, beta_end=0.012, beta_schedule="scaled_linear", clip_sample=False, set_alpha_to_one=False,
        steps_offset=1,
    ).save_pretrained(folder / "scheduler")  # fmt: skip
    weights = unet_weights(FOLDER)
    (folder / "unet").mkdir()
    save_file(weights, folder / "unet" / "diffusion_pytorch_model.safetensors", {"format": "pt"})
    (folder / "unet" / "config.json").write_text(json.dumps(FOLDER | changes), encoding="utf-8")
    index = {
        "_class_name": "MVDreamPipeline",
        "unet": ["mv_unet", "MultiViewUNetModel"],
        "image_encoder": [None, None],
    }
    (folder / "model_index.json").write_text(json.dumps(index), encoding="utf-8")
    return weights


def write_checkpoint(file: Path, kind: str, vocabulary: int) -> dict[str, Tensor]:
    """Write one of `FILES` as a whole checkpoint, as the codebase saves it. Returns all its
    weights.
    """
    config = FILES[kind]
    text = openclip_weights(vocabulary) if kind == "sd2" else clip_weights(vocabulary)
    parts = {
        "model.diffusion_model.": unet_weights(config, config["linear"]),
        "first_stage_model.": vae_weights(),
        "cond_stage_model.model." if kind == "sd2" else "cond_stage_model.transformer.": text,
    }
    weights = {
        prefix + name: value for prefix, part in parts.items() for name, value in part.items()
    }
    weights["alphas_cumprod"] = torch.cumprod(
        1 - torch.linspace(0.00085**0.5, 0.012**0.5, 1000) ** 2, 0
    )
    save_file(weights, file)
    return weights
