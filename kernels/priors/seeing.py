"""Priors that are told more of a view than its text: where its camera is, or what shape the render shows there."""

from __future__ import annotations

from typing import Protocol, runtime_checkable

from torch import Tensor

from ..gaussians.cameras import Cameras
from .base import Conditioning, Prior


@runtime_checkable
class SeeingPrior(Protocol):
    """A prior that is told of each view besides its text. Losses pass it on with the text, unread."""

    @property
    def needs_depth(self) -> bool: ...  # whether `facts` reads the renders' depth, which costs time to render

    def facts(self, cameras: Cameras, alpha: Tensor, depth: Tensor | None) -> tuple[Tensor | None, Tensor | None]:
        """`Conditioning.camera` and `Conditioning.hint` of V views.

        alpha [V,H,W,1] 0..1 and depth [V,H,W,1], the expected distance along the optical axis in world units, are
        those of the renders, detached; depth None where it was not rendered. Raises ValueError for views it cannot
        judge.
        """
        ...


def needs_depth(prior: Prior) -> bool:
    return isinstance(prior, SeeingPrior) and prior.needs_depth


def told(
    prior: Prior, texts: tuple[Conditioning, ...], cameras: Cameras, alpha: Tensor, depth: Tensor | None
) -> tuple[Conditioning, ...]:
    """The texts, V rows each, with what the prior is told of their views; as they are for any other prior."""
    if not isinstance(prior, SeeingPrior):
        return texts
    camera, hint = prior.facts(cameras, alpha.detach(), None if depth is None else depth.detach())
    return tuple(text.seen(camera, hint) for text in texts)
