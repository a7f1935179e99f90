"""From Gaussians to a closed, coloured mesh: render depth all around, fuse it, take the zero level.

Silhouettes and colours are those of the cloud itself. The depth is that of a cloud made nearly
opaque and slightly larger: where light leaks between Gaussians the expected depth lies somewhere
between front and back, and a few such pixels drill tunnels into the fused volume (on a sphere of
5000 random Gaussians the Euler number is about -1000 without it, and 2 with it). Rendered depth is
that of the Gaussians' centres; the surface is most of a standard deviation nearer, about where the
silhouettes put it too.
"""

from __future__ import annotations

import math
from dataclasses import replace

import torch
from torch import Tensor

from ..cameras.pinhole import Cameras, sphere
from ..devices.native import apart
from ..devices.native.child import FUNCTIONS
from ..devices.pace import reached
from ..gaussians.cloud import SH_C0, Gaussians
from ..rasterizers.rasterize import render
from .bake import bake_colors, before_edges
from .cleanup import decimate, largest_components, taubin
from .mesh import Mesh
from .rasterize import depth_of
from .tsdf import FREE, blur, fuse

SOLID = 0.95  # opacity, for the depth, of the cloud's typical Gaussian
SHARPEN_MIN = 4  # for the depth, every Gaussian counts as if at least so many were in its place
# standard deviations from a Gaussian's centre to the surface; measured on shells and filled bodies
NEARER = 0.75
PIXELS = 4  # per standard deviation; a finer picture shows nothing more
ENLARGE = 1.2  # factor on the scales, for the depth
TRUNCATION = 3  # voxels; less leaves steps, more inflates thin parts
SEEN = 2  # voxels behind the mesh's depth at which a vertex still counts as seen
STRAY = 4.0  # in units of the cloud's root mean square radius; what lies further out is ignored
FOV = 40.0  # degrees
VIEWS_AT_ONCE = 8
FINE = 160**3  # grid points; of more, marching cubes would hold the server up for too long
FAINT = 0.05  # opacity below which a cloud shows nothing at all
CURE = "Optimize for more steps, or start from more opaque Gaussians."


def extract_surface(
    gaussians: Gaussians,
    resolution: int = 128,
    views: int = 64,
    image_size: int = 0,
    alpha_min: float = 0.5,
    smoothing: int = 5,
    faces: int = 0,
    component_share: float = 0.02,
    render_backend: str = "auto",
) -> Mesh:
    """The surface of the cloud as a mesh with vertex colours, facing outward, closed unless
    decimated; on the CPU.

    ``resolution``: grid points along the longest side. ``views``: renders all around, of
    ``image_size`` pixels (0: one or two per grid point, as fine as the Gaussians are).
    ``alpha_min``: a pixel more opaque than this shows the object, but never more than half of the
    highest opacity. ``smoothing``: rounds of Taubin smoothing. ``faces``: about so many triangles
    (0: all; needs fast-simplification). ``component_share``: pieces with less than this share of
    the largest one's area are dropped. Raises ValueError for settings out of range and for a cloud
    that shows no surface.
    """
    for name, value, low, high in (
        ("resolution", resolution, 16, 512),
        ("views", views, 6, 1000),
        ("image_size", image_size, 0, 4096),
        ("alpha_min", alpha_min, 0.01, 0.99),
        ("smoothing", smoothing, 0, 1000),
        ("faces", faces, 0, 100_000_000),
        ("component_share", component_share, 0, 1),
    ):
        if not low <= value <= high:
            raise ValueError(
                f"Extract surface: {name} is {value}; choose a value within {low}..{high}."
            )
    cloud = nearby(gaussians.check().map(lambda v: v.detach().float()))
    middle, half, radius = _extent(cloud)
    voxel = 2 * half / (resolution - 1)
    # The corners of the grid's cube may lie outside the pictures, the cloud does not.
    distance = 1.05 * radius / math.sin(math.radians(FOV / 2))
    size = image_size or _size(cloud, distance, resolution)
    cameras = sphere(views, distance, FOV, size, middle, cloud.device)
    with torch.no_grad():
        color, alpha, depth = _pictures(cloud, cameras, render_backend)
        densest = float(alpha.max())
        if densest < FAINT:
            raise ValueError(
                f"Extract surface: the cloud shows no surface: seen from {views} sides, it is at"
                f" most {densest:.2f} opaque, and {FAINT:g} is needed. {CURE}"
            )
        # of a run stopped early, its denser half is better than nothing
        alpha_min = min(alpha_min, 0.5 * densest)
        free = torch.where(alpha > alpha_min, depth, FREE)
        grid = fuse(free, cameras, middle - half, voxel, resolution, TRUNCATION * voxel)
        reached("surface", 0.0)
        vertices, triangles = _zero_level(blur(grid).cpu(), (middle - half).cpu(), voxel)
        reached("surface", 0.3)
        vertices, triangles = largest_components(vertices, triangles, component_share)
        if len(triangles) == 0:
            raise ValueError(f"Extract surface: the cloud encloses no volume. {CURE}")
        vertices = taubin(vertices, triangles, smoothing)
        if faces:
            reached("surface", 0.6)
            vertices, triangles = decimate(vertices, triangles, faces)
        mesh = Mesh(vertices, triangles, torch.zeros_like(vertices))
        positions, normals = vertices.to(cloud.device), mesh.vertex_normals.to(cloud.device)
        reached("colours", 0.0)
        # Not the depth that was fused: a soft cloud's lies up to a few voxels off the surface that
        # all views agree on.
        front = before_edges(depth_of(positions, triangles.to(cloud.device), cameras))
        colors = bake_colors(
            positions, normals, cameras, color, alpha, front, SEEN * voxel, alpha_min
        )
    return replace(mesh, colors=colors.cpu())


