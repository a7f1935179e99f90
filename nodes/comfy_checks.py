"""Whether a MODEL, a CLIP and a VAE make one prior, told before anything runs."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import comfy.model_base
import comfy.model_sampling

from ..kernels.priors.base import Conditioning

CURE = "Link a text-to-image model of Stable Diffusion 1.x or 2.x, or SDXL."
TEXT_WIDTH = {768: "Stable Diffusion 1.x", 1024: "Stable Diffusion 2.x"}
STEPS = 1000


@dataclass(frozen=True)
class Family:
    """What of a model ComfyUI does not say itself."""

    name: str
    image_size: int  # pixels that its kind was trained at
    multiple: int  # of the latent's sides
    pooled: bool  # whether it takes a pooled embedding beside the tokens'


def check_model(model: Any) -> None:
    """Raises ValueError, with the reason, for a MODEL that cannot judge renders."""
    inner, config = model.model, _config(model)
    if type(inner) not in (comfy.model_base.BaseModel, comfy.model_base.SDXL):
        raise ValueError(f"model is a {type(inner).__name__}, which is not supported as a prior. {CURE}")
    takes, makes = config.get("in_channels"), inner.latent_format.latent_channels
    if inner.concat_keys or takes != makes:
        raise ValueError(
            f"model takes {takes} channels per latent, {takes - makes} of them a mask or picture (an inpainting, depth "
            f"or editing model); renders have only the {makes} of a latent. {CURE}"
        )
    if inner.latent_format.latent_dimensions != 2:
        raise ValueError(f"model makes videos, and renders are single pictures. {CURE}")
    sampling = model.get_model_object("model_sampling")
    epsilon, v = comfy.model_sampling.EPS, comfy.model_sampling.V_PREDICTION
    known = type(sampling).calculate_denoised in (epsilon.calculate_denoised, v.calculate_denoised)
    if not known or len(getattr(sampling, "sigmas", ())) != STEPS or getattr(sampling, "sigma_data", 1.0) != 1.0:
        raise ValueError(
            f"model is sampled by {' and '.join(kind.__name__ for kind in type(sampling).__bases__)}; priors need "
            f"epsilon or v prediction over {STEPS} steps. Take out a Model Sampling node before it (LCM, EDM, x0), or "
            "link another model."
        )


def check_vae(vae: Any, model: Any) -> None:
    """Raises ValueError for a VAE whose latents the model cannot read."""
    if getattr(vae, "first_stage_model", None) is None:
        raise ValueError("vae holds no weights: the checkpoint has none. Link a VAE from Load VAE.")
    if vae.latent_dim != 2:
        raise ValueError("vae is not for single pictures (video, audio or shapes). Link the VAE of the model's kind.")
    form = model.model.latent_format
    for found, wanted, what in (
        (vae.latent_channels, form.latent_channels, "channels per latent"),
        (vae.spacial_compression_encode(), form.spacial_downscale_ratio, "pixels per latent pixel"),
    ):
        if found != wanted:
            raise ValueError(
                f"vae makes {found} {what}, but model reads {wanted}: they are of different kinds. Link the VAE that "
                "belongs to the model."
            )


def check_clip(null: Conditioning, model: Any) -> None:
    """Raises ValueError for a CLIP whose embeddings, here of the empty text, the model cannot read."""
    config = _config(model)
    found, wanted = null.embeddings.shape[-1], config["context_dim"]
    if found != wanted:
        raise ValueError(
            f"clip makes {found} values per token, but model reads {wanted}: they are of different kinds. Link the "
            "CLIP that belongs to the model."
        )


def family(model: Any) -> Family:
    """The kind of a model that `check_model` lets pass, from its shapes."""
    config = _config(model)
    multiple = 2 ** (len(config["channel_mult"]) - 1)  # its U-Net's halvings
    if isinstance(model.model, comfy.model_base.SDXL):
        return Family("SDXL", 1024, multiple, pooled=True)
    name = TEXT_WIDTH.get(config["context_dim"], "Stable Diffusion")
    sampling = model.get_model_object("model_sampling")
    # The v-prediction Stable Diffusion 2 was trained at 768 pixels, its base at 512.
    at_768 = config["context_dim"] == 1024 and isinstance(sampling, comfy.model_sampling.V_PREDICTION)
    return Family(name, 768 if at_768 else 512, multiple, pooled=False)


def _config(model: Any) -> dict[str, Any]:
    return model.model.model_config.unet_config
