"""The functions themselves, and the process that calls one: arrays come in on its standard input
and go out on its standard output. It imports what it calls and numpy, nothing of the pack.
"""

from __future__ import annotations

import os
import sys
from collections.abc import Callable
from typing import Any

import numpy as np

Arrays = dict[str, Any]


def march(given: Arrays) -> Arrays:
    """The surface of level 0 in ``volume`` [X,Y,Z]: vertices [M,3] and faces [F,3]."""
    from skimage.measure import marching_cubes

    vertices, faces, _, _ = marching_cubes(given["volume"], 0.0)
    return {"vertices": np.ascontiguousarray(vertices), "faces": faces.astype(np.int64)}


def simplify(given: Arrays) -> Arrays:
    """About ``count`` of the triangles [F,3] of ``points`` [M,3], or as few as there can be."""
    import fast_simplification

    points, triangles, count = given["points"], given["triangles"], int(given["count"])
    before = len(triangles) + 1
    while count < len(triangles) < before:  # a call stops early on its way to few triangles
        before = len(triangles)
        # Less aggressive than the default of 7, which pinches far more edges of a closed mesh.
        points, triangles = fast_simplification.simplify(
            points, triangles, 1 - count / before, agg=3
        )
        triangles = np.asarray(triangles, np.int32)
    return {"points": np.asarray(points), "triangles": triangles}


def unwrap(given: Arrays) -> Arrays:
    """An atlas of ``parts`` meshes, ``vertices0`` [M,3] and ``corners0`` [F,3] and so on.

    Of each its ``origin0`` (which vertex each new one was), ``faces0`` and ``uvs0`` in texels of
    ``extent``; ``count``: of atlases.
    """
    import xatlas

    atlas, parts = xatlas.Atlas(), int(given["parts"])
    for part in range(parts):
        atlas.add_mesh(given[f"vertices{part}"], given[f"corners{part}"])
    charts, packing = xatlas.ChartOptions(), xatlas.PackOptions()
    charts.max_chart_area = float(given["chart_area"])
    charts.max_iterations = 0  # another round takes as long again and joins a quarter of the charts
    packing.padding, packing.bilinear = int(given["padding"]), True
    packing.resolution = int(given["resolution"])
    atlas.generate(charts, packing)
    made: Arrays = {"count": atlas.atlas_count, "extent": np.array([atlas.width, atlas.height])}
    for part in range(parts):
        origin, faces, uvs = atlas.get_mesh(part)
        made |= {f"origin{part}": origin, f"faces{part}": faces, f"uvs{part}": np.array(uvs)}
    return made


FUNCTIONS: dict[str, Callable[[Arrays], Arrays]] = {
    "march": march,
    "simplify": simplify,
    "unwrap": unwrap,
}


if __name__ == "__main__":
    # Whatever a library prints must not come between the arrays.
    out = os.fdopen(os.dup(1), "wb")
    os.dup2(2, 1)
    with np.load(sys.stdin.buffer, allow_pickle=False) as sent:
        found = FUNCTIONS[sys.argv[1]](dict(sent))
    np.savez(out, **found)
    out.flush()
