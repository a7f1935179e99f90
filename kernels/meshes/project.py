"""Pictures put onto a shape: what each camera sees of a surface takes the picture's colour."""

from __future__ import annotations

from dataclasses import replace

import torch
from torch import Tensor
from torch.nn import functional as F

from ..cameras.pinhole import Cameras
from ..gaussians.cloud import SH_C0, Gaussians
from ..rasterizers.rasterize import render
from .bake import before_edges, fill, gather
from .mesh import Mesh
from .rasterize import depth_of
from .texture import pad, texel_points

UNSEEN = ("keep", "nearest")
BEHIND = 0.01  # of the shape's radius; how far behind the depth a point still counts as seen
CLOUD_BEHIND = 0.15  # the same for the centres of Gaussians, which lie in depth
FULL = 0.1  # weight from which on a picture's colour replaces the old one; below it fades in
FINE = 512  # pixels of the depth at least: on a coarse one slopes hide themselves
RIM = 2  # pixels along the outline whose colours are mixed with the background


def project_onto_mesh(
    mesh: Mesh, images: Tensor, masks: Tensor | None, cameras: Cameras, unseen: str = "keep"
) -> tuple[Mesh, Tensor]:
    """The mesh in the pictures' colours where a picture sees it, and how much of each texel
    [H,W] (of a vertex [M] without texture) they decide, 0..1.

    images [R,H,W,3] sRGB 0..1, masks [R,H,W,1] 0..1 or None for all of them. Several pictures are
    mixed by how squarely they look at a place, cosine to the fourth, so that no seam is sharp; what
    is seen at grazing angles alone fades into the colour that was there. ``unseen``: what no
    picture sees keeps its colour, or is given that of the "nearest" place that one does. On the
    mesh's device. Raises ValueError for another word.
    """
    _check(unseen)
    device = mesh.vertices.device
    layers = _layers(images.to(device), masks, cameras)
    side = max(1, -(-FINE // min(cameras.width, cameras.height)))
    fine = cameras.resize((side * cameras.width, side * cameras.height)).to(device)
    depth = before_edges(depth_of(mesh.vertices, mesh.faces, fine))
    radius = float((mesh.vertices.amax(0) - mesh.vertices.amin(0)).norm() / 2)
    views = cameras.to(device)
    if mesh.texture is None:
        sums, weights = gather(
            mesh.vertices, mesh.vertex_normals, views, *layers, depth, BEHIND * radius
        )
        colors, share = _mixed(mesh.colors.float(), sums, weights, mesh.vertices, unseen)
        return replace(mesh, colors=colors, training=None), share[:, 0]
    size = max(mesh.texture.shape[:2])
    texture = mesh.texture.float()
    if texture.shape[0] != texture.shape[1]:
        texture = F.interpolate(texture.permute(2, 0, 1)[None], (size, size), mode="bilinear")
        texture = texture[0].permute(1, 2, 0)
    texels, _, points, normals = texel_points(mesh, size)
    sums, weights = gather(points, normals, views, *layers, depth, BEHIND * radius)
    flat = texture.reshape(size * size, 3).clone()
    flat[texels], found = _mixed(flat[texels], sums, weights, points, unseen)
    share = flat.new_zeros(size * size)
    share[texels] = found[:, 0]
    covered = torch.zeros(size * size, dtype=torch.bool, device=device)
    covered[texels] = True
    painted = pad(flat.view(size, size, 3).cpu(), covered.view(size, size).cpu()).to(device)
    return replace(mesh, texture=painted, training=None), share.view(size, size)


def project_onto_cloud(
    cloud: Gaussians,
    images: Tensor,
    masks: Tensor | None,
    cameras: Cameras,
    unseen: str = "keep",
) -> tuple[Gaussians, Tensor]:
    """The same of Gaussians whose centres a picture sees, and each one's share [N]. Colours that
    depend on the direction give way where they are replaced."""
    _check(unseen)
    layers = _layers(images.to(cloud.device), masks, cameras)
    views = cameras.to(cloud.device)
    with torch.no_grad():
        seen = render(cloud, views, 0.0)
    depth = torch.where(seen.alpha > 0.5, seen.depth, torch.inf)[..., 0]
    radius = float(cloud.means.std(0).norm())
    sums, weights = torch.zeros_like(cloud.means), cloud.means.new_zeros(len(cloud), 1)
    for place in range(len(views)):
        one = views[place]
        facing = F.normalize(one.positions - cloud.means, dim=-1)
        color, alpha = (layer[place : place + 1] for layer in layers)
        more = gather(
            cloud.means, facing, one, color, alpha, depth[place : place + 1], CLOUD_BEHIND * radius
        )
        sums, weights = sums + more[0], weights + more[1]
    before = 0.5 + SH_C0 * cloud.sh[:, 0]
    colors, share = _mixed(before, sums, weights, cloud.means, unseen)
    kept = 1 - share if unseen == "keep" else torch.zeros_like(share)
    sh = cloud.sh * kept[..., None]
    sh = torch.cat([((colors - 0.5) / SH_C0)[:, None], sh[:, 1:]], 1)
    return replace(cloud, sh=sh, training=None), share[:, 0]


def _layers(images: Tensor, masks: Tensor | None, cameras: Cameras) -> tuple[Tensor, Tensor]:
    """Colours [R,H,W,3] on black and opacities [R,H,W], without the rim of the outline."""
    if masks is None:
        return images, images.new_ones(images.shape[:3])
    inside = masks.to(images).permute(0, 3, 1, 2)
    inside = -F.max_pool2d(-inside, 2 * RIM + 1, 1, RIM)[:, 0]
    return images * inside[..., None], inside


def _mixed(
    before: Tensor, sums: Tensor, weights: Tensor, points: Tensor, unseen: str
) -> tuple[Tensor, Tensor]:
    """Colours [M,3] and how much of them a picture decides [M,1]."""
    share = (weights / FULL).clamp(0, 1)
    share = share * share * (3 - 2 * share)
    whole = weights >= FULL
    if unseen == "nearest" and bool(whole.any()):
        before = fill(points, sums, weights * whole)
    return torch.lerp(before, sums / weights.clamp_min(1e-9), share).clamp(0, 1), share


def _check(unseen: str) -> None:
    if unseen not in UNSEEN:
        raise ValueError(f"unseen is {unseen!r}; choose one of {', '.join(UNSEEN)}.")
