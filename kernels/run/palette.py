"""The colours of an object's pictures, to which the sides that no picture shows are held too."""

from __future__ import annotations

import numpy as np
import torch
from scipy.cluster.vq import kmeans2
from torch import Tensor

COLORS = 16
SHADES = (0.6, 1.25)  # of a colour, as light makes them
INSIDE = 0.9  # mask from which a pixel shows the object alone
SOLID = 0.5  # alpha from which a render's pixel shows a colour of its own
PIXELS = 20_000  # looked at, at most


def palette_of(images: Tensor, masks: Tensor) -> Tensor:
    """At most COLORS colours [K,3] of the objects in pictures [R,H,W,3] sRGB 0..1, by k-means;
    masks [R,H,W,1]."""
    shown = images[masks[..., 0] > INSIDE].detach().cpu().double()
    if not len(shown):
        shown = images[masks[..., 0] > 0].detach().cpu().double()
    shown = shown[:: -(-len(shown) // PIXELS)]
    distinct = len(np.unique((shown * 255).round().numpy(), axis=0))
    centres, _ = kmeans2(shown.numpy(), min(COLORS, distinct), minit="++", seed=0)
    centres = centres[np.isfinite(centres).all(1)]
    return torch.from_numpy(centres).to(images)


def palette_distance(color: Tensor, alpha: Tensor, backgrounds: Tensor, palette: Tensor) -> Tensor:
    """Mean over the pixels of renders [V,H,W,3] of the squared distance to the nearest colour of
    ``palette`` [K,3] in any of its shades, where the object covers them. [], with gradient to
    colours alone.

    alpha [V,H,W,1]; backgrounds [V,3], on which the renders are.
    """
    cover = alpha.detach()
    own = (color - backgrounds[:, None, None] * (1 - cover)) / cover.clamp_min(SOLID)
    with torch.no_grad():
        length = palette.square().sum(1).clamp_min(1e-6)
        along = own @ palette.T
        shade = (along / length).clamp(*SHADES)
        nearest = (shade.square() * length - 2 * shade * along).argmin(-1, keepdim=True)
        target = shade.gather(-1, nearest) * palette[nearest[..., 0]]
    return ((own - target).square() * (cover > SOLID)).mean()
