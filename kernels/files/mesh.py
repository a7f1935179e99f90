"""Mesh files and point clouds of any common kind, as `Mesh` and `Points` with sRGB colours."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Any

import numpy as np
import torch
import trimesh
from PIL import Image
from torch import Tensor

from ..meshes.color import linear_to_srgb, srgb_to_linear
from ..meshes.mesh import Mesh, Points
from ..meshes.sample import texels
from .formats import MESH_SUFFIXES
from .gltf_mesh import Part, load_parts, tensor
from .mesh_source import check_source, load_with_trimesh, needs_draco, tell_missing
from .notes import note

SUFFIXES = (*MESH_SUFFIXES, ".off")
GREY = 0.5
TEXELS = 1 << 27  # of all pictures of a file in all; a solid one of so many is a file of 400 kB
KEPT = 4  # pictures of SIDE x SIDE texels, 0.8 GB, is the most that is kept of them
SIDE = 4096  # texels along a side that are kept: no cloud of Gaussians shows more
# vertices and triangles of all placed objects, or as many as the file has bytes
COPIES = 20_000_000


def load_mesh(path: str | os.PathLike[str]) -> Mesh:
    """Read a mesh; all objects of a scene as one, in place, with colours at the vertices.

    Raises ValueError as `load_shape` does, and for a point cloud.
    """
    parts = load_shape(path)
    if isinstance(parts, Points):
        raise ValueError(
            f"{Path(path).name} holds no triangles; it is a point cloud. Choose a mesh."
        )
    faces, offset = [], 0
    for part in parts:
        faces.append(part.faces + offset)
        offset += len(part.vertices)
    vertices, colors = (
        torch.cat([getattr(part, key) for part in parts]) for key in ("vertices", "colors")
    )
    return Mesh(vertices, torch.cat(faces), colors).check(Path(path).name)


def load_shape(path: str | os.PathLike[str]) -> list[Mesh] | Points:
    """Read a mesh, its objects as parts in place with their textures; or a point cloud, where there
    are no triangles.

    Colours come from the texture where there is one, else from the vertices, else from the
    material, else they are grey; those of glTF files are turned from linear to sRGB. In the file's
    own axes. Raises ValueError naming the file for unknown kinds, damaged files, Gaussian splats
    and files without triangles or points.
    """
    name = Path(path).name
    suffix = Path(path).suffix.lower()
    if suffix not in SUFFIXES:
        raise ValueError(
            f"{name} is no mesh file this can read; choose one of {', '.join(SUFFIXES)}."
        )
    if not Path(path).is_file():
        raise ValueError(f"{path} does not exist. Choose another file.")
    check_source(Path(path))
    if suffix in (".glb", ".gltf") and not needs_draco(Path(path)):
        return _gltf(Path(path))
    tell_missing(Path(path))
    try:
        placed = _placed(load_with_trimesh(Path(path)))
        total = sum(len(part.vertices) + len(getattr(part, "faces", ())) for _, part in placed)
        if total > max(COPIES, os.path.getsize(path)):
            raise ValueError(
                f"its objects are placed so often that they have {total} vertices and triangles"
            )
        linear = suffix in (".glb", ".gltf")
        solids = [
            (at, part)
            for at, part in placed
            if isinstance(part, trimesh.Trimesh) and len(part.faces)
        ]
        pictures = Pictures([_picture(part, linear) for _, part in solids])
        meshes = [_mesh(part, at, linear, pictures) for at, part in solids]
        clouds = [
            (at, part)
            for at, part in placed
            if isinstance(part, trimesh.PointCloud) and len(part.vertices)
        ]
        points = [] if meshes else [_points(part, at, linear) for at, part in clouds]
    except Exception as error:  # the many parsers behind it raise whatever they meet
        raise ValueError(
            f"{name} cannot be read as a mesh: it is damaged, or of a kind that is not known here "
            f"({type(error).__name__}: {error}). Export it again."
        ) from error
    if meshes:
        return [mesh.check(name) for mesh in meshes]
    if any("scale_0" in _columns(part) for _, part in clouds):
        raise ValueError(f"{name} holds Gaussian splats, not a mesh. Read it with Load Gaussians.")
    if not points:
        raise ValueError(
            f"{name} holds no triangles and no points. Choose a mesh or a point cloud."
        )
    normals = [part.normals for part in points if part.normals is not None]
    positions, colors = (
        torch.cat([getattr(part, key) for part in points]) for key in ("points", "colors")
    )
    if not bool(torch.isfinite(positions).all() and torch.isfinite(colors).all()):
        raise ValueError(
            f"{name} holds points or colours that are NaN or infinite; remove them first."
        )
    return Points(positions, colors, torch.cat(normals) if len(normals) == len(points) else None)


def _gltf(path: Path) -> list[Mesh] | Points:
    """By our own reader: trimesh's passes over most of what the specification allows."""
    name = path.name
    try:
        parts = load_parts(path)
    except (ArithmeticError, LookupError, TypeError, np.linalg.LinAlgError) as error:
        what = f"{type(error).__name__}: {error}"
        raise ValueError(f"{name} is a damaged glTF ({what}). Export it again.") from error
    total = sum(len(part.vertices) + len(part.faces) for part in parts)
    if total > max(COPIES, os.path.getsize(path)):
        raise ValueError(
            f"{name} cannot be read as a mesh: its objects are placed so often that they have"
            f" {total} vertices and triangles. Export it again."
        )
    solids = [part for part in parts if len(part.faces)]
    try:
        pictures = Pictures([(part.image, tint(part)) for part in solids])
    except ValueError as error:
        raise ValueError(f"{name} cannot be read as a mesh: {error}. Export it again.") from None
    try:
        meshes = [_of_part(part, pictures, name).check(name) for part in solids]
    except (OSError, SyntaxError, Image.DecompressionBombError) as error:  # a damaged picture
        raise ValueError(f"{name} holds a damaged picture: {error}. Export it again.") from None
    if meshes:
        return meshes
    clouds = [part for part in parts if len(part.vertices)]
    if not clouds:
        raise ValueError(
            f"{name} holds no triangles and no points. Choose a mesh or a point cloud."
        )
    places = torch.cat([tensor(part.vertices) for part in clouds])
    colors = [linear_to_srgb(tensor(part.colors)).expand(len(part.vertices), 3) for part in clouds]
    if not bool(torch.isfinite(places).all() and torch.isfinite(torch.cat(colors)).all()):
        raise ValueError(
            f"{name} holds points or colours that are NaN or infinite; remove them first."
        )
    normals = [tensor(part.normals) for part in clouds if part.normals is not None]
    whole = len(normals) == len(clouds) and all(bool((n.norm(dim=1) > 1e-6).all()) for n in normals)
    directions = torch.nn.functional.normalize(torch.cat(normals), dim=-1) if whole else None
    return Points(places, torch.cat(colors), directions)


