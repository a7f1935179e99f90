"""Whether a MODEL, a CLIP and a VAE make one prior, told before anything runs."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import comfy.model_base
import comfy.model_sampling
import torch
from safetensors import safe_open
from torch import Tensor

from ...kernels.priors.conditioning import Conditioning
from ...kernels.priors.noise_schedule import NoiseSchedule
from ...kernels.priors.weights import check_complete

CURE = "Link a text-to-image model: Stable Diffusion 1.x, 2.x or 3.x, SDXL, or FLUX.1."
KINDS = (
    comfy.model_base.BaseModel,
    comfy.model_base.SDXL,
    comfy.model_base.SD3,
    comfy.model_base.Flux,
)
TEXT_WIDTH = {768: "Stable Diffusion 1.x", 1024: "Stable Diffusion 2.x"}
STEPS = 1000


@dataclass(frozen=True)
class Family:
    """What of a model ComfyUI does not say itself.

    Args:
        image_size: pixels that its kind was trained at
        multiple: of the latent's sides
        pooled: whether it takes a pooled embedding beside the tokens'
    """

    name: str
    image_size: int
    multiple: int
    pooled: bool


@dataclass(frozen=True)
class Levels:
    """The noise levels of a model's sampling at the losses' steps, as the model itself counts
    them.
    """

    values: Tensor  # [T]: sigma/alpha, or of a rectified flow its times
    flow: bool

    @property
    def schedule(self) -> NoiseSchedule:
        return (
            NoiseSchedule.from_times(self.values)
            if self.flow
            else NoiseSchedule.from_ratios(self.values)
        )


def levels(model: Any) -> Levels:
    """Of a model that `check_model` lets pass; a Model Sampling node's shift and schedule count."""
    sampling = model.get_model_object("model_sampling")
    flow = type(sampling).calculate_denoised is comfy.model_sampling.CONST.calculate_denoised
    with torch.inference_mode(False):
        every = len(sampling.sigmas) // STEPS  # FLUX has its times ten times as fine
        values = sampling.sigmas[every - 1 :: every].detach().cpu().clone()
        if flow:
            # The schedule keeps a little of the clean latent at the end, so its last time is not
            # quite 1.
            ratio = NoiseSchedule.from_times(values).ratio(torch.arange(STEPS)).flatten()
            values = ratio / (1 + ratio)
        return Levels(values, flow)


def check_model(model: Any) -> None:
    """Raises ValueError, with the reason, for a MODEL that cannot judge renders."""
    inner, config = model.model, _config(model)
    if inner.latent_format.latent_dimensions != 2:
        raise ValueError(
            f"model is a {type(inner).__name__}, which makes videos; renders are single pictures."
            f" {CURE}"
        )
    if type(inner) not in KINDS:
        raise ValueError(
            f"model is a {type(inner).__name__}, which is not supported as a prior. {CURE}"
        )
    takes, makes = config.get("in_channels"), inner.latent_format.latent_channels
    if inner.concat_keys or takes != makes:
        raise ValueError(
            f"model takes {takes} channels per latent, {takes - makes} of them a mask or picture"
            f" (an inpainting, depth or editing model); renders have only the {makes} of a latent."
            f" {CURE}"
        )
    if config.get("use_temporal_attention"):
        raise ValueError(
            f"model has temporal attention and makes videos; renders are single pictures. {CURE}"
        )
    sampling, kinds = model.get_model_object("model_sampling"), comfy.model_sampling
    known = (kinds.EPS, kinds.V_PREDICTION, kinds.EDM, kinds.CONST)
    fitting = type(sampling).calculate_denoised in [kind.calculate_denoised for kind in known]
    if (
        not fitting
        or len(getattr(sampling, "sigmas", ())) % STEPS
        or getattr(sampling, "noise_scale", 1.0) != 1.0
    ):
        raise ValueError(
            "model is sampled by"
            f" {' and '.join(kind.__name__ for kind in type(sampling).__bases__)}; priors need"
            f" epsilon, v, EDM or flow prediction over {STEPS} steps. Take out a Model Sampling"
            " node before it (LCM, x0), or link another model."
        )


def check_vae(vae: Any, model: Any) -> None:
    """Raises ValueError for a VAE whose latents the model cannot read."""
    if getattr(vae, "first_stage_model", None) is None:
        raise ValueError("vae holds no weights: the checkpoint has none. Link a VAE from Load VAE.")
    if vae.latent_dim != 2:
        raise ValueError(
            "vae is not for single pictures (video, audio or shapes). Link the VAE of the model's"
            " kind."
        )
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
    read.
    """
    config, pooled = _config(model), null.pooled
    # SDXL's vector holds six sizes of 256 numbers beside the pooled text.
    beside = 6 * 256 if isinstance(model.model, comfy.model_base.SDXL) else 0
    vector = config.get("vec_in_dim") or (config.get("adm_in_channels") or 0) - beside
    for found, wanted, what in (
        (null.embeddings.shape[-1], text_width(config), "values per token"),
        (
            None if pooled is None else pooled.shape[-1],
            None if pooled is None else vector,
            "values per text",
        ),
    ):
        if found != wanted:
            raise ValueError(
                f"clip makes {found} {what}, but model reads {wanted}: they are of different kinds."
                " Link the CLIP that belongs to the model."
            )


def text_width(config: dict[str, Any]) -> int:
    """Values per token that a model reads, under the names that its kinds have for it."""
    width = config.get("context_dim") or config.get("context_in_dim")
    return int(width or config["context_embedder_config"]["params"]["in_features"])


def family(model: Any) -> Family:
    """The kind of a model that `check_model` lets pass, from its shapes."""
    config = _config(model)
    for kind, name in (
        (comfy.model_base.SD3, "Stable Diffusion 3"),
        (comfy.model_base.Flux, "FLUX"),
    ):
        if isinstance(model.model, kind):
            return Family(name, 1024, config["patch_size"], pooled=True)
    multiple = 2 ** (len(config["channel_mult"]) - 1)  # its U-Net's halvings
    if isinstance(model.model, comfy.model_base.SDXL):
        return Family("SDXL", 1024, multiple, pooled=True)
    name = TEXT_WIDTH.get(config["context_dim"], "Stable Diffusion")
    sampling = model.get_model_object("model_sampling")
    # The v-prediction Stable Diffusion 2 was trained at 768 pixels, its base at 512.
    at_768 = config["context_dim"] == 1024 and isinstance(
        sampling, comfy.model_sampling.V_PREDICTION
    )
    return Family(name, 768 if at_768 else 512, multiple, pooled=False)


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
