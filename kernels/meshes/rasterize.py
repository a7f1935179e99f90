"""One function that renders a triangle mesh differentiably, under the interface of the splats'
rasterizer.

Which triangle a pixel shows is found without gradient (`coverage`). What it shows there, and how
far a silhouette reaches into the pixel beside it, is computed again from the corners, so that
pictures pull at them: inside a triangle through the barycentric coordinates, at silhouettes through
the blend of neighbouring pixels (Laine et al. 2020, "Modular Primitives for High-Performance
Differentiable Rendering", section 3.6).
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from ..cameras.pinhole import Cameras
from ..rasterizers.rasterize import background_rows
from .coverage import cover
from .mesh import Mesh
from .raster import NEAR
from .texels import texels

SLACK = 0.02  # share of the distance by which depths may differ and still be one surface


@dataclass(frozen=True)
class MeshRendering:
    """V pictures of a mesh, differentiable with respect to its vertices and its colours or texture.

    Args:
        color: [V,H,W,3] composited on the background, silhouettes antialiased
        alpha: [V,H,W,1] 0..1, antialiased
        depth: [V,H,W,1] distance along the optical axis, world units; 0 where there is nothing
        normal: [V,H,W,3] unit length in world space, smooth over the faces; 0 where there is
            nothing
    """

    color: Tensor
    alpha: Tensor
    depth: Tensor
    normal: Tensor


def render_mesh(
    mesh: Mesh,
    cameras: Cameras,
    background: Tensor | float = 0.5,
    backend: str = "auto",
    antialias: bool = True,
    edges: tuple[Tensor, Tensor] | None = None,
) -> MeshRendering:
    """Render the mesh, unlit and from both sides, from every camera; in the colours of its texture
    where it has one.

    ``background``: a grey, a colour [3] or one colour per camera [V,3]. ``backend`` finds the
    triangles: one of `coverage.BACKENDS`. ``edges``: what `edges_of` says of the faces, where it is
    known already. Triangles that reach behind a camera are left out. Raises ValueError for tensors,
    backgrounds, devices or backend names that do not fit together.
    """
    if cameras.viewmats.device != mesh.vertices.device:
        raise ValueError(
            f"cameras are on {cameras.viewmats.device}, the mesh on {mesh.vertices.device}; use"
            " cameras.to(...) first."
        )
    backdrop = background_rows(background, mesh.vertices, len(cameras))
    rotation, shift = (
        cameras.viewmats[:, :3, :3].to(mesh.vertices),
        cameras.viewmats[:, None, :3, 3].to(mesh.vertices),
    )
    positions = mesh.vertices @ rotation.transpose(1, 2) + shift  # [V,M,3] in camera space
    with torch.no_grad():
        face = cover(positions.detach(), mesh.faces, cameras, backend)  # [V,H,W]
    views, rows, columns = (face >= 0).nonzero(as_tuple=True)
    triangles = mesh.faces[face[views, rows, columns]]  # [P,3] vertices
    rays = pixel_rays(cameras, views, rows, columns).to(mesh.vertices)
    weights = barycentric(rays, positions[views[:, None], triangles])

    def scatter(values: Tensor) -> Tensor:
        """[P,C] at the covered pixels -> [V,H,W,C], 0 elsewhere."""
        image = values.new_zeros(*face.shape, values.shape[1])
        return image.index_put((views, rows, columns), values)

    def interpolate(attribute: Tensor) -> Tensor:
        return (weights[..., None] * attribute).sum(1)

    alpha = scatter(torch.ones_like(weights[:, :1]))
    if mesh.texture is None or mesh.uvs is None:
        paint = interpolate(mesh.colors[triangles])
    else:
        paint = texels(mesh.texture, interpolate(mesh.uvs[triangles]))
    color = scatter(paint) + (1 - alpha) * backdrop
    depth = scatter(interpolate(positions[views[:, None], triangles])[:, 2:])
    normal = scatter(
        torch.nn.functional.normalize(interpolate(mesh.vertex_normals[triangles]), dim=-1)
    )
    if antialias:
        shown_at = torch.where(face >= 0, depth.detach()[..., 0], torch.inf)
        blended = smooth_silhouettes(
            torch.cat([color, alpha], -1),
            shown_at,
            positions,
            edges or edges_of(mesh.faces),
            mesh,
            cameras,
        )
        color, alpha = blended[..., :3], blended[..., 3:]
    return MeshRendering(color, alpha, depth, normal)


@torch.no_grad()
def depth_of(vertices: Tensor, faces: Tensor, cameras: Cameras, backend: str = "auto") -> Tensor:
    """The depth [V,H,W] of what is in front, along the optical axis, world units; inf where there
    is nothing.

    vertices [M,3] world units, faces [F,3]; ``backend`` as for `render_mesh`.
    """
    matrices = cameras.viewmats.to(vertices)
    positions = vertices @ matrices[:, :3, :3].transpose(1, 2) + matrices[:, None, :3, 3]
    face = cover(positions, faces, cameras, backend)
    views, rows, columns = (face >= 0).nonzero(as_tuple=True)
    corners = positions[views[:, None], faces[face[views, rows, columns]]]
    weights = barycentric(pixel_rays(cameras, views, rows, columns).to(vertices), corners)
    depth = vertices.new_full(face.shape, torch.inf)
    return depth.index_put((views, rows, columns), (weights * corners[..., 2]).sum(1))


def pixel_rays(cameras: Cameras, views: Tensor, rows: Tensor, columns: Tensor) -> Tensor:
    """Directions [P,3] in camera space, z = 1, through the centres of pixels given by index [P]."""
    matrix = cameras.intrinsics[views]
    x = (columns + 0.5 - matrix[:, 0, 2]) / matrix[:, 0, 0]
    y = (rows + 0.5 - matrix[:, 1, 2]) / matrix[:, 1, 1]
    return torch.stack([x, y, torch.ones_like(x)], -1)


def barycentric(rays: Tensor, corners: Tensor) -> Tensor:
    """Weights [P,3] of the corners [P,3,3] (camera space) where rays [P,3] from the origin meet
    their plane.

    The ray is a positive multiple of sum w_i corner_i with w_i = ray . (corner_j x corner_k).
    """
    a, b, c = corners.unbind(1)
    raw = torch.stack(
        [(rays * torch.linalg.cross(p, q)).sum(-1) for p, q in ((b, c), (c, a), (a, b))], -1
    )
    total = raw.sum(-1, keepdim=True)
    return raw / torch.where(total.abs() < 1e-12, 1e-12, total)


def edges_of(faces: Tensor) -> tuple[Tensor, Tensor]:
    """The edges [E,2] as vertices, the faces [E,2] on their two sides; -1 at borders or where more
    than two meet.
    """
    sides = torch.stack([faces, faces.roll(-1, 1)], -1).view(-1, 2).sort(-1).values
    keys, number, count = torch.unique(
        sides[:, 0] * 2**31 + sides[:, 1], return_inverse=True, return_counts=True
    )
    edges = torch.stack([keys // 2**31, keys % 2**31], -1)
    owner = torch.arange(len(faces), device=faces.device).repeat_interleave(3)
    first = torch.full_like(count, len(faces)).scatter_reduce(0, number, owner, "amin")
    last = torch.zeros_like(count).scatter_reduce(0, number, owner, "amax")
    return edges, torch.stack([first, torch.where(count == 2, last, -1)], -1)


def smooth_silhouettes(
    image: Tensor,
    depth: Tensor,
    positions: Tensor,
    known: tuple[Tensor, Tensor],
    mesh: Mesh,
    cameras: Cameras,
) -> Tensor:
    """[V,H,W,C] with neighbouring pixels blended where a silhouette passes between their centres.

    Silhouettes are the edges between a face that shows its front and one that shows its back. Where
    one crosses the line between the centres of two neighbours, in front of what the farther one
    shows, its place there says how far the nearer surface reaches, and by that share one of the two
    takes of the other. Edges are followed, not the faces that pixels show: those may be smaller
    than a pixel. depth [V,H,W] (inf: nothing), positions [V,M,3] in camera space.
    """
    edges, edge_faces = known
    with torch.no_grad():
        corners = positions[:, mesh.faces]  # [V,F,3,3]
        # [V,F]
        front = (
            corners[..., 0, :] * torch.linalg.cross(corners[..., 1, :], corners[..., 2, :])
        ).sum(-1) > 0
        silhouette = (front[:, edge_faces[:, 0]] != front[:, edge_faces[:, 1].clamp_min(0)]) | (
            edge_faces[:, 1] < 0
        )
        ahead = positions[..., 2][:, edges].amin(-1) > NEAR
        views, lines = (silhouette & ahead).nonzero(as_tuple=True)  # [S]
    ends = project(positions, cameras)[views[:, None], edges[lines]]  # [S,2,2] pixels
    distances = positions.detach()[views[:, None], edges[lines], 2]  # [S,2]
    run = (ends.detach()[:, 1] - ends.detach()[:, 0]).abs()
    steep = run[:, 1] >= run[:, 0]
    result = image
    # between neighbours in a row for steep edges, else in a column
    for axis, mine in ((0, steep), (1, ~steep)):
        result = result + _exchange(image, depth, views[mine], ends[mine], distances[mine], axis)
    return result


def _exchange(
    image: Tensor, depth: Tensor, views: Tensor, ends: Tensor, distances: Tensor, axis: int
) -> Tensor:
    """What pixels take of their neighbours along ``axis`` (0: x, 1: y), [V,H,W,C]."""
    height, width = depth.shape[1:]
    lanes, length = (height, width) if axis == 0 else (width, height)
    with torch.no_grad():  # every row (or column) of centres that the edge crosses
        across = ends[..., 1 - axis]
        low = (across.amin(-1) - 0.5).ceil().clamp(0, lanes).long()
        high = (across.amax(-1) - 0.5).floor().clamp(-1, lanes - 1).long()
        counts = (high - low + 1).clamp_min(0)
        edge = torch.arange(len(ends), device=ends.device).repeat_interleave(counts)
        lane = (
            low[edge]
            + torch.arange(len(edge), device=ends.device)
            - (counts.cumsum(0) - counts)[edge]
        )
    begin, end = ends[edge].unbind(1)  # [K,2]
    rise = end[:, 1 - axis] - begin[:, 1 - axis]
    fraction = (lane + 0.5 - begin[:, 1 - axis]) / torch.where(rise.abs() < 1e-9, 1e-9, rise)
    # in pixels from the first centre
    crossing = begin[:, axis] + fraction * (end[:, axis] - begin[:, axis]) - 0.5
    with torch.no_grad():
        first = crossing.floor().long()
        z = distances[edge, 0] + fraction * (distances[edge, 1] - distances[edge, 0])
        inside = (first >= 0) & (first < length - 1)
        first = first.clamp(0, length - 2)

        def at(step: int) -> tuple[Tensor, Tensor, Tensor]:
            return (
                (views[edge], lane, first + step)
                if axis == 0
                else (views[edge], first + step, lane)
            )

        one, two = depth[at(0)], depth[at(1)]
        # An edge belongs to the nearer surface where it lies about as deep; behind it the farther
        # one begins.
        nearer, farther = torch.minimum(one, two), torch.maximum(one, two)
        usable = inside & nearer.isfinite() & (z < nearer + SLACK * z) & (farther > z + SLACK * z)
        reach = torch.where(one <= two, crossing - first, first + 1 - crossing).clamp(0, 1)
        pair = (views[edge] * lanes + lane) * length + first
        kept = _outermost(pair, torch.where(usable, reach, -1.0), len(depth) * lanes * length)
    if len(kept) == 0:
        return torch.zeros_like(image)
    here, there, is_first = (
        [i[kept] for i in at(0)],
        [i[kept] for i in at(1)],
        (one <= two)[kept][:, None],
    )
    reach = torch.where(
        is_first[:, 0], crossing[kept] - first[kept], first[kept] + 1 - crossing[kept]
    )[:, None]
    left, right = image[tuple(here)], image[tuple(there)]
    difference = torch.where(is_first, left - right, right - left)  # nearer minus farther
    # what the farther pixel shows of the nearer surface
    spill = (reach - 0.5).clamp_min(0) * difference
    lack = (reach - 0.5).clamp_max(0) * difference  # and the nearer pixel of the farther one
    change = torch.zeros_like(image).index_put(
        tuple(here), torch.where(is_first, lack, spill), accumulate=True
    )
    return change.index_put(tuple(there), torch.where(is_first, spill, lack), accumulate=True)


def _outermost(pair: Tensor, reach: Tensor, count: int) -> Tensor:
    """Of the crossings between each two neighbours the one of the largest reach; those below 0 do
    not count.
    """
    largest = reach.new_full((count,), -1.0).scatter_reduce(0, pair, reach, "amax")
    best = (reach >= 0) & (reach == largest[pair])
    index = torch.arange(len(pair), device=pair.device)
    first = torch.full((count,), len(pair), device=pair.device).scatter_reduce(
        0, pair[best], index[best], "amin"
    )
    return index[best & (first[pair] == index)]


def project(positions: Tensor, cameras: Cameras) -> Tensor:
    """Camera-space positions [V,M,3] -> pixels [V,M,2]; meaningless behind the camera."""
    matrix = cameras.intrinsics.to(positions)
    z = positions[..., 2:].clamp_min(1e-6)
    return positions[..., :2] / z * matrix[:, None, [0, 1], [0, 1]] + matrix[:, None, :2, 2]
