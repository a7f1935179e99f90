"""Binary glTF as far as splats need it: the two chunks, accessors, and where nodes place a mesh.

Everything read from the JSON may be anything, so every look into it goes through `get`, which names
what is wrong.
"""

from __future__ import annotations

import json
import os
from dataclasses import dataclass
from typing import Any, TypeVar

import numpy as np

from .assembly import Array, read_stretch

MAGIC = b"glTF"
JSON_CHUNK, BIN_CHUNK = 0x4E4F534A, 0x004E4942
JSON_LIMIT = 1 << 24  # bytes; a splat's has about 5,000, a large scene's a few millions
NODES_LIMIT = 50_000
COMPONENTS = {5120: "i1", 5121: "u1", 5122: "<i2", 5123: "<u2", 5126: "<f4"}
WIDTHS = {"SCALAR": 1, "VEC2": 2, "VEC3": 3, "VEC4": 4}

T = TypeVar("T")


@dataclass(frozen=True)
class Glb:
    """An opened file: its JSON, and where its binary chunk lies."""

    path: str | os.PathLike[str]
    name: str
    tree: dict[str, Any]
    begin: int
    length: int


@dataclass(frozen=True)
class Accessor:
    """Numbers in the binary chunk."""

    count: int
    width: int
    kind: np.dtype
    normalized: bool
    begin: int  # in the file
    stride: int

    def read(self, glb: Glb, start: int, stop: int) -> Array:
        """Rows ``start`` to ``stop`` as float32 [n,width]; normalised integers as -1..1 or 0..1."""
        row = self.width * self.kind.itemsize
        size = (stop - start - 1) * self.stride + row
        data = read_stretch(glb.path, self.begin + start * self.stride, size, glb.name)
        shape, strides = (stop - start, self.width), (self.stride, self.kind.itemsize)
        values: Array = np.ndarray(shape, self.kind, data, strides=strides)
        if self.normalized and self.kind.kind in "iu":
            values = np.maximum(values / np.float32(np.iinfo(self.kind).max), -1, dtype=np.float32)
        floats: Array = values.astype(np.float32, copy=False)
        return floats


def open_glb(path: str | os.PathLike[str], name: str) -> Glb:
    """The file's JSON, checked as far as its own form goes. Raises ValueError saying what is
    wrong.
    """
    with open(path, "rb") as file:
        size = os.fstat(file.fileno()).st_size
        head = np.frombuffer(file.read(20).ljust(20, b"\0"), "<u4")
        if head[0] != int.from_bytes(MAGIC, "little"):
            raise ValueError(
                f"{name} is not a binary glTF: it does not begin with glTF. Choose another file."
            )
        if head[1] != 2:
            raise ValueError(
                f"{name} is glTF version {head[1]}; only 2 can be read. Export it again."
            )
        length, end = int(head[3]), 20 + int(head[3])
        if head[4] != JSON_CHUNK or end > size or length > JSON_LIMIT:
            raise bad(
                name,
                f"its JSON chunk of {length} bytes does not fit; the file has {size}, {JSON_LIMIT}"
                " may be",
            )
        text = file.read(length)
        chunk = np.frombuffer(file.read(8).ljust(8, b"\0"), "<u4")
    try:
        tree = json.loads(text.decode("utf-8"))
    except (ValueError, RecursionError) as error:
        raise bad(name, f"its JSON cannot be read ({type(error).__name__}: {error})") from None
    if not isinstance(tree, dict):
        raise bad(name, "its JSON is no object")
    return Glb(
        path,
        name,
        tree,
        end + 8,
        min(int(chunk[0]), size - end - 8) if chunk[1] == BIN_CHUNK else 0,
    )


def get(glb: Glb, holder: Any, key: str | int, kind: type[T], default: T | None = None) -> T:
    """``holder[key]`` if it is of that kind; raises ValueError naming the key. Integers are never
    negative.
    """
    if isinstance(holder, dict):
        value = holder.get(key, default)
    else:
        value = holder[key] if isinstance(key, int) and 0 <= key < len(holder) else None
    kinds = (int, float) if kind is float else kind
    if not isinstance(value, kinds) or (isinstance(value, bool) and kind is not bool):
        raise bad(
            glb.name, f"{key!r} is {str(value)[:40]!r} in its JSON, where {kind.__name__} is needed"
        )
    if kind is int and value < 0:  # type: ignore[operator]
        raise bad(glb.name, f"{key!r} is {value} in its JSON; 0 or more is needed")
    return value  # type: ignore[return-value]


