"""Gaussian clouds as binary glTF with KHR_gaussian_splatting: Y up as our world, everything
float32, nothing lost.

A primitive of points with POSITION, COLOR_0 (linear RGBA bytes, for viewers that know points only)
and, prefixed with the extension's name, ROTATION (xyzw), SCALE, OPACITY (0..1) and
SH_DEGREE_d_COEF_k (RGB each). SCALE is linear and never negative, says the ratified extension;
drafts of it had logarithms. Harmonics are 3DGS's, colours sRGB.
"""

from __future__ import annotations

import json
import os
from collections.abc import Callable, Iterator
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import torch

from ..gaussians.cloud import SH_C0, Gaussians
from .assembly import (
    STRETCH,
    Array,
    NegativeScaleError,
    Rows,
    arrays,
    assemble,
    compiled_decoders,
    logits_of,
    opacity_bytes,
    quantise,
)
from .atomic import atomic_write
from .frame import placed
from .gltf import (
    BIN_CHUNK,
    JSON_CHUNK,
    MAGIC,
    Accessor,
    Glb,
    accessor,
    bad,
    get,
    open_glb,
    placements,
)
from .linear import linear_as_srgb
from .notes import note

EXTENSION = "KHR_gaussian_splatting"
SETTINGS = {
    "kernel": "ellipse",
    "colorSpace": "srgb_rec709_display",
    "projection": "perspective",
    "sortingMethod": "cameraDistance",
}
LINEAR = "lin_rec709_display"
CESIUM = "KHR_spz_gaussian_splats_compression"  # a draft, of Cesium's tilers
DRAFT = "_ROTATION"  # attribute of the first draft of the extension
LEAST_BYTES = 16  # per Gaussian in a file, quantised as far as glTF allows


def save_gltf_splat(gaussians: Gaussians, path: str | os.PathLike[str]) -> None:
    """Write the cloud as .glb, Y up; atomic.

    Raises ValueError if the cloud is empty, holds NaNs or needs more than the 4 GB that glTF
    allows, or the folder does not exist; OSError if the disk refuses.
    """
    cloud = arrays(gaussians, turned=False)
    count, begin = len(gaussians), 0
    views: list[dict[str, Any]] = []
    accessors: list[dict[str, Any]] = []
    attributes: dict[str, int] = {}
    for semantic, (kind, component, width, _) in _planes(gaussians.sh_degree).items():
        size = count * width
        attributes[semantic] = len(accessors)
        views.append({"buffer": 0, "byteOffset": begin, "byteLength": size, "target": 34962})
        entry: dict[str, Any] = {
            "bufferView": len(accessors),
            "componentType": component,
            "count": count,
            "type": kind,
        }
        accessors.append(entry | ({"normalized": True} if component == 5121 else {}))
        begin += size
    accessors[0] |= {"min": cloud["means"].min(0).tolist(), "max": cloud["means"].max(0).tolist()}
    primitive = {"mode": 0, "attributes": attributes, "extensions": {EXTENSION: SETTINGS}}
    tree = {
        "asset": {"version": "2.0", "generator": "Distill3D"},
        "extensionsUsed": [EXTENSION],
        "scene": 0,
        "scenes": [{"nodes": [0]}],
        "nodes": [{"mesh": 0}],
        "meshes": [{"primitives": [primitive]}],
        "accessors": accessors,
        "bufferViews": views,
        "buffers": [{"byteLength": begin}],
    }
    text = json.dumps(tree, separators=(",", ":")).encode("ascii")
    text += b" " * (-len(text) % 4)
    total = 12 + 8 + len(text) + 8 + begin
    if total >= 1 << 32:
        raise ValueError(
            f"gaussians need {total} bytes as glTF, which holds less than 4 GB. Save as ply"
            " instead."
        )
    with atomic_write(path) as file:
        file.write(MAGIC + np.array([2, total, len(text), JSON_CHUNK], "<u4").tobytes() + text)
        file.write(np.array([begin, BIN_CHUNK], "<u4").tobytes())
        for _, _, _, encode in _planes(gaussians.sh_degree).values():
            for start in range(0, count, STRETCH):
                file.write(
                    encode(
                        {key: value[start : start + STRETCH] for key, value in cloud.items()}
                    ).tobytes()
                )


