"""Gaussian clouds as PLY files in the layout of 3D Gaussian Splatting (Kerbl et al. 2023, the INRIA
code).

Per Gaussian, float32 little-endian: x y z, nx ny nz (zero, but some readers expect them),
f_dc_0..2, f_rest_* (channel-major: all red coefficients, then green, then blue), opacity (logit),
scale_0..2 (natural log), rot_0..3 (wxyz). Files are in the COLMAP frame, Y down and Z forward,
which is what splat viewers expect; see `frame`.
"""

from __future__ import annotations

import os
import re
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np

from ..gaussians.cloud import SH_C0, Gaussians
from .assembly import STRETCH, Array, Rows, arrays, assemble, compiled_decoders, read_stretch
from .atomic import atomic_write
from .frame import SH_SIGNS
from .linear import linear_as_srgb
from .notes import note
from .ply_header import Header, Properties, cut_off, read_header

# fmt: off
REQUIRED = (
    "x", "y", "z", "f_dc_0", "f_dc_1", "f_dc_2", "opacity",
    "scale_0", "scale_1", "scale_2", "rot_0", "rot_1", "rot_2", "rot_3",
)
# fmt: on
REST_COUNTS = (0, 9, 24, 45, 72)  # f_rest properties at SH degree 0..4
LEAST = ("x", "y", "z", "scale_0")  # by which a splat is known from a point cloud
RGB = ("red", "green", "blue")
FULL = {"u1": 255.0, "u2": 65535.0}  # what stands for 1 in a colour's type
OPAQUE = 0.99  # where a file has no opacities
FLAT = 1e-3  # of its smaller side: the third of a surfel


def save_ply(gaussians: Gaussians, path: str | os.PathLike[str]) -> None:
    """Write the cloud as a binary INRIA PLY, in the file frame (Y down), quaternions normalised;
    atomic.

    Raises ValueError if the cloud is empty or holds NaNs, or the folder does not exist; OSError if
    the disk refuses. An existing file stays as it was unless everything was written.
    """
    cloud = arrays(gaussians)
    rest = 3 * (cloud["sh"].shape[1] - 1)
    names = ["x", "y", "z", "nx", "ny", "nz", "f_dc_0", "f_dc_1", "f_dc_2"]
    names += [f"f_rest_{i}" for i in range(rest)]
    names += ["opacity", "scale_0", "scale_1", "scale_2", "rot_0", "rot_1", "rot_2", "rot_3"]
    header = ["ply", "format binary_little_endian 1.0", f"element vertex {len(gaussians)}"]
    header += [f"property float {name}" for name in names] + ["end_header", ""]
    with atomic_write(path) as file:
        file.write("\n".join(header).encode("ascii"))
        for start in range(0, len(gaussians), STRETCH):
            part = {key: value[start : start + STRETCH] for key, value in cloud.items()}
            count = len(part["means"])
            harmonics = part["sh"][:, 1:].transpose(0, 2, 1).reshape(count, rest)  # channel-major
            columns = [part["means"], np.zeros((count, 3), np.float32), part["sh"][:, 0], harmonics]
            columns += [part["opacity_logits"][:, None], part["log_scales"], part["quats"]]
            file.write(np.concatenate(columns, 1).astype("<f4").tobytes())


