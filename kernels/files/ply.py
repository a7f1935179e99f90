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
from pathlib import Path
from typing import Any

import numpy as np

from ..gaussians.cloud import Gaussians
from .assembly import STRETCH, Array, Rows, arrays, assemble, compiled_decoders, read_stretch
from .atomic import atomic_write
from .frame import SH_SIGNS
from .ply_header import Header, Properties, cut_off, read_header

# fmt: off
REQUIRED = (
    "x", "y", "z", "f_dc_0", "f_dc_1", "f_dc_2", "opacity",
    "scale_0", "scale_1", "scale_2", "rot_0", "rot_1", "rot_2", "rot_3",
)
# fmt: on
REST_COUNTS = (0, 9, 24, 45)  # f_rest properties at SH degree 0..3


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

    SH degree 0..3 from the number of f_rest properties. An infinite opacity logit (opacity exactly
    0 or 1) and a scale of exactly 0 become finite; a zero quaternion becomes the identity. Raises
    ValueError saying what is wrong with the file and what to do: not a PLY, no splat, cut off,
    NaNs, 0 Gaussians.
    """
    name = Path(path).name
    header = read_header(path, name)
    properties, count, before = _splat_element(header.elements, name)
    names = [p for p, _ in properties]
    rest = [f"f_rest_{i}" for i in range(sum(bool(re.fullmatch(r"f_rest_\d+", p)) for p in names))]
    if len(rest) not in REST_COUNTS or not set(rest) <= set(names):
        raise ValueError(
            f"{name} has {len(rest)} f_rest properties; a splat has 0, 9, 24 or 45 (SH degree 0 to"
            " 3), numbered from 0. Export it again with a whole SH degree."
        )
    terms = 1 + len(rest) // 3
    if header.encoding == "ascii":
        values = _ascii_values(path, header, properties, count, before, name)
        return assemble(
            count, terms, lambda start, stop: _rows(_by_name(values[start:stop], names), rest), name
        )
    dtype = header.dtype("vertex")
    begin = header.end + sum(n * sum(np.dtype(t).itemsize for _, t in p) for p, n in before)
    if begin + count * dtype.itemsize > header.size:
        raise cut_off(name, count, header.body)

    floats = all(kind == "f4" for _, kind in properties)

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
        return _rows(columns, rest)

    fast: Any = compiled_decoders(count) if floats and header.encoding == "<" else None
    at, others = (
        np.array([names.index(key) for key in keys], np.int64) for keys in (REQUIRED, rest)
    )
    signs = np.array(SH_SIGNS, np.float32)

    def fill(start: int, stop: int, out: dict[str, Array]) -> bool:
        rows = stretch(start, stop).view("<f4").reshape(stop - start, -1)
        return bool(fast.table(rows, at, others, signs, tuple(out.values())))

    return assemble(count, terms, decode, name, fill=fill if fast else None)


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
    missing = [p for p in REQUIRED if p not in names]
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
    if any(not kind for others, _ in [(properties, count), *before] for _, kind in others):
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
