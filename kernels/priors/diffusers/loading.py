"""A prior from a diffusers folder on disk: what the folder holds decides the class."""

from __future__ import annotations

import importlib.util
import math
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import torch

from ..folder import (
    CONFIGS,
    NUMBER_LIMIT,
    check_folder,
    check_kind,
    check_numbers,
    check_parts,
    read_json,
)
from ..noise_schedule import ABAR_MIN, NoiseSchedule
from ..weights import check_complete, check_finite, read_whole
from . import ldm
from .latent_prior import DiffusersPrior
from .multiview import MultiViewPrior

CARD = "distill3d.json"


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
    owner = f"prior folder {folder}"
    variants = check_folder(folder)
    config = read_json(folder / "unet" / CONFIGS["unet"])
    scheduler = read_json(folder / "scheduler" / CONFIGS["scheduler"])
    configs = {part: read_json(folder / part / CONFIGS[part]) for part in ("vae", "text_encoder")}
    for part, found in {"unet": config, "scheduler": scheduler, **configs}.items():
        check_numbers(f"{owner}: its {part}", found)
    many = ldm.is_multiview(config)
    with read_whole(owner):
        if many:
            config = ldm.translate_config(config, owner)
        else:
            check_kind(folder, config)
        check_parts(folder, config)
    prediction, method = (
        scheduler.get("prediction_type", "epsilon"),
        str(scheduler.get("_class_name", "")),
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
    from diffusers import AutoencoderKL, UNet2DConditionModel
    from transformers import CLIPTextModel, CLIPTokenizer

    options: dict[str, Any] = {"local_files_only": True, "use_safetensors": True}
    spare: dict[str, Any] = {
        "low_cpu_mem_usage": importlib.util.find_spec("accelerate") is not None
    }

    def load(kind: Any, part: str, **more: Any) -> Any:
        part_owner = f"{owner}: its {part}"
        with read_whole(part_owner):
            found, info = kind.from_pretrained(
                folder / part, variant=variants[part], output_loading_info=True, **options, **more
            )
        check_complete(part_owner, info["missing_keys"])
        check_finite(part_owner, found)
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
        with read_whole(f"{owner}: its tokenizer"):
            tokenizer = CLIPTokenizer.from_pretrained(folder / "tokenizer", local_files_only=True)
            tokenizer("a mug", padding="max_length", max_length=8)
        with read_whole(f"{owner}: its scheduler"):
            schedule = noise_levels(scheduler)
        card = read_card(folder / CARD)
        name = folder.resolve().name
        kind = MultiViewPrior if many else DiffusersPrior
        with read_whole(owner):
            prior = kind(name, unet, vae, text_encoder, tokenizer, schedule, prediction, card)
            check_scale(owner, prior)
        return prior.to(device)


def noise_levels(scheduler: Mapping[str, Any]) -> NoiseSchedule:
    """The schedule that a scheduler's config tells. Raises ValueError for one that is none."""
    from diffusers import DDPMScheduler

    abar = DDPMScheduler.from_config(scheduler).alphas_cumprod
    if not len(abar) or not bool(((abar >= 0) & (abar <= 1)).all()):  # NaN is not within either
        raise ValueError("its noise levels do not lie within 0..1")
    return NoiseSchedule(abar.clamp(min=ABAR_MIN))


def check_scale(owner: str, prior: DiffusersPrior) -> None:
    """Raises ValueError, beginning with ``owner``, where what the configs say of latents and
    pictures makes no sense.
    """
    vae, sizes = prior.vae.config, (prior.image_size, prior.latent_channels, prior.downscale)
    if not all(isinstance(size, int) and 0 < size <= NUMBER_LIMIT for size in sizes):
        raise ValueError(
            f"{owner}: it makes pictures of {sizes[0]} pixels, {sizes[1]} channels and"
            f" {sizes[2]} pixels per latent pixel, where whole numbers belong. Download it again."
        )
    for name, value in (("scaling_factor", prior.scaling), ("shift_factor", prior.shift)):
        if not isinstance(value, int | float) or not math.isfinite(value):
            raise ValueError(f"{owner}: its vae has {name} {value!r}. Download it again.")
    if vae.scaling_factor == 0:
        raise ValueError(f"{owner}: its vae has scaling_factor 0. Download it again.")


def read_card(file: Path) -> dict[str, Any]:
    """What a prior was trained on, from its folder's `CARD`, see `load_diffusers`; nothing where
    there is none. Raises ValueError for values of another kind.
    """
    if not file.is_file():
        return {}
    card = read_json(file)
    check_numbers(str(file), card)
    for name, value in card.items():
        kinds: dict[str, Callable[[Any], bool]] = {
            **dict.fromkeys(("vocabulary", "around", "overhead", "outward"), _texts),
            "background": lambda v: isinstance(v, list) and len(v) == 2 and all(map(_number, v)),
            "image_size": lambda v: isinstance(v, int) and not isinstance(v, bool) and v > 0,
            "distance": lambda v: _number(v) and v > 0,
            "fov_y": lambda v: _number(v) and 0 < v < 180,
        }
        fits = value is None or name not in kinds or kinds[name](value)
        if not fits:
            raise ValueError(
                f"{file} says {name} {str(value)[:60]}, which is none; see the manual's page on"
                " models, or remove the line."
            )
    return card


def _number(value: Any) -> bool:
    return isinstance(value, int | float) and not isinstance(value, bool) and math.isfinite(value)


def _texts(value: Any) -> bool:
    return isinstance(value, list) and all(isinstance(text, str) for text in value)
