"""A tangent-space normal map: shading keeps what a mesh lost when its triangles became fewer.

Directions as in glTF: red along the texture's u, green up in the picture, blue out of the surface.
Most readers derive these from the texture coordinates and the smooth normals (Blender as MikkTSpace
does, three.js for each triangle), so the frame here is made of the same two; GLB also carries
tangents, the means at the vertices.
"""

from __future__ import annotations

from dataclasses import replace

import torch
import trimesh
from scipy.spatial import cKDTree
from torch import Tensor
from torch.nn.functional import normalize

from ..devices.pace import reached
from .mesh import Mesh
from .texture import pad, texel_points

# vertices among which one is looked for that faces the same way: thin walls have another side
NEIGHBOURS = 8
AT_ONCE = 100_000  # points; some 6 triangles each
LEAST_OUTWARD = 0.05  # of a normal: glTF allows none that point inward


def add_normal_map(mesh: Mesh, dense: Mesh, size: int) -> Mesh:
    """The mesh with a normal map [size,size,3] of the smooth normals of ``dense``, the surface
    before simplification.

    ``mesh``: with texture coordinates for ``size`` texels, at the same place as ``dense``. On the
    CPU. Raises ValueError for a mesh without texture coordinates.
    """
    if mesh.uvs is None:
        raise ValueError(
            "Add normal map: the mesh has no texture coordinates. Give it a texture first."
        )
    with torch.no_grad():
        mesh, dense = (
            each.check().map(lambda value: value.detach().cpu()) for each in (mesh, dense)
        )
        texels, face, points, normals = texel_points(mesh, size)
        tangents, bitangents = tangent_frame(mesh, face, normals)
        true = normals_near(dense, points, normals)
        local = torch.stack([(axis * true).sum(-1) for axis in (tangents, bitangents, normals)], -1)
        local[:, 2].clamp_min_(LEAST_OUTWARD)
        layers = torch.zeros(size * size, 3)
        layers[texels] = 0.5 * normalize(local, dim=-1) + 0.5
        covered = torch.zeros(size * size, dtype=torch.bool)
        covered[texels] = True
        normal_map = pad(layers.view(size, size, 3), covered.view(size, size))
    return replace(mesh, normal_map=normal_map).check()


def tangent_frame(mesh: Mesh, face: Tensor, normals: Tensor) -> tuple[Tensor, Tensor]:
    """Where the texture's right and up point [K,3], at points of triangles ``face`` [K] with
    ``normals`` [K,3].

    Unit length, at right angles to the normal and to each other; in a mirrored layout up is turned
    round, as in MikkTSpace.
    """
    assert mesh.uvs is not None
    a, b, c = mesh.vertices[mesh.faces].unbind(1)
    p, q, r = (mesh.uvs * mesh.uvs.new_tensor([1, -1]))[mesh.faces].unbind(1)  # v upward
    (first_u, first_v), (second_u, second_v) = (q - p).unbind(-1), (r - p).unbind(-1)
    sign = torch.sign(first_u * second_v - first_v * second_u)[:, None]
    along = sign * (second_v[:, None] * (b - a) - first_v[:, None] * (c - a))
    along = along[face]
    tangents = normalize(
        along - (along * normals).sum(-1, keepdim=True) * normals, dim=-1, eps=1e-20
    )
    return tangents, sign[face] * torch.linalg.cross(normals, tangents)


def vertex_tangents(mesh: Mesh) -> Tensor:
    """TANGENT of glTF [M,4]: `tangent_frame` at the vertices, the mean over their triangles, and
    the sign (1 or -1) of the bitangent, cross(normal, tangent) times it."""
    corners = mesh.faces.flatten()
    face = torch.repeat_interleave(torch.arange(len(mesh.faces)), 3)
    normals = mesh.vertex_normals
    tangents, bitangents = tangent_frame(mesh, face, normals[corners])
    area = mesh.face_areas[face, None]
    turned = (torch.linalg.cross(normals[corners], tangents) * bitangents).sum(-1, keepdim=True)
    sums = torch.zeros(len(normals), 4).index_add_(
        0, corners, area * torch.cat([tangents, turned], -1)
    )
    along = sums[:, :3] - (sums[:, :3] * normals).sum(-1, keepdim=True) * normals
    # Without any direction of its own, as where triangles have no area: some one at right angles.
    axis = torch.nn.functional.one_hot(normals.abs().argmin(-1), 3).to(normals)
    along = torch.where(
        along.norm(dim=-1, keepdim=True) > 1e-20, along, torch.linalg.cross(normals, axis)
    )
    return torch.cat(
        [normalize(along, dim=-1, eps=1e-30), torch.where(sums[:, 3:] < 0, -1.0, 1.0)], -1
    )


def normals_near(dense: Mesh, points: Tensor, normals: Tensor) -> Tensor:
    """Smooth normals [K,3] of ``dense`` at its points next to ``points`` [K,3], on the side of
    ``normals`` [K,3].

    Looked for among the triangles around the next vertex of that side.
    """
    smooth = dense.vertex_normals
    corners = dense.faces.flatten()
    # the triangles of the first vertex, of the second, ...
    around = torch.argsort(corners, stable=True) // 3
    counts = torch.bincount(corners, minlength=len(dense.vertices))
    starts = counts.cumsum(0) - counts
    used = torch.nonzero(counts)[:, 0]
    tree = cKDTree(dense.vertices[used].numpy())
    triangles = dense.vertices.double()[dense.faces]
    found: list[Tensor] = []
    for chunk, outward in zip(points.split(AT_ONCE), normals.split(AT_ONCE), strict=True):
        reached("normals", len(found) * AT_ONCE / len(points))
        _, near = tree.query(chunk.numpy(), k=range(1, min(NEIGHBOURS, len(used)) + 1))
        near = used[torch.from_numpy(near)]
        agrees = (smooth[near] * outward[:, None]).sum(-1) > 0
        # the next of all if none agrees
        vertex = near.gather(1, agrees.byte().argmax(1, keepdim=True))[:, 0]
        owner = torch.repeat_interleave(torch.arange(len(chunk)), counts[vertex])
        begin = counts[vertex].cumsum(0) - counts[vertex]
        face = around[starts[vertex][owner] + torch.arange(len(owner)) - begin[owner]]
        corner, wanted = triangles[face], chunk.double()[owner]
        closest = torch.from_numpy(trimesh.triangles.closest_point(corner.numpy(), wanted.numpy()))
        distance = (closest - wanted).square().sum(-1)
        least = torch.full((len(chunk),), torch.inf, dtype=torch.float64).scatter_reduce(
            0, owner, distance, "amin"
        )
        best = torch.nonzero(distance <= least[owner])[:, 0]
        best = torch.full((len(chunk),), len(owner)).scatter_reduce(0, owner[best], best, "amin")
        weights = trimesh.triangles.points_to_barycentric(
            corner[best].numpy(), closest[best].numpy()
        )
        weights = torch.from_numpy(weights).float().nan_to_num(1 / 3).clamp(0, 1)
        found.append((weights[..., None] * smooth[dense.faces[face[best]]]).sum(1))
    return normalize(torch.cat(found), dim=-1)
