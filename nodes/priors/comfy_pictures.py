"""Pictures that an edit model reads beside every text, as ComfyUI's Reference Latent gives them."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from .ordinary import ordinary

MOST = 8  # pictures


class ReadPictures:
    """Pictures [R,H,W,3] of one prior, or None, and their latents while it is loaded.

    Raises ValueError for a model that would not read them, and for more than it may.
    """

    def __init__(self, model: Any, images: Tensor | None) -> None:
        self.images = images
        self.made: tuple[Tensor, ...] = ()
        if images is None:
            return
        if "ref_latents" not in getattr(model.model, "memory_usage_factor_conds", ()):
            kind = type(model.model).__name__
            raise ValueError(
                f"pictures: {kind} reads none beside its text. Link an edit model (FLUX.1 Kontext,"
                " FLUX.2, Qwen-Image-Edit), or give them to Optimize by Reference Views."
            )
        if images.dim() != 4 or not 1 <= len(images) <= MOST:
            raise ValueError(
                f"pictures have shape {tuple(images.shape)}; give 1 to {MOST} of one size."
            )

    def told(self, prior: Any) -> dict[str, tuple[Tensor, ...]]:
        """What a text of the `ComfyPrior` is told of them: a latent for each as its VAE gives it,
        made once; sides are cut to what the network can take."""
        if self.images is None:
            return {}
        if not self.made:
            step = prior.downscale * prior.multiple
            height, width = (max(side // step, 1) * step for side in self.images.shape[1:3])
            cut = self.images[:, :height, :width, :3].movedim(-1, 1).to(prior.device)
            with torch.no_grad():
                found = prior.framed(prior.vae.encode(cut, None))
            self.made = tuple(ordinary(latent) for latent in found.split(1))
        return {"reference_latents": self.made}

    def forget(self) -> None:
        """The latents: they are on the device."""
        self.made = ()
