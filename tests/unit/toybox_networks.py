"""The toybox prior's networks, tiny."""

import torch
from kit import seeded

from distill3d.kernels.toybox import models
from distill3d.kernels.toybox.captions import (
    CATEGORIES,
    VIEWS,
)
from distill3d.kernels.toybox.data import Atlas


def noise_atlas(size=128, views=2):
    """Random layers in place of renders."""
    count = len(CATEGORIES) * views
    layers = torch.randint(256, (count, 8, size, size), generator=seeded(), dtype=torch.uint8)
    layers[:, 1:4] = torch.minimum(layers[:, 1:4], layers[:, :1])
    view = torch.randint(len(VIEWS), (count,), generator=seeded(1))
    return Atlas(layers, torch.arange(len(CATEGORIES)).repeat_interleave(views), view, view, view)


def small_autoencoder(channels=(8, 8, 8)):
    return models.autoencoder(channels)


def small_denoiser():
    return models.denoiser((16, 16, 16), 1)