def accessor(glb: Glb, index: int, width: int) -> Accessor:
    """The accessor of so many components; all its rows lie within the file. Raises ValueError."""
    entry = get(glb, get(glb, glb.tree, "accessors", list), index, dict)
    if "sparse" in entry or "bufferView" not in entry:
        raise bad(glb.name, f"accessor {index} is sparse or empty, which is not read")
    view = get(
        glb, get(glb, glb.tree, "bufferViews", list), get(glb, entry, "bufferView", int), dict
    )
    if view.get("extensions") or get(glb, view, "buffer", int) != 0:
        raise bad(
            glb.name, f"accessor {index} lies outside the file or is compressed, which is not read"
        )
    kind = COMPONENTS.get(get(glb, entry, "componentType", int))
    if kind is None or WIDTHS.get(get(glb, entry, "type", str)) != width:
        raise bad(
            glb.name,
            f"accessor {index} is {entry['type']} of {entry['componentType']}; {width} are needed",
        )
    dtype = np.dtype(kind)
    row = width * dtype.itemsize
    count, stride = get(glb, entry, "count", int), get(glb, view, "byteStride", int, row)
    offset = get(glb, entry, "byteOffset", int, 0)
    room = get(glb, view, "byteLength", int)
    begin = get(glb, view, "byteOffset", int, 0)
    if (
        count < 1
        or stride < row
        or offset + (count - 1) * stride + row > room
        or begin + room > glb.length
    ):
        raise bad(
            glb.name, f"accessor {index} has {count} rows every {stride} bytes; that does not fit its {room} bytes or "
            f"the file's {glb.length}"
        )  # fmt: skip
    return Accessor(
        count,
        width,
        dtype,
        get(glb, entry, "normalized", bool, False),
        glb.begin + begin + offset,
        stride,
    )


def placements(glb: Glb) -> list[tuple[int, Array]]:
    """Mesh index and matrix [4,4] to the world of every node with a mesh. Raises ValueError for a
    tangled tree.
    """
    nodes, still = get(glb, glb.tree, "nodes", list, []), np.eye(4)
    if len(nodes) > NODES_LIMIT:
        raise bad(glb.name, f"it has {len(nodes)} nodes; {NODES_LIMIT} are read")
    children = {child for node in nodes if isinstance(node, dict) for child in _children(glb, node)}
    waiting = [(index, still) for index in range(len(nodes)) if index not in children]
    found, visited = [], set()
    while waiting:
        index, above = waiting.pop()
        if index in visited:
            raise bad(glb.name, f"node {index} has two parents")
        visited.add(index)
        node = get(glb, nodes, index, dict)
        matrix = above @ local_matrix(glb, node)
        if "mesh" in node:
            found.append((get(glb, node, "mesh", int), matrix))
        waiting += [(child, matrix) for child in _children(glb, node)]
    if len(visited) < len(nodes):
        raise bad(glb.name, "its nodes form a ring")
    return found


def bad(name: str, what: str) -> ValueError:
    """The error of a damaged file."""
    return ValueError(f"{name} is a damaged glTF: {what}. Export it again.")


def _children(glb: Glb, node: dict[str, Any]) -> list[int]:
    children = get(glb, node, "children", list, [])
    return [get(glb, children, i, int) for i in range(len(children))]


def local_matrix(glb: Glb, node: dict[str, Any]) -> Array:
    """[4,4] from the node to its parent: its matrix, or its translation, rotation and scale.
    Raises ValueError where these are no such numbers.
    """

    def numbers(key: str, default: list[float]) -> Array:
        values = get(glb, node, key, list, default)
        if len(values) != len(default):
            raise bad(
                glb.name, f"a node's {key} has {len(values)} numbers, {len(default)} are needed"
            )
        found = np.array([_number(get(glb, values, i, float)) for i in range(len(values))])
        if not np.isfinite(found).all():
            raise bad(glb.name, f"a node's {key} holds a number that is not finite")
        return found

    if "matrix" in node:
        columns: Array = numbers("matrix", np.eye(4).reshape(-1).tolist()).reshape(4, 4)
        rows: Array = columns.T
        return rows
    x, y, z, w = numbers("rotation", [0, 0, 0, 1])
    turn = np.array(
        [
            [1 - 2 * (y * y + z * z), 2 * (x * y - w * z), 2 * (x * z + w * y)],
            [2 * (x * y + w * z), 1 - 2 * (x * x + z * z), 2 * (y * z - w * x)],
            [2 * (x * z - w * y), 2 * (y * z + w * x), 1 - 2 * (x * x + y * y)],
        ]
    )
    matrix = np.eye(4)
    matrix[:3, :3] = turn * numbers("scale", [1, 1, 1])
    matrix[:3, 3] = numbers("translation", [0, 0, 0])
    return matrix


def _number(value: float) -> float:
    try:
        return float(value)
    except OverflowError:  # a whole number of hundreds of digits
        return float("inf")
