"""Reads meshes and point clouds of .glb and .gltf: colours as glTF's materials say.

A colour is base colour factor x base colour texture x vertex colour, all linear but the texture;
texture coordinates are those that the texture names, transformed and wrapped as it says. What a
file requires and this does not know is refused by name.
"""

from __future__ import annotations

import io
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from PIL import Image, UnidentifiedImageError

from .assembly import Array
from .gltf import bad, get
from .gltf_scene import INSTANCING, Scene, instances, morphed, open_scene, skinned, walked
from .mesh_source import SiblingFiles
from .notes import note

DRACO = "KHR_draco_mesh_compression"
GLOSSY = "KHR_materials_pbrSpecularGlossiness"
TRANSFORM, WEBP, KTX = "KHR_texture_transform", "EXT_texture_webp", "KHR_texture_basisu"
KNOWN = {GLOSSY, TRANSFORM, WEBP, INSTANCING, "KHR_mesh_quantization", "KHR_materials_unlit"}
MATERIALS = ("KHR_materials_", "EXT_materials_", "KHR_lights_", "KHR_xmp", "EXT_lights_")
CLAMP, MIRROR = 33071, 33648
GREY = 0.5  # sRGB, of what has no material at all
GREY_LINEAR = 0.21404
MODES = {0: "points", 4: "triangles", 5: "strip", 6: "fan"}


@dataclass
class Part:
    """A primitive in its place.

    Args:
        vertices: [M,3] in the file's world
        faces: [F,3], none of a point cloud
        colors: [M,3] linear: factor x vertex colours, or [1,3] if they are all the same
        image: the texture, or None
        uvs: [M,2], right and down from the texture's first texel
        matrix: [4,4], for normals of points
        normals: [M,3] of a point cloud
    """

    vertices: Array
    faces: Array
    colors: Array
    image: Image.Image | None
    uvs: Array | None
    normals: Array | None = None


def load_parts(path: Path) -> list[Part]:
    """All that the default scene shows. Raises ValueError saying what is wrong or not read."""
    scene = open_scene(path, SiblingFiles(path).get)
    glb = scene.glb
    for name in get(glb, scene.tree, "extensionsRequired", list, []):
        if str(name) not in KNOWN and not str(name).startswith(MATERIALS):
            raise ValueError(
                f"{glb.name} requires {str(name)[:60]}, which is not read. Export it without."
            )
    looks: dict[Any, Look] = {}
    parts = []
    for node, matrix, matrices in walked(scene):
        if "mesh" not in node:
            continue
        entry = scene.entry("meshes", get(glb, node, "mesh", int))
        weights = get(glb, node, "weights", list, get(glb, entry, "weights", list, []))
        primitives = get(glb, entry, "primitives", list)
        for index in range(len(primitives)):
            primitive = get(glb, primitives, index, dict)
            if (mode := get(glb, primitive, "mode", int, 4)) not in MODES:
                continue  # lines
            key = get(glb, primitive, "material", int) if "material" in primitive else None
            if key not in looks:
                looks[key] = Look(scene, key)
            bare = _bare(scene, primitive, mode, weights, looks[key])
            if "skin" in node:
                attributes = get(glb, primitive, "attributes", dict)
                skin = get(glb, node, "skin", int)
                bare.vertices = skinned(scene, skin, attributes, bare.vertices, matrices)
                parts.append(bare)
                continue
            parts += [_placed(bare, place) for place in instances(scene, node, matrix)]
    return parts


