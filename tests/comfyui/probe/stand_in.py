"""What ComfyUI 0.30 lacks, in a form that is documented: Qwen-Image 2.1's latents of 64 channels, 16
pixels each and two-dimensional, whose VAE takes and gives alpha; a class that nobody knows."""

from __future__ import annotations

import comfy.latent_formats
import comfy.model_base
import comfy.model_management
import comfy.model_patcher
import comfy.sd
import comfy.supported_models
import torch
from comfy.ldm.models.autoencoder import AutoencoderKL

from . import small
from .families import ROWS
from .models import filled


class Latents(comfy.latent_formats.LatentFormat):
    latent_channels = 64
    spacial_downscale_ratio = 16
    scale_factor = 0.7


class QwenImage21(comfy.supported_models.ErnieImage):
    latent_format = Latents

    def get_model(self, state_dict, prefix="", device=None):
        flux = comfy.model_base.ModelType.FLUX
        return comfy.model_base.ErnieImage(self, model_type=flux, device=device)


class ProbeStandIn:
    """MODEL, CLIP and VAE of it."""

    @classmethod
    def INPUT_TYPES(cls):
        return {"required": {}}

    RETURN_TYPES = ("MODEL", "CLIP", "VAE")
    FUNCTION = "make"

    def make(self):
        row = ROWS["Ernie-Image"]
        config = QwenImage21({**row.small, "in_channels": 64, "out_channels": 64})
        config.sampling_settings["shift"] = 0.69
        config.set_inference_dtype(torch.float32, None)
        model = config.get_model({}, "")
        model.load_model_weights(filled(model.diffusion_model.state_dict(), 1), "")
        device = comfy.model_management.get_torch_device()
        patcher = comfy.model_patcher.CoreModelPatcher(
            model, load_device=device, offload_device=torch.device("cpu")
        )
        ddconfig = {
            "double_z": True, "z_channels": 64, "resolution": 256, "in_channels": 4, "out_ch": 4, "ch": 32,
            "ch_mult": [1, 1, 2, 2, 2], "num_res_blocks": 1, "attn_resolutions": [], "dropout": 0.0,
        }  # fmt: skip
        config = {"params": {"ddconfig": ddconfig, "embed_dim": 64}}
        vae = comfy.sd.VAE(
            sd=filled(AutoencoderKL(**config["params"]).state_dict(), 3), config=config
        )
        vae.latent_channels, vae.downscale_ratio, vae.upscale_ratio = 64, 16, 16
        vae.output_channels, vae.pad_channel_value = 4, 1.0
        return patcher, small.clip("Ernie-Image"), vae
