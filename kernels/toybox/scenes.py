"""Exact pictures of scenes: two toys standing on a round ground under a half dome of sky, all
around the camera.

World: Y up, the origin between the toys. Seen from the front the first toy stands on the left (-X),
the second on the right, each at half its size, its lowest point on the ground. The ground is a disc
that fades into the sky's colour at the horizon, where the dome stands on its rim.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from functools import cache

import torch
from torch import Tensor

from ..cameras.pinhole import Cameras
from .captions import COLORS, Caption
from .render import Layers, camera_rays, lambert, render_layers
from .scene_captions import Scene
from .shapes import shape

GROUND = -0.25  # height of the ground, world units
RADIUS = 6.0  # of the ground's disc and of the dome, world units, around the point below the origin
SCALE = 0.5  # of the toys: each fills up to half a world unit
PLACES = (-0.5, 0.5)  # x of the first and of the second toy's middle, world units
HAZE_FROM, HAZE = 1.5, 0.75  # the ground fades from this distance on, at its rim by this share
# white share at the horizon; its grey; brightness at the top
WHITE, WHITE_LEVEL, ZENITH = 0.6, 0.96, 0.75


@dataclass(frozen=True)
class Surroundings:
    """Light weights of ground and sky [V,H,W] per pixel: a picture in any colours is their weighted
    sum.
    """

    ground: Tensor
    sky: Tensor
    white: Tensor

    def paint(self, ground: str, sky: str) -> Tensor:
        """[V,H,W,3] in these colours."""
        colors = self.ground.new_tensor([COLORS[ground], COLORS[sky], (WHITE_LEVEL,) * 3])
        return torch.stack([self.ground, self.sky, self.white], -1) @ colors


@cache
def lowest(category: str) -> float:
    """Height of a toy's lowest point in its own cube, to about 1e-4."""
    toy = shape(category)
    across = torch.linspace(-0.56, 0.56, 225)
    x, z = torch.meshgrid(across, across, indexing="ij")
    height = -0.7
    for _ in range(200):  # a plane rises by its distance from the toy until it touches
        step = float(toy.distance(torch.stack([x, torch.full_like(x, height), z], -1)).min())
        height += step
        if step < 1e-5:
            break
    return height


def at_side(cameras: Cameras, category: str, side: int) -> Cameras:
    """The cameras as a toy in its own cube sees them that stands at the first (0) or second (1)
    place.
    """
    middle = torch.tensor([PLACES[side], GROUND - SCALE * lowest(category), 0.0]).to(
        cameras.viewmats
    )
    viewmats = cameras.viewmats.clone()
    positions = (cameras.positions - middle) / SCALE
    viewmats[:, :3, 3] = -(viewmats[:, :3, :3] @ positions[..., None])[..., 0]
    return replace(cameras, viewmats=viewmats)


def render_toy(category: str, cameras: Cameras, side: int, supersample: int = 2) -> Layers:
    """A category's light layers at a place of the scene; depth in units of `SCALE`."""
    return render_layers(category, at_side(cameras, category, side), supersample)


def render_surroundings(cameras: Cameras, supersample: int = 2) -> Surroundings:
    """Ground and sky from V cameras inside the dome, above the ground."""
    origins, rays, _ = camera_rays(cameras, supersample)
    below = rays[..., 1] < -1e-6
    t = (GROUND - origins[..., 1]) / torch.where(below, rays[..., 1], -1.0)
    reach = (origins + t[..., None] * rays)[..., [0, 2]].norm(dim=-1)
    on_ground = below & (reach < RADIUS)
    haze = HAZE * smooth((reach - HAZE_FROM) / (RADIUS - HAZE_FROM))
    light = float(lambert(origins.new_tensor([0.0, 1.0, 0.0])))
    centred = origins - origins.new_tensor([0.0, GROUND, 0.0])
    b = (centred * rays).sum(-1)
    far = -b + (b * b - centred.square().sum(-1) + RADIUS * RADIUS).clamp_min(0).sqrt()
    sky, white = sky_weights((centred[..., 1] + far * rays[..., 1]) / RADIUS)
    sky0, white0 = sky_weights(torch.zeros_like(sky))
    weights = torch.stack(
        [
            torch.where(on_ground, (1 - haze) * light, 0.0),
            torch.where(on_ground, haze * sky0, sky),
            torch.where(on_ground, haze * white0, white),
        ],
        -1,
    )
    v, h, w, s = len(cameras), cameras.height, cameras.width, supersample
    return Surroundings(*weights.view(v, h, s, w, s, 3).mean((2, 4)).unbind(-1))


def sky_weights(height: Tensor) -> tuple[Tensor, Tensor]:
    """Weights of the sky's colour and of white at a height of the dome, 0 at the rim to 1 at the
    top.
    """
    up = height.clamp(0, 1)
    white, level = WHITE * (1 - up) ** 4, 1 - (1 - ZENITH) * up
    return (1 - white) * level, white * level


def smooth(x: Tensor) -> Tensor:
    """0 below 0, 1 above 1, smoothly between."""
    x = x.clamp(0, 1)
    return x * x * (3 - 2 * x)


def compose(
    first: Tensor, second: Tensor, alphas: tuple[Tensor, Tensor], nearer: Tensor, behind: Tensor
) -> Tensor:
    """Two premultiplied colours [...,3] with alphas [...,1] over what is behind; ``nearer``
    [...,1]: the first is.
    """
    one, two = alphas
    return torch.where(
        nearer,
        first + (1 - one) * (second + (1 - two) * behind),
        second + (1 - two) * (first + (1 - one) * behind),
    )


def first_nearer(depths: tuple[Tensor, Tensor], alphas: tuple[Tensor, Tensor]) -> Tensor:
    """Where the first toy is in front: by depth where both are, else where it is at all. Any equal
    shapes.
    """
    return (alphas[1] <= 0) | ((alphas[0] > 0) & (depths[0] <= depths[1]))


def render_scene(scene: Scene, cameras: Cameras, supersample: int = 3) -> Tensor:
    """The exact picture [V,H,W,3] sRGB 0..1 of a scene, each pixel the mean of supersample^2
    samples.
    """
    size = cameras.width * supersample, cameras.height * supersample
    fine = cameras.resize(size)
    toys = [
        render_toy(toy.category, fine, side, 1)
        for side, toy in enumerate((scene.first, scene.second))
    ]
    colors = [
        layers.paint(Caption(toy.category, toy.color), 0.0)
        for layers, toy in zip(toys, (scene.first, scene.second), strict=True)
    ]
    alphas = toys[0].alpha[..., None], toys[1].alpha[..., None]
    nearer = first_nearer((toys[0].depth[..., None], toys[1].depth[..., None]), alphas)
    behind = render_surroundings(fine, 1).paint(scene.ground, scene.sky)
    picture = compose(colors[0], colors[1], alphas, nearer, behind)
    return torch.nn.functional.avg_pool2d(picture.permute(0, 3, 1, 2), supersample).permute(
        0, 2, 3, 1
    )
