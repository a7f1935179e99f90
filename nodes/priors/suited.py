"""`auto`, in the nodes that have a prior: what suits it is filled in, and shown."""

from __future__ import annotations

import logging
from dataclasses import replace
from typing import Any

from ...kernels.cameras.orbit import OrbitSampler
from ...kernels.losses.combine import Combined, Scheduled
from ...kernels.losses.reward import Reward
from ...kernels.losses.suited import suited_cameras, suited_loss, suited_size
from ..shared.auto import Auto
from ..shared.progress import tell

log = logging.getLogger(__name__)


def settled(settings: Any, prior: Any, pixels: int) -> Any:
    """A loss or a sampler of cameras with what suits the prior filled in wherever `auto` is chosen;
    the nodes show it. pixels: of a side of the renders that the prior is shown."""
    if isinstance(settings, Combined | Scheduled):
        parts = [settled(part, prior, pixels) for part in settings.losses]
        return replace(settings, losses=parts)
    if isinstance(settings, Reward):
        return replace(settings, loss=settled(settings.loss, prior, pixels))
    if not isinstance(settings, Auto):
        return settings
    if isinstance(settings.settings, OrbitSampler):
        found = suited_cameras(settings.settings, prior)
    else:
        found = suited_loss(settings.settings, prior, pixels)
    log.info("%s", found.said)
    tell(found.said, settings.node_id)
    return found.settings


def settled_size(image_size: int, prior: Any) -> int:
    """Pixels of the training renders: ``image_size``, or where that is 0 what suits the prior."""
    if image_size:
        return image_size
    pixels, source = suited_size(prior)
    if pixels != prior.image_size:
        said = f"image_size {pixels} ({source})"
        log.info("%s", said)
        tell(said)
    return pixels
