"""Mesh files before a parser sees them: what would take it hours or all memory is refused, or put
another way.

trimesh trusts what a file says of itself: it reserves what a glTF announces, opens whatever lies at
the end of a path (before release 5), and looks through the names of all solids of an STL for each
of them.
"""

from __future__ import annotations

import importlib.util
import json
import re
from contextlib import suppress
from io import BytesIO
from pathlib import Path
from typing import Any
from urllib.parse import unquote

import trimesh
from PIL import Image, UnidentifiedImageError

from .gltf import WIDTHS, Glb, bad, get, open_glb, placements
from .notes import note
from .ply_header import HEADER_LIMIT

SPARE = 1 << 26  # bytes that a glTF may unpack to whatever its size is; else
TIMES = 16  # so many times its size: accessors may share their bytes, but not all of them
BYTES = {5120: 1, 5121: 1, 5122: 2, 5123: 2, 5125: 4, 5126: 4}
COMPONENTS = WIDTHS | {"MAT2": 4, "MAT3": 9, "MAT4": 16}
COMPRESSED = {
    "KHR_draco_mesh_compression": "DracoPy",
    "EXT_meshopt_compression": "",
    "KHR_meshopt_compression": "",
}


class SiblingFiles(trimesh.resolvers.Resolver):
    """The files that a mesh file may name: in its folder or below, read only, each once."""

    def __init__(self, file: Path) -> None:
        self.file_name, self.folder = file.name, file.resolve().parent
        self.known: dict[Path, bytes] = {}

    def path(self, key: str) -> Path:
        """Raises ValueError for what lies elsewhere, or is no file."""
        # As it is, as glTF writes blanks, and without the folders of the computer that it was made
        # on.
        for name in (key.strip(), unquote(key.strip()), re.split(r"[/\\]", key.strip())[-1]):
            with suppress(OSError, ValueError):  # names that no file can have
                path = (self.folder / name).resolve()
                if path.is_relative_to(self.folder) and path.is_file():
                    return path
        raise ValueError(
            f"{self.file_name} names the file {key[:80]!r}, which is not beside it. Copy both"
            " together."
        )

    def get(self, key: str) -> bytes:
        path = self.path(key)
        if path not in self.known:
            data = path.read_bytes()
            self.known[path] = plain_maps(utf8(data)) if path.suffix.lower() == ".mtl" else data
        return self.known[path]

    def write(self, name: str, data: Any) -> None:
        raise ValueError(f"{self.file_name}: nothing is written while it is read")

    def namespaced(self, namespace: str) -> SiblingFiles:
        return SiblingFiles(self.folder / namespace / self.file_name)

    def keys(self) -> list[str]:
        return [path.name for path in self.folder.iterdir() if path.is_file()]


def check_source(path: Path) -> None:
    """Raises ValueError for a glTF whose chunks, buffers, accessors or nodes cannot be as it says,
    or is compressed.
    """
    if path.suffix.lower() in (".glb", ".gltf"):
        _check_gltf(path, SiblingFiles(path))


def needs_draco(path: Path) -> bool:
    """Whether a checked .glb or .gltf is compressed so, which trimesh reads with DracoPy."""
    if path.suffix.lower() == ".glb":
        used = open_glb(path, path.name).tree.get("extensionsUsed")
    else:
        used = json.loads(path.read_text("utf-8")).get("extensionsUsed")
    return isinstance(used, list) and "KHR_draco_mesh_compression" in used


def load_with_trimesh(path: Path) -> Any:
    """What trimesh makes of a checked file; whatever its parsers raise passes through."""
    suffix, resolver = path.suffix.lower(), SiblingFiles(path)
    if suffix not in (".obj", ".stl"):
        return trimesh.load(str(path), resolver=resolver, process=False)
    data = path.read_bytes()
    if suffix == ".obj" or len(data) != 84 + 50 * int.from_bytes(data[80:84], "little"):
        data = one_solid(utf8(data)) if suffix == ".stl" else with_material(utf8(data), resolver)
    return trimesh.load(BytesIO(data), file_type=suffix[1:], resolver=resolver, process=False)


# of a texture map in an MTL: names and how many words follow each, at most
OPTIONS = rb"(?:-(?:o|s|t)(?:\s+[-+.\deE]+){1,3}|-mm\s+\S+\s+\S+|-[a-z]+\s+\S+)\s+"


def plain_maps(data: bytes) -> bytes:
    """An MTL whose texture maps have no options, which trimesh takes for part of the name."""
    return re.sub(rb"(?mi)^(\s*map_Kd\s+)(?:%s)+" % OPTIONS, rb"\1", data)


def with_material(data: bytes, resolver: SiblingFiles) -> bytes:
    """An OBJ that names a material file but no material, with the only one that the file has."""
    library = re.search(rb"(?m)^\s*mtllib\s+([^\r\n]+)", data)
    if library is None or re.search(rb"(?m)^\s*usemtl\s", data):
        return data
    with suppress(ValueError, OSError):
        text = resolver.get(library[1].decode("utf-8", "replace").strip())
        names = re.findall(rb"(?mi)^\s*newmtl\s+([^\r\n]+)", text)
        if len(names) == 1:
            end = library.end()
            return b"".join([data[:end], b"\nusemtl ", names[0], data[end:]])
    return data


