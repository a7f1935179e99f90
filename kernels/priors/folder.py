"""What a folder in diffusers format holds, and whether it can be a prior, before its weights are
read.
"""

from __future__ import annotations

import json
import re
from collections.abc import Mapping
from pathlib import Path
from typing import Any

WEIGHTS = {
    "unet": "diffusion_pytorch_model",
    "vae": "diffusion_pytorch_model",
    "text_encoder": "model",
}
VARIANTS = (None, "fp16", "bf16", "fp32", "non_ema")
CONFIG_LIMIT = 1 << 20  # bytes of a config; they have some thousand
WORDS_LIMIT = 8 << 20  # of a tokenizer's files and lists of weights; CLIP's largest has 4 million
NUMBER_LIMIT, LAYERS_LIMIT, LIST_LIMIT = 10**6, 100, 10**4  # in configs, far above any model's
COUNT = re.compile(r"num_|_size|channels|heads|layers")  # names of numbers that count something
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
    for part in {*weights, *configs}:
        check_sizes(folder / part, owner)
    return variants


def check_sizes(folder: Path, owner: str) -> None:
    """Raises ValueError, beginning with ``owner``, for a text file in the folder that is far larger
    than any model's, or no ordinary file: whoever loads the folder reads it whole.
    """
    for file in sorted(folder.iterdir()):
        if file.suffix.lower() not in (".json", ".txt"):
            continue
        name = f"{folder.name}/{file.name}"
        if not file.is_file():
            raise ValueError(f"{owner} {folder.parent}: {name} is no ordinary file. Remove it.")
        size = file.stat().st_size
        limit = CONFIG_LIMIT if file.name.endswith("config.json") else WORDS_LIMIT
        if size > limit:
            raise ValueError(
                f"{owner} {folder.parent}: {name} has {size} bytes, where at most {limit} make"
                " sense. Download it again."
            )


def check_numbers(owner: str, config: Mapping[str, Any]) -> None:
    """Raises ValueError, beginning with ``owner``, for a config whose numbers would make a network
    beyond any memory.
    """
    for name, value in config.items():
        listed = value if isinstance(value, list) else [value]
        numbers = [v for v in listed if isinstance(v, int | float) and not isinstance(v, bool)]
        most = LAYERS_LIMIT if "layers" in name or "depth" in name else NUMBER_LIMIT
        least = 0 if COUNT.search(name) else -most
        if name == "num_head_channels":  # of MVDream: -1 is "as many heads as it says"
            least = -1
        # NaN is within nothing
        if len(listed) > LIST_LIMIT or not all(least <= number <= most for number in numbers):
            raise ValueError(
                f"{owner}: its config has {name} {str(value)[:60]}, where numbers within"
                f" {least}..{most} make sense. Download it again."
            )


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
    """The object in a JSON file. Raises ValueError for bad JSON, for anything but an object, and
    for a file of more than `CONFIG_LIMIT` bytes, which is not read.
    """
    size = path.stat().st_size
    if size > CONFIG_LIMIT or not path.is_file():
        raise ValueError(
            f"{path} has {size} bytes, where at most {CONFIG_LIMIT} make sense; download it again."
        )
    try:
        found = json.loads(path.read_text(encoding="utf-8-sig"))  # as some editors write it
    # also of bytes that are no text; of brackets within brackets, more than Python counts
    except (ValueError, RecursionError) as error:
        raise ValueError(f"{path} is not valid JSON ({error}); download it again.") from error
    if not isinstance(found, dict):
        raise ValueError(
            f"{path} holds a {type(found).__name__} where names with values belong; download it"
            " again."
        )
    return found