def load_gltf_splat(path: str | os.PathLike[str]) -> Gaussians:
    """Read all Gaussians of a .glb, where its nodes place them; SH degree 0 to 3, the greatest of
    its primitives'.

    A file with a negative SCALE holds logarithms, as the extension's drafts had it. Raises
    ValueError saying what is wrong with the file and what to do: not a binary glTF, no splat (a
    mesh), cut off, compressed, placed askew.
    """
    name = Path(path).name
    glb = open_glb(path, name)
    found = list(_primitives(glb))
    if CESIUM in glb.tree.get("extensionsUsed", ()):
        raise ValueError(
            f"{name} holds splats by a draft of glTF, {CESIUM} (Cesium's), which is not read. Export"
            f" it as {EXTENSION} without compression, as .spz or as .ply."
        )
    if not found:
        raise ValueError(
            f"{name} holds no Gaussian splats ({EXTENSION}); it may be a mesh. Choose a splat, or"
            " initialise Gaussians from the mesh."
        )
    positions = [
        accessor(glb, get(glb, get(glb, p, "attributes", dict), "POSITION", int), 3)
        for p, _ in found
    ]
    total = sum(plane.count for plane in positions)
    if total * LEAST_BYTES > glb.length:
        raise bad(
            name, f"its {len(found)} primitives announce {total} Gaussians in {glb.length} bytes"
        )
    clouds = [placed(_in_srgb(glb, primitive), matrix, name) for primitive, matrix in found]
    if len(clouds) == 1:
        return clouds[0]
    terms = max(cloud.sh.shape[1] for cloud in clouds)
    padded = [
        cloud.map(
            lambda v: (
                torch.nn.functional.pad(v, (0, 0, 0, terms - v.shape[1])) if v.dim() == 3 else v
            )
        )
        for cloud in clouds
    ]
    return Gaussians(
        **{
            key: torch.cat([cloud.tensors()[key] for cloud in padded])
            for key in padded[0].tensors()
        }
    )


def is_gltf_splat(path: str | os.PathLike[str]) -> bool:
    """Whether the .glb speaks of splats at all; False for files that cannot be read."""
    try:
        used = open_glb(path, Path(path).name).tree.get("extensionsUsed")
    except (OSError, ValueError):
        return False
    return isinstance(used, list) and (EXTENSION in used or CESIUM in used)


def _semantics(degree: int) -> list[str]:
    return [
        f"{EXTENSION}:SH_DEGREE_{d}_COEF_{k}" for d in range(degree + 1) for k in range(2 * d + 1)
    ]


Encode = Callable[[dict[str, Array]], Array]


def _planes(degree: int) -> dict[str, tuple[str, int, int, Encode]]:
    """Of every attribute: accessor type, component type, bytes per Gaussian, and how to make it."""
    planes: dict[str, tuple[str, int, int, Encode]] = {
        "POSITION": ("VEC3", 5126, 12, lambda v: v["means"]),
        "COLOR_0": ("VEC4", 5121, 4, _fallback_colors),
        f"{EXTENSION}:ROTATION": ("VEC4", 5126, 16, lambda v: v["quats"][:, [1, 2, 3, 0]]),
        f"{EXTENSION}:SCALE": ("VEC3", 5126, 12, lambda v: np.exp(v["log_scales"])),
        f"{EXTENSION}:OPACITY": ("SCALAR", 5126, 4, lambda v: _sigmoid(v["opacity_logits"])),
    }
    for term, semantic in enumerate(_semantics(degree)):
        planes[semantic] = ("VEC3", 5126, 12, _harmonic(term))
    return planes


def _harmonic(term: int) -> Encode:
    return lambda part: part["sh"][:, term]


def _sigmoid(logits: Array) -> Array:
    return torch.from_numpy(logits).sigmoid().numpy()


def _fallback_colors(part: dict[str, Array]) -> Array:
    color = np.clip(0.5 + SH_C0 * part["sh"][:, 0], 0, 1)
    # glTF's COLOR_0 is linear
    linear = np.where(color <= 0.04045, color / 12.92, ((color + 0.055) / 1.055) ** 2.4)
    return np.concatenate(
        (quantise(linear * 255, 255), opacity_bytes(part["opacity_logits"])[:, None]), 1
    )


