"""All formats of splat files in one table, for the nodes and the tests."""

from __future__ import annotations

import os
import re
from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from pathlib import Path

import numpy as np

from ..gaussians.cloud import Gaussians
from .compressed_ply import load_compressed_ply, save_compressed_ply
from .frame import placed, to_file_frame
from .gltf_splat import is_gltf_splat, load_gltf_splat, save_gltf_splat
from .html import save_html
from .ksplat import load_ksplat
from .ply import load_ply, save_ply, stated_up
from .ply_header import HEADER_LIMIT
from .sog import META, load_sog
from .sog_writer import save_sog, save_sog_folder
from .splat_file import load_splat, save_splat
from .spz import load_spz, save_spz, save_spz_2, save_spz_4
from .usd_splat import Z_UP, load_usd, save_usd


@dataclass(frozen=True)
class Format:
    """One kind of file.

    Args:
        extension: without the first dot
        kind: what ComfyUI calls it: the last part of the extension
    """

    extension: str
    kind: str
    save: Callable[[Gaussians, str | os.PathLike[str]], None]
    load: Callable[[str | os.PathLike[str]], Gaussians]


def _unwritten(gaussians: Gaussians, path: str | os.PathLike[str]) -> None:
    raise ValueError(f"{Path(path).name}: this format is read only. Save as ply instead.")


def _unread(path: str | os.PathLike[str]) -> Gaussians:
    raise ValueError(
        f"{Path(path).name} is a page to look at. Its Download button gives a .sog, which is read."
    )


FORMATS = {
    "ply": Format("ply", "ply", save_ply, load_ply),
    "compressed ply": Format("compressed.ply", "ply", save_compressed_ply, load_compressed_ply),
    "splat": Format("splat", "splat", save_splat, load_splat),
    "spz": Format("spz", "spz", save_spz, load_spz),
    "spz 2": Format("spz", "spz", save_spz_2, load_spz),
    "spz 4": Format("spz", "spz", save_spz_4, load_spz),
    "glb": Format("glb", "glb", save_gltf_splat, load_gltf_splat),
    "sog": Format("sog", "sog", save_sog, load_sog),
    "sog folder": Format("meta.json", "json", save_sog_folder, load_sog),
    "usdz": Format("usdz", "usdz", save_usd, load_usd),
    "usdc": Format("usdc", "usdc", save_usd, load_usd),
    "usda": Format("usda", "usda", save_usd, load_usd),
    "html": Format("html", "html", save_html, _unread),
}
READ_ONLY = {"ksplat": Format("ksplat", "ksplat", _unwritten, load_ksplat)}
UP_AXES = ("auto", "Y up", "Y down", "Z up")
SUFFIXES = tuple(dict.fromkeys(f".{f.kind}" for f in (FORMATS | READ_ONLY).values()))
SUFFIXES = tuple(suffix for suffix in SUFFIXES if suffix != ".html")
# of meshes and point clouds that `mesh.load_shape` reads
MESH_SUFFIXES = (".glb", ".gltf", ".obj", ".ply", ".stl")


def format_of(path: str | os.PathLike[str]) -> str:
    """The format's name by the file's content; a .splat, which has no mark, by its name.

    Raises ValueError for a file of no known kind, OSError where it cannot be read.
    """
    with open(path, "rb") as file:
        head = file.read(HEADER_LIMIT)
    if Path(path).suffix.lower() == ".splat":
        return "splat"
    if re.match(rb"ply\s", head):
        return "compressed ply" if b"packed_position" in head.partition(b"end_header")[0] else "ply"
    if head[:2] == b"\x1f\x8b" or head[:4] == b"NGSP":
        return "spz"
    if head[:4] == b"glTF":
        return "glb"
    if head[:2] == b"PK":  # by the name of its first member
        first = head[30 : 30 + int.from_bytes(head[26:28], "little")]
        return "usdz" if re.search(rb"\.usd[ac]?$", first) else "sog"
    if head[:8] == b"PXR-USDC":
        return "usdc"
    if head[:5] == b"#usda":
        return "usda"
    if re.match(rb"\s*<!doctype html", head):
        return "html"
    if head.lstrip()[:1] == b"{" and Path(path).name.lower().endswith(META):
        return "sog folder"
    if head[:1] == b"\0" and Path(path).suffix.lower() == ".ksplat":
        return "ksplat"
    raise ValueError(
        f"{Path(path).name} is no splat file this can read (its content is no PLY, SPZ, SOG, KSPLAT,"
        f" USD or binary glTF); choose one of {', '.join(SUFFIXES)}."
    )


def load_gaussians(path: str | os.PathLike[str], up_axis: str = "auto") -> Gaussians:
    """Read a splat file of any known format into our Y-up world.

    ``up_axis``: which way is up in the file's numbers, one of `UP_AXES`. auto: what the file says,
    else how the writer that it can be told to come from does it, else the format's habit. Raises
    ValueError naming the file and the cure.
    """
    if up_axis not in UP_AXES:
        raise ValueError(f"up_axis is {up_axis!r}; choose one of {', '.join(UP_AXES)}.")
    kind = format_of(path)
    load = (FORMATS | READ_ONLY)[kind].load
    if up_axis == "auto" and kind in ("ply", "compressed ply"):
        up_axis = stated_up(path) or up_axis
    if up_axis == "auto":
        return load(path)
    # as its numbers stand, whatever it says of them
    plain: dict[str, Callable[..., Gaussians]] = {"spz": partial(load_spz, axes="RDF")}
    plain["glb"] = load
    plain |= {name: partial(load_usd, as_it_stands=True) for name in ("usda", "usdc", "usdz")}
    cloud = plain.get(kind, load)(path)
    if kind not in plain or kind == "spz":
        cloud = to_file_frame(cloud)
    turns = {"Y up": np.eye(4), "Z up": Z_UP, "Y down": np.diag([1.0, -1, -1, 1])}
    return placed(cloud, turns[up_axis], Path(path).name)


def may_hold_gaussians(path: str | os.PathLike[str]) -> bool:
    """Whether a file chooser should offer it: a splat file by its extension; of .glb only those
    with splats.
    """
    suffix = Path(path).suffix.lower()
    if suffix == ".json":
        return Path(path).name.lower().endswith(META)
    return suffix in SUFFIXES and (suffix != ".glb" or is_gltf_splat(path))


def may_hold_mesh(path: str | os.PathLike[str]) -> bool:
    """The same for meshes and point clouds: by the extension; of .glb and .ply only those without
    splats.
    """
    suffix = Path(path).suffix.lower()
    if suffix == ".glb":
        return not is_gltf_splat(path)
    if suffix == ".ply":
        with open(path, "rb") as file:
            header = file.read(HEADER_LIMIT).partition(b"end_header")[0]
        return b" scale_0" not in header and b" packed_position" not in header
    return suffix in MESH_SUFFIXES
