"""A prior from a diffusers folder on disk: what the folder holds decides the class."""

from __future__ import annotations

import importlib.util
from pathlib import Path
from typing import Any

import torch

from ..folder import CONFIGS, check_folder, check_kind, check_parts, read_json
from ..noise_schedule import ABAR_MIN, NoiseSchedule
from ..weights import check_complete, read_whole
from . import ldm
from .latent_prior import DiffusersPrior
from .multiview import MultiViewPrior


def load_diffusers(
    folder: str | Path,
    device: torch.device | str = "cpu",
    dtype: torch.dtype = torch.float32,
    vae_dtype: torch.dtype | None = None,
) -> DiffusersPrior:
    """Load a StableDiffusionPipeline or MVDreamPipeline folder: unet, vae, text_encoder, tokenizer,
    scheduler.

    Never uses the network.

    Weights are read from safetensors only. dtype: of U-Net and text encoder; vae_dtype None takes
    float32 beside float32 and bfloat16 beside a half type; float16 is eight times as exact, but
    some autoencoders overflow in it. A file distill3d.json in the folder may tell what the prior
    was trained on: {"vocabulary": [words], "background": [low, high] grey, "image_size": pixels,
    "distance": world units, "fov_y": degrees, "around": [view words by azimuth from the front on],
    "overhead": [likewise from above], "outward": [likewise out of a scene]}, each null or absent
    where unknown. Raises ValueError naming the folder and what is missing or not supported.
    """
    folder = Path(folder)
    variants = check_folder(folder)
    config = read_json(folder / "unet" / CONFIGS["unet"])
    many = ldm.is_multiview(config)
    if many:
        config = ldm.translate_config(config, f"prior folder {folder}")
    else:
        check_kind(folder, config)
    check_parts(folder, config)
    scheduler = read_json(folder / "scheduler" / CONFIGS["scheduler"])
    prediction, method = (
        scheduler.get("prediction_type", "epsilon"),
        scheduler.get("_class_name", ""),
    )
    other = any(name in method for name in ("Flow", "EDM", "LCM", "TCD"))
    if prediction not in ("epsilon", "v_prediction") or other:
        raise ValueError(
            f"prior folder {folder}: its scheduler is {method} with prediction {prediction!r}; only"
            " epsilon and v_prediction models (Stable Diffusion 1.x, 2.x) can be loaded, none"
            " distilled to few steps."
        )
    if vae_dtype is None:
        vae_dtype = torch.float32 if dtype == torch.float32 else torch.bfloat16

    # imported here: together they take seconds, which ComfyUI's start should not pay for
    from diffusers import AutoencoderKL, DDPMScheduler, UNet2DConditionModel
    from transformers import CLIPTextModel, CLIPTokenizer

    options: dict[str, Any] = {"local_files_only": True, "use_safetensors": True}
    spare: dict[str, Any] = {
        "low_cpu_mem_usage": importlib.util.find_spec("accelerate") is not None
    }

    def load(kind: Any, part: str, **more: Any) -> Any:
        owner = f"prior folder {folder}: its {part}"
        with read_whole(owner):
            found, info = kind.from_pretrained(
                folder / part, variant=variants[part], output_loading_info=True, **options, **more
            )
        check_complete(owner, info["missing_keys"])
        return found

    # Weights made under inference mode could not be differentiated through, and ComfyUI runs nodes
    # in it.
    with torch.inference_mode(False):
        if many:
            unet = ldm.load_unet(folder / "unet", variants["unet"], dtype)
        else:
            unet = load(UNet2DConditionModel, "unet", torch_dtype=dtype, **spare)
        vae = load(AutoencoderKL, "vae", torch_dtype=vae_dtype, **spare)
        text_encoder = load(CLIPTextModel, "text_encoder").to(dtype)
        tokenizer = CLIPTokenizer.from_pretrained(folder / "tokenizer", local_files_only=True)
        abar = DDPMScheduler.from_config(scheduler).alphas_cumprod.clamp(min=ABAR_MIN)
        card = read_json(folder / "distill3d.json") if (folder / "distill3d.json").is_file() else {}
        name = folder.resolve().name
        kind = MultiViewPrior if many else DiffusersPrior
        prior = kind(
            name, unet, vae, text_encoder, tokenizer, NoiseSchedule(abar), prediction, card
        )
        return prior.to(device)