def load_ply(path: str | os.PathLike[str]) -> Gaussians:
    """Read a Gaussian PLY (ascii or binary, any property order, extra properties ignored) into our
    Y-up world.

    SH degree 0..3 from the number of f_rest properties; of 4 the last is left out. An infinite
    opacity logit (opacity exactly 0 or 1) and a scale of exactly 0 become finite; a zero quaternion
    becomes the identity. Files without opacities, harmonics (but red, green, blue), a third scale
    or all but one scale are read, which is noted. Raises ValueError saying what is wrong with the
    file and what to do: not a PLY, no splat, cut off, mostly NaNs, 0 Gaussians.
    """
    name = Path(path).name
    header = read_header(path, name)
    properties, count, before = _splat_element(header.elements, name)
    names, types = [p for p, _ in properties], dict(properties)
    rest = [f"f_rest_{i}" for i in range(sum(bool(re.fullmatch(r"f_rest_\d+", p)) for p in names))]
    if len(rest) not in REST_COUNTS or not set(rest) <= set(names):
        raise ValueError(
            f"{name} has {len(rest)} f_rest properties; a splat has 0, 9, 24, 45 or 72 (SH degree"
            " 0 to 4), numbered from 0. Export it again with a whole SH degree."
        )
    if len(rest) == REST_COUNTS[-1]:
        note(f"{name} has harmonics of degree 4; those up to 3 are kept.")
    usual = set(REQUIRED) <= set(names) and len(rest) < REST_COUNTS[-1]
    terms = min(16, 1 + len(rest) // 3)
    _tell(header, names, name)
    rows = partial(_rows, rest=rest) if usual else partial(_unusual_rows, rest=rest, types=types)
    if header.encoding == "ascii":
        values = _ascii_values(path, header, properties, count, before, name)
        cloud = assemble(
            count, terms, lambda start, stop: rows(_by_name(values[start:stop], names)), name
        )
        return _colors_as_said(cloud, header, path, name)
    dtype = header.dtype("vertex")
    begin = header.begin("vertex")
    if begin + count * dtype.itemsize > header.size:
        raise cut_off(name, count, header.body)

    floats = all(kind == "f4" for kind in types.values())

    def stretch(start: int, stop: int) -> Array:
        return read_stretch(
            path, begin + start * dtype.itemsize, (stop - start) * dtype.itemsize, name
        )

    def decode(start: int, stop: int) -> Rows:
        data = stretch(start, stop)
        if floats:
            columns = _by_name(data.view(header.encoding + "f4").reshape(stop - start, -1), names)
        else:
            table = data.view(dtype)
            columns = lambda *keys: np.stack([table[key] for key in keys], -1)  # noqa: E731
        return rows(columns)

    fast: Any = compiled_decoders(count) if usual and floats and header.encoding == "<" else None
    at, others = (
        np.array([names.index(key) for key in keys if usual], np.int64) for keys in (REQUIRED, rest)
    )
    signs = np.array(SH_SIGNS, np.float32)

    def fill(start: int, stop: int, out: dict[str, Array]) -> bool:
        rows = stretch(start, stop).view("<f4").reshape(stop - start, -1)
        return bool(fast.table(rows, at, others, signs, tuple(out.values())))

    cloud = assemble(count, terms, decode, name, fill=fill if fast else None)
    return _colors_as_said(cloud, header, path, name)


def stated_up(path: str | os.PathLike[str]) -> str:
    """Which way is up by the file's comments: "Y up", "Y down", "Z up", or "" if they do not say.

    nerfstudio names the axis z, Brush a vector; Brush's plain y stands in every file of its older
    versions and says nothing.
    """
    for comment in read_header(path, Path(path).name).comments:
        if (found := re.fullmatch(r"(?i)vertical axis:\s*(.+)", comment.strip())) is None:
            continue
        if found[1].split()[0].lower() == "z":
            return "Z up"
        try:
            x, y, z = (float(word) for word in found[1].split())
        except ValueError:
            continue
        largest = max(abs(x), abs(y), abs(z))
        if largest == abs(y) and y:
            return "Y up" if y > 0 else "Y down"
        if z == largest:
            return "Z up"
    return ""


def _tell(header: Header, names: list[str], name: str) -> None:
    """Notes what the comments and missing properties mean for the picture."""
    for comment in header.comments:
        words = comment.lower().replace(":", " ").split()
        if words[:1] == ["splatrendermode"] and words[1:2] not in ([], ["default"]):
            kind = words[1]
            note(
                f"{name} was trained for another way of drawing (SplatRenderMode {kind[:20]}); drawn"
                " as plain Gaussians, far views look thicker and edges softer."
            )
        if words[:2] == ["antialiased", "1"]:
            note(
                f"{name} was trained with antialiasing; drawn as plain Gaussians, far views look"
                " thicker."
            )
    third = {"scale_2": "two sizes (surfels): the third is next to nothing"}
    missing = {
        "opacity": f"no opacities: taken as {OPAQUE}",
        "f_dc_0": "plain colours instead of harmonics",
        "rot_0": "no rotations: taken as none",
        **(third if "scale_1" in names else {"scale_1": "one size for all axes"}),
    }
    told = [text for key, text in missing.items() if key not in names]
    if told:
        note(f"{name} has {'; '.join(told)}.")


def _colors_as_said(
    cloud: Gaussians, header: Header, path: str | os.PathLike[str], name: str
) -> Gaussians:
    """As sRGB, where an element color_space (Apple's SHARP) says that they are linear."""
    said = header.elements.get("color_space")
    lists = any(not kind for p, n in header.elements.values() if n for _, kind in p)
    if said is None or header.encoding == "ascii" or lists or said[1] != 1:
        return cloud
    dtype = header.dtype("color_space")
    at = header.begin("color_space")
    if at + dtype.itemsize > header.size or len(said[0]) != 1:
        return cloud
    if int(read_stretch(path, at, dtype.itemsize, name).view(dtype)[0][0]) != 1:
        return cloud
    note(f"{name} holds linear colours; they are turned into sRGB.")
    return linear_as_srgb(cloud)


Columns = Callable[..., Array]  # property names -> [n, names] of any number type


def _by_name(values: Array, names: list[str]) -> Columns:
    """Columns of a matrix; those that stand side by side, as nearly always, without a copy."""

    def columns(*keys: str) -> Array:
        at = [names.index(key) for key in keys]
        if at == list(range(at[0], at[0] + len(at))):
            return values[:, at[0] : at[0] + len(at)]
        return values[:, at]

    return columns


def _rows(columns: Columns, rest: list[str]) -> Rows:
    means = columns("x", "y", "z")
    harmonics = columns(*rest).reshape(len(means), 3, -1).transpose(0, 2, 1) if rest else None
    return Rows(
        means=means,
        log_scales=columns("scale_0", "scale_1", "scale_2"),
        quats=columns("rot_0", "rot_1", "rot_2", "rot_3"),
        opacity_logits=columns("opacity")[:, 0],
        dc=columns("f_dc_0", "f_dc_1", "f_dc_2"),
        rest=harmonics,
    )


def _unusual_rows(columns: Columns, rest: list[str], types: dict[str, str]) -> Rows:
    """Of files that lack something: see `_tell`. Four degrees of harmonics lose the last."""
    means = columns("x", "y", "z").astype(np.float32)
    count = len(means)
    sizes = [columns(f"scale_{i}")[:, 0] for i in range(3) if f"scale_{i}" in types]
    if len(sizes) == 2:
        sizes.append(np.minimum(*sizes) + np.log(FLAT))
    quats = np.tile(np.array([1, 0, 0, 0], np.float32), (count, 1))
    if "rot_0" in types:
        quats = columns("rot_0", "rot_1", "rot_2", "rot_3")
    if "f_dc_0" in types:
        dc = columns("f_dc_0", "f_dc_1", "f_dc_2")
    else:
        top = FULL.get(types["red"], 1.0)
        dc = (columns(*RGB).astype(np.float32) / np.float32(top) - 0.5) / np.float32(SH_C0)
    harmonics = columns(*rest).reshape(count, 3, -1)[:, :, :15] if rest else None
    return Rows(
        means=means,
        log_scales=np.stack(sizes if len(sizes) == 3 else sizes[:1] * 3, -1),
        quats=quats,
        opacities=None if "opacity" in types else np.full(count, OPAQUE, np.float32),
        opacity_logits=columns("opacity")[:, 0] if "opacity" in types else None,
        dc=dc,
        rest=None if harmonics is None else harmonics.transpose(0, 2, 1),
    )


def _splat_element(
    elements: dict[str, tuple[Properties, int]], name: str
) -> tuple[Properties, int, list[tuple[Properties, int]]]:
    """Properties and count of the vertex element, and the elements before it; ValueError if it is
    no splat.
    """
    properties, count = elements.get("vertex", ([], 0))
    names = [p for p, _ in properties]
    if "packed_position" in names:
        raise ValueError(f"{name} is a compressed splat PLY. Read it with load_compressed_ply.")
    missing = [p for p in LEAST if p not in names]
    if not {"f_dc_0", "f_dc_1", "f_dc_2"} <= set(names) and not set(RGB) <= set(names):
        missing += [p for p in REQUIRED if p.startswith("f_dc") and p not in names]
    if "scale_2" in names and "scale_1" not in names:
        missing.append("scale_1")
    if "rot_0" in names or "scale_1" in names:  # only balls need no rotation
        missing += [p for p in REQUIRED if p.startswith("rot") and p not in names]
    if missing:
        what = (
            "a mesh"
            if elements.get("face", ([], 0))[1]
            else "a point cloud"
            if {"x", "y", "z"} <= set(names)
            else ""
        )
        raise ValueError(
            f"{name} holds no Gaussian splats{what and f', it looks like {what}'}: its vertices"
            f" lack {', '.join(missing)}. Choose a splat PLY, or initialise Gaussians from the"
            " mesh."
        )
    if count == 0:
        raise ValueError(f"{name} holds 0 Gaussians; at least 1 is needed. Choose another file.")
    before = []
    for element, (others, number) in elements.items():
        if element == "vertex":
            break
        before.append((others, number))
    if any(not kind for others, n in [(properties, count), *before] if n for _, kind in others):
        raise ValueError(
            f"{name} has list properties in or before its vertices, which no splat has. Export it"
            " again."
        )
    return properties, count, before


def _ascii_values(
    path: str | os.PathLike[str],
    header: Header,
    properties: Properties,
    count: int,
    before: list[tuple[Properties, int]],
    name: str,
) -> Array:
    """The vertices' numbers [count, properties] as float64."""
    skip = sum(n * len(p) for p, n in before)
    # Each value takes a digit and a separator at least: a bound that needs no reading.
    if (skip + count * len(properties)) * 2 > header.body + 1:
        raise cut_off(name, count, header.body)
    with open(path, "rb") as file:
        file.seek(header.end)
        text = file.read()
    words = text.split(maxsplit=skip + count * len(properties))[
        skip : skip + count * len(properties)
    ]
    if len(words) < count * len(properties):
        raise cut_off(name, count, len(text))
    try:
        return np.fromiter(map(float, words), np.float64, len(words)).reshape(
            count, len(properties)
        )
    except ValueError as error:
        raise ValueError(
            f"{name} holds something that is no number among its values ({error})."
        ) from None
