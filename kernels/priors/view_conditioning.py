"""Priors that are told more of a view than its text: where its camera is, or what shape the render
shows there.
"""

from __future__ import annotations

from typing import Protocol, runtime_checkable

import torch
from torch import Tensor

from ..cameras.pinhole import Cameras
from .base import Prior
from .conditioning import Conditioning

# alpha below which a pixel's own colour is not brought out whole, lest its gradient have no end;
# ours
FAINT = 0.05


@runtime_checkable
class ViewConditionedPrior(Protocol):
    """A prior that is told of each view besides its text. Losses pass it on with the text,
    unread.
    """

    @property
    # whether `encode_views` reads the renders' depth, which costs time to render
    def needs_depth(self) -> bool: ...

    def encode_views(
        self, cameras: Cameras, alpha: Tensor, depth: Tensor | None
    ) -> tuple[Tensor | None, Tensor | None]:
        """`Conditioning.camera` and `Conditioning.hint` of V views.

        alpha [V,H,W,1] 0..1 and depth [V,H,W,1], the expected distance along the optical axis in
        world units, are those of the renders, detached; depth None where it was not rendered.
        Raises ValueError for views it cannot judge.
        """
        ...


@runtime_checkable
class GroupPrior(Protocol):
    """A prior that judges several views of one object together. Rows come in such groups, one after
    another.
    """

    @property
    # at equal azimuth steps all around, of one elevation and distance
    def views_per_group(self) -> int: ...


def encoder_input(prior: Prior, color: Tensor, alpha: Tensor, backgrounds: Tensor) -> Tensor:
    """What the prior's encoder is given of renders: [V,3,H,W], or [V,4,H,W] with their alpha where
    it takes that (``takes_alpha``), so that the silhouette is judged too.

    color [V,H,W,3] on ``backgrounds`` [V,3], alpha [V,H,W,1] 0..1. Beside their alpha the colours
    are the object's own, as in a picture file (straight alpha), so that the picture laid on any
    ground is the render on that ground; where nothing is they are the background's.
    """
    if getattr(prior, "takes_alpha", False):
        ground = backgrounds[:, None, None]
        color = torch.cat([ground + (color - ground) / alpha.clamp_min(FAINT), alpha], -1)
    return color.permute(0, 3, 1, 2)


def group_size(prior: Prior) -> int:
    """How many views in a row the prior judges together; 1 for one that judges every view by
    itself.
    """
    return prior.views_per_group if isinstance(prior, GroupPrior) else 1


def check_views(prior: Prior, views: int) -> int:
    """`views_per_group`. Raises ValueError when ``views`` cannot be divided into such groups."""
    views_per_group = group_size(prior)
    if views % views_per_group:
        raise ValueError(
            f"views is {views}; prior {prior.name!r} judges {views_per_group} views of one object"
            f" together: use {views_per_group}, {2 * views_per_group}, ..."
        )
    return views_per_group


def needs_depth(prior: Prior) -> bool:
    """Whether the prior reads the depth of the renders."""
    return isinstance(prior, ViewConditionedPrior) and prior.needs_depth


def condition_on_views(
    prior: Prior,
    texts: tuple[Conditioning, ...],
    cameras: Cameras,
    alpha: Tensor,
    depth: Tensor | None,
) -> tuple[Conditioning, ...]:
    """The texts, V rows each, with what the prior is told of their views; as they are for any other
    prior.

    alpha, depth: [V,H,W,1], of the renders. Raises ValueError for views that the prior cannot judge.
    """
    if not isinstance(prior, ViewConditionedPrior):
        return texts
    camera, hint = prior.encode_views(
        cameras, alpha.detach(), None if depth is None else depth.detach()
    )
    return tuple(text.with_views(camera, hint) for text in texts)
