"""MVDream's weights, under the names of the latent-diffusion codebase, as modules of diffusers and
transformers.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import load_file
from torch import Tensor, nn

from ..folder import read_json
from ..weights import check_finite, read_whole

if TYPE_CHECKING:
    from ..networks import TextEncoder, UNet, Vae

UNET, VAE, TEXT = "model.diffusion_model.", "first_stage_model.", "cond_stage_model."
OPENCLIP, CLIP = TEXT + "model.", TEXT + "transformer.text_model."
WEIGHTS = "diffusion_pytorch_model"
SCALING = 0.18215  # of Stable Diffusion's latents; a file does not say it
HEAD_CHANNELS, HEADS = 64, 8  # per head in Stable Diffusion 2.x, and how many of them in 1.x
TEXT_HEAD_CHANNELS = 64  # in both text encoders
GROUPS = 32  # of every normalisation
PLAIN = {
    "dims": 2,
    "num_classes": None,
    "use_scale_shift_norm": False,
    "resblock_updown": False,
    "n_embed": None,
}
IMAGEDREAM = (
    "is an ImageDream model: it wants a reference picture as a fifth view, which text to 3D does"
    " not have. Use an MVDream model (sd-v2.1-base-4view)."
)


def is_multiview(config: Mapping[str, Any]) -> bool:
    """Whether a U-Net's config.json is that of an MVDream folder."""
    return config.get("_class_name") == "MultiViewUNetModel" or bool(config.get("camera_dim"))


def holds_multiview(file: str | Path) -> bool:
    """Whether a .safetensors file is an MVDream checkpoint, by the names in its header; what cannot
    be read is none.
    """
    try:
        with safe_open(str(file), "pt") as opened:
            return f"{UNET}camera_embed.0.weight" in opened.keys()
    except SafetensorError:
        return False


