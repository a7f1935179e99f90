"""glTF as its specification has it (Khronos 2.0): accessors of every kind, and where nodes, skins,
morph targets and instances put the vertices.

Everything read from the JSON may be anything, so every look into it goes through `gltf.get`.
"""

from __future__ import annotations

import base64
import binascii
import json
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np

from .assembly import Array
from .gltf import NODES_LIMIT, WIDTHS, Glb, bad, get, local_matrix, open_glb

COMPONENTS = {5120: "i1", 5121: "u1", 5122: "<i2", 5123: "<u2", 5125: "<u4", 5126: "<f4"}
SIZES = WIDTHS | {"MAT2": 4, "MAT3": 9, "MAT4": 16}
INSTANCING = "EXT_mesh_gpu_instancing"
INSTANCES = 100_000


@dataclass
class Scene:
    """An opened file. ``beside`` gives the bytes of a file that it names."""

    glb: Glb
    beside: Callable[[str], bytes]
    known: dict[int, bytes] = field(default_factory=dict)

    @property
    def tree(self) -> dict[str, Any]:
        return self.glb.tree

    def entry(self, key: str, index: int) -> dict[str, Any]:
        return get(self.glb, get(self.glb, self.tree, key, list), index, dict)

    def bytes_of(self, uri: str) -> bytes:
        """What a URI names or holds."""
        if not uri.startswith("data:"):
            return self.beside(uri)
        try:
            return base64.b64decode(uri.partition(",")[2], validate=True)
        except (ValueError, binascii.Error):
            raise bad(self.glb.name, "an embedded file is no base64") from None

    def buffer(self, index: int) -> bytes:
        if index not in self.known:
            uri = self.entry("buffers", index).get("uri")
            if isinstance(uri, str):
                self.known[index] = self.bytes_of(uri)
            else:
                with open(self.glb.path, "rb") as file:
                    file.seek(self.glb.begin)
                    self.known[index] = file.read(self.glb.length)
        return self.known[index]

    def view(self, index: int) -> tuple[bytes, int]:
        """A buffer view's bytes and its stride, 0 where it has none."""
        entry = self.entry("bufferViews", index)
        if entry.get("extensions"):
            names = ", ".join(map(str, entry["extensions"]))[:80]
            raise ValueError(
                f"{self.glb.name} is compressed ({names}), which is not read. Export it without"
                " compression."
            )
        begin, size = (get(self.glb, entry, key, int, 0) for key in ("byteOffset", "byteLength"))
        data = self.buffer(get(self.glb, entry, "buffer", int))
        if begin + size > len(data):
            raise bad(self.glb.name, f"buffer view {index} reaches beyond its buffer")
        return data[begin : begin + size], get(self.glb, entry, "byteStride", int, 0)

    def rows(self, view: int, offset: int, count: int, kind: str, width: int) -> Array:
        """[count,width] of a buffer view."""
        data, stride = self.view(view)
        dtype = np.dtype(kind)
        row = dtype.itemsize * width
        stride = stride or row
        if count < 1 or stride < row or offset + (count - 1) * stride + row > len(data):
            raise bad(self.glb.name, f"{count} rows do not fit into buffer view {view}")
        shape, strides = (count, width), (stride, dtype.itemsize)
        values: Array = np.ndarray(shape, dtype, data, offset, strides).copy()
        return values

    def accessor(self, index: int, widths: tuple[int, ...], whole: bool = False) -> Array:
        """[count,width] float32, normalised where it says so, or as they are if ``whole``; sparse
        values put in.
        """
        entry = self.entry("accessors", index)
        kind = COMPONENTS.get(get(self.glb, entry, "componentType", int), "")
        width, count = (
            SIZES.get(get(self.glb, entry, "type", str)),
            get(self.glb, entry, "count", int),
        )
        if not kind or width not in widths:
            raise bad(self.glb.name, f"accessor {index} is {entry['type']}, which does not fit")
        if "bufferView" in entry:
            offset = get(self.glb, entry, "byteOffset", int, 0)
            view = get(self.glb, entry, "bufferView", int)
            values = self.rows(view, offset, count, kind, width)
        else:
            values = np.zeros((count, width), kind)
        if "sparse" in entry:
            self.put(values, get(self.glb, entry, "sparse", dict), kind, width)
        if whole:
            return values
        if get(self.glb, entry, "normalized", bool, False) and values.dtype.kind in "iu":
            top = np.float32(np.iinfo(values.dtype).max)
            values = np.maximum(values / top, -1, dtype=np.float32)
        return values.astype(np.float32, copy=False)

    def put(self, values: Array, sparse: dict[str, Any], kind: str, width: int) -> None:
        count = get(self.glb, sparse, "count", int)
        parts = []
        for key, wide in (("indices", 1), ("values", width)):
            part = get(self.glb, sparse, key, dict)
            of = (
                COMPONENTS.get(get(self.glb, part, "componentType", int, 0), "")
                if key == "indices"
                else kind
            )
            if not of:
                raise bad(self.glb.name, "a sparse accessor's indices are of no known kind")
            view, offset = (
                get(self.glb, part, k, int, d) for k, d in (("bufferView", None), ("byteOffset", 0))
            )
            parts.append(self.rows(view, offset, count, of, wide))
        at = parts[0][:, 0].astype(np.int64)
        if len(at) and at.max() >= len(values):
            raise bad(self.glb.name, "a sparse accessor's index lies beyond its rows")
        values[at] = parts[1]


def open_scene(path: Path, beside: Callable[[str], bytes]) -> Scene:
    """A .glb or .gltf. Raises ValueError saying what is wrong with it."""
    if path.suffix.lower() == ".glb":
        return Scene(open_glb(path, path.name), beside)
    try:
        tree = json.loads(path.read_text("utf-8"))
    except (ValueError, RecursionError) as error:
        raise bad(path.name, f"its JSON cannot be read ({type(error).__name__})") from None
    return Scene(Glb(path, path.name, tree if isinstance(tree, dict) else {}, 0, 0), beside)


