"""Stable Diffusion 2.1's architecture, narrow and with random weights, in its two forms on disk: a
folder in diffusers format and one checkpoint of the same weights. ComfyUI has to be taught the
sizes: `probe.tiny_sd`.
"""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import torch
from safetensors.torch import save_file
from tiny_mvdream import openclip_weights, unet_weights, vae_weights
from torch import Tensor

from distill3d.kernels.priors.diffusers import ldm

WORDS = 49408  # of CLIP's tokenizer
WIDTHS = (32, 32, 64, 64)  # of the autoencoder, which makes pictures 8 times smaller
UNET = {
    "image_size": 8, "in_channels": 4, "out_channels": 4, "model_channels": 64,
    "attention_resolutions": [2, 1], "num_res_blocks": 1, "channel_mult": [1, 2, 2],
    "num_head_channels": 64, "transformer_depth": 1, "context_dim": 64, "camera_dim": 16,
}  # fmt: skip


def weights() -> dict[str, Tensor]:
    """All of them, float32, under the names that a checkpoint has."""
    unet = {k: v for k, v in unet_weights(UNET).items() if not k.startswith("camera_embed.")}
    parts = {
        ldm.UNET: unet,
        ldm.VAE: vae_weights(widths=WIDTHS),
        ldm.OPENCLIP: openclip_weights(WORDS),
    }
    return {prefix + name: value for prefix, part in parts.items() for name, value in part.items()}


def write_checkpoint(file: Path) -> None:
    file.parent.mkdir(parents=True, exist_ok=True)
    save_file({name: value.contiguous() for name, value in weights().items()}, file)


def write_folder(folder: Path, tokenizer: Path) -> None:
    """tokenizer: a folder with CLIP's own."""
    from diffusers import PNDMScheduler, UNet2DConditionModel
    from diffusers.loaders.single_file_utils import convert_ldm_unet_checkpoint

    held = weights()
    terms = ldm.translate_config(UNET, "the U-Net")
    for name in ("class_embed_type", "projection_class_embeddings_input_dim"):
        del terms[name]
    unet = UNet2DConditionModel(**terms, use_linear_projection=True)
    unet.load_state_dict(convert_ldm_unet_checkpoint(dict(held), terms))
    unet.save_pretrained(folder / "unet")
    ldm.make_vae(held, torch.float32, "the VAE").save_pretrained(folder / "vae")
    encoder = ldm.make_text_encoder(held, torch.float32, "the text encoder")
    encoder.save_pretrained(folder / "text_encoder")
    PNDMScheduler(  # as 2.1-base's own
        beta_start=0.00085, beta_end=0.012, beta_schedule="scaled_linear", set_alpha_to_one=False,
        skip_prk_steps=True, steps_offset=1,
    ).save_pretrained(folder / "scheduler")  # fmt: skip
    shutil.copytree(tokenizer, folder / "tokenizer")
    for name in ("tokenizer_config.json", "special_tokens_map.json"):
        file = folder / "tokenizer" / name
        kept = json.loads(file.read_text(encoding="utf-8")) | {"pad_token": "!"}  # as 2.1's
        file.write_text(json.dumps(kept), encoding="utf-8")
    index = {"_class_name": "StableDiffusionPipeline"}
    folder.joinpath("model_index.json").write_text(json.dumps(index), encoding="utf-8")
