"""Textures as pictures see them: read between texels, and at the level of detail that the pixels
have.
"""

from __future__ import annotations

import math

import torch
from torch import Tensor

from ..cameras.pinhole import Cameras
from .mesh import Mesh


def texels(texture: Tensor, uvs: Tensor) -> Tensor:
    """The texture [H,W,C] at positions [P,2] (0..1, right and down from its first texel), bilinear,
    [P,C]; beyond its rim the rim's colour. Differentiable with respect to both."""
    layers = texture.permute(2, 0, 1)[None]
    found = torch.nn.functional.grid_sample(
        layers, 2 * uvs[None, None].to(texture) - 1, padding_mode="border", align_corners=False
    )
    return found[0, :, 0].T


def level_of_detail(mesh: Mesh, cameras: Cameras) -> int:
    """How often the mesh's texture has to be halved until a texel is about as large as a pixel of
    the cameras.

    One level for the whole surface, as if it faced the cameras at the distance of its middle. Never
    so many that the texture's size could not be halved evenly.
    """
    if mesh.texture is None or mesh.uvs is None:
        return 0
    height, width = mesh.texture.shape[:2]
    a, b, c = (mesh.uvs.double()[mesh.faces] * mesh.uvs.new_tensor([width, height])).unbind(1)
    (p, q), (r, s) = (b - a).unbind(-1), (c - a).unbind(-1)
    # texels per square world unit
    per_area = float(0.5 * (p * s - q * r).abs().sum() / mesh.face_areas.sum())
    middle = (mesh.vertices.amin(0) + mesh.vertices.amax(0)) / 2
    views = cameras.viewmats.to(middle)
    depth = (views[:, :3, :3] @ middle + views[:, :3, 3])[:, 2].clamp_min(1e-6)
    focal = cameras.intrinsics[:, 0, 0].to(depth)
    finest = float((focal / depth).square().mean())  # pixels per square world unit
    most = min((size & -size).bit_length() - 1 for size in (height, width))
    return max(0, min(round(0.5 * math.log2(max(per_area, 1e-12) / finest)), most))


def downsample(texture: Tensor, times: int) -> Tensor:
    """The texture [H,W,C] with 2^times squared texels averaged into one: what a gradient says of a
    pixel reaches all the texels under it."""
    if times == 0:
        return texture
    return torch.nn.functional.avg_pool2d(texture.permute(2, 0, 1)[None], 2**times)[0].permute(
        1, 2, 0
    )
