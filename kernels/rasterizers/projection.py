"""EWA projection: every Gaussian as an ellipse on every screen (Zwicker et al. 2001, in the form of
3DGS).
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from ..cameras.pinhole import Cameras
from ..gaussians.cloud import Gaussians
from ..gaussians.rotations import rotations
from ..gaussians.sh import view_colors

NEAR = 0.01  # world units; what lies closer is not drawn
BLUR = 0.3  # px^2 added to the screen covariance, so that no Gaussian falls between the pixels
ALPHA_MIN = 1 / 255  # contributions below one 8-bit step are dropped
ALPHA_MAX = 0.99  # keeps 1 - alpha away from 0, by which the backward pass divides
# the Jacobian is taken at most this many half-pictures off axis, where it would explode
FRUSTUM = 1.3


@dataclass(frozen=True)
class Projection:
    """N Gaussians on V screens. ``extents`` and ``visible`` carry no gradient.

    Args:
        means2d: [V,N,2] pixels, pixel centres at +0.5
        conics: [V,N,3] (A, B, C): log alpha = log opacity - (A dx^2 + C dy^2)/2 - B dx dy, 1/px^2
        opacities: [V,N] 0..1
        colors: [V,N,3]
        depths: [V,N] world units along the optical axis
        extents: [V,N,2] px, half sides of the box around the ellipse where alpha >= ALPHA_MIN
        visible: [V,N] bool: in front of the camera and its box meets the image
    """

    means2d: Tensor
    conics: Tensor
    opacities: Tensor
    colors: Tensor
    depths: Tensor
    extents: Tensor
    visible: Tensor


@dataclass(frozen=True)
class Layers:
    """What a backend returns: sums over the Gaussians, before any background.

    Args:
        color: [V,H,W,3] sum of w c
        alpha: [V,H,W,1] sum of w
        depth: [V,H,W,1] sum of w z, if asked for
        means2d: [V,N,2] pixels, part of the graph
        visible: [V,N] bool
    """

    color: Tensor
    alpha: Tensor
    depth: Tensor | None
    means2d: Tensor
    visible: Tensor


def project(gaussians: Gaussians, cameras: Cameras, antialiased: bool = False) -> Projection:
    """Project the cloud on every camera's screen.

    ``antialiased`` lowers the opacity by what the blur of BLUR px^2 adds to the area
    (Mip-Splatting, Yu et al. 2024).
    """
    views, count = len(cameras), len(gaussians)
    viewmats = cameras.viewmats.to(gaussians.means)
    fx, fy, cx, cy = pinhole(cameras, gaussians.means)

    rotation = viewmats[:, :3, :3].reshape(views * 3, 3)
    centre = (rotation @ gaussians.means.T).view(views, 3, count) + viewmats[:, :3, 3:]
    x, y, z = centre.unbind(1)  # [V,N] each
    inverse = 1 / z.clamp_min(NEAR)
    x, y = x * inverse, y * inverse
    means2d = torch.stack((fx * x + cx, fy * y + cy), -1)

    # The covariance is M M^T; its image under the Jacobian is that of the two rows r0, r1 of J V M.
    axes = rotations(gaussians.quats) * gaussians.scales[:, None]
    axes = (rotation @ axes.transpose(0, 1).reshape(3, count * 3)).view(views, 3, count, 3)
    limit_x, limit_y = FRUSTUM * 0.5 * cameras.width / fx, FRUSTUM * 0.5 * cameras.height / fy
    x, y = (
        torch.clamp(x, -limit_x, limit_x)[..., None],
        torch.clamp(y, -limit_y, limit_y)[..., None],
    )
    r0 = (fx * inverse)[..., None] * (axes[:, 0] - x * axes[:, 2])
    r1 = (fy * inverse)[..., None] * (axes[:, 1] - y * axes[:, 2])
    a, b, c = (r0 * r0).sum(-1), (r0 * r1).sum(-1), (r1 * r1).sum(-1)
    area = torch.linalg.cross(r0, r1).square().sum(-1)  # a c - b^2 without its cancellation
    det = area + BLUR * (a + c) + BLUR * BLUR
    a, c = a + BLUR, c + BLUR

    opacities = gaussians.opacities.expand(views, count)
    if antialiased:
        # The floor keeps the root's slope finite for Gaussians seen edge-on.
        opacities = opacities * (area / det).clamp_min(1e-8).sqrt()
    with torch.no_grad():
        reach = 2 * torch.log(opacities / ALPHA_MIN).clamp_min(0)
        extents = torch.sqrt(reach[..., None] * torch.stack((a, c), -1))
        size = means2d.new_tensor((cameras.width, cameras.height))
        meets = ((means2d + extents > 0) & (means2d - extents < size)).all(-1)
        visible = (z > NEAR) & (opacities > ALPHA_MIN) & meets
    conics = torch.stack((c, -b, a), -1) / det[..., None]
    colors = view_colors(gaussians, cameras).expand(views, count, 3)
    return Projection(means2d, conics, opacities, colors, z, extents, visible)


def pinhole(cameras: Cameras, like: Tensor) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    """fx, fy, cx, cy as [V,1] each, with the dtype and device of ``like``."""
    k = cameras.intrinsics.to(like)
    return k[:, 0, 0, None], k[:, 1, 1, None], k[:, 0, 2, None], k[:, 1, 2, None]
