"""A mesh's texture as files have it."""

from __future__ import annotations

from typing import Any

import numpy as np
from PIL import Image
from torch import Tensor

from ..meshes.mesh import Mesh


def image_of(texture: Tensor) -> Image.Image:
    """A texture [H,W,3] 0..1 as an 8-bit picture, its first row on top."""
    return Image.fromarray((texture.detach().cpu().clamp(0, 1) * 255).round().byte().numpy())


def upward(mesh: Mesh) -> np.ndarray[Any, Any]:
    """Texture coordinates [M,2] float64 with v upward, as OBJ has it and trimesh wants it for every
    format.
    """
    assert mesh.uvs is not None
    u, v = mesh.uvs.detach().cpu().double().numpy().T
    return np.stack([u, 1 - v], -1)