class Look:
    """A material as far as colour goes."""

    def __init__(self, scene: Scene, index: Any) -> None:
        glb = scene.glb
        self.factor = np.full(3, 1.0 if index is not None else GREY_LINEAR, np.float32)
        self.default = index is None
        self.image: Image.Image | None = None
        self.info: dict[str, Any] = {}
        self.wrap = (10497, 10497)
        if index is None:
            return
        material = scene.entry("materials", get(glb, {"material": index}, "material", int))
        extensions = get(glb, material, "extensions", dict, {})
        holder = get(glb, material, "pbrMetallicRoughness", dict, {})
        names = "baseColorFactor", "baseColorTexture"
        if isinstance(extensions.get(GLOSSY), dict):
            holder, names = extensions[GLOSSY], ("diffuseFactor", "diffuseTexture")
        factor = self.numbers(scene, holder, names[0], (1.0, 1.0, 1.0))
        glow = self.numbers(scene, material, "emissiveFactor", (0.0, 0.0, 0.0))
        if factor.max() < 1e-3 < glow.max():  # black but for what it emits
            factor, holder, names = glow, material, ("", "emissiveTexture")
        self.factor = factor
        if names[1] in holder:
            self.info = get(glb, holder, names[1], dict)
            self.texture(scene, get(glb, self.info, "index", int))

    @staticmethod
    def numbers(scene: Scene, holder: Any, key: str, default: tuple[float, ...]) -> Array:
        values = get(scene.glb, holder, key, list, list(default))
        found = [get(scene.glb, values, i, float) for i in range(3)]
        return np.clip(np.array(found, np.float32), 0, 1)

    def texture(self, scene: Scene, index: int) -> None:
        glb, entry = scene.glb, scene.entry("textures", index)
        extensions = get(glb, entry, "extensions", dict, {})
        source = entry.get("source")
        if isinstance(extensions.get(WEBP), dict):
            source = extensions[WEBP].get("source", source)
        if source is None:
            kind = ", ".join(map(str, extensions))[:80] or "nothing"
            raise ValueError(
                f"{glb.name} has a texture of {kind}, which is not read. Export it with PNG or JPEG."
            )
        self.image = _picture(
            scene, scene.entry("images", get(glb, {"source": source}, "source", int))
        )
        if "sampler" in entry:
            sampler = scene.entry("samplers", get(glb, entry, "sampler", int))
            self.wrap = tuple(get(glb, sampler, key, int, 10497) for key in ("wrapS", "wrapT"))  # type: ignore[assignment]
        if self.image is not None and MIRROR in self.wrap:
            self.image = _mirrored(self.image, self.wrap)

    def uvs(self, scene: Scene, attributes: dict[str, Any], count: int) -> Array | None:
        """[M,2] in the picture as this has it."""
        glb = scene.glb
        number = get(glb, self.info, "texCoord", int, 0)
        transform = get(glb, self.info, "extensions", dict, {}).get(TRANSFORM, {})
        if not isinstance(transform, dict):
            raise bad(glb.name, f"{TRANSFORM} is no object")
        number = get(glb, transform, "texCoord", int, number)
        key = f"TEXCOORD_{number}"
        if key not in attributes:
            return None
        uvs = scene.accessor(get(glb, attributes, key, int), (2,))
        if len(uvs) != count:
            raise bad(glb.name, f"{key} has {len(uvs)} rows for {count} vertices")
        wide, high = (
            get(glb, get(glb, transform, "scale", list, [1, 1]), i, float) for i in (0, 1)
        )
        right, down = (
            get(glb, get(glb, transform, "offset", list, [0, 0]), i, float) for i in (0, 1)
        )
        angle = get(glb, transform, "rotation", float, 0)
        sine, cosine = np.sin(angle), np.cos(angle)
        u, v = (uvs * np.array([wide, high], np.float32)).T
        turned = [u * cosine + v * sine + right, v * cosine - u * sine + down]
        for axis, wrap in enumerate(self.wrap):
            if wrap == CLAMP and self.image is not None:
                half = 0.5 / self.image.size[axis]
                turned[axis] = np.clip(turned[axis], half, 1 - half)
            elif wrap == MIRROR:
                turned[axis] = turned[axis] / 2
        return np.stack(turned, -1).astype(np.float32)