def nearby(cloud: Gaussians) -> Gaussians:
    """The cloud without Gaussians far away from the rest, which would take the grid's
    resolution.
    """
    weights = cloud.opacities / cloud.opacities.sum().clamp_min(1e-9)
    radii = (cloud.means - (weights[:, None] * cloud.means).sum(0)).norm(dim=-1)
    limit = STRAY * (weights * radii.square()).sum().sqrt() + cloud.scales.amax(-1)
    return cloud.map(lambda value: value[radii <= limit])


def _extent(cloud: Gaussians) -> tuple[Tensor, float, float]:
    """Centre [3], half the side of a cube and radius of a ball around it that hold everything to be
    seen.
    """
    faint = min(0.1, 0.5 * float(cloud.opacities.max()))
    # How far from its centre each one is more opaque than that; large hazy ones do not count.
    reach = (
        cloud.scales.amax(-1)
        * (2 * (cloud.opacities / faint).clamp_min(1e-9).log()).clamp_min(0).sqrt()
    )
    means, reach = cloud.means[reach > 0], reach[reach > 0, None]
    low, high = (means - reach).amin(0), (means + reach).amax(0)
    middle = (low + high) / 2
    radius = float(((means - middle).norm(dim=-1, keepdim=True) + reach).max())
    return middle, 0.5 * float((high - low).max()), radius


def _size(cloud: Gaussians, distance: float, resolution: int) -> int:
    """Pixels that resolve the finer quarter of the Gaussians."""
    sigma = float(torch.quantile(cloud.log_scales.mean(-1)[:10_000_000], 0.25).exp())
    return int(
        min(
            max(PIXELS * 2 * math.tan(math.radians(FOV / 2)) * distance / sigma, resolution),
            2 * resolution,
        )
    )


def _pictures(cloud: Gaussians, cameras: Cameras, backend: str) -> tuple[Tensor, Tensor, Tensor]:
    """Colour [V,H,W,3] on black, alpha [V,H,W] and depth [V,H,W] of the first thing seen."""
    solid = _solid(cloud)
    parts = []
    for start in range(0, len(cameras), VIEWS_AT_ONCE):
        reached("pictures", start / len(cameras))
        batch = cameras[start : start + VIEWS_AT_ONCE]
        rendering = render(cloud, batch, 0.0, backend, depth=False)
        first = render(solid, batch, 0.0, backend)
        thickness = first.color[..., 0] / first.alpha[..., 0].clamp_min(1e-6)
        parts.append((rendering.color, rendering.alpha[..., 0], first.depth[..., 0] - thickness))
    color, alpha, depth = (torch.cat(list(layer)) for layer in zip(*parts, strict=True))
    return color, alpha, depth


def _solid(cloud: Gaussians) -> Gaussians:
    """The cloud nearly opaque and slightly larger; its colour is the distance from centre to
    surface.
    """
    opacities = cloud.opacities.clamp_max(0.999)
    typical = float(opacities.square().sum() / opacities.sum().clamp_min(1e-9))
    times = max(SHARPEN_MIN, math.log1p(-SOLID) / math.log1p(-max(typical, 1e-4)))
    sharpened = -torch.expm1(times * torch.log1p(-opacities))
    thickness = NEARER * cloud.scales.amin(-1, keepdim=True).expand(
        -1, 3
    )  # exact for balls, and for flat ones seen from above
    return replace(
        cloud,
        opacity_logits=sharpened.clamp(1e-6, 0.9999).logit(),
        log_scales=cloud.log_scales + math.log(ENLARGE),
        sh=((thickness - 0.5) / SH_C0)[:, None],
    )


def _zero_level(grid: Tensor, low: Tensor, voxel: float) -> tuple[Tensor, Tensor]:
    """Vertices [M,3] and faces [F,3] facing outward; closed, as a layer of free space surrounds the
    grid.
    """
    padded = torch.nn.functional.pad(grid, (1, 1, 1, 1, 1, 1), value=1.0)
    if not bool((padded < 0).any()):
        raise ValueError(
            f"Extract surface: the views of the cloud do not agree on any volume. {CURE}"
        )
    call = apart if padded.numel() > FINE else lambda name, given: FUNCTIONS[name](given)
    found = call("march", {"volume": padded.numpy()})
    positions = low + voxel * (torch.from_numpy(found["vertices"]) - 1)
    return positions, torch.from_numpy(found["faces"])
