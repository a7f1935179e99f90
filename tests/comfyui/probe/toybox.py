"""The embedded prior as a checkpoint file, and what ComfyUI's own loader must be taught to read it.

Its networks are of Stable Diffusion's architecture in sizes that no published model has. The
weights go into a file under Stable Diffusion 1.x's names; here ComfyUI's detection learns that
family's sizes, and nothing else.
"""

from __future__ import annotations

import functools
import json
from pathlib import Path
from unittest import mock

import comfy.latent_formats
import comfy.model_base
import comfy.sd
import comfy.supported_models
import comfy.utils
import torch
from comfy.ldm.modules.diffusionmodules.model import Normalize
from comfy.sd1_clip import SD1ClipModel, SD1Tokenizer, SDClipModel, SDTokenizer
from comfy.supported_models_base import ClipTarget
from safetensors.torch import load_file, save_file

FOLDER = Path(__file__).resolve().parents[3] / "models" / "toybox"
UNET = {  # what `comfy.model_detection` finds in its weights, for the names
    "num_res_blocks": [2, 2, 2], "channel_mult": [1, 2, 3], "transformer_depth": [0, 0, 1, 1, 1, 1],
    "transformer_depth_output": [0, 0, 0, 1, 1, 1, 1, 1, 1], "transformer_depth_middle": 1,
}  # fmt: skip
CLIP_WORDS = 49408  # ComfyUI's text encoder has room for the whole of CLIP's list


def sizes(part):
    return json.loads((FOLDER / part / "config.json").read_text())


def checkpoint():
    """The embedded weights, float32, under the names of Stable Diffusion 1.x."""
    unet = {name: value.float() for name, value in load_file(part_file("unet")).items()}
    names = comfy.utils.unet_to_diffusers(UNET)
    state = {f"model.diffusion_model.{names[name]}": value for name, value in unet.items()}
    vae = {name: value.float() for name, value in load_file(part_file("vae")).items()}
    state |= {
        f"first_stage_model.{name}": value for name, value in with_attention(converted(vae)).items()
    }
    text = load_file(FOLDER / "text_encoder" / "model.safetensors")
    text = {
        f"text_model.{name.removeprefix('text_model.')}": value.float()
        for name, value in text.items()
    }
    table = "text_model.embeddings.token_embedding.weight"
    text[table] = torch.cat(
        [text[table], torch.zeros(CLIP_WORDS - len(text[table]), text[table].shape[1])]
    )
    return state | {f"cond_stage_model.transformer.{name}": value for name, value in text.items()}


def part_file(part):
    return FOLDER / part / "diffusion_pytorch_model.safetensors"


def converted(vae):
    """diffusers' names of an autoencoder as the original ones."""
    levels = len(sizes("vae")["block_out_channels"])
    renamed = {}
    for name, value in vae.items():
        name = name.replace("mid_block.resnets.0", "mid.block_1").replace(
            "mid_block.resnets.1", "mid.block_2"
        )
        name = name.replace("conv_shortcut", "nin_shortcut").replace("conv_norm_out", "norm_out")
        name = name.replace("downsamplers.0", "downsample").replace("upsamplers.0", "upsample")
        for level in range(levels):
            name = name.replace(f"down_blocks.{level}.resnets.", f"down.{level}.block.")
            name = name.replace(f"down_blocks.{level}.", f"down.{level}.")
            name = name.replace(f"up_blocks.{level}.resnets.", f"up.{levels - 1 - level}.block.")
            name = name.replace(f"up_blocks.{level}.", f"up.{levels - 1 - level}.")
        renamed[name] = value
    return renamed


