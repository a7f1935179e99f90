"""Clouds to start from: a random ball, a point cloud, the surface of a mesh."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

import torch
from scipy.spatial import cKDTree
from torch import Tensor

from ..meshes.mesh import Mesh, Points
from ..meshes.placing import fitting, upright
from ..meshes.sample import sample
from .cloud import SH_C0, Gaussians

SCALE_LIMITS = (1e-4, 0.1)  # world units, for scales taken from the distance between points
FLATNESS = 0.25  # thickness over width of a Gaussian that lies on a surface


def random_ball(
    count: int = 4000,
    radius: float = 0.6,
    scale: float = 0.03,
    opacity_logit: float = -4.0,
    generator: torch.Generator | None = None,
    color_noise: float = 0.1,
    sh_degree: int = 0,
) -> Gaussians:
    """``count`` round Gaussians, uniform in a ball around the origin, in noisy grey.

    radius and scale (one standard deviation) in world units; color_noise: standard deviation of the sRGB colours
    around 0.5. Without a generator: seed 0. On the generator's device. Raises ValueError for values out of range.
    After LucidDreamer, whose ball has radius 0.5, random colours and opacity 0.1.
    """
    _check_count(count)
    for name, value in (("radius", radius), ("scale", scale)):
        if not 1e-5 <= value <= 1000:
            raise ValueError(f"Random ball: {name} is {value}; choose a value within 1e-5..1000 world units.")
    generator = generator or torch.Generator().manual_seed(0)
    draws = torch.randn(count, 10, generator=generator, device=generator.device)
    lengths = torch.rand(count, 1, generator=generator, device=generator.device) ** (1 / 3)
    means = radius * lengths * torch.nn.functional.normalize(draws[:, :3], dim=-1)
    colors = 0.5 + color_noise * draws[:, 3:6]
    # Random axes: a round Gaussian gets its first shape from the gradient of its scales, along the axes it has.
    quats = torch.nn.functional.normalize(draws[:, 6:10], dim=-1)
    log_scales = torch.full_like(means, scale).log()
    return _cloud(means, log_scales, quats, opacity_logit, colors, sh_degree)


def from_points(
    points: Tensor,
    colors: Tensor | None = None,
    normals: Tensor | None = None,
    scale: float | None = None,
    opacity_logit: float = -2.0,
    sh_degree: int = 0,
) -> Gaussians:
    """One Gaussian per point.

    points [N,3] world units; colors [N,3] sRGB 0..1 (grey if None); with normals [N,3] the Gaussians are flat and lie
    in the surface, else they are round. ``scale`` in world units; if None, each takes the mean distance to its three
    nearest neighbours (3DGS), within SCALE_LIMITS. Raises ValueError for shapes that do not match and NaNs.
    """
    points = torch.as_tensor(points).detach()
    points = points if points.is_floating_point() else points.float()
    if points.dim() != 2 or points.shape[1] != 3:
        raise ValueError(f"points have shape {tuple(points.shape)}, expected (N, 3).")
    _check_count(len(points))
    colors = torch.full_like(points, 0.5) if colors is None else torch.as_tensor(colors).to(points)
    for name, value in (("colors", colors), ("normals", normals)):
        if value is not None and value.shape != points.shape:
            raise ValueError(f"{name} have shape {tuple(value.shape)}, expected {tuple(points.shape)} as the points.")
    if not bool(points.isfinite().all()):
        raise ValueError("points hold values that are NaN or infinite; remove those points first.")
    sigma = _spacing(points) if scale is None else torch.full_like(points[:, 0], scale)
    log_scales = sigma.log()[:, None].repeat(1, 3)
    if normals is None:
        quats = torch.tensor([1.0, 0, 0, 0]).to(points).repeat(len(points), 1)
    else:
        quats = facing(torch.as_tensor(normals).to(points))
        log_scales[:, 2] += torch.tensor(FLATNESS).log()
    return _cloud(points.clone(), log_scales, quats, opacity_logit, colors, sh_degree)


def from_mesh(
    mesh: Mesh | Sequence[Mesh],
    count: int = 4000,
    generator: torch.Generator | None = None,
    size: float | None = 1.0,
    opacity_logit: float = 1.0,
    sh_degree: int = 0,
) -> Gaussians:
    """``count`` flat Gaussians spread evenly over the surface of a mesh, or of the parts of one, in its colours.

    The mesh is moved and scaled so that its longest side is ``size`` world units around the origin, or taken as it is
    if size is None. Colours come from the texture where there is one (`sample`). Without a generator: seed 0. Raises
    ValueError for a mesh without area.
    """
    _check_count(count)
    parts = [part.check() for part in ([mesh] if isinstance(mesh, Mesh) else mesh)]
    if size is not None:
        middle, factor = fitting(torch.cat([part.vertices.detach().float() for part in parts]), size)
        parts = [replace(part, vertices=(part.vertices.float() - middle) * factor) for part in parts]
    spread = sample(parts, count, generator or torch.Generator().manual_seed(0))
    # 0.7 of the spacing: neighbours meet at about 0.8 of their peak, so the surface has no holes.
    scale = 0.7 * (spread.area / count) ** 0.5
    return from_points(spread.points, spread.colors, spread.normals, scale, opacity_logit, sh_degree)


def from_shape(
    shape: Sequence[Mesh] | Points,
    count: int = 4000,
    generator: torch.Generator | None = None,
    size: float | None = 1.0,
    up_axis: str = "Y",
    turn: float = 0.0,
    opacity_logit: float = 1.0,
) -> Gaussians:
    """Gaussians on what `load_shape` reads: `from_mesh` of meshes, `from_points` of a point cloud.

    It is set `upright` first, by ``up_axis`` and ``turn``. Of a cloud of more than ``count`` points so many are drawn,
    one of fewer is taken whole. Raises ValueError as these functions do.
    """
    generator = generator or torch.Generator().manual_seed(0)
    if not isinstance(shape, Points):
        parts = [replace(part, vertices=upright(part.vertices, up_axis, turn)) for part in shape]
        return from_mesh(parts, count, generator, size, opacity_logit)
    _check_count(count)
    points = upright(shape.points.float(), up_axis, turn)
    normals = None if shape.normals is None else upright(shape.normals, up_axis, turn)
    if size is not None:
        middle, factor = fitting(points, size)
        points = (points - middle) * factor
    chosen = torch.randperm(len(points), generator=generator)[:count].sort().values.to(points.device)
    few = None if normals is None else normals[chosen]
    return from_points(points[chosen], shape.colors[chosen], few, opacity_logit=opacity_logit)


def _cloud(
    means: Tensor, log_scales: Tensor, quats: Tensor, opacity_logit: float, colors: Tensor, sh_degree: int
) -> Gaussians:
    if sh_degree not in (0, 1, 2, 3):
        raise ValueError(f"sh_degree is {sh_degree}; choose 0, 1, 2 or 3.")
    sh = means.new_zeros(len(means), (sh_degree + 1) ** 2, 3)
    sh[:, 0] = (colors - 0.5) / SH_C0
    return Gaussians(means, log_scales, quats, torch.full_like(means[:, 0], opacity_logit), sh).check()


def _spacing(points: Tensor) -> Tensor:
    """[N] mean distance to the three nearest other points, within SCALE_LIMITS."""
    neighbours = min(4, len(points))
    if neighbours < 2:
        return points.new_full((len(points),), SCALE_LIMITS[1])
    places = points.cpu().double().numpy()
    distances, _ = cKDTree(places).query(places, neighbours)  # the nearest is the point itself
    return torch.from_numpy(distances[:, 1:].mean(1)).to(points).clamp(*SCALE_LIMITS)


def facing(normals: Tensor) -> Tensor:
    """Quaternions [N,4] wxyz that turn the local Z axis to the normals [N,3]."""
    x, y, z = torch.nn.functional.normalize(normals, dim=-1).unbind(-1)
    zero = torch.zeros_like(z)
    # Half-way rotation (1 + z.n, z x n); straight down has none, so it turns about X.
    quats = torch.stack([1 + z, -y, x, zero], -1)
    down = torch.tensor([0.0, 1, 0, 0]).to(quats)
    return torch.nn.functional.normalize(torch.where((z < -1 + 1e-6)[:, None], down, quats), dim=-1)


def _check_count(count: int) -> None:
    if not 1 <= count <= 10_000_000:
        raise ValueError(f"count is {count}; choose 1..10000000 Gaussians.")
