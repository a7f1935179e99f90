"""Meshes of toys: marching cubes on the exact distance, every vertex then moved onto the
surface.
"""

from __future__ import annotations

import torch
from torch import Tensor

from .captions import COLORS, FINISHES, Caption
from .render import patterns
from .roles import ACCENTS, MAIN, ROLES
from .shapes import Shape, shape

_EDGE = 1.12  # world units; a cube that holds every toy with room to spare
# off the round numbers that toys are made of: no grid point on a flat face
_SHIFT = (0.0011, 0.0017, 0.0007)
# grid points along the side of a block that is either far from the surface or computed in full
_BLOCK = 8


def mesh(category: str, resolution: int = 128) -> tuple[Tensor, Tensor]:
    """The surface of a category's toy: vertices [M,3] float32 world units, faces [F,3] int64, wound
    outward.

    ``resolution`` is the number of grid points along 1.12 world units. Vertices lie on the surface
    to about 1e-4; sharp edges are cut off by up to a grid cell. Raises ValueError for an unknown
    category or a resolution outside 32..512 (walls thinner than a cell would tear below it).
    """
    from skimage.measure import marching_cubes

    toy = shape(category)
    if not 32 <= resolution <= 512:
        raise ValueError(f"toybox mesh: resolution is {resolution}; choose 32..512 grid points.")
    values, start, cell = _grid(toy, resolution)
    places, faces, _, _ = marching_cubes(values.numpy(), 0.0, allow_degenerate=False)
    vertices = _onto_surface(toy, torch.from_numpy(places).double() * cell + start)
    return vertices.float(), torch.from_numpy(faces).long()


def mesh_colors(caption: Caption, vertices: Tensor) -> Tensor:
    """Albedo [M,3], sRGB 0..1, of the caption's toy at ``vertices`` [M,3] of its surface; gray if
    no colour is said.
    """
    palette = vertices.new_tensor(
        [COLORS[caption.color or "gray"] if r == MAIN else ACCENTS[r] for r in ROLES]
    )
    role = shape(caption.category).roles(vertices)
    colors = palette[role]
    if caption.second:
        inside = patterns(vertices)[:, FINISHES.index(caption.finish) - 1] & (
            role == ROLES.index(MAIN)
        )
        colors[inside] = colors.new_tensor(COLORS[caption.second])
    return colors


def _grid(toy: Shape, resolution: int) -> tuple[Tensor, Tensor, float]:
    """Distances [n,n,n] at grid points (far from the surface only the sign counts), the first
    point, the spacing.
    """
    blocks, cell = -(-resolution // _BLOCK), _EDGE / (resolution - 1)
    first = torch.tensor(_SHIFT, dtype=torch.float64) - _EDGE / 2
    corners = first + cell * _BLOCK * _lattice(blocks)
    inner = cell * _lattice(_BLOCK)
    # The distance changes by no more than the way from the block's middle to its corner.
    middle = toy.distance(corners + cell * (_BLOCK - 1) / 2)
    near = middle.abs() <= cell * (_BLOCK - 1) / 2 * 3**0.5 + 1e-9
    values = middle[:, None].repeat(1, _BLOCK**3)
    values[near] = toy.distance(corners[near][:, None] + inner)
    grid = (
        values.view(*[blocks] * 3, *[_BLOCK] * 3)
        .permute(0, 3, 1, 4, 2, 5)
        .reshape(*[blocks * _BLOCK] * 3)
    )
    return grid.contiguous(), first, cell


def _lattice(count: int) -> Tensor:
    steps = torch.arange(count, dtype=torch.float64)
    return torch.cartesian_prod(steps, steps, steps)


def _onto_surface(
    toy: Shape, points: Tensor, steps: int = 8, h: float = 1e-5, tolerance: float = 1e-6
) -> Tensor:
    """Newton steps along the gradient of the distance: two where it is smooth, more in sharp
    corners.
    """
    offsets = torch.eye(3, dtype=points.dtype) * h
    points, d = points.clone(), toy.distance(points)
    for _ in range(steps):
        off = torch.nonzero(d.abs() > tolerance)[:, 0]
        p = points[off]
        gradient = torch.stack([toy.distance(p + o) - toy.distance(p - o) for o in offsets], -1) / (
            2 * h
        )
        # below one only where two faces meet
        square = gradient.square().sum(-1, keepdim=True).clamp_min(0.25)
        points[off] = p - d[off, None] * gradient / square
        d[off] = toy.distance(points[off])
    return points
