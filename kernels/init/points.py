"""A point cloud."""

from __future__ import annotations

import torch
from scipy.spatial import cKDTree
from torch import Tensor

from ..gaussians.cloud import Gaussians
from ..gaussians.rotations import facing
from .parameters import check_count, make_cloud

SCALE_LIMITS = (1e-4, 0.1)  # world units, for scales taken from the distance between points
FLATNESS = 0.25  # thickness over width of a Gaussian that lies on a surface


def from_points(
    points: Tensor,
    colors: Tensor | None = None,
    normals: Tensor | None = None,
    scale: float | None = None,
    opacity_logit: float = -2.0,
    sh_degree: int = 0,
) -> Gaussians:
    """One Gaussian per point.

    points [N,3] world units; colors [N,3] sRGB 0..1 (grey if None); with normals [N,3] the
    Gaussians are flat and lie in the surface, else they are round. ``scale`` in world units; if
    None, each takes the mean distance to its three nearest neighbours (3DGS), within SCALE_LIMITS.
    Raises ValueError for shapes that do not match and NaNs.
    """
    points = torch.as_tensor(points).detach()
    points = points if points.is_floating_point() else points.float()
    if points.dim() != 2 or points.shape[1] != 3:
        raise ValueError(f"points have shape {tuple(points.shape)}, expected (N, 3).")
    check_count(len(points))
    colors = torch.full_like(points, 0.5) if colors is None else torch.as_tensor(colors).to(points)
    for name, value in (("colors", colors), ("normals", normals)):
        if value is not None and value.shape != points.shape:
            raise ValueError(
                f"{name} have shape {tuple(value.shape)}, expected {tuple(points.shape)} as the"
                " points."
            )
    if not bool(points.isfinite().all()):
        raise ValueError("points hold values that are NaN or infinite; remove those points first.")
    sigma = spacing(points) if scale is None else torch.full_like(points[:, 0], scale)
    log_scales = sigma.log()[:, None].repeat(1, 3)
    if normals is None:
        quats = torch.tensor([1.0, 0, 0, 0]).to(points).repeat(len(points), 1)
    else:
        quats = facing(torch.as_tensor(normals).to(points))
        log_scales[:, 2] += torch.tensor(FLATNESS).log()
    return make_cloud(points.clone(), log_scales, quats, opacity_logit, colors, sh_degree)


def spacing(points: Tensor) -> Tensor:
    """Mean distance [N] of points [N,3] to their three nearest others, within SCALE_LIMITS."""
    neighbours = min(4, len(points))
    if neighbours < 2:
        return points.new_full((len(points),), SCALE_LIMITS[1])
    places = points.cpu().double().numpy()
    distances, _ = cKDTree(places).query(places, neighbours)  # the nearest is the point itself
    return torch.from_numpy(distances[:, 1:].mean(1)).to(points).clamp(*SCALE_LIMITS)
