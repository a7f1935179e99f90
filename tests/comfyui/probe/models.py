"""Random models of the true layouts, but shallow: made as ComfyUI's loaders make theirs."""

from __future__ import annotations

import functools

import comfy.latent_formats
import comfy.model_management
import comfy.model_patcher
import comfy.sd
import comfy.supported_models
import comfy.utils
import torch
from comfy.ldm.flux.model import Flux
from comfy.ldm.models.autoencoder import AutoencoderKL
from comfy.ldm.modules.diffusionmodules.mmdit import OpenAISignatureMMDITWrapper as MMDiT
from comfy.ldm.modules.diffusionmodules.openaimodel import UNetModel
from comfy.supported_models_base import ClipTarget
from comfy.text_encoders import flux, sd3_clip

COLORS = {
    "sd15": comfy.latent_formats.SD15, "sdxl": comfy.latent_formats.SDXL,
    "sd3": comfy.latent_formats.SD3, "flux": comfy.latent_formats.Flux,
}  # fmt: skip
SHALLOW = {"num_hidden_layers": 3, "intermediate_size": 64}
# of FLUX; its width, words and tokenizer are the true ones
SHALLOW_T5 = {"num_layers": 1, "d_ff": 64, "num_heads": 2}
SD3 = {
    "input_size": None, "patch_size": 2, "in_channels": 16, "out_channels": 16, "depth": 2, "adm_in_channels": 2048,
    "context_embedder_config": {"target": "torch.nn.Linear", "params": {"in_features": 4096, "out_features": 128}},
    "num_patches": 36864, "pos_embed_max_size": 192, "pos_embed_scaling_factor": None,
}  # fmt: skip
FLUX = {
    "in_channels": 16, "out_channels": 16, "vec_in_dim": 768, "context_in_dim": 4096, "hidden_size": 128,
    "mlp_ratio": 4.0, "num_heads": 1, "depth": 1, "depth_single_blocks": 1, "axes_dim": [16, 56, 56], "theta": 10000,
    "patch_size": 2, "qkv_bias": True, "guidance_embed": True, "txt_ids_dims": [],
}  # fmt: skip
UNETS = {
    "sd15": {"context_dim": 768, "num_heads": 8, "num_head_channels": -1, "use_linear_in_transformer": False},
    "sd20": {"context_dim": 1024, "num_heads": -1, "num_head_channels": 64, "use_linear_in_transformer": True},
    "sdxl": {
        "context_dim": 2048, "num_heads": -1, "num_head_channels": 64, "use_linear_in_transformer": True,
        "adm_in_channels": 2816, "num_classes": "sequential",
    },
}  # fmt: skip
COMMON = {
    "image_size": 32, "in_channels": 4, "out_channels": 4, "model_channels": 320, "num_res_blocks": [1, 1],
    "channel_mult": [1, 1], "transformer_depth": [1, 1], "transformer_depth_output": [1, 1, 1, 1],
    "transformer_depth_middle": 1, "use_spatial_transformer": True, "legacy": False, "use_temporal_attention": False,
}  # fmt: skip
# As many blocks as ComfyUI knows a checkpoint's kind by, narrower where they are wide.
WHOLE = {
    "sd20": {
        "num_res_blocks": [2] * 4, "channel_mult": [1] * 4, "transformer_depth": [1, 1, 1, 1, 1, 1, 0, 0],
        "transformer_depth_output": [1, 1, 1, 1, 1, 1, 1, 1, 1, 0, 0, 0],
    },
    "sdxl": {
        "num_res_blocks": [2] * 3, "channel_mult": [1] * 3, "transformer_depth": [0, 0, 2, 2, 10, 10],
        "transformer_depth_output": [0, 0, 0, 2, 2, 2, 10, 10, 10], "transformer_depth_middle": 10,
    },
}  # fmt: skip
V_MARK = (
    # by whose spread ComfyUI tells Stable Diffusion 2's kinds
    "output_blocks.11.1.transformer_blocks.0.norm1.bias"
)


class ProbeModel:
    """MODEL, CLIP and VAE of a family with random weights; ``channels`` beyond 4 are an inpainting
    model's.
    """

    @classmethod
    def INPUT_TYPES(cls):
        whole = {"default": False}
        return {
            "required": {
                "family": ([*UNETS, "sd20v", "sd3", "flux"],),
                "channels": ("INT", {"default": 4}),
                "latent_channels": ("INT", {"default": 4}),
                "whole": ("BOOLEAN", whole),
                "colors": ("STRING", {"default": ""}),  # of its VAE, by `COLORS`
            }
        }

    RETURN_TYPES = ("MODEL", "CLIP", "VAE")
    FUNCTION = "make"

    def make(self, family, channels, latent_channels, whole, colors):
        # ComfyUI forgets what the next prompt does not use
        make = made if whole else remembered
        return make(family, channels, latent_channels, whole, colors)


def made(family, channels, latent_channels, whole, colors):
    wide = family in ("sd3", "flux")
    parts = vae(16 if wide else latent_channels, whole)
    if colors:
        paint(parts.first_stage_model, COLORS[colors]())
    denoiser = transformer(family) if wide else unet(family, channels, whole)
    return denoiser, clip(family.removesuffix("v"), whole), parts


remembered = functools.lru_cache(maxsize=4)(made)


