"""Exact pictures of toys by sphere tracing, and their exact meshes."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from ..cameras.pinhole import Cameras
from .captions import COLORS, FINISHES, Caption
from .roles import ACCENTS, MAIN, ROLES
from .shapes import Shape, shape

BOUND = 0.75  # every toy lies inside this ball around the origin, world units
# direction to the light, fixed in the world: colours look alike from all sides
_KEY_LIGHT = (0.45, 0.72, 0.53)
_AMBIENT, _SKY, _KEY = 0.44, 0.24, 0.32  # sum 1: no picture is over-exposed


@dataclass(frozen=True)
class Truth:
    """What a toy looks like from V cameras, each pixel the mean of its samples.

    Args:
        color: [V,H,W,3] sRGB 0..1 on the background
        alpha: [V,H,W,1] covered share of the pixel
        depth: [V,H,W,1] distance along the optical axis, mean over the covered samples, 0 where
            none
        normal: [V,H,W,3] world space, unit length where covered
    """

    color: Tensor
    alpha: Tensor
    depth: Tensor
    normal: Tensor


@dataclass(frozen=True)
class Layers:
    """Light weights per pixel: a picture in any colours is a weighted sum of these (Lambert shading
    is linear).

    Args:
        main: [V,H,W] light on the parts that take the caption's colour
        second: [V,H,W,3] its share inside stripes, checks, dots
        fixed: [V,H,W,3] light of the accents
        alpha: [V,H,W]
        depth: [V,H,W]
        normal: [V,H,W,3]
    """

    main: Tensor
    second: Tensor
    fixed: Tensor
    alpha: Tensor
    depth: Tensor
    normal: Tensor

    def paint(self, caption: Caption, background: float | Tensor) -> Tensor:
        """The picture [V,H,W,3] in the caption's colours. A caption without a colour is painted
        gray.
        """
        first = self.main.new_tensor(COLORS[caption.color or "gray"])
        color = self.fixed + self.main[..., None] * first
        if caption.second:
            mask = self.second[..., FINISHES.index(caption.finish) - 1, None]
            color = color + mask * (self.main.new_tensor(COLORS[caption.second]) - first)
        return color + (1 - self.alpha[..., None]) * background


def patterns(points: Tensor) -> Tensor:
    """points [...,3] -> [...,3] bool: inside a stripe, a check, a dot. Solid textures, the same
    from every view.
    """
    stripe = torch.sin(points[..., 1] * (2 * torch.pi / 0.2)) > 0
    check = (torch.floor((points + 0.01) / 0.16).sum(-1) % 2) == 0
    cell = 0.22  # dots: balls of a body-centred lattice
    near = torch.minimum(
        ((points / cell) - torch.round(points / cell)).norm(dim=-1),
        ((points / cell + 0.5) - torch.round(points / cell + 0.5)).norm(dim=-1),
    )
    return torch.stack([stripe, check, near * cell < 0.075], -1)


def camera_rays(cameras: Cameras, supersample: int) -> tuple[Tensor, Tensor, Tensor]:
    """Origins [V,1,3], unit directions [V,P,3] and the camera axis [V,1,3], samples ordered row by
    row.
    """
    view = cameras.viewmats
    h, w = cameras.height * supersample, cameras.width * supersample
    y, x = torch.meshgrid(
        (torch.arange(h, device=view.device) + 0.5) / supersample,
        (torch.arange(w, device=view.device) + 0.5) / supersample,
        indexing="ij",
    )
    k = cameras.intrinsics
    dx = (x.reshape(1, -1) - k[:, 0, 2, None]) / k[:, 0, 0, None]
    dy = (y.reshape(1, -1) - k[:, 1, 2, None]) / k[:, 1, 1, None]
    # camera to world: R^T, rows on the left
    rays = torch.stack([dx, dy, torch.ones_like(dx)], -1) @ view[:, :3, :3]
    origins = -(view[:, :3, 3][:, None] @ view[:, :3, :3])
    return origins, torch.nn.functional.normalize(rays, dim=-1), view[:, 2, :3][:, None]


def lambert(normal: Tensor) -> Tensor:
    """Light [...] on a surface with unit normals [...,3]."""
    light = torch.nn.functional.normalize(normal.new_tensor(_KEY_LIGHT), dim=0)
    return _AMBIENT + _SKY * (0.5 + 0.5 * normal[..., 1]) + _KEY * (normal @ light).clamp_min(0)


def trace(
    toy: Shape, origins: Tensor, directions: Tensor, steps: int = 96, tolerance: float = 4e-4
) -> tuple[Tensor, Tensor]:
    """Sphere tracing (Hart 1996). origins, directions [P,3] -> hit [P] bool, distance along the ray
    [P] (0: a miss).
    """
    b = (origins * directions).sum(-1)
    inside = b * b - (origins * origins).sum(-1) + BOUND * BOUND
    hit, t = torch.zeros_like(inside, dtype=torch.bool), torch.zeros_like(inside)
    active = torch.nonzero(inside > 0)[:, 0]
    root = inside[active].sqrt()
    travelled, end = (-b[active] - root).clamp_min(0), -b[active] + root
    for _ in range(steps):
        d = toy.distance(origins[active] + travelled[:, None] * directions[active])
        arrived = d < tolerance
        hit[active[arrived]], t[active[arrived]] = True, travelled[arrived]
        travelled = travelled + d
        keep = ~arrived & (travelled < end)
        active, travelled, end = active[keep], travelled[keep], end[keep]
        if not len(active):
            break
    return hit, t


def render_layers(category: str, cameras: Cameras, supersample: int = 2) -> Layers:
    """Trace one category from V cameras. ``supersample`` squared samples per pixel."""
    toy = shape(category)
    origins, rays, axis = camera_rays(cameras, supersample)
    v, p = rays.shape[:2]
    start, rays = origins.expand(v, p, 3).reshape(-1, 3), rays.reshape(-1, 3)
    hit, t = trace(toy, start, rays)
    points = start[hit] + t[hit, None] * rays[hit]
    normal, role = toy.normals(points), toy.roles(points)
    shade = lambert(normal)
    palette = points.new_tensor([(0.0, 0.0, 0.0) if r == MAIN else ACCENTS[r] for r in ROLES])
    main = shade * (role == ROLES.index(MAIN))
    axial = t[hit] * (rays[hit] * axis.expand(v, p, 3).reshape(-1, 3)[hit]).sum(-1)
    samples = torch.cat(
        [main[:, None], main[:, None] * patterns(points), shade[:, None] * palette[role],
         torch.ones_like(main)[:, None], axial[:, None], normal], 1
    )  # fmt: skip
    flat = samples.new_zeros(v * p, samples.shape[1])
    flat[hit] = samples
    h, w, s = cameras.height, cameras.width, supersample
    mean = flat.view(v, h, s, w, s, -1).mean((2, 4))
    alpha = mean[..., 7]
    return Layers(
        main=mean[..., 0], second=mean[..., 1:4], fixed=mean[..., 4:7], alpha=alpha,
        depth=mean[..., 8] / alpha.clamp_min(1e-6), normal=torch.nn.functional.normalize(mean[..., 9:12], dim=-1),
    )  # fmt: skip


def render_truth(
    caption: Caption, cameras: Cameras, background: float | Tensor = 0.5, supersample: int = 3
) -> Truth:
    """The exact picture of a caption's toy: see `Truth`. ``background`` is a grey level, [3] or
    [V,1,1,3].
    """
    layers = render_layers(caption.category, cameras, supersample)
    return Truth(
        layers.paint(caption, background),
        layers.alpha[..., None],
        layers.depth[..., None],
        layers.normal,
    )
