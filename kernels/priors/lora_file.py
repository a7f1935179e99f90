"""LoRA files (Hu et al. 2022) fused into a prior's weights: the names of kohya's scripts, diffusers
and peft.
"""

from __future__ import annotations

import json
import logging
import math
import re
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import load_file
from torch import Tensor, nn

from .diffusers.latent_prior import DiffusersPrior

log = logging.getLogger(__name__)

DOWN = (
    ".lora_linear_layer.down.weight",
    ".lora_down.weight",
    ".lora_A.weight",
    ".lora.down.weight",
    ".lora_A.default.weight",
    "_lora.down.weight",
)
UP = (
    ".lora_linear_layer.up.weight",
    ".lora_up.weight",
    ".lora_B.weight",
    ".lora.up.weight",
    ".lora_B.default.weight",
    "_lora.up.weight",
)
PARTS = {  # of the names in a file, without dots, by the part of the prior that they are for
    "text_encoder": ("lora_te_", "lora_te1_", "base_model_model_text_encoder_", "text_encoder_"),
    # the last: files of a U-Net alone
    "unet": (
        "lora_unet_",
        "base_model_model_unet_",
        "unet_",
        "diffusion_model_",
        "base_model_model_",
        "",
    ),
}
EMBEDDING = "bundle_emb"  # a textual inversion that comes along; no layer's change
ELSEWHERE = "Use ComfyUI's Load LoRA, whose model goes to Diffusion Prior from Model."


@dataclass(frozen=True)
class LowRank:
    """One layer's change, alpha / rank * up @ down.

    Args:
        down: [r,in] or [r,in,k,k]
        up: [out,r] or [out,r,1,1]
        alpha: None: as large as the rank
    """

    down: Tensor
    up: Tensor
    alpha: float | None

    def delta(self, shape: torch.Size) -> Tensor:
        """The change of a weight of that shape, float32."""
        rank = self.down.shape[0]
        product = self.up.flatten(1).float() @ self.down.flatten(1).float()
        return product.view(shape) * ((rank if self.alpha is None else self.alpha) / rank)

    def fits(self, shape: torch.Size) -> bool:
        """Whether it changes a weight of that shape."""
        wide = shape[1:].numel()
        return self.up.shape[0] == shape[0] and self.up.shape[1:].numel() == len(self.down) and (
            self.down.shape[1:].numel() == wide
        )  # fmt: skip


def read_lora(file: Path) -> dict[str, LowRank]:
    """The layers of a LoRA file by their names there. Raises ValueError for a file that holds none,
    or other kinds.
    """
    if not file.is_file():
        raise ValueError(f"lora {file.name!r} is no file. Choose another.")
    try:
        state, header = load_file(file), read_header(file)
    except (SafetensorError, OSError, ValueError, RuntimeError) as error:
        raise ValueError(
            f"lora {file.name!r} cannot be read as safetensors ({error}). Download it again."
        ) from error
    layers, used = {}, set[str]()
    for key, down in state.items():
        end = next((end for end in DOWN if key.endswith(end)), None)
        if end is None:
            continue
        name = key.removesuffix(end)
        up_key = name + UP[DOWN.index(end)]
        if up_key not in state:
            raise ValueError(
                f"lora {file.name!r} holds {key} but not {up_key}: it is cut short. Download it"
                " again."
            )
        given = state.get(f"{name}.alpha")
        check_numbers(
            file.name, {key: down, up_key: state[up_key], f"{name}.alpha": given}, least=2
        )
        alpha = lora_alpha(file.name, header, name, len(down)) if given is None else float(given)
        layers[name] = LowRank(down, state[up_key], alpha)
        used |= {key, up_key, f"{name}.alpha"}
    strange = without_embedding(file.name, set(state) - used)
    if strange and layers:
        raise ValueError(
            f"lora {file.name!r} is not a plain LoRA (LoHa, LoKr, DoRA, biases and the like): it"
            f" holds {strange[0]}, which would be left out. {ELSEWHERE}"
        )
    if not layers:
        held = f"it holds {strange[0]}" if strange else "it is empty"
        raise ValueError(
            f"lora {file.name!r} is no plain LoRA: {held}. Choose a file with lora_up and lora_down"
            f" weights. {ELSEWHERE}"
        )
    return layers


def check_numbers(file: str, weights: Mapping[str, Tensor | None], least: int = 0) -> None:
    """Raises ValueError, with the file's and the weight's name, for weights that are NaN, infinite
    or no numbers, have no rows or fewer than ``least`` dimensions; and for an alpha that is no
    single number.
    """
    for name, value in weights.items():
        if value is None:
            continue
        alpha = name.endswith(".alpha")
        wrong = value.numel() != 1 if alpha else value.dim() < least or not value.numel()
        if wrong or value.is_complex() or value.dtype == torch.bool:
            raise ValueError(
                f"lora {file!r}: its {name} is {value.dtype} of shape {tuple(value.shape)}, which"
                " no LoRA has. Download it again."
            )
        if not bool(torch.isfinite(value.float()).all()):
            raise ValueError(
                f"lora {file!r}: its {name} holds numbers that are NaN or infinite, which would"
                " spoil the model. Download it again."
            )


def read_header(file: Path) -> dict[str, str]:
    """What a safetensors file says of itself."""
    with safe_open(file, "pt") as opened:
        return opened.metadata() or {}