def _picture(scene: Scene, entry: dict[str, Any]) -> Image.Image | None:
    """None where it is missing or no picture, which is noted."""
    glb, what = scene.glb, "a picture inside it"
    try:
        if "bufferView" in entry:
            data = scene.view(get(glb, entry, "bufferView", int))[0]
        else:
            uri = get(glb, entry, "uri", str)
            what = what if uri.startswith("data:") else f"the picture {uri[:80]!r}"
            data = scene.bytes_of(uri)
        return Image.open(io.BytesIO(data))
    except (UnidentifiedImageError, OSError, ValueError) as error:
        if "bufferView" in entry and isinstance(error, ValueError):
            raise
        missing = "is not beside it" if isinstance(error, ValueError) else "is no picture"
        note(f"{glb.name}: {what} {missing}; without it the material's plain colour is taken.")
        return None


def _mirrored(image: Image.Image, wrap: tuple[int, int]) -> Image.Image:
    """Twice the picture along the axes that mirror it, so that repeating does the same."""
    array = np.asarray(image.convert("RGB"))
    if wrap[0] == MIRROR:
        array = np.concatenate([array, array[:, ::-1]], 1)
    if wrap[1] == MIRROR:
        array = np.concatenate([array, array[::-1]], 0)
    return Image.fromarray(array)


def _bare(
    scene: Scene, primitive: dict[str, Any], mode: int, weights: list[Any], look: Look
) -> Part:
    """A primitive where its own numbers put it."""
    glb = scene.glb
    if DRACO in get(glb, primitive, "extensions", dict, {}):
        raise ValueError(f"{glb.name} is compressed with {DRACO}. Export it without compression.")
    attributes = get(glb, primitive, "attributes", dict)
    places = scene.accessor(get(glb, attributes, "POSITION", int), (3,))
    count = len(places)
    places = morphed(scene, primitive, weights, places)
    faces = _faces(scene, primitive, mode, count)
    colors: Array = look.factor[None]
    if "COLOR_0" in attributes:
        own = scene.accessor(get(glb, attributes, "COLOR_0", int), (3, 4))[:, :3]
        if len(own) != count:
            raise bad(glb.name, f"COLOR_0 has {len(own)} rows for {count} vertices")
        colors = np.clip(own, 0, 1)
        if not look.default:
            colors = colors * look.factor
        if (colors == colors[:1]).all():
            colors = colors[:1]
    uvs = look.uvs(scene, attributes, count) if look.image is not None else None
    normals = None
    if mode == 0 and "NORMAL" in attributes:
        normals = scene.accessor(get(glb, attributes, "NORMAL", int), (3,))
    return Part(places, faces, colors, None if uvs is None else look.image, uvs, normals)


def _faces(scene: Scene, primitive: dict[str, Any], mode: int, count: int) -> Array:
    glb = scene.glb
    if "indices" in primitive:
        at = scene.accessor(get(glb, primitive, "indices", int), (1,), whole=True)
        order = at[:, 0].astype(np.int64)
    else:
        order = np.arange(count)
    if len(order) and order.max() >= count:
        raise bad(glb.name, f"an index is {order.max()} of {count} vertices")
    if MODES[mode] == "points":
        return np.empty((0, 3), np.int64)
    if MODES[mode] == "triangles":
        return order[: len(order) // 3 * 3].reshape(-1, 3)
    if len(order) < 3:
        return np.empty((0, 3), np.int64)
    if MODES[mode] == "fan":
        return np.stack([order[1:-1], order[2:], np.full(len(order) - 2, order[0])], -1)
    strip = np.stack([order[:-2], order[1:-1], order[2:]], -1)
    strip[1::2] = strip[1::2, [1, 0, 2]]  # every second runs the other way round
    return strip


def _placed(part: Part, matrix: Array) -> Part:
    linear = matrix[:3, :3]
    faces = part.faces[:, ::-1] if np.linalg.det(linear) < 0 else part.faces
    normals = part.normals
    if normals is not None:
        with np.errstate(all="ignore"):
            normals = normals @ np.linalg.pinv(linear)
    vertices = part.vertices @ linear.T + matrix[:3, 3]
    return Part(vertices, faces, part.colors, part.image, part.uvs, normals)


def tensor(values: Array) -> torch.Tensor:
    """The values as float32, of the same shape."""
    return torch.from_numpy(np.ascontiguousarray(values)).float()
