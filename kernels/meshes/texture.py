"""A texture for a mesh, baked from pictures of the Gaussians it was made of.

Every texel is a point of the surface. Its colour is the mean over the views that see it, as for
vertices (`bake`), but the depth that decides on this is the mesh's own. The charts then grow into
the gaps between them, so that filtering and coarser levels find no foreign colour beyond a seam.
"""

from __future__ import annotations

import math
from dataclasses import replace

import torch
from scipy.ndimage import distance_transform_edt
from torch import Tensor

from ..cameras.pinhole import sphere
from ..devices.pace import reached
from ..gaussians.cloud import Gaussians
from ..rasterizers.rasterize import render
from .bake import before_edges, fill, gather
from .mesh import Mesh
from .raster import cover
from .rasterize import depth_of
from .surface import FOV, VIEWS_AT_ONCE, nearby
from .unwrap import unwrap

SIZES = (64, 4096)  # texels
PICTURES = (256, 1024)  # pixels of a view, one for two texels within these limits
# of the mesh's radius; how far behind the mesh's depth a texel still counts as seen
TOLERANCE = 0.01


def add_texture(
    mesh: Mesh,
    gaussians: Gaussians,
    size: int = 1024,
    views: int = 64,
    image_size: int = 0,
    alpha_min: float = 0.5,
    render_backend: str = "auto",
) -> Mesh:
    """The mesh with texture coordinates and a texture [size,size,3] in the colours of the
    Gaussians; on the CPU.

    ``mesh``: of `extract_surface`, in the world of the cloud. ``size``: texels, 64..4096.
    ``views``: pictures from all around, of ``image_size`` pixels (0: half of ``size``, within
    256..1024). ``alpha_min``: a pixel more opaque than this shows the object, but never more than
    half of the highest opacity. Works on the cloud's device. Raises ValueError for settings out of
    range and if the package xatlas is missing.
    """
    for name, value, low, high in (
        ("size", size, *SIZES),
        ("views", views, 6, 1000),
        ("image_size", image_size, 0, 4096),
        ("alpha_min", alpha_min, 0.01, 0.99),
    ):
        if not low <= value <= high:
            raise ValueError(
                f"Add texture: {name} is {value}; choose a value within {low}..{high}."
            )
    with torch.no_grad():
        cloud = nearby(gaussians.check().map(lambda value: value.detach().float()))
        reached("unwrapping", 0.0)
        flat = unwrap(mesh, size).map(lambda value: value.to(cloud.device))
        reached("texture", 0.0)
        texels, _, points, normals = texel_points(flat, size)
        pixels = image_size or min(max(size // 2, PICTURES[0]), PICTURES[1])
        sums, weights = _look(
            flat, cloud, points, normals, views, pixels, alpha_min, render_backend
        )
        texture = points.new_zeros(size * size, 3)
        texture[texels] = fill(points, sums, weights)
        reached("texture", 1.0)
        covered = torch.zeros(size * size, dtype=torch.bool, device=texels.device)
        covered[texels] = True
        texture = pad(texture.view(size, size, 3).cpu(), covered.view(size, size).cpu())
    return replace(flat.map(lambda value: value.cpu()), texture=texture).check()


def pad(texture: Tensor, covered: Tensor) -> Tensor:
    """The texture [H,W,3] with the colour of the nearest covered texel ([H,W] bool) wherever none
    is covered.
    """
    if not bool(covered.any()):
        return texture
    rows, columns = distance_transform_edt(
        ~covered.numpy(), return_distances=False, return_indices=True
    )
    return texture[torch.from_numpy(rows).long(), torch.from_numpy(columns).long()]


def texel_points(mesh: Mesh, size: int) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    """Texels [K] (row * size + column) in which a triangle lies, which one [K], their positions [K,3]
    and smooth normals [K,3]; ``mesh`` with texture coordinates."""
    assert mesh.uvs is not None
    # The slack closes hairlines between neighbours that rounding leaves.
    parts = list(cover(mesh.uvs[mesh.faces] * size, size, size, slack=1e-4))
    face, pixel, weights = (torch.cat(layer) for layer in zip(*parts, strict=True))
    # on an edge always the same one
    owner = face.new_full((size * size,), -1).scatter_reduce(0, pixel, face, "amax")
    mine = owner[pixel] == face
    texels, face, weights = pixel[mine], face[mine], weights[mine, :, None]
    corners = mesh.faces[face]
    normals = torch.nn.functional.normalize((weights * mesh.vertex_normals[corners]).sum(1), dim=-1)
    return texels, face, (weights * mesh.vertices[corners]).sum(1), normals


def _look(
    mesh: Mesh,
    cloud: Gaussians,
    points: Tensor,
    normals: Tensor,
    views: int,
    image_size: int,
    alpha_min: float,
    backend: str,
) -> tuple[Tensor, Tensor]:
    """Sums and weights of `gather` over views all around the mesh, a few at a time."""
    low, high = mesh.vertices.amin(0), mesh.vertices.amax(0)
    middle = (low + high) / 2
    radius = float((mesh.vertices - middle).norm(dim=-1).max())
    distance = 1.05 * radius / math.sin(math.radians(FOV / 2))
    cameras = sphere(views, distance, FOV, image_size, middle, cloud.device)
    glance = render(cloud, cameras[:: max(1, views // 8)].resize(64), 0.0, backend, depth=False)
    alpha_min = min(alpha_min, 0.5 * float(glance.alpha.max()))
    sums, weights = torch.zeros_like(points), points.new_zeros(len(points), 1)
    for start in range(0, views, VIEWS_AT_ONCE):
        reached("texture", start / views)
        batch = cameras[start : start + VIEWS_AT_ONCE]
        rendering = render(cloud, batch, 0.0, backend, depth=False)
        depth = before_edges(depth_of(mesh.vertices, mesh.faces, batch))
        more = gather(
            points,
            normals,
            batch,
            rendering.color,
            rendering.alpha[..., 0],
            depth,
            TOLERANCE * radius,
            alpha_min,
        )
        sums += more[0]
        weights += more[1]
    return sums, weights