def lora_alpha(file: str, header: Mapping[str, str], name: str, rank: int) -> float | None:
    """`header_alpha`, with the file's name in what it raises, also of a header that makes no
    sense.
    """
    try:
        alpha = header_alpha(header, name, rank)
    except (ValueError, TypeError, RecursionError, OverflowError) as error:
        raise ValueError(
            f"lora {file!r}: its header tells no alpha of {name} ({str(error)[:200]}). Download it"
            " again."
        ) from error
    if alpha is not None and not math.isfinite(alpha):
        raise ValueError(
            f"lora {file!r}: its header gives {name} the alpha {alpha}. Download it again."
        )
    return alpha


def header_alpha(header: Mapping[str, str], name: str, rank: int) -> float | None:
    """The alpha of a layer that a file's header gives where the file holds none: peft's and
    diffusers' ``lora_alpha``, kohya's ``ss_network_alpha``; None where it gives none.

    With ``use_rslora`` (Kalajdzievski 2023) the change is alpha / sqrt(rank), here written as the
    alpha that gives this. Raises ValueError for alphas that differ from layer to layer.
    """
    said: Mapping[str, object] = header
    if "lora_adapter_metadata" in header:
        said = json.loads(header["lora_adapter_metadata"])
        if not isinstance(said, dict):
            raise ValueError("lora_adapter_metadata holds no names with values")
    text = name.startswith(("text_encoder", "base_model.model.text_encoder", "lora_te"))
    for owner in ("text_encoder.", "") if text else ("unet.", "transformer.", ""):
        if said.get(f"{owner}alpha_pattern") or said.get(f"{owner}rank_pattern"):
            raise ValueError(
                f"lora: its header gives each layer a rank or alpha of its own ({owner}"
                f"alpha_pattern), which is not read here. {ELSEWHERE}"
            )
        if f"{owner}lora_alpha" in said:
            alpha = float(str(said[f"{owner}lora_alpha"]))
            root = str(said.get(f"{owner}use_rslora", False)).lower() == "true"
            return alpha * rank**0.5 if root else alpha
    try:
        return float(header["ss_network_alpha"])
    except (KeyError, ValueError):
        return None


def without_embedding(file: str, unused: set[str]) -> list[str]:
    """The names that a LoRA's loader did not use, in order; an embedding that comes along is told
    and passed over."""
    embeddings = [name for name in unused if name.startswith(EMBEDDING)]
    if embeddings:
        log.warning(
            "lora %r brings an embedding (%s), which is not used: put it into models/embeddings.",
            file,
            embeddings[0],
        )
    return sorted(unused - set(embeddings))


def fuse(prior: DiffusersPrior, file: str | Path, strength: float = 1.0) -> None:
    """Add a LoRA file, times ``strength``, to the weights of the prior's U-Net and text encoder, in
    place.

    Do it before the prior has embedded any text. Raises ValueError, having changed nothing, for a
    file that is no plain LoRA, or one with layers that the prior does not have or that are of other
    sizes.
    """
    file = Path(file)
    layers = read_lora(file)
    targets = {part: _targets(getattr(prior, part)) for part in PARTS}
    found = {name: _target(name, targets) for name in layers}
    if missing := sorted(name for name, weight in found.items() if weight is None):
        raise ValueError(
            f"lora {file.name!r} does not fit prior {prior.name!r}: {len(missing)} of its"
            f" {len(layers)} layers are not in it, {missing[0]} for one. It was made for another"
            " kind of model; choose one for this prior's."
        )
    fitting = {name: weight for name, weight in found.items() if weight is not None}
    for name, weight in fitting.items():
        if not layers[name].fits(weight.shape):
            low = layers[name]
            raise ValueError(
                f"lora {file.name!r} does not fit prior {prior.name!r}: {name} is for a layer of"
                f" {low.up.shape[0]} x {low.down.shape[1:].numel()} weights, here it has"
                f" {weight.shape[0]} x {weight.shape[1:].numel()}. Choose a LoRA for this prior's"
                " kind of model."
            )
    with torch.no_grad():
        for name, weight in fitting.items():
            if not bool(torch.isfinite(_changed(weight, strength, layers[name])).all()):
                raise ValueError(
                    f"lora {file.name!r} at strength {strength:g} makes weights of {name} larger"
                    f" than {weight.dtype} holds. Lower the strength, or take another precision."
                )
        for name, weight in fitting.items():  # once more, for memory holds no second model
            weight.copy_(_changed(weight, strength, layers[name]))


def _changed(weight: Tensor, strength: float, layer: LowRank) -> Tensor:
    delta = layer.delta(weight.shape).to(weight.device)
    return (weight.float() + strength * delta).to(weight.dtype)


def _targets(module: nn.Module) -> dict[str, Tensor]:
    """Weights by the names of their layers, without dots and without the transformers'
    ``text_model``.
    """
    return {
        _plain(name): layer.weight
        for name, layer in module.named_modules()
        if isinstance(layer, nn.Linear | nn.Conv2d)
    }


def _target(name: str, targets: Mapping[str, Mapping[str, Tensor]]) -> Tensor | None:
    flat = name.replace(".", "_")
    for part, starts in PARTS.items():
        for start in starts:
            if flat.startswith(start):
                rest = _plain(flat.removeprefix(start)).replace("_processor_to_", "_to_")
                if part == "text_encoder":  # diffusers once called its layers as the U-Net's
                    rest = re.sub(r"_to_(q|k|v|out)$", r"_\1_proj", rest)
                # to_out is a list of one layer
                return targets[part].get(rest, targets[part].get(f"{rest}_0"))
    return None


def _plain(name: str) -> str:
    return name.replace(".", "_").removeprefix("text_model_")
