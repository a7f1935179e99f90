"""Colours for points of a surface, from pictures of the object."""

from __future__ import annotations

import torch
from scipy.spatial import cKDTree
from torch import Tensor

from ..cameras.pinhole import Cameras
from ..devices.pace import reached

# of the cosine between normal and line of sight: views from the front outweigh grazing ones
POWER = 4
COSINE_MIN = 0.15
NEIGHBOURS = 1 << 18  # points at most among which that of an unseen one is looked for


def bake_colors(
    vertices: Tensor,
    normals: Tensor,
    cameras: Cameras,
    color: Tensor,
    alpha: Tensor,
    depth: Tensor,
    tolerance: float,
    alpha_min: float = 0.5,
) -> Tensor:
    """Vertex colours [M,3] 0..1, the mean over the views that see a vertex, weighted by the angle.

    vertices [M,3] world units, normals [M,3] unit length; color [V,H,W,3] rendered on black, alpha
    and depth [V,H,W]. A view sees a vertex that faces it and lies no more than ``tolerance`` world
    units behind the depth there. What no view sees takes the colour of the nearest vertex seen;
    grey if there is none.
    """
    sums, weights = gather(vertices, normals, cameras, color, alpha, depth, tolerance, alpha_min)
    return fill(vertices, sums, weights)


def gather(
    points: Tensor,
    normals: Tensor,
    cameras: Cameras,
    color: Tensor,
    alpha: Tensor,
    depth: Tensor,
    tolerance: float,
    alpha_min: float = 0.5,
) -> tuple[Tensor, Tensor]:
    """What the views say about points of a surface: weighted sums of colours [M,3] and the weights
    [M,1].

    Arguments as for `bake_colors`; sums and weights of several calls may be added before `fill`.
    """
    sums = torch.zeros_like(points)
    weights = points.new_zeros(len(points), 1)
    size = torch.tensor([cameras.width, cameras.height]).to(points)
    layers = torch.cat([color, alpha[..., None]], -1).permute(0, 3, 1, 2)
    for view, position in enumerate(cameras.positions):
        reached()
        # The sums only where a view can see: half of the points or more face away.
        towards = torch.nn.functional.normalize(position - points, dim=-1)
        facing = torch.nonzero((towards * normals).sum(-1) > COSINE_MIN)[:, 0]
        cosine = (towards[facing] * normals[facing]).sum(-1)
        camera = points[facing] @ cameras.viewmats[view, :3, :3].T + cameras.viewmats[view, :3, 3]
        z = camera[:, 2].clamp_min(1e-6)
        intrinsics = cameras.intrinsics[view]
        pixel = camera[:, :2] / z[:, None] * intrinsics[[0, 1], [0, 1]] + intrinsics[:2, 2]
        grid = (2 * pixel / size - 1)[None, None]
        picture, opacity = _sample(layers[view], grid, "bilinear").split([3, 1], 1)
        near = _sample(depth[view, None], grid, "nearest")[:, 0]
        visible = (z < near + tolerance) & (opacity[:, 0] > alpha_min)
        weight = torch.where(visible, cosine**POWER, 0.0)[:, None]
        sums[facing] += weight * picture / opacity.clamp_min(alpha_min)
        weights[facing] += weight
    return sums, weights


def fill(points: Tensor, sums: Tensor, weights: Tensor) -> Tensor:
    """Colours [M,3] 0..1 from the sums [M,3] and weights [M,1] of `gather`.

    A point [3] that no view sees takes the colour of the nearest one seen; grey if there is none.
    """
    covered = weights[:, 0] > 0
    colors = torch.where(covered[:, None], sums / weights.clamp_min(1e-9), 0.5)
    if bool(covered.any()) and not bool(covered.all()):
        coordinates = points.cpu().numpy()
        mask = covered.cpu().numpy()
        # of millions of texels every few will do
        near = slice(None, None, -(-int(mask.sum()) // NEIGHBOURS))
        _, nearest = cKDTree(coordinates[mask][near]).query(coordinates[~mask], workers=-1)
        colors[~covered] = colors[covered][near][torch.from_numpy(nearest).to(colors.device)]
    return colors.clamp(0, 1)


def before_edges(depth: Tensor) -> Tensor:
    """The least depth [V,H,W] of a pixel and its neighbours: beside an edge pictures mix what is
    before and behind.
    """
    return -torch.nn.functional.max_pool2d(-depth[:, None], 3, 1, 1)[:, 0]


def _sample(image: Tensor, grid: Tensor, mode: str) -> Tensor:
    """[C,H,W] at the M points of the grid [1,1,M,2] -> [M,C]; 0 outside."""
    return torch.nn.functional.grid_sample(image[None], grid, mode, align_corners=False)[0, :, 0].T