def _primitives(glb: Glb) -> Iterator[tuple[dict[str, Any], Array]]:
    """Every primitive of splats with its matrix; those of meshes that no node places stand as they
    are.
    """
    meshes = get(glb, glb.tree, "meshes", list, [])
    instances = placements(glb)
    used = [mesh for mesh, _ in instances]
    if len(set(used)) < len(used):
        raise bad(glb.name, "a mesh stands in several places, which is not read")
    instances += [(mesh, np.eye(4)) for mesh in range(len(meshes)) if mesh not in set(used)]
    for index, matrix in sorted(instances, key=lambda instance: instance[0]):
        primitives = get(glb, get(glb, meshes, index, dict), "primitives", list)
        for i in range(len(primitives)):
            primitive = get(glb, primitives, i, dict)
            extensions = get(glb, primitive, "extensions", dict, {})
            if EXTENSION in extensions:
                settings = get(glb, extensions, EXTENSION, dict)
                if settings.get("extensions"):
                    names = ", ".join(str(name)[:80] for name in settings["extensions"])
                    raise ValueError(
                        f"{glb.name} holds compressed splats ({names}), which are not read. Export"
                        " it without compression, as .spz or as .ply."
                    )
                if settings.get("kernel", "ellipse") != "ellipse":
                    raise bad(
                        glb.name,
                        f"kernel {str(settings['kernel'])[:40]!r} is unknown; only ellipse is read",
                    )
                space = settings.get("colorSpace", SETTINGS["colorSpace"])
                if space not in (SETTINGS["colorSpace"], LINEAR):
                    raise bad(
                        glb.name,
                        f"colorSpace {str(space)[:40]!r} is unknown; {SETTINGS['colorSpace']} and"
                        f" {LINEAR} are read",
                    )
                yield primitive, matrix


def _in_srgb(glb: Glb, primitive: dict[str, Any]) -> Gaussians:
    if DRAFT in get(glb, primitive, "attributes", dict):
        raise ValueError(
            f"{glb.name} holds splats by the first draft of {EXTENSION} (attributes _ROTATION and"
            " _SCALE), which is not read. Export it anew, as .spz or as .ply."
        )
    cloud = _cloud(glb, primitive)
    if primitive["extensions"][EXTENSION].get("colorSpace") != LINEAR:
        return cloud
    note(f"{glb.name} holds linear colours; they are turned into sRGB.")
    return linear_as_srgb(cloud)


def _cloud(glb: Glb, primitive: dict[str, Any]) -> Gaussians:
    attributes = get(glb, primitive, "attributes", dict)

    def plane(semantic: str, width: int) -> Accessor:
        return accessor(glb, get(glb, attributes, semantic, int), width)

    degree = max(
        (d for d in range(4) if f"{EXTENSION}:SH_DEGREE_{d}_COEF_0" in attributes), default=0
    )
    means, scales = plane("POSITION", 3), plane(f"{EXTENSION}:SCALE", 3)
    quats, opacities = plane(f"{EXTENSION}:ROTATION", 4), plane(f"{EXTENSION}:OPACITY", 1)
    harmonics = [plane(semantic, 3) for semantic in _semantics(degree)]
    counts = sorted({plane.count for plane in (means, scales, quats, opacities, *harmonics)})
    if len(counts) > 1:
        raise bad(
            glb.name,
            f"its attributes have {counts[0]} to {counts[-1]} rows; all must have the same",
        )

    def decode(start: int, stop: int, logarithmic: bool = False) -> Rows:
        sizes = scales.read(glb, start, stop)
        return Rows(
            means=means.read(glb, start, stop),
            quats=quats.read(glb, start, stop)[:, [3, 0, 1, 2]],
            dc=harmonics[0].read(glb, start, stop),
            rest=(
                np.stack([plane.read(glb, start, stop) for plane in harmonics[1:]], 1)
                if degree
                else None
            ),
            scales=None if logarithmic else sizes,
            log_scales=sizes if logarithmic else None,
            opacities=opacities.read(glb, start, stop)[:, 0],
        )

    fast = compiled_decoders(counts[0])

    def fill(start: int, stop: int, out: dict[str, Array]) -> bool:
        usual = (
            plane.read(glb, start, stop)
            for plane in (means, quats, scales, opacities, harmonics[0])
        )
        if not fast.planes(*usual, tuple(out.values())):
            return False
        for term, plane in enumerate(harmonics[1:], 1):
            out["sh"][:, term] = plane.read(glb, start, stop)
        np.log(out["log_scales"], out=out["log_scales"])
        out["opacity_logits"][:] = logits_of(out["opacity_logits"])
        return bool(np.isfinite(out["sh"].sum())) if degree else True

    try:
        return assemble(
            counts[0], len(harmonics), decode, glb.name, turned=False, fill=fill if fast else None
        )
    except NegativeScaleError:
        return assemble(
            counts[0], len(harmonics), partial(decode, logarithmic=True), glb.name, turned=False
        )
