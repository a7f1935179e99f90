"""Whose latents a VAE makes: by its shapes Stable Diffusion's is SDXL's, and Stable Diffusion 3's
is FLUX's.
"""

from __future__ import annotations

from collections.abc import Callable
from itertools import product
from pathlib import Path
from typing import Any

import comfy.latent_formats as formats
import comfy.model_detection
import torch
from safetensors import safe_open
from torch import Tensor

NAMES = {
    formats.SD15: "Stable Diffusion 1.x or 2.x",
    formats.SDXL: "SDXL",
    formats.SDXL_Playground_2_5: "SDXL",  # the same autoencoder, scaled otherwise
    formats.SD3: "Stable Diffusion 3",
    formats.Flux: "FLUX",
}
CURE = "Link the VAE that belongs to the model."
FLATS = tuple(product((0.1, 0.9), repeat=3))  # colours, 0..1
SIZE = 64  # pixels
LIKE, UNLIKE = 0.75, 0.4  # correlations of colours; published autoencoders give about 1 and 0.2


def check_kind(vae: Any, encode: Callable[[Tensor], Tensor], form: Any) -> None:
    """Raises ValueError for a VAE that is known to be of another kind than the model's latent
    format ``form``.

    Known by the checkpoint that it was loaded from, if that holds a model; else by what it makes of
    flat colours, held against the colours that ComfyUI's previews give each format's latents. One
    of which neither tells is let pass, as may happen between Stable Diffusion 3 and FLUX, whose
    colours are alike. encode: pictures [B,3,H,W] 0..1 to the VAE's own latents.
    """
    wanted = NAMES.get(type(form))
    if wanted is None:
        return
    file = source(vae)
    found = None if file is None else kind_of(file)
    if found not in (None, wanted):
        raise ValueError(f"vae comes from {file.name}, which is {found}; model is {wanted}. {CURE}")  # type: ignore[union-attr]
    if found is None and (found := kind_by_colors(encode, form)):
        raise ValueError(
            f"vae makes the latents of {found}, by its colours; model is {wanted}. {CURE}"
        )


def source(vae: Any) -> Path | None:
    """The checkpoint file that a VAE was loaded from, where this ComfyUI notes it down."""
    noted = getattr(vae.patcher, "cached_patcher_init", None)
    if noted is None or getattr(noted[0], "__name__", "") != "load_checkpoint_vae_patcher":
        return None
    file = Path(noted[1][0])
    return file if file.suffix in (".safetensors", ".sft") and file.is_file() else None


def kind_of(file: Path) -> str | None:
    """The kind of the model in a checkpoint, from the names and shapes in its header; None if it is
    none of `NAMES`.
    """
    with safe_open(file, "pt") as opened:
        shapes = {name: opened.get_slice(name).get_shape() for name in opened.keys()}
    state = {name: torch.empty(shape, device="meta") for name, shape in shapes.items()}
    prefix = comfy.model_detection.unet_prefix_from_state_dict(state)
    try:
        config = comfy.model_detection.model_config_from_unet(state, prefix)
    # of some kinds the weights themselves are looked at
    except (NotImplementedError, RuntimeError):
        return None
    return None if config is None else NAMES.get(type(config.latent_format))


@torch.no_grad()
def kind_by_colors(encode: Callable[[Tensor], Tensor], form: Any) -> str | None:
    """The name of another format that fits the VAE's colours while ``form`` does not."""
    flats = torch.tensor(FLATS)
    latents = encode(flats[:, :, None, None].expand(-1, -1, SIZE, SIZE))
    side = latents.shape[-1]
    latents = latents[..., side // 4 : side - side // 4, side // 4 : side - side // 4]
    if alike(latents, flats, form) >= UNLIKE:
        return None
    own = NAMES[type(form)]
    others = {name: kind() for kind, name in NAMES.items() if name != own}
    same = {
        name: other
        for name, other in others.items()
        if other.latent_channels == form.latent_channels
    }
    fits = {name: alike(latents, flats, other) for name, other in same.items()}
    best = max(fits, key=lambda name: fits[name], default=None)
    return best if best is not None and fits[best] > LIKE else None


def alike(latents: Tensor, colors: Tensor, form: Any) -> float:
    """Correlation of the preview colours of a VAE's latents [B,C,h,w], as a format has them, with
    colours [B,3].
    """
    factors = torch.tensor(form.latent_rgb_factors)
    shown = form.process_in(latents.float().cpu()).mean((2, 3)) @ factors
    shown, colors = shown - shown.mean(0), colors - colors.mean(0)
    return float((shown * colors).sum() / (shown.norm() * colors.norm()).clamp_min(1e-12))
