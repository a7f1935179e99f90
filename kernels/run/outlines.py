"""The object in a picture whose background is plain, found with scikit-image."""

from __future__ import annotations

import numpy as np
import torch
from scipy import ndimage
from torch import Tensor

FRAME = 2  # pixels along the rim that are taken for background
PLAIN = 12.0  # CIE76 distance from their median that three quarters of them may have at most
LEAST = 8.0  # and that the object has at least
SPECK = 5e-4  # share of the picture below which a speck or a hole is neither


def plain_outlines(images: Tensor) -> Tensor:
    """Masks [R,H,W,1] 0..1, soft at the edges, of the objects in pictures [R,H,W,3] sRGB 0..1.

    What differs from the colour of the rim by more than the rim itself does, in CIELAB; a hole in
    the object that shows the background's colour is one. Raises ValueError naming the picture whose
    rim is of many colours.
    """
    return torch.stack([_outline(image, i) for i, image in enumerate(images.cpu().numpy(), 1)]).to(
        images.device
    )


def _outline(image: np.ndarray, number: int) -> Tensor:
    from skimage.color import rgb2lab  # slow to import

    lab = rgb2lab(image.clip(0, 1))
    rim = np.concatenate(
        [lab[:FRAME].reshape(-1, 3), lab[-FRAME:].reshape(-1, 3),
         lab[:, :FRAME].reshape(-1, 3), lab[:, -FRAME:].reshape(-1, 3)]
    )  # fmt: skip
    plain = np.median(rim, 0)
    spread = float(np.quantile(np.linalg.norm(rim - plain, axis=-1), 0.75))
    if spread > PLAIN:
        raise ValueError(
            f"Picture {number} has no plain background (its rim varies by {spread:.0f}, at most"
            f" {PLAIN:.0f} can be told from an object). Give a mask, a picture with alpha, or set"
            " background to busy."
        )
    distance = np.linalg.norm(lab - plain, axis=-1)
    limit = LEAST + 2 * spread
    least = max(2, round(SPECK * distance.size))
    solid = ~_without_specks(~_without_specks(distance > limit, least), least)
    inside = ndimage.binary_erosion(solid)
    soft = np.clip((distance - limit / 2) / limit, 0, 1) * ndimage.binary_dilation(solid)
    return torch.from_numpy(np.where(inside, 1.0, soft).astype(np.float32))[..., None]


def _without_specks(mask: np.ndarray, least: int) -> np.ndarray:
    parts, count = ndimage.label(mask)
    sizes = np.bincount(parts.ravel(), minlength=count + 1)
    sizes[0] = 0
    return np.asarray(sizes[parts] > least)
