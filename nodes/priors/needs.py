"""What a prior needs of prompts, and of memory besides its weights."""

from __future__ import annotations

import torch

from ...kernels.priors.base import Prior
from ...kernels.priors.prompts import ViewPrompts

# per pixel and byte of precision: what Stable Diffusion's encoder keeps for its backward pass
ENCODER_BYTES = 3500


def check_prompts(prompts: ViewPrompts, prior: Prior) -> None:
    """Raise ValueError for prompts that the prior's denoiser could not read."""
    found, expected = prompts.null.embeddings.shape, prior.embed([""]).embeddings.shape
    if found != expected:
        raise ValueError(
            f"prompts hold embeddings of {tuple(found[1:])} values, but prior {prior.name!r} reads"
            f" {tuple(expected[1:])}: another prior embedded them. Link View Prompts and Optimize"
            " to the same prior."
        )


def scratch_bytes(views: int, size: int, dtype: torch.dtype) -> int:
    """Room that one step needs besides the weights, most of it in the encoder's backward pass."""
    return views * size * size * ENCODER_BYTES * dtype.itemsize
