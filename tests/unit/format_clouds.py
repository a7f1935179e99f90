"""Clouds to be saved, and how far what comes back is from them."""

from __future__ import annotations

import torch

from distill3d.kernels.files.formats import FORMATS
from distill3d.kernels.gaussians.cloud import Gaussians


def object_cloud(count=60, degree=3, seed=0):
    """An object without any symmetry: long thin Gaussians of all colours, more of them high, left
    and in front.
    """
    g = torch.Generator().manual_seed(seed)
    means = torch.rand(count, 3, generator=g) ** torch.tensor([2.0, 0.5, 0.7]) - 0.5
    sh = 0.12 * torch.randn(count, (degree + 1) ** 2, 3, generator=g)
    sh[:, 0] = (torch.rand(count, 3, generator=g) * 0.8 - 0.4) / 0.28209
    return Gaussians(
        means=means,
        log_scales=torch.tensor([0.1, 0.03, 0.015]).log()
        + 0.3 * torch.randn(count, 3, generator=g),
        quats=torch.nn.functional.normalize(torch.randn(count, 4, generator=g), dim=-1),
        opacity_logits=2 * torch.randn(count, generator=g) + 1,
        sh=sh,
    )


def in_order(cloud, other):
    """The other cloud's Gaussians, each where its nearest in the cloud is."""
    nearest = torch.cdist(cloud.means.double(), other.means.double()).argmin(1)
    return other.map(lambda value: value[nearest])


def errors(cloud, other):
    normalized = [torch.nn.functional.normalize(c.quats, dim=-1) for c in (cloud, other)]
    signs = (normalized[0] * normalized[1]).sum(-1, keepdim=True).sign()
    found = {
        key: (getattr(cloud, key) - getattr(other, key)).abs()
        for key in ("means", "log_scales", "opacities")
    }
    found["quats"] = (normalized[0] - signs * normalized[1]).abs()
    found["dc"] = (cloud.sh[:, 0] - other.sh[:, 0]).abs()
    if cloud.sh.shape == other.sh.shape and cloud.sh_degree:
        found["rest"] = (cloud.sh[:, 1:] - other.sh[:, 1:]).abs()
    return {key: float(value.max()) for key, value in found.items()}


def saved(cloud, format, folder):
    path = folder / f"object.{FORMATS[format].extension}"
    FORMATS[format].save(cloud, path)
    return path


def covariance(cloud):
    w, x, y, z = torch.nn.functional.normalize(cloud.quats, dim=-1).unbind(-1)
    rows = [1 - 2 * (y * y + z * z), 2 * (x * y - w * z), 2 * (x * z + w * y)]
    rows += [2 * (x * y + w * z), 1 - 2 * (x * x + z * z), 2 * (y * z - w * x)]
    rows += [2 * (x * z - w * y), 2 * (y * z + w * x), 1 - 2 * (x * x + y * y)]
    scaled = torch.stack(rows, -1).reshape(-1, 3, 3) * cloud.scales[:, None]
    return scaled @ scaled.transpose(1, 2)
