"""The priors that step.py times: the embedded one; Stable Diffusion 2.1-base's and MVDream's
shapes, random weights, and a tiny one of the same classes to try a benchmark with.
"""

from __future__ import annotations

import copy
from pathlib import Path
from typing import Any

import torch

from distill3d.kernels.priors.diffusers.latent_prior import DiffusersPrior
from distill3d.kernels.priors.diffusers.multiview import MultiViewPrior
from distill3d.kernels.priors.noise_schedule import NoiseSchedule

TOYBOX = Path(__file__).resolve().parents[2] / "models" / "toybox"
KINDS = ("sd21-shapes", "mvdream-shapes", "toybox", "tiny-shapes")
SIZES = {"sd21-shapes": 512, "mvdream-shapes": 256, "toybox": 128, "tiny-shapes": 512}  # pixels
CAMERA = 16  # numbers that tell MVDream of a camera


def parts(kind: str, device: str, dtype: torch.dtype, vae_dtype: torch.dtype) -> dict[str, Any]:
    """unet, vae, text_encoder and tokenizer, on the device; random weights from a fixed seed, which
    need no file.
    """
    from diffusers import AutoencoderKL, UNet2DConditionModel
    from transformers import CLIPTextModel, CLIPTokenizer

    tokenizer = CLIPTokenizer.from_pretrained(TOYBOX / "tokenizer", local_files_only=True)
    if kind == "toybox":
        unet = UNet2DConditionModel.from_pretrained(TOYBOX / "unet", local_files_only=True)
        vae = AutoencoderKL.from_pretrained(TOYBOX / "vae", local_files_only=True)
        text = CLIPTextModel.from_pretrained(TOYBOX / "text_encoder", local_files_only=True)
    else:
        torch.manual_seed(0)
        with torch.device(device):
            camera = CAMERA if kind == "mvdream-shapes" else None
            unet, vae, text = tiny() if kind == "tiny-shapes" else stable_diffusion_21(camera)
    modules = {"unet": (unet, dtype), "vae": (vae, vae_dtype), "text_encoder": (text, dtype)}
    for module, kind_of_number in modules.values():
        # not the libraries' own to(), which warns of nothing
        torch.nn.Module.to(module.eval().requires_grad_(False), device, kind_of_number)
    return {**{name: module for name, (module, _) in modules.items()}, "tokenizer": tokenizer}


def stable_diffusion_21(camera: int | None = None) -> tuple[Any, Any, Any]:
    """U-Net (866 million weights), autoencoder (84) and text encoder (340) of
    stabilityai/stable-diffusion-2-1-base.

    camera: of so many numbers, which the U-Net is told beside: MVDream's.
    """
    from diffusers import AutoencoderKL, UNet2DConditionModel
    from transformers import CLIPTextConfig, CLIPTextModel

    unet = UNet2DConditionModel(
        sample_size=64,
        attention_head_dim=(5, 10, 20, 20),
        cross_attention_dim=1024,
        use_linear_projection=True,
        class_embed_type=None if camera is None else "projection",
        projection_class_embeddings_input_dim=camera,
    )
    vae = AutoencoderKL(
        block_out_channels=(128, 256, 512, 512),
        down_block_types=("DownEncoderBlock2D",) * 4,
        up_block_types=("UpDecoderBlock2D",) * 4,
        layers_per_block=2,
        latent_channels=4,
        sample_size=768,
    )
    text = CLIPTextModel(
        CLIPTextConfig(
            hidden_size=1024,
            intermediate_size=4096,
            num_hidden_layers=23,
            num_attention_heads=16,
            hidden_act="gelu",
        )
    )
    return unet, vae, text


def tiny() -> tuple[Any, Any, Any]:
    """The same classes with hardly any weights."""
    from diffusers import AutoencoderKL, UNet2DConditionModel
    from transformers import CLIPTextConfig, CLIPTextModel

    unet = UNet2DConditionModel(
        sample_size=64,
        block_out_channels=(8, 16),
        layers_per_block=1,
        down_block_types=("DownBlock2D", "CrossAttnDownBlock2D"),
        up_block_types=("CrossAttnUpBlock2D", "UpBlock2D"),
        attention_head_dim=2,
        cross_attention_dim=16,
        norm_num_groups=4,
    )
    vae = AutoencoderKL(
        block_out_channels=(4, 4, 8, 8),
        down_block_types=("DownEncoderBlock2D",) * 4,
        up_block_types=("UpDecoderBlock2D",) * 4,
        norm_num_groups=4,
        sample_size=512,
    )
    text = CLIPTextModel(
        CLIPTextConfig(
            hidden_size=16, intermediate_size=32, num_hidden_layers=1, num_attention_heads=2
        )
    )
    return unet, vae, text


def prior(kind: str, modules: dict[str, Any]) -> DiffusersPrior:
    """A prior of the pack around such modules."""
    schedule = NoiseSchedule.scaled_linear().to(next(modules["unet"].parameters()).device)
    card, make = (
        {"image_size": SIZES[kind]},
        MultiViewPrior if kind == "mvdream-shapes" else DiffusersPrior,
    )
    return make(kind, schedule=schedule, card=card, **modules)


def in_float32(modules: dict[str, Any]) -> dict[str, Any]:
    """Copies of the modules with the same weights, rounded as they are, in single precision."""
    return {
        name: copy.deepcopy(module).float() if isinstance(module, torch.nn.Module) else module
        for name, module in modules.items()
    }