def with_attention(vae):
    """The middle attention that ComfyUI's class always has, as one that adds nothing."""
    width = sizes("vae")["block_out_channels"][-1]
    for side in ("encoder", "decoder"):
        for layer in ("q", "k", "v", "proj_out"):
            vae[f"{side}.mid.attn_1.{layer}.weight"] = torch.zeros(width, width, 1, 1)
            vae[f"{side}.mid.attn_1.{layer}.bias"] = torch.zeros(width)
        vae[f"{side}.mid.attn_1.norm.weight"] = torch.ones(width)
        vae[f"{side}.mid.attn_1.norm.bias"] = torch.zeros(width)
    return vae


class ProbeToyboxFile:
    """Writes that checkpoint."""

    @classmethod
    def INPUT_TYPES(cls):
        return {"required": {"file": ("STRING", {"default": ""})}}

    RETURN_TYPES = ()
    OUTPUT_NODE = True
    FUNCTION = "write"

    def write(self, file):
        save_file({name: value.contiguous() for name, value in checkpoint().items()}, file)
        return {}


class ToyboxLatents(comfy.latent_formats.SD15):
    spacial_downscale_ratio = 2 ** (len(sizes("vae")["block_out_channels"]) - 1)

    def __init__(self):
        super().__init__(scale_factor=sizes("vae")["scaling_factor"])


class ToyboxFamily(comfy.supported_models.SD15):
    unet_config = comfy.supported_models.SD15.unet_config | {
        "context_dim": 128,
        "model_channels": 64,
    }
    unet_extra_config = comfy.supported_models.SD15.unet_extra_config | {"num_heads": 2}
    latent_format = ToyboxLatents

    def model_type(self, state_dict, prefix=""):
        return comfy.model_base.ModelType.V_PREDICTION

    def get_model(self, state_dict, prefix="", device=None):
        return with_groups(
            super().get_model(state_dict, prefix, device), sizes("unet")["norm_num_groups"]
        )

    def clip_target(self, state_dict={}):  # noqa: B006 - as in ComfyUI
        text = sizes("text_encoder")
        special = {
            "start": text["bos_token_id"],
            "end": text["eos_token_id"],
            "pad": text["pad_token_id"],
        }
        model = functools.partial(SDClipModel, textmodel_json_config=text, special_tokens=special)
        tokenizer = functools.partial(
            SDTokenizer, tokenizer_path=str(FOLDER / "tokenizer"), embedding_size=128
        )
        return ClipTarget(
            functools.partial(SD1Tokenizer, tokenizer=tokenizer),
            functools.partial(SD1ClipModel, clip_model=model),
        )


class ToyboxVAE(comfy.sd.VAE):
    """ComfyUI's VAE, that knows the toybox's from its width."""

    def __init__(self, sd=None, device=None, config=None, dtype=None, metadata=None):
        own = sizes("vae")
        first, *_ = widths = own["block_out_channels"]
        conv = (sd or {}).get("encoder.conv_in.weight")
        toybox = config is None and conv is not None and len(conv) == first
        if toybox:
            shape = {
                "double_z": True, "z_channels": own["latent_channels"], "resolution": 256, "in_channels": 3,
                "out_ch": 3, "ch": first, "ch_mult": [width // first for width in widths],
                "num_res_blocks": own["layers_per_block"], "attn_resolutions": [], "dropout": 0.0,
            }  # fmt: skip
            config = {"params": {"ddconfig": shape, "embed_dim": own["latent_channels"]}}
        groups = (own["norm_num_groups"],) if toybox else Normalize.__defaults__
        with mock.patch.object(Normalize, "__defaults__", groups):
            super().__init__(sd=sd, device=device, config=config, dtype=dtype, metadata=metadata)
        if toybox:
            self.downscale_ratio = self.upscale_ratio = ToyboxLatents.spacial_downscale_ratio


def with_groups(net, groups):
    """The normalisations' groups, which weights do not show."""
    for module in net.modules():
        if isinstance(module, torch.nn.GroupNorm):
            module.num_groups = groups
    return net


def teach():
    comfy.supported_models.models.append(ToyboxFamily)
    comfy.sd.VAE = ToyboxVAE
