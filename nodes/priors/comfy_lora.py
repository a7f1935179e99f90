"""LoRA files on ComfyUI's MODEL and CLIP, refused where ComfyUI's own loader would pass over what
does not fit.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

import comfy.lora
import comfy.lora_convert
import comfy.sd
import comfy.utils
import folder_paths
import torch
from comfy.weight_adapter import LoRAAdapter
from torch import Tensor

from ...kernels.priors.lora_file import (
    DOWN,
    check_numbers,
    lora_alpha,
    read_header,
    without_embedding,
)
from ...kernels.priors.weights import read_whole

NO_LORA = "none"


def loras() -> list[str]:
    """LoRA files below ComfyUI's models/loras, by their relative names; pickled ones are left
    out.
    """
    return [
        name
        for name in folder_paths.get_filename_list("loras")
        if name.endswith((".safetensors", ".sft"))
    ]


def lora_file(name: str) -> Path:
    """The file behind a choice. Raises ValueError for one that is gone or not offered."""
    file = folder_paths.get_full_path("loras", name) if name in loras() else None
    if file is None:
        raise ValueError(
            f"lora {name!r} is not a .safetensors file below"
            f" {' or '.join(folder_paths.get_folder_paths('loras'))}. Put it there, then refresh"
            " the node list with R."
        )
    return Path(file)


def patched(model: Any, clip: Any, file: Path, strength: float) -> tuple[Any, Any]:
    """MODEL and CLIP with the LoRA on them, as ComfyUI's Load LoRA makes them.

    Raises ValueError for a file with layers that neither has, or that are of other sizes, and for
    weights that are NaN or infinite.
    """
    with read_whole(f"lora {file.name!r}"):
        lora = comfy.utils.load_torch_file(str(file), safe_load=True)
        header = read_header(file)
    check_numbers(file.name, lora)
    keys = comfy.lora.model_lora_keys_unet(model.model, {})
    keys = comfy.lora.model_lora_keys_clip(clip.cond_stage_model, keys)
    lora |= _alphas(comfy.lora_convert.convert_lora(lora), header, file.name)
    converted = _Read(comfy.lora_convert.convert_lora(lora))
    found = comfy.lora.load_lora(converted, keys, log_missing=False)
    kind, missing = type(model.model).__name__, without_embedding(file.name, converted.unread)
    if missing or not found:
        layers = (
            f"{len(missing)} of its weights would not be used, {missing[0]} for one"
            if missing
            else "nothing in it fits"
        )
        raise ValueError(
            f"lora {file.name!r} does not fit the model ({kind}): {layers}. It was made for another"
            " kind of model, or in a form that ComfyUI does not read; choose one for this"
            " checkpoint's kind."
        )
    for key, adapter in found.items():
        _check_size(file.name, kind, key, adapter, model, clip)
    patched_model, patched_clip = comfy.sd.load_lora_for_models(
        model, clip, lora, strength, strength
    )
    return patched_model, patched_clip


def _alphas(lora: dict[str, Tensor], header: dict[str, str], file: str) -> dict[str, Tensor]:
    """The alphas that a file gives in its header only, where ComfyUI does not look."""
    found = {}
    for key, down in lora.items():
        end = next((end for end in DOWN if key.endswith(end)), None)
        if end is None or not down.dim() or f"{key.removesuffix(end)}.alpha" in lora:
            continue
        alpha = lora_alpha(file, header, key, len(down))
        if alpha is not None:
            found[f"{key.removesuffix(end)}.alpha"] = torch.tensor(alpha)
    return found


class _Read(dict[str, Any]):
    """A state dict that knows which of its values were read: ComfyUI's loader only logs the others."""

    def __init__(self, values: dict[str, Any]) -> None:
        super().__init__(values)
        self.unread = set(values)

    def __getitem__(self, name: str) -> Any:
        self.unread.discard(name)
        return super().__getitem__(name)

    def get(self, name: str, default: Any = None) -> Any:
        self.unread.discard(name)
        return super().get(name, default)


def _check_size(file: str, kind: str, key: Any, adapter: Any, model: Any, clip: Any) -> None:
    if not isinstance(key, str) or not isinstance(adapter, LoRAAdapter):
        return  # a part of a layer, or not a plain low-rank product: ComfyUI knows how
    owner = model.model if key.startswith("diffusion_model.") else clip.cond_stage_model
    weight, (up, down, *_, reshaped) = comfy.utils.get_attr(owner, key), adapter.weights
    if reshaped is None and (up.shape[0], down[0].numel()) != (weight.shape[0], weight[0].numel()):
        raise ValueError(
            f"lora {file!r} does not fit the model ({kind}): for {key} it has {up.shape[0]} x"
            f" {down[0].numel()} weights, not {weight.shape[0]} x {weight[0].numel()}. Choose a"
            " LoRA for this checkpoint's kind."
        )
