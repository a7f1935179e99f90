"""The dense rasterizer: every Gaussian at every pixel under plain autograd. Slow; the truth for the
other backends.
"""

from __future__ import annotations

import torch
from torch import Tensor

from ..cameras.pinhole import Cameras
from ..gaussians.cloud import Gaussians
from .projection import ALPHA_MAX, ALPHA_MIN, Layers, Projection, project


def rasterize_reference(
    gaussians: Gaussians, cameras: Cameras, antialiased: bool, depth: bool
) -> Layers:
    """Render by definition: memory and time grow with V x N x H x W."""
    projection = project(gaussians, cameras, antialiased)
    width, height = cameras.width, cameras.height
    weights, order = blend_weights(projection, width, height)
    colors = torch.take_along_dim(projection.colors, order[..., None], 1)
    color = torch.einsum("vnp,vnc->vpc", weights, colors).view(-1, height, width, 3)
    alpha = weights.sum(1).view(-1, height, width, 1)
    layer = None
    if depth:
        depths = torch.take_along_dim(projection.depths, order, 1)
        layer = torch.einsum("vnp,vn->vp", weights, depths).view(-1, height, width, 1)
    return Layers(color, alpha, layer, projection.means2d, projection.visible)


def blend_weights(projection: Projection, width: int, height: int) -> tuple[Tensor, Tensor]:
    """w_i = alpha_i prod_{j<i} (1 - alpha_j) as [V,N,H*W], front to back, and that order [V,N] of
    the Gaussians.
    """
    order = torch.argsort(projection.depths.detach(), dim=1, stable=True)
    means2d = torch.take_along_dim(projection.means2d, order[..., None], 1)
    conics = torch.take_along_dim(projection.conics, order[..., None], 1)
    opacities = torch.take_along_dim(projection.opacities, order, 1)
    visible = torch.take_along_dim(projection.visible, order, 1)

    xs = torch.arange(width, device=means2d.device, dtype=means2d.dtype) + 0.5
    ys = torch.arange(height, device=means2d.device, dtype=means2d.dtype) + 0.5
    dx = (xs - means2d[..., :1])[:, :, None, :]  # [V,N,1,W]
    dy = (ys - means2d[..., 1:])[:, :, :, None]  # [V,N,H,1]
    a, b, c = (k[..., None, None] for k in conics.unbind(-1))
    power = (0.5 * a * dx * dx + 0.5 * c * dy * dy + b * dx * dy).flatten(2)  # [V,N,H*W]
    alpha = (opacities[..., None] * torch.exp(-power)).clamp_max(ALPHA_MAX)
    alpha = torch.where((alpha >= ALPHA_MIN) & visible[..., None], alpha, 0.0)
    through = torch.cumprod(1 - alpha, dim=1)
    transmittance = torch.cat((torch.ones_like(through[:, :1]), through[:, :-1]), 1)
    return alpha * transmittance, order