def tint(part: Part) -> tuple[float, ...] | None:
    """What the whole picture of a part is multiplied with, linear; None where it differs."""
    return tuple(part.colors[0].tolist()) if len(part.colors) == 1 else None


def _of_part(part: Part, pictures: Pictures, name: str) -> Mesh:
    vertices, faces = tensor(part.vertices), torch.from_numpy(np.ascontiguousarray(part.faces))
    colors = linear_to_srgb(tensor(part.colors)).expand(len(vertices), 3).contiguous()
    if part.image is None or part.uvs is None:
        return Mesh(vertices, faces, colors)
    texture, uvs = pictures.get(part.image, tint(part)), tensor(part.uvs)
    at_vertices = texels(texture, uvs)
    if len(part.colors) == 1:
        return Mesh(vertices, faces, at_vertices, uvs, texture)
    note(
        f"{name} has colours at the vertices that its texture is multiplied with: the product is"
        " taken at the vertices alone, without the texture's detail between them."
    )
    product = srgb_to_linear(at_vertices) * tensor(part.colors)
    return Mesh(vertices, faces, linear_to_srgb(product))


def _placed(loaded: Any) -> list[tuple[np.ndarray, Any]]:
    """Every object with the matrix [4,4] that places it."""
    if not isinstance(loaded, trimesh.Scene):
        return [(np.eye(4), loaded)]
    # Not Scene.dump: its copies lose the colours of meshes that also have a material. Not
    # graph.get: it begins at the root for every node.
    forest, matrices = loaded.graph.transforms, {loaded.graph.base_frame: np.eye(4)}
    waiting = list(matrices)
    while waiting:
        node = waiting.pop()
        for child in forest.children.get(node, ()):
            matrices[child] = matrices[node] @ forest.edge_data[(node, child)].get(
                "matrix", np.eye(4)
            )
            waiting.append(child)
    nodes = [
        (node, forest.node_data[node]["geometry"])
        for node in loaded.graph.nodes_geometry
        if node in matrices
    ]
    return [(matrices[node], loaded.geometry[key]) for node, key in nodes]


