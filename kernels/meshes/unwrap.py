"""A place on a texture for every triangle (xatlas, an optional package)."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import torch

from .mesh import Mesh

# between charts, in xatlas' own texels, which are up to a third smaller than the texture's
PADDING = 4
CHART = 1 / 60  # of the surface, at most
# of a chart, about; with larger ones xatlas takes many times as long (92,000: 6 s at 1/60, 1 s so)
TRIANGLES = 300
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
    import xatlas

    mesh = mesh.check().map(lambda value: value.detach().cpu())
    atlas = xatlas.Atlas()
    atlas.add_mesh(mesh.vertices.float().numpy(), mesh.faces.numpy().astype(np.uint32))
    charts, packing = xatlas.ChartOptions(), xatlas.PackOptions()
    charts.max_chart_area = min(CHART, TRIANGLES / len(mesh.faces)) * float(mesh.face_areas.sum())
    charts.max_iterations = 0  # another round takes as long again and joins a quarter of the charts
    packing.padding, packing.bilinear, packing.resolution = PADDING, True, size
    atlas.generate(charts, packing)
    origin, faces, uvs = atlas.get_mesh(0)
    if atlas.atlas_count < 1 or len(faces) != len(mesh.faces):
        raise ValueError(
            f"Unwrap: xatlas finds no texture layout for {len(mesh.faces)} triangles at {size}"
            " texels. Choose fewer faces, or a texture_size of 0 for colours at the vertices."
        )
    # xatlas scales both axes by the atlas' own width and height; a square texture wants the larger
    # for both.
    extent = torch.tensor([atlas.width, atlas.height], dtype=torch.float32)
    coordinates = torch.from_numpy(np.array(uvs)).float() * extent / extent.max()
    first = torch.from_numpy(origin.astype(np.int64))
    return replace(
        mesh,
        vertices=mesh.vertices[first],
        colors=mesh.colors[first],
        faces=torch.from_numpy(faces.astype(np.int64)),
        uvs=coordinates.clamp(0, 1),
    ).check()
