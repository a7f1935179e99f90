"""What a folder in diffusers format holds, and whether it can be a prior, before its weights are
read.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

WEIGHTS = {
    "unet": "diffusion_pytorch_model",
    "vae": "diffusion_pytorch_model",
    "text_encoder": "model",
}
VARIANTS = (None, "fp16", "bf16", "fp32", "non_ema")
CONFIGS = {
    "unet": "config.json",
    "vae": "config.json",
    "text_encoder": "config.json",
    "tokenizer": "tokenizer_config.json",
    "scheduler": "scheduler_config.json",
}


def check_folder(
    folder: Path,
    weights: Mapping[str, str] = WEIGHTS,
    configs: Mapping[str, str] = CONFIGS,
    owner: str = "prior folder",
    needed: str = "A Stable Diffusion pipeline",
) -> dict[str, str | None]:
    """The weight variant of each part, the first there is of `VARIANTS`. Raises ValueError listing
    every missing file.

    weights and configs: file names by part, those of weights without their ends.
    """
    if not folder.is_dir():
        raise ValueError(
            f"{owner} {folder} does not exist; give the folder that holds a diffusers pipeline."
        )
    missing = [
        f"{part}/{file}" for part, file in configs.items() if not (folder / part / file).is_file()
    ]
    words = ("tokenizer.json",), ("vocab.json", "merges.txt")
    if "tokenizer" in configs and not any(
        all((folder / "tokenizer" / file).is_file() for file in files) for files in words
    ):
        missing.append("tokenizer/vocab.json and tokenizer/merges.txt")
    variants: dict[str, str | None] = {}
    for part, stem in weights.items():
        for variant in VARIANTS:
            names = stem if variant is None else f"{stem}.{variant}"
            if any(
                (folder / part / f"{names}.{end}").is_file()
                for end in ("safetensors", "safetensors.index.json")
            ):
                variants[part] = variant
                break
        else:
            missing.append(f"{part}/{stem}.safetensors")
    if missing:
        raise ValueError(
            f"{owner} {folder} lacks {', '.join(missing)}. {needed} in diffusers layout is needed,"
            " with safetensors weights (.bin and .ckpt files are not read)."
        )
    return variants


def check_kind(folder: Path, unet: Mapping[str, Any]) -> None:
    """Refuse U-Nets that take or make something else, from their config.

    Raises ValueError naming the folder, what it holds and what would do.
    """
    kind, extra = unet.get("_class_name", "UNet2DConditionModel"), "which cannot be loaded"
    if kind != "UNet2DConditionModel":
        raise ValueError(
            f"prior folder {folder}: its U-Net is a {kind}, {extra}: it makes no single pictures"
            " (3D, Spatio, Motion: videos). Use Stable Diffusion 1.x or 2.x."
        )
    if unet.get("addition_embed_type") or unet.get("class_embed_type"):
        raise ValueError(
            f"prior folder {folder}: its U-Net takes embeddings besides the text's (SDXL and the"
            f" like), {extra} from a folder. Take SDXL's checkpoint file (.safetensors) instead, or"
            " Stable Diffusion 1.x or 2.x."
        )
    if unet.get("time_cond_proj_dim"):
        raise ValueError(
            f"prior folder {folder}: its U-Net is told the guidance (LCM, distilled to few steps),"
            f" {extra}. Use the model that it was distilled from."
        )


def check_parts(folder: Path, unet: Mapping[str, Any]) -> None:
    """Refuse models of another kind from their configs, before gigabytes of weights are read.

    Raises ValueError naming the folder, what it holds and what would do.
    """
    vae, text = (read_json(folder / part / "config.json") for part in ("vae", "text_encoder"))
    for wanted, found, what in (
        (
            unet.get("in_channels", 4),
            vae.get("latent_channels", 4),
            "channels per latent, but its vae makes",
        ),
        (
            unet.get("cross_attention_dim"),
            text.get("hidden_size"),
            "values per token, but its text_encoder makes",
        ),
    ):
        if wanted != found:
            raise ValueError(
                f"prior folder {folder}: its unet takes {wanted} {what} {found}. The parts of one"
                " text-to-image model are needed (inpainting and depth models do not fit)."
            )


def read_json(path: Path) -> dict[str, Any]:
    """The object in a JSON file. Raises ValueError for bad JSON and for anything but an object."""
    try:
        found = json.loads(path.read_text(encoding="utf-8-sig"))  # as some editors write it
    except ValueError as error:  # also of bytes that are no text
        raise ValueError(f"{path} is not valid JSON ({error}); download it again.") from error
    if not isinstance(found, dict):
        raise ValueError(
            f"{path} holds a {type(found).__name__} where names with values belong; download it"
            " again."
        )
    return found
