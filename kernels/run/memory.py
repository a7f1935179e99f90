"""Whether a step can fit into memory, asked before the first one: where main memory runs out the
system ends the whole process instead of saying so.

What is counted is certain to be there at once: the renders, and what the prior's encoder keeps of
them for its way back. So nothing that fits is refused.
"""

from __future__ import annotations

import logging

import torch
from torch import Tensor

from ..devices.memory import available_bytes
from ..priors.base import Prior
from .settings import RunSettings

log = logging.getLogger(__name__)

# bytes a pixel: colours, alpha and the encoder's input in float32, with their gradients
RENDER = 56
MOST = 16_000  # bytes a pixel that an encoder keeps: Stable Diffusion's keeps 14,000 in float32
FUSED = 0.4  # of that is kept at least where networks are fused, which only CUDA devices have
SIDE = 64  # pixels of the pictures that the encoder is measured with
GIGA = 1e9


def check_memory(prior: Prior, settings: RunSettings, owner: str) -> None:
    """Raise ValueError if one step of a run cannot fit, with what it takes, what there is, and the
    cure.
    """
    size = settings.image_size or prior.image_size
    judged = settings.judged_size or size
    available = available_bytes(torch.device(prior.device))
    at_once = min(settings.micro_batch or settings.views, settings.views)
    # most runs are so small that there is nothing to measure
    if available is None or at_once * judged**2 * MOST + settings.views * size**2 * RENDER < (
        available
    ):
        return
    kept = kept_per_pixel(prior)
    if torch.device(prior.device).type == "cuda":
        kept *= FUSED

    def needed(side: int, views: int, encoded: int) -> float:
        seen = settings.judged_size or side
        return views * side**2 * RENDER + encoded * seen**2 * kept

    least = needed(size, settings.views, at_once)
    if least <= available:
        return
    cures = []
    if settings.judged_size is None:
        side = size
        while side > 16 and needed(side, settings.views, at_once) > 0.5 * available:
            side //= 2
        cures.append(f"image_size to {side} or less")
    if settings.views > 1 and needed(size, 1, 1) <= available:
        cures.append("views to 1")
    if at_once > 1 and needed(size, settings.views, 1) <= available:
        cures.append("micro_batch (Run Options) to 1")
    own = "" if settings.image_size else " (the prior's own)"
    views = "1 view" if settings.views == 1 else f"{settings.views} views"
    raise ValueError(
        f"{owner}: image_size {size}{own} with {views} takes more than"
        f" {least / GIGA:.0f} GB of memory a step, and {available / GIGA:.1f} GB are free. Set"
        f" {' or '.join(cures) or 'judged_size lower'}, or free memory."
    )


def kept_per_pixel(prior: Prior) -> float:
    """Bytes that the prior's encoder keeps for its backward pass, per pixel of a picture; 0 where
    that cannot be measured.

    From two small pictures, so that what does not grow with them, such as weights, is not counted.
    What grows faster than pictures do is counted too low.
    """
    side = max(SIDE, 8 * prior.downscale)
    try:
        small, large = (_kept(prior, edge) for edge in (side, 2 * side))
    except (RuntimeError, ValueError, TypeError, NotImplementedError) as error:
        log.info("The memory of prior %r's encoder cannot be measured: %s", prior.name, error)
        return 0.0
    return max(0.0, (large - small) / (3 * side**2))


def _kept(prior: Prior, side: int) -> int:
    """Bytes that are kept of one picture of so many pixels a side."""
    held: list[Tensor] = []  # or their places would be given out again

    def keep(tensor: Tensor) -> int:
        held.append(tensor.detach())
        return len(held)

    channels = 4 if getattr(prior, "takes_alpha", False) else 3
    image = torch.full((1, channels, side, side), 0.5, device=prior.device, requires_grad=True)
    with torch.autograd.graph.saved_tensors_hooks(keep, lambda place: held[place - 1]):
        prior.encode(image)
    storages = (tensor.untyped_storage() for tensor in held)
    return sum({storage.data_ptr(): storage.nbytes() for storage in storages}.values())