def walked(scene: Scene) -> Iterator[tuple[dict[str, Any], Array, dict[int, Array]]]:
    """Every node of the default scene with its matrix [4,4] to the world, and all nodes' matrices
    by index. Raises ValueError for a tangled tree.
    """
    glb, nodes = scene.glb, get(scene.glb, scene.tree, "nodes", list, [])
    if len(nodes) > NODES_LIMIT:
        raise bad(glb.name, f"it has {len(nodes)} nodes; {NODES_LIMIT} are read")
    children = [get(glb, get(glb, nodes, i, dict), "children", list, []) for i in range(len(nodes))]
    inner = {child for some in children for child in some if isinstance(child, int)}
    roots: list[Any] = [i for i in range(len(nodes)) if i not in inner]
    matrices: dict[int, Array] = {}
    waiting: list[tuple[Any, Array]] = [(root, np.eye(4)) for root in roots]
    while waiting:
        index, above = waiting.pop()
        node = get(glb, nodes, index, dict)
        if index in matrices:
            raise bad(glb.name, f"node {index} has two parents")
        matrices[index] = above @ local_matrix(glb, node)
        waiting += [(child, matrices[index]) for child in children[index]]
    shown = list(range(len(nodes)))
    if scenes := get(glb, scene.tree, "scenes", list, []):
        default = get(glb, scenes, get(glb, scene.tree, "scene", int, 0), dict)
        waiting_for = list(get(glb, default, "nodes", list, []))
        shown = []
        while waiting_for:
            index = waiting_for.pop()
            get(glb, nodes, index, dict)
            shown.append(index)
            waiting_for += children[index]
            if len(shown) > len(nodes):
                raise bad(glb.name, "its nodes form a ring")
    for index in sorted(shown):
        if index not in matrices:
            raise bad(glb.name, "its nodes form a ring")
        yield nodes[index], matrices[index], matrices


def instances(scene: Scene, node: dict[str, Any], matrix: Array) -> list[Array]:
    """The matrices of a node's mesh: one, or as many as it is instanced."""
    glb = scene.glb
    extension = get(glb, node, "extensions", dict, {}).get(INSTANCING)
    if not isinstance(extension, dict):
        return [matrix]
    attributes = get(glb, extension, "attributes", dict)
    widths = {"TRANSLATION": 3, "ROTATION": 4, "SCALE": 3}
    found = {
        key: scene.accessor(get(glb, attributes, key, int), (width,))
        for key, width in widths.items()
        if key in attributes
    }
    counts = {len(values) for values in found.values()}
    if len(counts) != 1 or max(counts) > INSTANCES:
        raise bad(glb.name, f"its instances are {sorted(counts)}; {INSTANCES} are read")
    names = {"TRANSLATION": "translation", "ROTATION": "rotation", "SCALE": "scale"}
    return [
        matrix
        @ local_matrix(glb, {names[key]: values[i].tolist() for key, values in found.items()})
        for i in range(counts.pop())
    ]


def skinned(
    scene: Scene, skin: int, attributes: dict[str, Any], places: Array, matrices: dict[int, Array]
) -> Array:
    """Places [M,3] in the world, by the joints; the node's own matrix does not count."""
    glb, entry = scene.glb, scene.entry("skins", skin)
    joints = get(glb, entry, "joints", list)
    joints = [get(glb, joints, i, int) for i in range(len(joints))]
    if "inverseBindMatrices" in entry:
        inverse = scene.accessor(get(glb, entry, "inverseBindMatrices", int), (16,))
        inverse = inverse.reshape(-1, 4, 4).transpose(0, 2, 1)  # column by column
    else:
        inverse = np.tile(np.eye(4), (len(joints), 1, 1))
    if len(inverse) < len(joints) or any(joint not in matrices for joint in joints):
        raise bad(glb.name, "a skin's joints are not all there")
    moves = np.stack([matrices[j] @ inverse[i] for i, j in enumerate(joints)])
    blended, total = np.zeros((len(places), 4, 4)), np.zeros(len(places))
    for number in range(8):
        if f"JOINTS_{number}" not in attributes or f"WEIGHTS_{number}" not in attributes:
            break
        at = scene.accessor(get(glb, attributes, f"JOINTS_{number}", int), (4,), whole=True)
        weights = scene.accessor(get(glb, attributes, f"WEIGHTS_{number}", int), (4,))
        if len(at) != len(places) or len(weights) != len(places) or at.max() >= len(joints):
            raise bad(glb.name, "joints and weights do not fit the vertices")
        for k in range(4):
            blended += weights[:, k, None, None] * moves[at[:, k]]
            total += weights[:, k]
    blended /= np.where(total > 0, total, 1)[:, None, None]
    whole = np.concatenate([places, np.ones((len(places), 1))], 1)
    moved: Array = np.einsum("nij,nj->ni", blended, whole)[:, :3]
    return moved


def morphed(scene: Scene, primitive: dict[str, Any], weights: list[Any], places: Array) -> Array:
    """Places [M,3] with the default weights of the morph targets."""
    glb, targets = scene.glb, get(scene.glb, primitive, "targets", list, [])
    for i in range(min(len(targets), len(weights))):
        target, weight = get(glb, targets, i, dict), get(glb, weights, i, float)
        if weight and "POSITION" in target:
            moves = scene.accessor(get(glb, target, "POSITION", int), (3,))
            if moves.shape != places.shape:
                raise bad(glb.name, "a morph target does not fit its mesh")
            places = places + np.float32(weight) * moves
    return places
