"""A scene to start from: a ground, a dome of sky, and a ball of haze for each object."""

from __future__ import annotations

import math
from dataclasses import dataclass

import torch
from torch import Tensor

from ..gaussians.cloud import SH_C0, Gaussians
from ..gaussians.rotations import facing
from .ball import random_ball

FLATNESS = 0.05  # thickness over width of the ground's and the dome's Gaussians
# standard deviation over spacing: neighbours meet at about 0.8 of their peak, so there are no holes
OVERLAP = 0.7
GROWTH = 2.5  # how much coarser the ground grows outward: its rings' spacing rises by e^GROWTH


@dataclass(frozen=True)
class SceneInit:
    """How much of what a scene begins with. The defaults are the toybox's scenes: see
    `toybox.scenes`.

    Args:
        object_count: Gaussians of each object
        objects: side by side along X
        spacing: world units between the objects' middles
        object_radius: world units
        object_scale: standard deviation, world units
        object_opacity: 0..1: light shines through, so that the objects are carved fast
        ground_height: world units
        radius: of ground and dome, world units
        opacity: of ground and dome, 0..1
        ground_gray: grey of the ground, sRGB 0..1; darker than the sky, so that a prior sees the
            horizon
        sky_gray: of the dome
        color_noise: standard deviation of the colours around these greys and, of objects, around
            0.5
        anchored: ground and dome stay where they are, and only their colours learn
    """

    ground_count: int = 1500
    sky_count: int = 700
    object_count: int = 2000
    objects: int = 2
    spacing: float = 1.0
    object_radius: float = 0.3
    object_scale: float = 0.018
    object_opacity: float = 0.018
    ground_height: float = -0.25
    radius: float = 6.0
    opacity: float = 0.9
    ground_gray: float = 0.35
    sky_gray: float = 0.75
    color_noise: float = 0.05
    anchored: bool = True

    def check(self) -> None:
        """Raise ValueError naming the setting, its value, what is allowed and the cure."""
        limits = {
            "ground_count": (1, 1_000_000), "sky_count": (1, 1_000_000), "object_count": (1, 1_000_000),
            "objects": (0, 100), "spacing": (0.0, 1000.0), "object_radius": (0.001, 1000.0),
            "object_scale": (1e-5, 100.0), "object_opacity": (0.001, 0.999), "ground_height": (-1000.0, 0.0),
            "radius": (0.1, 1000.0), "opacity": (0.001, 0.999), "ground_gray": (0.0, 1.0), "sky_gray": (0.0, 1.0),
            "color_noise": (0.0, 1.0),
        }  # fmt: skip
        for name, (low, high) in limits.items():
            value = getattr(self, name)
            if not low <= value <= high:  # also catches NaN
                raise ValueError(
                    f"Init scene: {name} is {value}; choose a value within {low:g}..{high:g}."
                )
        reach = max(self.objects - 1, 0) * self.spacing / 2 + self.object_radius
        if self.objects and reach >= self.radius:
            raise ValueError(
                f"Init scene: {self.objects} objects {self.spacing:g} apart reach {reach:g} from"
                f" the middle, beyond radius {self.radius:g}. Lower spacing or raise radius."
            )


def scene_cloud(
    settings: SceneInit | None = None, generator: torch.Generator | None = None
) -> Gaussians:
    """Flat Gaussians on a round ground (fine in the middle) and on the half dome above it, balls
    for the objects, in noisy greys. Without a generator: seed 0. Raises ValueError for settings out
    of range.

    Order: ground, sky, objects from -X to +X.
    """
    s = settings or SceneInit()
    s.check()
    generator = generator or torch.Generator().manual_seed(0)
    up = torch.tensor([0.0, 1.0, 0.0])
    below = torch.tensor([0.0, s.ground_height, 0.0])
    places, spacings = _disc(s.ground_count, s.radius)
    parts = [
        _flat(below + places, up.expand_as(places), OVERLAP * spacings, s.ground_gray, s, generator)
    ]
    outward = _half_sphere(s.sky_count)
    spacing = torch.full((s.sky_count,), s.radius * math.sqrt(2 * math.pi / s.sky_count))
    parts.append(
        _flat(below + s.radius * outward, -outward, OVERLAP * spacing, s.sky_gray, s, generator)
    )
    for index in range(s.objects):
        logit = math.log(s.object_opacity / (1 - s.object_opacity))
        ball = random_ball(
            s.object_count, s.object_radius, s.object_scale, logit, generator, s.color_noise
        )
        shift = torch.tensor([(index - (s.objects - 1) / 2) * s.spacing, 0.0, 0.0])
        parts.append(Gaussians(**{**ball.tensors(), "means": ball.means + shift}))
    tensors = {name: torch.cat([p.tensors()[name] for p in parts]) for name in parts[0].tensors()}
    fixed = torch.arange(len(tensors["means"])) < s.ground_count + s.sky_count
    return Gaussians(**tensors, anchored=fixed if s.anchored else None).check()


def _disc(count: int, radius: float) -> tuple[Tensor, Tensor]:
    """Places [N,3] on a disc by the golden angle, even near the middle and coarser outward, and
    their spacing [N].
    """
    share = (torch.arange(count) + 0.5) / count
    root = share.sqrt()
    rise = (GROWTH * root).exp()
    distance = radius * (rise - 1) / (math.exp(GROWTH) - 1)
    # of the distance, per point
    slope = radius * GROWTH * rise / (math.exp(GROWTH) - 1) / (2 * root) / count
    angle = torch.arange(count) * (math.pi * (3 - math.sqrt(5)))
    places = torch.stack([distance * angle.cos(), torch.zeros(count), distance * angle.sin()], -1)
    return places, (2 * math.pi * distance * slope).sqrt()


def _half_sphere(count: int) -> Tensor:
    """Unit vectors [N,3] spread evenly over the upper half of the sphere (Fibonacci lattice)."""
    index = torch.arange(count)
    y = 1 - (index + 0.5) / count
    angle = index * (math.pi * (3 - math.sqrt(5)))
    across = (1 - y * y).sqrt()
    return torch.stack([across * angle.cos(), y, across * angle.sin()], -1)


def _flat(
    means: Tensor,
    normals: Tensor,
    widths: Tensor,
    gray: float,
    s: SceneInit,
    generator: torch.Generator,
) -> Gaussians:
    scales = widths[:, None] * torch.tensor([1.0, 1.0, FLATNESS])
    noise = torch.randn(len(means), 3, generator=generator, device=generator.device).to(means)
    sh = ((gray - 0.5 + s.color_noise * noise) / SH_C0)[:, None]
    logits = torch.full_like(means[:, 0], math.log(s.opacity / (1 - s.opacity)))
    return Gaussians(means, scales.log(), facing(normals), logits, sh)