def filled(state, seed):
    """Weights of a sensible size for every tensor of ``state``: networks stay neither silent nor
    wild.
    """
    generator = torch.Generator().manual_seed(seed)
    made = {}
    for name, tensor in state.items():
        # FLUX's list of words is half a gigabyte, for which numbers may come again
        drawn = torch.randn(min(tensor.numel(), 1_000_003), generator=generator)
        noise = drawn.repeat(-(-tensor.numel() // len(drawn)))[: tensor.numel()].view(tensor.shape)
        if tensor.dim() > 1:
            made[name] = noise / tensor[0].numel() ** 0.5
        elif not tensor.dtype.is_floating_point:
            made[name] = tensor
        else:
            made[name] = 0.1 * noise + (1.0 if name.endswith("weight") else 0.0)
    return made


def unet(family, channels, whole):
    """``family`` "sd20v" is Stable Diffusion 2 with v prediction, told apart only if ``whole``."""
    kind = family.removesuffix("v")
    config = (
        COMMON | UNETS[kind] | {"in_channels": channels} | (WHOLE.get(kind, {}) if whole else {})
    )
    net = UNetModel(
        **config, dtype=torch.float32, device="cpu", operations=comfy.ops.disable_weight_init
    )
    state = filled(net.state_dict(), 1)
    if V_MARK in state:
        state[V_MARK] *= 1.5 if family == "sd20v" else 0.5
    if kind != "sdxl" or whole:
        return comfy.sd.load_diffusion_model_state_dict(state)
    # a shallow SDXL is none that ComfyUI's detection knows: the rest of its loader, by hand
    known = comfy.supported_models.SDXL(config)
    known.set_inference_dtype(torch.float32, None)
    model = known.get_model(state, "")
    model.load_model_weights(state, "")
    device = comfy.model_management.get_torch_device()
    return comfy.model_patcher.ModelPatcher(
        model, load_device=device, offload_device=torch.device("cpu")
    )


def transformer(family):
    kind, config = {"sd3": (MMDiT, SD3), "flux": (Flux, FLUX)}[family]
    net = kind(
        **config, dtype=torch.float32, device="cpu", operations=comfy.ops.disable_weight_init
    )
    return comfy.sd.load_diffusion_model_state_dict(filled(net.state_dict(), 1))


def clip(family, whole):
    known = {
        "sd15": comfy.supported_models.SD15,
        "sd20": comfy.supported_models.SD20,
        "sdxl": comfy.supported_models.SDXL,
    }
    if family == "sd3":  # often used without its third encoder
        target = ClipTarget(sd3_clip.SD3Tokenizer, sd3_clip.sd3_clip(t5=False))
    elif family == "flux":
        target = ClipTarget(flux.FluxTokenizer, flux.flux_clip(dtype_t5=torch.float32))
    else:
        target = known[family]({}).clip_target()
    options = {} if whole else {f"clip_{letter}_model_config": SHALLOW for letter in "lgh"}
    options |= {"t5xxl_model_config": SHALLOW_T5}
    made = comfy.sd.CLIP(target, model_options=options)
    made.cond_stage_model.load_state_dict(filled(made.cond_stage_model.state_dict(), 2))
    return made


def vae(latent_channels, whole):
    config = {
        "double_z": True, "z_channels": latent_channels, "resolution": 256, "in_channels": 3, "out_ch": 3,
        "ch": 128 if whole else 32, "ch_mult": [1, 2, 4, 4] if whole else [1, 1, 1, 1],
        "num_res_blocks": 2 if whole else 1, "attn_resolutions": [], "dropout": 0.0,
    }  # fmt: skip
    parameters = {"ddconfig": config, "embed_dim": latent_channels}
    made = comfy.sd.VAE(
        sd=filled(AutoencoderKL(**parameters).state_dict(), 3), config={"params": parameters}
    )
    made.latent_channels = latent_channels
    return made


@torch.no_grad()
def paint(net, form):
    """Make a VAE's latents of flat colours those that a format's previews show in these colours,
    but for edges.
    """
    flats = torch.tensor([[r, g, b] for r in (0.1, 0.9) for g in (0.1, 0.9) for b in (0.1, 0.9)])
    seen = []
    hook = net.encoder.conv_out.register_forward_pre_hook(lambda _, given: seen.append(given[0]))
    net.encoder((2 * flats - 1)[:, :, None, None].expand(-1, -1, 64, 64))
    hook.remove()
    features = torch.cat([seen[0][..., 2:6, 2:6].mean((2, 3)), torch.ones(len(flats), 1)], 1)
    shown = (2 * flats - 1) @ torch.linalg.pinv(torch.tensor(form.latent_rgb_factors))
    latents = form.process_out(shown[:, :, None, None]).flatten(1)
    solved = torch.linalg.lstsq(
        features.double(), latents.double(), driver="gelsd"
    ).solution.float()
    channels = latents.shape[1]
    net.encoder.conv_out.weight.zero_()
    net.encoder.conv_out.bias.zero_()
    net.encoder.conv_out.weight[:channels, :, 1, 1] = solved[:-1].T
    net.encoder.conv_out.bias[:channels] = solved[-1]
    net.quant_conv.weight.copy_(torch.eye(2 * channels)[:, :, None, None])
    net.quant_conv.bias.zero_()
