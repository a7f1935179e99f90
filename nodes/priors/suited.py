"""`auto`, in the nodes that have a prior: what suits it is filled in, and shown."""

from __future__ import annotations

import logging
from typing import Any

from ...kernels.losses import suited
from ..shared.progress import tell

log = logging.getLogger(__name__)


def settled(settings: Any, prior: Any, pixels: int) -> Any:
    """See `kernels.losses.suited.settled`; the nodes show the values."""
    return suited.settled(settings, prior, pixels, _tell)


def settled_size(image_size: int, prior: Any) -> int:
    """Pixels of the training renders: ``image_size``, or where that is 0 what suits the prior."""
    if image_size:
        return image_size
    pixels, source = suited.suited_size(prior)
    if pixels != prior.image_size:
        _tell(f"image_size {pixels} ({source})", None)
    return pixels


def _tell(said: str, node_id: str | None) -> None:
    log.info("%s", said)
    tell(said, node_id)
