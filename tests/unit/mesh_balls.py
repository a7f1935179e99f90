"""Balls as meshes."""

import torch
import trimesh

from distill3d.kernels.meshes.mesh import Mesh


def ball(radius=0.4, color=(0.9, 0.2, 0.1), rounds=2):
    shape = trimesh.creation.icosphere(rounds, radius)
    vertices = torch.tensor(shape.vertices, dtype=torch.float32)
    return Mesh(
        vertices,
        torch.tensor(shape.faces).long(),
        torch.tensor(color).expand(len(vertices), 3).clone(),
    )


def radius(mesh):
    return mesh.vertices.norm(dim=-1)
