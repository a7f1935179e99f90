"""A place on a texture for every triangle (xatlas, an optional package)."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import torch
from torch import Tensor

from ..devices.native import apart
from .mesh import Mesh

# between charts, in xatlas' own texels, which are up to a third smaller than the texture's
PADDING = 4
CHART = 1 / 60  # of the surface, at most
# of a chart, about; with larger ones xatlas takes many times as long (92,000: 6 s at 1/60, 1 s so)
TRIANGLES = 300
PARTS, TRIANGLES_OF_PART = 16, 2000  # at most, and at least
MISSING = "Textures need the package xatlas. Install it with 'pip install xatlas'."


def available() -> bool:
    """Whether xatlas can be imported: it is optional, and has no wheels for some Pythons."""
    try:
        import xatlas  # noqa: F401
    except Exception:  # a binary that does not fit raises more than ImportError
        return False
    return True


def unwrap(mesh: Mesh, size: int) -> Mesh:
    """The mesh with texture coordinates for a square texture of ``size`` texels, on the CPU.

    Vertices along the seams are doubled, in place and colour the same; triangles and their order
    stay. Raises ValueError if xatlas is missing or finds no layout.
    """
    if not available():
        raise ValueError(MISSING)
    mesh = mesh.check().map(lambda value: value.detach().cpu())
    parts = _parts(mesh)
    corners = []  # of each part: the mesh's vertices that it has
    area = min(CHART, TRIANGLES / len(mesh.faces)) * float(mesh.face_areas.sum())
    numbers = {"parts": len(parts), "chart_area": area, "padding": PADDING, "resolution": size}
    given = {name: np.array(number) for name, number in numbers.items()}
    for index, part in enumerate(parts):
        own, corner = torch.unique(mesh.faces[part], return_inverse=True)
        corners.append(own)
        given[f"vertices{index}"] = mesh.vertices[own].float().numpy()
        given[f"corners{index}"] = corner.numpy().astype(np.uint32)
    atlas = apart("unwrap", given)
    found = [
        tuple(atlas[f"{name}{index}"] for name in ("origin", "faces", "uvs"))
        for index in range(len(parts))
    ]
    if int(atlas["count"]) < 1 or any(
        len(laid[1]) != len(part) for laid, part in zip(found, parts, strict=True)
    ):
        raise ValueError(
            f"Unwrap: xatlas finds no texture layout for {len(mesh.faces)} triangles at {size}"
            " texels. Choose fewer faces, or a texture_size of 0 for colours at the vertices."
        )
    triangles = torch.empty_like(mesh.faces)
    first, uvs, count = [], [], 0
    for part, own, (origin, faces, coordinates) in zip(parts, corners, found, strict=True):
        triangles[part] = torch.from_numpy(faces.astype(np.int64)) + count
        first.append(own[torch.from_numpy(origin.astype(np.int64))])
        uvs.append(torch.from_numpy(np.array(coordinates)).float())
        count += len(origin)
    # xatlas scales both axes by the atlas' own width and height; a square texture wants the larger
    # for both.
    extent = torch.from_numpy(atlas["extent"]).float()
    kept = torch.cat(first)
    return replace(
        mesh,
        vertices=mesh.vertices[kept],
        colors=mesh.colors[kept],
        faces=triangles,
        uvs=(torch.cat(uvs) * extent / extent.max()).clamp(0, 1),
    ).check()


def _parts(mesh: Mesh) -> list[Tensor]:
    """The mesh's triangles in parts of about as many each, halved across their longest side: xatlas
    cuts several meshes into charts at the same time, and one on one core.
    """
    middles = mesh.vertices[mesh.faces].mean(1)
    parts = [torch.arange(len(mesh.faces))]
    while len(parts) < PARTS and len(mesh.faces) >= 2 * len(parts) * TRIANGLES_OF_PART:
        halves = []
        for part in parts:
            points = middles[part]
            axis = int((points.amax(0) - points.amin(0)).argmax())
            order = points[:, axis].argsort(stable=True)
            half = len(part) // 2
            halves += [part[order[:half]].sort()[0], part[order[half:]].sort()[0]]
        parts = halves
    return parts
