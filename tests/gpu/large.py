"""Writes Stable Diffusion of its true sizes with random weights, 2.6 GB: 2's as a checkpoint,
2.1-base's as a folder in diffusers format, a ControlNet for either.

    python tests/gpu/large.py checkpoint|folder|control COMFYUI FILE|FOLDER

A process of its own: in a server with dynamic VRAM, networks have no weights before a file is read.
"""

from __future__ import annotations

import json
import shutil
import sys
from pathlib import Path
from typing import Any

TESTS = Path(__file__).resolve().parents[1]
TRUE_WIDTHS = [1, 2, 4, 4]


def checkpoint(tree: str, file: Path) -> None:
    sys.path[:0] = [tree, str(TESTS / "comfyui" / "probe")]
    from comfy.cli_args import args

    args.cpu = True
    import comfy.sd

    import models

    models.WHOLE["sd20"]["channel_mult"] = TRUE_WIDTHS
    denoiser, clip, vae = models.made("sd20v", 4, 4, whole=True, colors="")
    part = file.with_suffix(".part")
    comfy.sd.save_checkpoint(str(part), denoiser, clip, vae)
    part.rename(file)


def networks() -> tuple[Any, Any, Any]:
    """U-Net, autoencoder and text encoder."""
    sys.path[:0] = [str(TESTS / "benchmarks")]
    import torch
    from step_priors import stable_diffusion_21

    torch.manual_seed(0)
    with torch.device("cuda" if torch.cuda.is_available() else "cpu"):
        return stable_diffusion_21()


def control(tree: str, place: Path) -> None:
    import torch
    from diffusers import ControlNetModel

    net = ControlNetModel.from_unet(networks()[0])
    for zero in (*net.controlnet_down_blocks, net.controlnet_mid_block):
        torch.nn.init.normal_(zero.weight, std=0.01)
    torch.nn.init.normal_(net.controlnet_cond_embedding.conv_out.weight, std=0.1)
    part = place.with_suffix(".part")
    net.half().cpu().save_pretrained(part)
    part.rename(place)


def folder(tree: str, place: Path) -> None:
    from diffusers import PNDMScheduler

    part = place.with_suffix(".part")
    for name, network in zip(("unet", "vae", "text_encoder"), networks(), strict=True):
        network.half().cpu().save_pretrained(part / name)
    PNDMScheduler(
        beta_start=0.00085, beta_end=0.012, beta_schedule="scaled_linear", set_alpha_to_one=False,
        skip_prk_steps=True, steps_offset=1,
    ).save_pretrained(part / "scheduler")  # fmt: skip
    tokenizer = part / "tokenizer"
    shutil.copytree(Path(tree, "comfy", "sd1_tokenizer"), tokenizer)  # CLIP's own
    for name in ("tokenizer_config.json", "special_tokens_map.json"):
        file = tokenizer / name
        kept = json.loads(file.read_text(encoding="utf-8")) | {"pad_token": "!"}  # as 2.1's
        file.write_text(json.dumps(kept), encoding="utf-8")
    index = {"_class_name": "StableDiffusionPipeline"}
    part.joinpath("model_index.json").write_text(json.dumps(index), encoding="utf-8")
    part.rename(place)


if __name__ == "__main__":
    made = {"checkpoint": checkpoint, "folder": folder, "control": control}[sys.argv[1]]
    made(sys.argv[2], Path(sys.argv[3]))
