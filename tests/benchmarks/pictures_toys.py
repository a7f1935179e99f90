"""Toys that a picture says more about than their caption: other proportions, a pattern that begins
elsewhere, a part in a colour of its own. Drawn from a seed, with exact pictures.

    python tests/benchmarks/pictures_toys.py    writes those that the pack ships
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from functools import lru_cache
from pathlib import Path

import torch
from torch import Tensor

from distill3d.kernels.cameras.pinhole import Cameras, orbit
from distill3d.kernels.cameras.sheets import SHEETS
from distill3d.kernels.meshes.mesh import Mesh
from distill3d.kernels.meshes.rasterize import render_mesh
from distill3d.kernels.toybox.captions import COLORS, FINISHES, Caption, parse
from distill3d.kernels.toybox.meshes import mesh, mesh_colors
from distill3d.kernels.toybox.render import Truth, lambert, patterns
from distill3d.kernels.toybox.roles import MAIN, ROLES
from distill3d.kernels.toybox.shapes import shape

RESOLUTION = 224  # grid points of a toy's mesh, whose vertices carry the pattern
OVERSAMPLED = 3
STRETCH = 0.22  # a side is up to so much shorter
BANDED = 0.4  # share of the toys whose upper part has a colour of its own


@dataclass(frozen=True)
class Toy:
    """A caption's toy with what the caption does not say.

    Args:
        stretch: factors along x, y and z, 0..1; `drawn` leaves z, the depth seen from the front
        phase: world units by which the pattern is moved
        band: colour of what lies above `height`; None: as the caption says
        height: share of the toy's height
    """

    caption: Caption
    stretch: tuple[float, float, float]
    phase: tuple[float, float, float]
    band: str | None
    height: float


def drawn(caption: Caption, seed: int) -> Toy:
    """The toy of a caption and a seed."""
    generator = torch.Generator().manual_seed(1000 + seed + sum(map(ord, caption.text)))
    u = torch.rand(9, generator=generator).tolist()
    others = [name for name in COLORS if name not in (caption.color, caption.second)]
    band = others[int(u[6] * len(others))] if u[7] < BANDED else None
    stretch = (1 - STRETCH * u[0], 1 - STRETCH * u[1], 1.0)  # no front picture tells the depth
    return Toy(caption, stretch, (0.2 * u[3], 0.2 * u[4], 0.2 * u[5]), band, 0.55 + 0.2 * u[8])


@lru_cache(maxsize=4)
def toy_mesh(toy: Toy) -> Mesh:
    """Its surface in its colours, lit as the toybox's pictures are."""
    caption = toy.caption
    vertices, faces = mesh(caption.category, RESOLUTION)
    colors = mesh_colors(replace(caption, finish="plain", second=None), vertices)
    main = shape(caption.category).roles(vertices) == ROLES.index(MAIN)
    if caption.second:
        moved = vertices + vertices.new_tensor(toy.phase)
        inside = patterns(moved)[:, FINISHES.index(caption.finish) - 1] & main
        colors[inside] = colors.new_tensor(COLORS[caption.second])
    if toy.band:
        low, high = vertices[:, 1].min(), vertices[:, 1].max()
        above = main & (vertices[:, 1] > low + toy.height * (high - low))
        colors[above] = colors.new_tensor(COLORS[toy.band])
    stretch = vertices.new_tensor(toy.stretch)
    normals = shape(caption.category).normals(vertices) / stretch
    light = lambert(torch.nn.functional.normalize(normals, dim=-1))
    return Mesh(vertices * stretch, faces, colors * light[:, None])


@torch.no_grad()
def pictures(toy: Toy, cameras: Cameras, background: float | Tensor) -> Truth:
    """Exact pictures of the toy, antialiased."""
    surface, fine = toy_mesh(toy), cameras.to("cpu").resize(OVERSAMPLED * cameras.width)
    size = cameras.width

    def small(value: Tensor) -> Tensor:
        shrunk = torch.nn.functional.avg_pool2d(value.permute(0, 3, 1, 2), OVERSAMPLED)
        return shrunk.permute(0, 2, 3, 1).to(cameras.viewmats.device)

    parts = []
    for place in range(len(cameras)):
        seen = render_mesh(surface, fine[place], 0.0, antialias=False)
        parts.append((small(seen.color), small(seen.alpha)))
    color, alpha = (torch.cat(values) for values in zip(*parts, strict=True))
    empty = color.new_zeros(0, size, size, 1)
    return Truth(color + (1 - alpha) * background, alpha, empty, empty)


def busy_background(size: int, seed: int) -> Tensor:
    """[size,size,3]: coloured blobs of all sizes, as of a room behind the object."""
    generator = torch.Generator().manual_seed(500 + seed)
    picture = torch.zeros(1, 3, size, size)
    for cells, share in ((3, 0.5), (8, 0.3), (24, 0.2)):
        noise = torch.rand(1, 3, cells, cells, generator=generator)
        picture += share * torch.nn.functional.interpolate(
            noise, (size, size), mode="bicubic", align_corners=False
        )
    return (0.5 + 1.6 * (picture - 0.5)).clamp(0, 1)[0].permute(1, 2, 0)


SHIPPED = Path(__file__).resolve().parents[2] / "workflows" / "pictures"
SAMPLES = {
    "mug_front": Toy(
        parse("a red mug with white dots"), (0.95, 0.75, 0.9), (0.06, 0.1, 0.02), None, 0
    ),
    "teapot_front": Toy(
        parse("a green teapot with yellow checks"), (1, 1, 1), (0.05, 0.03, 0), None, 0
    ),
    "car_sheet": Toy(
        parse("a blue car with yellow stripes"), (0.85, 1, 1), (0, 0.07, 0), "red", 0.62
    ),
}  # fmt: skip
SHIPPED_SIZE = 256


def write_shipped() -> None:
    """The pictures of workflows/pictures, with alpha: fronts, and a sheet of MVDream's kind."""
    from PIL import Image

    SHIPPED.mkdir(exist_ok=True)
    for name, toy in SAMPLES.items():
        cameras = orbit(torch.zeros(1), 0.0, 2.0, 40.0, SHIPPED_SIZE)
        if name.endswith("_sheet"):
            cameras = SHEETS["MVDream"].cameras(SHIPPED_SIZE)
        seen = pictures(toy, cameras, 0.0)
        cells = torch.cat([seen.color / seen.alpha.clamp_min(1e-3), seen.alpha], -1)
        cells = torch.where(cells[..., 3:] > 0, cells, 0.0).clamp(0, 1)
        rows = [torch.cat(list(cells[i : i + 2]), 1) for i in range(0, len(cells), 2)]
        pixels = (torch.cat(rows) * 255).round().byte().numpy()
        Image.fromarray(pixels).save(SHIPPED / f"{name}.png", optimize=True)


if __name__ == "__main__":
    write_shipped()
