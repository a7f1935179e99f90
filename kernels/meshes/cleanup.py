"""What turns marching-cubes output into a mesh to look at: fewer pieces, fewer steps, fewer
triangles.
"""

from __future__ import annotations

import importlib.util

import numpy as np
import torch
from scipy.sparse import coo_matrix
from scipy.sparse.csgraph import connected_components
from scipy.spatial import cKDTree
from torch import Tensor

from ..devices.native import apart
from ..devices.native.child import FUNCTIONS
from ..devices.pace import reached
from .mesh import Mesh, places_of

MANY = 200_000  # triangles; reducing more would hold the server up for too long


def largest_components(vertices: Tensor, faces: Tensor, fraction: float) -> tuple[Tensor, Tensor]:
    """The connected pieces with at least ``fraction`` of the largest one's area; cavities inside a
    body are filled.

    vertices [M,3], faces [F,3] facing outward; returns the same, without unused vertices, maybe
    with 0 faces.
    """
    edges = faces[:, [0, 1, 1, 2]].reshape(-1, 2).cpu().numpy()
    graph = coo_matrix((np.ones(len(edges), np.int8), edges.T), (len(vertices), len(vertices)))
    count, labels = connected_components(graph, directed=False)
    piece = torch.from_numpy(labels).long()[faces[:, 0].cpu()]
    a, b, c = vertices.double().cpu()[faces.cpu()].unbind(1)
    crosses = torch.linalg.cross(b - a, c - a)
    area = torch.zeros(count, dtype=torch.float64).index_add_(0, piece, crosses.norm(dim=-1))
    volume = torch.zeros(count, dtype=torch.float64).index_add_(
        0, piece, (a * torch.linalg.cross(b, c)).sum(-1)
    )
    area[volume <= 0] = 0  # a surface that faces inward bounds a cavity
    kept = (area >= fraction * area.max()) & (area > 0)
    return _compact(vertices, faces[kept[piece].to(faces.device)])


def taubin(
    vertices: Tensor, faces: Tensor, rounds: int, shrink: float = 0.5, grow: float = 0.53
) -> Tensor:
    """Smoothed vertices [M,3]: ``rounds`` of shrinking and growing steps (Taubin 1995), which keep
    the volume.
    """
    edges = torch.cat([faces[:, [0, 1]], faces[:, [1, 2]], faces[:, [2, 0]]])
    edges = torch.cat([edges, edges.flip(1)])
    degree = vertices.new_zeros(len(vertices), 1).index_add_(
        0, edges[:, 0], vertices.new_ones(len(edges), 1)
    )
    for number, step in enumerate([shrink, -grow] * rounds):
        reached("smoothing", number / (2 * rounds))
        neighbours = torch.zeros_like(vertices).index_add_(0, edges[:, 0], vertices[edges[:, 1]])
        vertices = vertices + step * (neighbours / degree.clamp_min(1) - vertices)
    return vertices


def decimate(vertices: Tensor, faces: Tensor, count: int) -> tuple[Tensor, Tensor]:
    """About ``count`` triangles by quadric edge collapse (fast-simplification); more where fewer
    would tear the mesh.

    A closed mesh may get pinched: edges that four triangles share.
    Raises ValueError if the package fast-simplification is missing.

    vertices [M,3], faces [F,3] -> the same of fewer.
    """
    if len(faces) <= count:
        return vertices, faces
    if importlib.util.find_spec("fast_simplification") is None:
        raise ValueError(
            f"Reducing the mesh to {count} triangles needs the package fast-simplification. Install"
            " it with 'pip install fast-simplification', or set the number of triangles to 0 to"
            " keep all."
        )
    reached("reducing")
    given = {
        "points": vertices.cpu().double().numpy(),
        "triangles": faces.cpu().numpy().astype(np.int32),
        "count": np.array(count),
    }
    found = apart("simplify", given) if len(faces) > MANY else FUNCTIONS["simplify"](given)
    fewer = torch.from_numpy(np.asarray(found["triangles"], np.int64)).to(faces.device)
    return _compact(torch.from_numpy(found["points"]).to(vertices), fewer)


def simplify(mesh: Mesh, count: int) -> Mesh:
    """`decimate` for a mesh, on the CPU; each vertex takes the colour of the nearest one before.

    The mesh itself if it has no more than ``count`` triangles. Raises ValueError as `decimate`.
    """
    vertices, faces = decimate(mesh.vertices.cpu(), mesh.faces.cpu(), count)
    if len(faces) == len(mesh.faces):
        return mesh
    _, nearest = cKDTree(mesh.vertices.cpu().numpy()).query(vertices.numpy())
    return Mesh(vertices, faces, mesh.colors.cpu()[torch.from_numpy(nearest)])


def merge_positions(vertices: Tensor) -> tuple[Tensor, Tensor]:
    """The number of its place for each vertex [M], in the order they come, and the first vertex of
    each place [W].
    """
    number = places_of(vertices)
    index, count = (
        torch.arange(len(number), device=number.device),
        int(number.max()) + 1 if len(number) else 0,
    )
    first = torch.full_like(index[:count], len(number)).scatter_reduce(0, number, index, "amin")
    order = first.argsort()  # as they came, not as they were sorted
    return order.argsort()[number], first[order]


def weld(mesh: Mesh) -> Mesh:
    """The mesh with vertices at one place made one, of their mean colour, so that a texture's seams
    are closed.

    The order of vertices and faces stays; faces that collapse are dropped.
    """
    position_of, first = merge_positions(mesh.vertices)
    count = torch.bincount(position_of, minlength=len(first))
    vertices, faces = mesh.vertices[first], position_of[mesh.faces]
    colors = (
        torch.zeros_like(vertices).index_add_(0, position_of, mesh.colors.to(vertices))
        / count[:, None]
    )
    a, b, c = faces.unbind(1)
    return Mesh(vertices, faces[(a != b) & (b != c) & (c != a)], colors)


def _compact(vertices: Tensor, faces: Tensor) -> tuple[Tensor, Tensor]:
    used, renumbered = torch.unique(faces, return_inverse=True)
    return vertices[used], renumbered.view(-1, 3)
