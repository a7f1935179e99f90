"""The embedded prior's denoiser and text encoder, with their trained weights, in ComfyUI's own classes.

Its VAE has no attention in its middle, which ComfyUI's class always has; so that stays out.
"""

from __future__ import annotations

import functools
import json
from pathlib import Path

import comfy.model_base
import comfy.model_management
import comfy.model_patcher
import comfy.ops
import comfy.sd
import comfy.supported_models
import comfy.utils
import torch
from comfy.sd1_clip import SD1ClipModel, SD1Tokenizer, SDClipModel, SDTokenizer
from comfy.supported_models_base import ClipTarget
from safetensors.torch import load_file

from .models import COMMON, UNETS

FOLDER = Path(__file__).resolve().parents[3] / "models" / "toybox"
UNET = COMMON | UNETS["sd15"] | {
    "model_channels": 64, "channel_mult": [1, 2, 3], "num_res_blocks": [2, 2, 2], "context_dim": 128, "num_heads": 2,
    "transformer_depth": [0, 0, 1, 1, 1, 1], "transformer_depth_output": [0, 0, 0, 1, 1, 1, 1, 1, 1],
}  # fmt: skip
GROUPS = 16  # of its normalisations; ComfyUI's class has 32, which its weights do not show


class ProbeToybox:
    @classmethod
    def INPUT_TYPES(cls):
        return {"required": {}}

    RETURN_TYPES = ("MODEL", "CLIP")
    FUNCTION = "make"

    def make(self):
        return denoiser(), text_encoder()


def denoiser():
    weights = load_file(FOLDER / "unet" / "diffusion_pytorch_model.safetensors")
    names = comfy.utils.unet_to_diffusers(UNET)
    known = comfy.supported_models.SD15(dict(UNET))
    known.unet_config["num_heads"] = UNET["num_heads"]  # which the family had overridden
    known.set_inference_dtype(torch.float32, None)
    model = comfy.model_base.BaseModel(known, comfy.model_base.ModelType.V_PREDICTION)
    model.diffusion_model.load_state_dict({names[name]: value.float() for name, value in weights.items()})
    for module in model.modules():
        if isinstance(module, torch.nn.GroupNorm):
            module.num_groups = GROUPS
    device = comfy.model_management.get_torch_device()
    return comfy.model_patcher.ModelPatcher(model, load_device=device, offload_device=torch.device("cpu"))


def text_encoder():
    config = json.loads((FOLDER / "text_encoder" / "config.json").read_text())
    special = {"start": config["bos_token_id"], "end": config["eos_token_id"], "pad": config["pad_token_id"]}
    model = functools.partial(SDClipModel, textmodel_json_config=config, special_tokens=special)
    tokenizer = functools.partial(SDTokenizer, tokenizer_path=str(FOLDER / "tokenizer"), embedding_size=128)
    clip = comfy.sd.CLIP(
        ClipTarget(
            functools.partial(SD1Tokenizer, tokenizer=tokenizer), functools.partial(SD1ClipModel, clip_model=model)
        )
    )
    weights = load_file(FOLDER / "text_encoder" / "model.safetensors")
    weights = {f"text_model.{name.removeprefix('text_model.')}": value.float() for name, value in weights.items()}
    table = "text_model.embeddings.token_embedding.weight"
    room = torch.zeros(49408 - len(weights[table]), 128)  # ComfyUI's class has room for the whole of CLIP's list
    weights[table] = torch.cat([weights[table], room])
    lacking = clip.cond_stage_model.clip_l.transformer.load_state_dict(weights, strict=False)
    if lacking.unexpected_keys or set(lacking.missing_keys) - {"text_projection.weight"}:
        raise RuntimeError(str(lacking))
    return clip
