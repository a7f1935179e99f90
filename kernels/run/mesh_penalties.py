"""Penalties on a mesh: no dents and no creases that the prior did not ask for."""

from __future__ import annotations

import torch
from torch import Tensor


def laplacian(vertices: Tensor, edges: Tensor, length: Tensor | float = 1.0) -> Tensor:
    """Mean squared distance of vertices [M,3] from their neighbours' mean, in units of ``length``;
    edges [E,2].
    """
    both = torch.cat([edges, edges.flip(1)])
    sums = torch.zeros_like(vertices).index_add(0, both[:, 0], vertices[both[:, 1]])
    degree = vertices.new_zeros(len(vertices)).index_add(
        0, both[:, 0], vertices.new_ones(len(both))
    )
    offset = torch.where(degree[:, None] > 0, sums / degree.clamp_min(1)[:, None] - vertices, 0.0)
    return (offset / length).square().sum(-1).mean()


def offset_sum(vertices: Tensor, edges: Tensor) -> Tensor:
    """Mean length, world units, of the sum of the offsets from each vertex [M,3] to its neighbours;
    edges [E,2]. Consistent3D's (threestudio's Mesh.laplacian): it grows with the edges.
    """
    both = torch.cat([edges, edges.flip(1)])
    offsets = vertices[both[:, 1]] - vertices[both[:, 0]]
    sums = torch.zeros_like(vertices).index_add(0, both[:, 0], offsets)
    lengths: Tensor = torch.linalg.vector_norm(sums, dim=1)
    return lengths.mean()


def vertex_normal_consistency(vertices: Tensor, faces: Tensor, edges: Tensor) -> Tensor:
    """Mean over the edges [E,2] of 1 - cosine between the normals of their two vertices [M,3], each
    the sum of its faces' [F,3] normals by area. Consistent3D's (threestudio's
    Mesh.normal_consistency).
    """
    a, b, c = vertices[faces].unbind(1)
    normals = torch.linalg.cross(b - a, c - a).repeat_interleave(3, 0)
    sums = torch.zeros_like(vertices).index_add(0, faces.flatten(), normals)
    first, second = sums[edges[:, 0]], sums[edges[:, 1]]
    return (1 - torch.cosine_similarity(first, second, dim=-1)).mean()


def normal_consistency(vertices: Tensor, faces: Tensor, edge_faces: Tensor) -> Tensor:
    """Mean of 1 - cosine between the normals of faces [F,3] that share an edge; beside [E,2] as
    `edges_of` gives it.
    """
    a, b, c = vertices[faces].unbind(1)
    normals = torch.nn.functional.normalize(torch.linalg.cross(b - a, c - a), dim=-1)
    pairs = edge_faces[edge_faces[:, 1] >= 0]
    return (1 - (normals[pairs[:, 0]] * normals[pairs[:, 1]]).sum(-1)).mean()