def tell_missing(path: Path) -> None:
    """Notes the materials and pictures that an OBJ or a PLY names and that are not there, without
    which the mesh has no colours or others.
    """
    resolver, name, suffix = SiblingFiles(path), path.name, path.suffix.lower()

    def have(key: str, what: str, picture: bool) -> bytes | None:
        try:
            data = resolver.get(key)
            if picture:
                Image.open(BytesIO(data))
            return data
        except (OSError, ValueError, Image.DecompressionBombError) as error:
            why = (
                "is no picture" if isinstance(error, UnidentifiedImageError) else "is not beside it"
            )
            note(f"{name}: {what} {key[:80]!r} {why}; without it the mesh is grey, or plain.")
            return None

    if suffix == ".ply":
        with open(path, "rb") as file:
            head = file.read(HEADER_LIMIT).partition(b"end_header")[0]
        for key in re.findall(rb"(?m)^comment\s+TextureFile\s+([^\r\n]+)", head):
            have(key.decode("utf-8", "replace").strip(), "the picture", True)
    if suffix != ".obj":
        return
    data = path.read_bytes()
    known: set[bytes] = set()
    libraries = re.findall(rb"(?m)^\s*mtllib\s+([^\r\n]+)", data)
    for key in libraries:
        text = have(key.decode("utf-8", "replace").strip(), "the material file", False)
        for line in (text or b"").splitlines():
            words = line.strip().split(None, 1)
            if len(words) == 2 and words[0].lower() == b"newmtl":
                known.add(words[1].strip())
            if len(words) == 2 and words[0].lower() == b"map_kd":
                have(words[1].decode("utf-8", "replace").strip(), "the picture", True)
        if text is None:
            return
    used = set(map(bytes.strip, re.findall(rb"(?m)^\s*usemtl\s+([^\r\n]+)", data)))
    if lacking := sorted(used - known) if libraries else []:
        names = b", ".join(lacking[:5]).decode("utf-8", "replace")[:120]
        note(f"{name}: its material file lacks {names}; what uses it is grey.")


def utf8(data: bytes) -> bytes:
    """Text as UTF-8, with marks in place of what is none: trimesh would guess at its encoding, for
    minutes.
    """
    return data.decode("utf-8", "replace").encode()


def one_solid(data: bytes) -> bytes:
    """An STL as text with all its solids as one."""
    return re.sub(rb"endsolid[^\n]*\n\s*solid[^\n]*\n", b"", data, flags=re.IGNORECASE)


def _check_gltf(path: Path, resolver: SiblingFiles) -> None:
    name, size = path.name, path.stat().st_size
    if path.suffix.lower() == ".glb":
        glb = open_glb(path, name)
        _check_chunks(glb, size)
    else:
        try:
            tree = json.loads(path.read_text("utf-8"))
        except (ValueError, RecursionError) as error:
            raise bad(name, f"its JSON cannot be read ({type(error).__name__}: {error})") from None
        if not isinstance(tree, dict):
            raise bad(name, "its JSON is no object")
        glb = Glb(path, name, tree, 0, 0)
    for extension in get(glb, glb.tree, "extensionsRequired", list, []):
        needed = COMPRESSED.get(extension) if isinstance(extension, str) else None
        if needed == "" or (needed and importlib.util.find_spec(needed) is None):
            cure = f"install the package {needed}, or export" if needed else "export"
            raise ValueError(
                f"{name} is compressed with {extension}, which is not read: {cure} it without"
                " compression."
            )
    placements(glb)
    room = max(SPARE, TIMES * (size + sum(_outside(glb, resolver))))
    for what, total in (("buffer views", sum(_views(glb))), ("accessors", sum(_accessors(glb)))):
        if total > room:
            raise bad(
                name, f"its {what} announce {total} bytes, far more than its {size} bytes can hold"
            )


def _check_chunks(glb: Glb, size: int) -> None:
    with open(glb.path, "rb") as file:
        at = 12
        while at + 8 <= size:
            file.seek(at)
            length = int.from_bytes(file.read(4), "little")
            if at + 8 + length > size:
                raise bad(
                    glb.name, f"a chunk of {length} bytes does not fit into the file's {size} bytes"
                )
            at += 8 + length


def _outside(glb: Glb, resolver: SiblingFiles) -> list[int]:
    """Sizes of the files that its buffers are in."""
    uris = [
        buffer.get("uri")
        for buffer in get(glb, glb.tree, "buffers", list, [])
        if isinstance(buffer, dict)
    ]
    return [
        resolver.path(uri).stat().st_size
        for uri in uris
        if isinstance(uri, str) and not uri.startswith("data:")
    ]


def _views(glb: Glb) -> list[int]:
    views = get(glb, glb.tree, "bufferViews", list, [])
    return [get(glb, get(glb, views, i, dict), "byteLength", int) for i in range(len(views))]


def _accessors(glb: Glb) -> list[int]:
    found, entries = [], get(glb, glb.tree, "accessors", list, [])
    for index in range(len(entries)):
        entry = get(glb, entries, index, dict)
        width, each = (
            COMPONENTS.get(get(glb, entry, "type", str)), BYTES.get(get(glb, entry, "componentType", int))
        )  # fmt: skip
        if width is None or each is None:
            raise bad(
                glb.name,
                f"accessor {index} is {entry['type']!r} of {entry['componentType']}, which glTF"
                " lacks",
            )
        found.append(get(glb, entry, "count", int) * width * each)
    return found