def translate_config(config: Mapping[str, Any], owner: str) -> dict[str, Any]:
    """MVDream's U-Net config in the terms of diffusers' UNet2DConditionModel.

    Raises ValueError, beginning with ``owner``, for ImageDream and for what such a network cannot
    express.
    """
    if config.get("ip_dim"):
        raise ValueError(f"{owner} {IMAGEDREAM}")
    lacking = [
        name
        for name in ("model_channels", "context_dim", "camera_dim", "channel_mult")
        if not config.get(name)
    ]
    if lacking:
        raise ValueError(
            f"{owner}: its U-Net's config has no {', '.join(lacking)}; download it again."
        )
    other = {
        name: config[name] for name, usual in PLAIN.items() if config.get(name, usual) != usual
    }
    layers, context = config.get("num_res_blocks", 2), config["context_dim"]
    if isinstance(layers, list) and len(set(layers)) == 1:
        layers = layers[0]
    if isinstance(context, list):
        context = context[0]
    if other or not isinstance(layers, int):
        found = other or {"num_res_blocks": layers}
        raise ValueError(
            f"{owner}: its U-Net has {found}, which cannot be loaded. Use MVDream's"
            " sd-v2.1-base-4view."
        )
    levels = range(len(config["channel_mult"]))
    channels = [config["model_channels"] * times for times in config["channel_mult"]]
    attentive = [2**level in config.get("attention_resolutions", (4, 2, 1)) for level in levels]
    per_head = config.get("num_head_channels", -1)
    return {
        "sample_size": config.get("image_size") or 32,
        "in_channels": config.get("in_channels", 4),
        "out_channels": config.get("out_channels", 4),
        "block_out_channels": channels,
        "layers_per_block": layers,
        "down_block_types": [
            "CrossAttnDownBlock2D" if found else "DownBlock2D" for found in attentive
        ],
        "up_block_types": [
            "CrossAttnUpBlock2D" if found else "UpBlock2D" for found in reversed(attentive)
        ],
        "cross_attention_dim": context,
        # diffusers' name for the number of heads
        "attention_head_dim": (
            config["num_heads"] if per_head == -1 else [width // per_head for width in channels]
        ),
        "transformer_layers_per_block": config.get("transformer_depth", 1),
        "norm_num_groups": GROUPS,
        # a perceptron added to the time embedding, as camera_embed is
        "class_embed_type": "projection",
        "projection_class_embeddings_input_dim": config["camera_dim"],
    }


def read_config(weights: Mapping[str, Tensor]) -> dict[str, Any]:
    """MVDream's U-Net config as the shapes of a whole file's weights tell it; the heads are Stable
    Diffusion's.
    """
    first = weights[f"{UNET}input_blocks.0.0.weight"]
    multiples, attentive, layers, block = [1], set(), [0], 1
    while any(
        f"{UNET}input_blocks.{block}.0.{name}.weight" in weights for name in ("op", "in_layers.2")
    ):
        own = f"{UNET}input_blocks.{block}"
        if f"{own}.0.op.weight" in weights:
            multiples, layers = [*multiples, multiples[-1]], [*layers, 0]
        else:
            multiples[-1] = len(weights[f"{own}.0.in_layers.2.weight"]) // len(first)
            layers[-1] += 1
            if f"{own}.1.proj_in.weight" in weights:
                attentive.add(2 ** (len(layers) - 1))
        block += 1
    middle = f"{UNET}middle_block.1"
    depth = 0
    while f"{middle}.transformer_blocks.{depth}.attn2.to_k.weight" in weights:
        depth += 1
    heads = {"num_head_channels": HEAD_CHANNELS} if _linear(weights) else {"num_heads": HEADS}
    return {
        "in_channels": first.shape[1],
        "out_channels": len(weights[f"{UNET}out.2.weight"]),
        "model_channels": len(first),
        "channel_mult": multiples,
        "num_res_blocks": layers,
        "attention_resolutions": sorted(attentive),
        "transformer_depth": depth,
        "context_dim": weights[f"{middle}.transformer_blocks.0.attn2.to_k.weight"].shape[1],
        "camera_dim": weights[f"{UNET}camera_embed.0.weight"].shape[1],
        "ip_dim": int(
            any(".to_k_ip." in name or name.startswith(f"{UNET}image_embed.") for name in weights)
        ),
        **heads,
    }


def load_unet(folder: Path, variant: str | None, dtype: torch.dtype) -> UNet:
    """The U-Net of an MVDream folder. Raises ValueError for weights that are not its config's."""
    stem = WEIGHTS if variant is None else f"{WEIGHTS}.{variant}"
    whole, index = folder / f"{stem}.safetensors", folder / f"{stem}.safetensors.index.json"
    files, owner = [whole], f"prior folder {folder.parent}: its unet"
    with read_whole(owner):
        if not whole.is_file():
            files = listed_files(index)
        weights = {UNET + name: value for file in files for name, value in load_file(file).items()}
        unet = make_unet(weights, read_json(folder / "config.json"), dtype, str(folder))
    check_finite(owner, unet)
    return unet


def listed_files(index: Path) -> list[Path]:
    """The files beside it that a list of weights names. Raises ValueError for one elsewhere."""
    names = sorted(set(json.loads(index.read_text(encoding="utf-8"))["weight_map"].values()))
    files = [index.parent / name for name in names]
    for name, file in zip(names, files, strict=True):
        if file.name != name or not file.is_file():
            raise ValueError(f"{index} names {name[:80]!r}, which is no file beside it")
    return files


def make_unet(
    weights: Mapping[str, Tensor], config: Mapping[str, Any], dtype: torch.dtype, owner: str
) -> UNet:
    """diffusers' U-Net of MVDream's weights, their names beginning with `UNET`; config: MVDream's
    own.
    """
    from diffusers import UNet2DConditionModel
    from diffusers.loaders.single_file_utils import convert_ldm_unet_checkpoint

    terms = translate_config(config, owner) | {"use_linear_projection": _linear(weights)}
    # where Stable Diffusion's converter looks for what is added to the time embedding
    named = {
        name.replace(".camera_embed.", ".label_emb.0."): value for name, value in weights.items()
    }
    converted = convert_ldm_unet_checkpoint(named, terms)
    unet: UNet = _filled(UNet2DConditionModel, terms, converted, dtype, owner)
    return unet


def make_vae(weights: Mapping[str, Tensor], dtype: torch.dtype, owner: str) -> Vae:
    """diffusers' autoencoder of the weights of a file, their names beginning with `VAE`."""
    from diffusers import AutoencoderKL
    from diffusers.loaders.single_file_utils import convert_ldm_vae_checkpoint

    widths, layers = list[int](), 0
    while (first := f"{VAE}encoder.down.{len(widths)}.block.0.conv1.weight") in weights:
        widths.append(len(weights[first]))
    while f"{VAE}encoder.down.0.block.{layers}.conv1.weight" in weights:
        layers += 1
    terms = {
        "latent_channels": weights[f"{VAE}decoder.conv_in.weight"].shape[1],
        "block_out_channels": widths,
        "layers_per_block": layers,
        "down_block_types": ["DownEncoderBlock2D"] * len(widths),
        "up_block_types": ["UpDecoderBlock2D"] * len(widths),
        "norm_num_groups": GROUPS,
        "scaling_factor": SCALING,
    }
    converted = convert_ldm_vae_checkpoint(dict(weights), terms)
    vae: Vae = _filled(AutoencoderKL, terms, converted, dtype, owner)
    return vae


def make_text_encoder(weights: Mapping[str, Tensor], dtype: torch.dtype, owner: str) -> TextEncoder:
    """transformers' CLIP text encoder of a file: Stable Diffusion 2's OpenCLIP, read below its last
    block, or 1's CLIP.

    Its first result, the last hidden states, is what the U-Net reads. Raises ValueError for a file
    that holds neither.
    """
    from transformers import CLIPTextConfig, CLIPTextModel

    own, act = _openclip(weights), "gelu"
    if not own:
        own, act = (
            {name.removeprefix(CLIP): v for name, v in weights.items() if name.startswith(CLIP)},
            "quick_gelu",
        )
    tokens, places = (f"embeddings.{name}_embedding.weight" for name in ("token", "position"))
    if tokens not in own or places not in own:
        raise ValueError(
            f"{owner} holds no text encoder; use a whole checkpoint, or a diffusers folder."
        )
    layers = {name.split(".")[2] for name in own if name.startswith("encoder.layers.")}
    config = CLIPTextConfig(
        vocab_size=len(own[tokens]),
        hidden_size=own[tokens].shape[1],
        intermediate_size=len(own["encoder.layers.0.mlp.fc1.bias"]),
        num_hidden_layers=len(layers),
        num_attention_heads=own[tokens].shape[1] // TEXT_HEAD_CHANNELS,
        max_position_embeddings=len(own[places]),
        hidden_act=act,
        bos_token_id=len(own[tokens]) - 2,
        eos_token_id=len(own[tokens]) - 1,
        pad_token_id=0 if act == "gelu" else len(own[tokens]) - 1,
    )
    encoder: TextEncoder = CLIPTextModel(
        config
    )  # not made without memory: its buffers are in no file
    prefix = (
        "text_model."
        if any(name.startswith("text_model.") for name in encoder.state_dict())
        else ""
    )
    named = {
        prefix + name: value for name, value in own.items() if name != "embeddings.position_ids"
    }
    _fill(encoder, named, owner)
    return encoder.to(dtype)


def _openclip(weights: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """An OpenCLIP text transformer under the names of transformers' CLIP, without its last block;
    {} where none is.
    """
    renamed = {
        "token_embedding.weight": "embeddings.token_embedding.weight",
        "positional_embedding": "embeddings.position_embedding.weight",
        "ln_final.weight": "final_layer_norm.weight",
        "ln_final.bias": "final_layer_norm.bias",
    }
    found = {
        new: weights[OPENCLIP + old] for old, new in renamed.items() if OPENCLIP + old in weights
    }
    parts = {
        "ln_1": "layer_norm1", "ln_2": "layer_norm2", "mlp.c_fc": "mlp.fc1", "mlp.c_proj": "mlp.fc2",
        "attn.out_proj": "self_attn.out_proj",
    }  # fmt: skip
    blocks = 0
    while f"{OPENCLIP}transformer.resblocks.{blocks}.ln_1.weight" in weights:
        blocks += 1
    for block in range(blocks - 1):
        old, new = f"{OPENCLIP}transformer.resblocks.{block}", f"encoder.layers.{block}"
        for kind in ("weight", "bias"):
            for theirs, ours in parts.items():
                found[f"{new}.{ours}.{kind}"] = weights[f"{old}.{theirs}.{kind}"]
            joined = weights[f"{old}.attn.in_proj_{kind}"].chunk(3)
            for name, part in zip("qkv", joined, strict=True):
                found[f"{new}.self_attn.{name}_proj.{kind}"] = part
    return found


def _linear(weights: Mapping[str, Tensor]) -> bool:
    """Whether the transformers' projections are linear layers, as in Stable Diffusion 2.x, not 1x1
    convolutions.
    """
    return weights[f"{UNET}middle_block.1.proj_in.weight"].dim() == 2


def _filled(
    kind: Any, terms: dict[str, Any], weights: dict[str, Tensor], dtype: torch.dtype, owner: str
) -> Any:
    with torch.device("meta"):
        module = kind(**terms)
    _fill(module, {name: value.to(dtype) for name, value in weights.items()}, owner, assign=True)
    return module


def _fill(
    module: nn.Module, weights: Mapping[str, Tensor], owner: str, assign: bool = False
) -> None:
    try:
        module.load_state_dict(weights, strict=True, assign=assign)
    except RuntimeError as error:
        raise ValueError(
            f"{owner}: its weights do not make a {type(module).__name__} ({str(error)[:300]})."
            " Download it again."
        ) from error
