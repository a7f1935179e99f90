"""`coverage.cover` compiled by Numba: a z-buffer, views shared among the threads."""

from __future__ import annotations

import numpy as np
import torch
from torch import Tensor

from ..cameras.pinhole import Cameras
from ..devices.compiled import compiled
from ..devices.workers import spread
from .raster import NEAR


def cover_numba(positions: Tensor, faces: Tensor, cameras: Cameras) -> Tensor:
    """As `cover_reference`, on the CPU."""
    matrix = cameras.intrinsics.to(positions)
    flat = (
        positions[..., :2] / positions[..., 2:].clamp_min(NEAR) * matrix[:, None, [0, 1], [0, 1]]
        + matrix[:, None, :2, 2]
    )
    result = torch.full((len(cameras), cameras.height, cameras.width), -1)
    arrays = [value.detach().contiguous().numpy() for value in (positions, flat, faces, matrix)]
    spread(_cover, len(cameras), *arrays, NEAR, result.numpy())
    return result


# Not Numba's own parallel loops: they set how many threads all of torch's operations take.
@compiled()
def _cover(  # type: ignore[no-untyped-def]
    worker, workers, positions, flat, faces, matrix, near, result
):
    views, height, width = result.shape
    for view in range(worker, views, workers):
        nearest = np.full((height, width), np.inf)
        fx, fy, cx, cy = (
            matrix[view, 0, 0],
            matrix[view, 1, 1],
            matrix[view, 0, 2],
            matrix[view, 1, 2],
        )
        for index in range(faces.shape[0]):
            i, j, k = faces[index]
            a, b, c = positions[view, i], positions[view, j], positions[view, k]
            if min(a[2], b[2], c[2]) < near:
                continue
            p, q, r = flat[view, i], flat[view, j], flat[view, k]
            left = max(int(np.ceil(max(min(p[0], q[0], r[0]) - 0.5, 0.0))), 0)
            right = int(np.floor(min(max(p[0], q[0], r[0]) - 0.5, width - 1.0)))
            top = max(int(np.ceil(max(min(p[1], q[1], r[1]) - 0.5, 0.0))), 0)
            bottom = int(np.floor(min(max(p[1], q[1], r[1]) - 0.5, height - 1.0)))
            if left > right or top > bottom:
                continue
            u0, u1, u2 = (
                b[1] * c[2] - b[2] * c[1],
                b[2] * c[0] - b[0] * c[2],
                b[0] * c[1] - b[1] * c[0],
            )
            v0, v1, v2 = (
                c[1] * a[2] - c[2] * a[1],
                c[2] * a[0] - c[0] * a[2],
                c[0] * a[1] - c[1] * a[0],
            )
            w0, w1, w2 = (
                a[1] * b[2] - a[2] * b[1],
                a[2] * b[0] - a[0] * b[2],
                a[0] * b[1] - a[1] * b[0],
            )
            volume = a[0] * u0 + a[1] * u1 + a[2] * u2
            for row in range(top, bottom + 1):
                y = (row + 0.5 - cy) / fy
                for column in range(left, right + 1):
                    x = (column + 0.5 - cx) / fx
                    first, second, third = (
                        u0 * x + u1 * y + u2,
                        v0 * x + v1 * y + v2,
                        w0 * x + w1 * y + w2,
                    )
                    if (first >= 0 and second >= 0 and third >= 0) or (
                        first <= 0 and second <= 0 and third <= 0
                    ):
                        total = first + second + third
                        if total != 0:
                            depth = volume / total
                            if depth <= nearest[row, column]:
                                nearest[row, column] = depth
                                result[view, row, column] = index
