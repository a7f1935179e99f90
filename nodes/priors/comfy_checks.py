"""Whether a MODEL, a CLIP and a VAE make one prior, told before anything runs."""

from __future__ import annotations

from typing import Any

import comfy.model_base
import comfy.model_sampling
import torch
from safetensors import safe_open

from ...kernels.priors.conditioning import Conditioning
from ...kernels.priors.weights import check_complete
from .families import other
from .sampling import check_sampling

CURE = "Link a text-to-image model."
# Under these names models' configurations say how many values per token they read.
WIDTHS = (
    "context_dim",
    "context_in_dim",
    "cap_feat_dim",
    "cond_seq_dim",
    "text_feat_dim",
    "crossattn_emb_channels",
)


def check_model(model: Any) -> None:
    """Raises ValueError, with the reason, for a MODEL that cannot judge renders."""
    inner, config = model.model, _config(model)
    form, called = inner.latent_format, type(model.model).__name__
    if does := other(model):
        raise ValueError(f"model is a {called}, which {does}. {CURE}")
    if config.get("use_temporal_attention"):
        raise ValueError(
            f"model has temporal attention and makes videos; renders are single pictures. {CURE}"
        )
    if "audio_model" in config or form.latent_dimensions == 1:
        raise ValueError(
            f"model is a {called}, whose latents are no pictures: it makes sound or shapes. {CURE}"
        )
    if beside := beside_latents(model):
        raise ValueError(
            f"model takes {form.latent_channels + beside} channels per latent, {beside} of them a"
            " mask or picture (an inpainting, depth or editing model); renders have only the"
            f" {form.latent_channels} of a latent. {CURE}"
        )
    check_sampling(model)


def beside_latents(model: Any) -> int:
    """Channels that a MODEL is shown beside the noisy latent: a mask, or a picture."""
    inner, config = model.model, _config(model)
    form = inner.latent_format
    blank = torch.zeros(1, form.latent_channels, *(8,) * form.latent_dimensions)
    try:
        shown = inner.concat_cond(noise=blank, device=blank.device, latent_image=blank)
    except (RuntimeError, TypeError, KeyError, AttributeError):  # for want of its picture
        shown = blank
    if shown is not None:
        return int(shown.shape[1])
    takes, makes = config.get("in_channels"), config.get("out_channels")
    # U-Nets; transformers count the values of a patch, and each in its own way
    return max(0, takes - makes) if takes and makes and "channel_mult" in config else 0


def multiple(model: Any) -> int:
    """Of the latent's sides: as often as a U-Net halves it, or a transformer's patch."""
    config = _config(model)
    if "channel_mult" in config:
        return int(2 ** (len(config["channel_mult"]) - 1))
    network = model.model.diffusion_model
    for owner in (config.get, lambda name: getattr(network, name, None)):
        for name in ("patch_size", "patch", "patch_spatial", "PATCH_SIZE"):
            found = owner(name)
            if isinstance(found, (list, tuple)) and found:
                found = found[-1]
            if isinstance(found, int) and found > 0:
                return found
    return int(getattr(model.model, "PATCH_SIZE", 2))


def image_size(model: Any, usual: int) -> int:
    """Pixels that a model was trained at, where ``usual`` is its kind's."""
    # The v-prediction Stable Diffusion 2 was trained at 768 pixels, its base at 512.
    at_768 = _config(model).get("context_dim") == 1024 and isinstance(
        model.get_model_object("model_sampling"), comfy.model_sampling.V_PREDICTION
    )
    return 768 if at_768 and usual == 512 else usual


def pixel_space(model: Any) -> bool:
    """Whether a MODEL's latents are the pictures themselves."""
    form = model.model.latent_format
    return bool(form.latent_channels == 3 and form.spacial_downscale_ratio == 1)


def check_vae(vae: Any, model: Any) -> None:
    """Raises ValueError for a VAE whose latents the model cannot read."""
    if getattr(vae, "first_stage_model", None) is None:
        raise ValueError("vae holds no weights: the checkpoint has none. Link a VAE from Load VAE.")
    if vae.latent_dim == 1 or vae.output_channels not in (3, 4):
        raise ValueError("vae is for sound or shapes. Link the VAE of the model's kind.")
    form = model.model.latent_format
    for found, wanted, what in (
        (vae.latent_channels, form.latent_channels, "channels per latent"),
        (vae.spacial_compression_encode(), form.spacial_downscale_ratio, "pixels per latent pixel"),
    ):
        if found != wanted:
            raise ValueError(
                f"vae makes {found} {what}, but model reads {wanted}: they are of different kinds."
                " Link the VAE that belongs to the model."
            )


def check_clip(null: Conditioning, model: Any) -> None:
    """Raises ValueError for a CLIP whose embeddings, here of the empty text, the model cannot
    read, as far as its configuration says; the rest shows in the first call.
    """
    config, pooled = _config(model), null.pooled
    # SDXL's vector holds six sizes of 256 numbers beside the pooled text.
    sizes = 6 * 256 if isinstance(model.model, comfy.model_base.SDXL) else 0
    vector = config.get("vec_in_dim") or (config.get("adm_in_channels") or sizes) - sizes
    if not sizes and hasattr(model.model, "noise_augmentor"):
        vector = 0  # unCLIP's, which is of a picture
    for found, wanted, what in (
        (null.embeddings.shape[-1], text_width(config), "values per token"),
        (0 if pooled is None else pooled.shape[-1], vector, "values per text"),
    ):
        if wanted and found != wanted:
            raise ValueError(
                f"clip makes {found} {what}, but model reads {wanted}: they are of different kinds."
                " Link the CLIP that belongs to the model."
            )


def text_width(config: dict[str, Any]) -> int | None:
    """Values per token that a model reads, under the names that its kinds have for it; None where
    it does not say."""
    for name in WIDTHS:
        if isinstance(config.get(name), int):
            return int(config[name])
    embedder = config.get("context_embedder_config")
    return int(embedder["params"]["in_features"]) if embedder else None


def _config(model: Any) -> dict[str, Any]:
    config: dict[str, Any] = model.model.model_config.unet_config
    return config


def check_weights(owner: str, file: str, model: Any, clip: Any, vae: Any) -> None:
    """Raises ValueError for a checkpoint without some of its networks' weights, which ComfyUI
    leaves as they happen to be. Of text encoders those are looked at that a checkpoint holds under
    their own names (CLIP-L)."""
    text = getattr(getattr(clip.cond_stage_model, "clip_l", None), "transformer", None)
    networks = {
        "model.diffusion_model.": model.model.diffusion_model,
        "first_stage_model.": getattr(vae, "first_stage_model", None),
        "cond_stage_model.transformer.": text,
        "conditioner.embedders.0.transformer.": text,
    }
    with safe_open(file, "pt") as opened:
        names = list(opened.keys())
    for prefix, network in networks.items():
        held = {name.removeprefix(prefix) for name in names if name.startswith(prefix)}
        # which old checkpoints leave out, and ComfyUI puts in
        held |= {f"text_model.{name}" for name in held}
        if held and network is not None:
            wanted = {name for name in network.state_dict() if name.endswith((".weight", ".bias"))}
            # CLIP's projection is the identity where a checkpoint has none
            check_complete(
                owner, [prefix + name for name in wanted - held if "text_projection" not in name]
            )