class Pictures:
    """The textures of a file as tensors [H,W,3] sRGB, each made once; smaller ones where there are
    many.
    """

    def __init__(self, named: list[tuple[Any, Any]]) -> None:
        """``named``: what `get` will be asked for. Raises ValueError for too many texels, before
        any is decoded.
        """
        different = {self.key(image, factor): image for image, factor in named if image is not None}
        total = sum(image.width * image.height for image in different.values())
        if total > TEXELS:
            raise ValueError(
                f"its {len(different)} textures of {total} texels in all are larger than {TEXELS}"
            )
        self.side = min(SIDE, max(64, int((SIDE**2 * KEPT / max(1, len(different))) ** 0.5)))
        self.known: dict[Any, Tensor] = {}

    @staticmethod
    def key(image: Any, factor: Any) -> Any:
        return id(image), None if factor is None else tuple(np.ravel(factor))

    def get(self, image: Any, factor: Any) -> Tensor:
        """The picture times ``factor`` [3 or 4], linear 0..1 or 0..255, or None."""
        key = self.key(image, factor)
        if key not in self.known:
            if image.mode.startswith("I"):  # 16 bits, which convert() would cut off
                image = Image.fromarray((np.asarray(image).clip(0, 65535) >> 8).astype(np.uint8))
            picture = image.convert("RGB")
            picture.thumbnail((self.side, self.side))
            self.known[key] = _unit(np.asarray(picture))
            if factor is not None and (tint := _unit(factor)).min() < 1:
                # as glTF says
                self.known[key] = linear_to_srgb(srgb_to_linear(self.known[key]) * tint)
        return self.known[key]


def _picture(part: Any, linear: bool) -> tuple[Any, Any]:
    """A part's picture and the factor on it; None where there is none."""
    material = getattr(part.visual, "material", None)
    image = getattr(material, "baseColorTexture", None) or getattr(material, "image", None)
    return image, getattr(material, "baseColorFactor", None) if linear else None


def _mesh(part: Any, matrix: np.ndarray, linear: bool, pictures: Pictures) -> Mesh:
    vertices = np.asarray(part.vertices) @ matrix[:3, :3].T + matrix[:3, 3]
    mirrored = np.linalg.det(matrix[:3, :3]) < 0
    faces = np.asarray(part.faces, np.int64)[:, :: -1 if mirrored else 1]
    texture, uvs = _texture(part, linear, pictures)
    colors = _colors(part, linear) if texture is None or uvs is None else texels(texture, uvs)
    return Mesh(
        torch.from_numpy(vertices).float(), torch.from_numpy(np.ascontiguousarray(faces)), colors, uvs, texture
    )  # fmt: skip


def _texture(part: Any, linear: bool, pictures: Pictures) -> tuple[Tensor | None, Tensor | None]:
    """The picture [H,W,3] sRGB and the coordinates [M,2] as in `Mesh`; or None twice."""
    (image, factor), uv = _picture(part, linear), getattr(part.visual, "uv", None)
    if image is None or uv is None or len(uv) != len(part.vertices):
        return None, None
    u, v = np.asarray(uv, np.float32).T
    # trimesh's v points up
    return pictures.get(image, factor), torch.from_numpy(np.stack([u, 1 - v], -1))


def _colors(part: Any, linear: bool) -> Tensor:
    """[M,3] sRGB 0..1 of a part without texture."""
    visual, count = part.visual, len(part.vertices)
    encode = linear_to_srgb if linear else lambda value: value
    attribute = (
        visual.vertex_attributes.get("color") if hasattr(visual, "vertex_attributes") else None
    )
    if attribute is None and visual.kind in ("vertex", "face"):
        attribute = visual.vertex_colors
    if attribute is not None and len(attribute) == count:
        return encode(_unit(attribute))
    material = getattr(visual, "material", None)
    if material is not None:
        return encode(_unit(np.asarray(material.main_color)[None])).expand(count, 3).clone()
    return torch.full((count, 3), GREY)


def _points(part: Any, matrix: np.ndarray, linear: bool) -> Points:
    positions = np.asarray(part.vertices) @ matrix[:3, :3].T + matrix[:3, 3]
    colors = torch.full((len(positions), 3), GREY)
    if part.colors is not None and len(part.colors) == len(positions):
        colors = linear_to_srgb(_unit(part.colors)) if linear else _unit(part.colors)
    columns, normals = _columns(part), None
    if {"nx", "ny", "nz"} <= set(columns):
        turned = np.stack(
            [np.ravel(columns[key]) for key in ("nx", "ny", "nz")], -1
        ) @ np.linalg.inv(matrix[:3, :3])
        lengths = np.linalg.norm(turned, axis=-1, keepdims=True)
        if len(turned) == len(positions) and (lengths > 1e-6).all():  # splat trainers write zeros
            normals = torch.from_numpy(turned / lengths).float()
    return Points(torch.from_numpy(positions).float(), colors, normals)


def _columns(part: Any) -> dict[str, Any]:
    """The columns of a PLY's vertices by name; empty for other files."""
    data = part.metadata.get("_ply_raw", {}).get("vertex", {}).get("data", {})
    return data if isinstance(data, dict) else {name: data[name] for name in data.dtype.names}


def _unit(colors: Any) -> Tensor:
    """Any colour array as float 0..1 [...,3]: whole numbers span their type's range."""
    values = np.asarray(colors)[..., :3]
    top = np.iinfo(values.dtype).max if values.dtype.kind in "iu" else 1
    return torch.from_numpy(values.astype(np.float32) / top).clamp(0, 1)
