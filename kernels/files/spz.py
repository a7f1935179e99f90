"""Gaussian clouds as SPZ (Niantic): about a tenth of a PLY. Written as version 3; versions 1 to 4 are read.

One gzip stream: 16 bytes of header (`HEADER`), then one plane per property: positions as 24-bit fixed point, opacity,
colour and logarithmic scale as bytes, rotation as its three smallest parts in 32 bits, harmonics as bytes,
coefficient by coefficient RGB. Version 1 has half-precision positions, 1 and 2 rotations as the three bytes xyz.
Version 4 has no gzip: a plain header, a table of sizes, one Zstandard stream per plane (needs the package zstandard).
Axes: SPZ names none that its readers keep to; ComfyUI's viewer and Spark show it Y down, as in `ply`.

What is lost: precision. Positions to 1.2e-4 units (more in clouds beyond 2,048 units), scales to 3.2 % and clamped to
4.5e-5..380 units, opacity to 1/510, colour to 0.0038 and clamped to -0.44..1.44, rotations to about 1e-3, harmonics to
1/256 and clamped to -1..0.992. A fourth SH degree is left out on reading.
"""

from __future__ import annotations

import os
import zlib
from pathlib import Path

import numpy as np

from ..gaussians.cloud import Gaussians
from .assembly import STRETCH, Array, Rows, arrays, assemble, logits_of_bytes, opacity_bytes, quantised, scaled
from .atomic import atomic_write
from .smallest_three import join, pack, split, unpack
from .spz_streams import HEADER, MAGIC, SH_TERMS, read_planes

FRACTION_BITS = 12
POSITION_MAX = (1 << 23) - 1
_MAGNITUDES = np.arange(512) / 511 / np.sqrt(2)
ROTATION_OF_CODE = np.concatenate([_MAGNITUDES, -_MAGNITUDES]).astype(np.float32)  # bit 9 is the sign


def save_spz(gaussians: Gaussians, path: str | os.PathLike[str]) -> None:
    """Write the cloud as SPZ version 3; atomic.

    Raises ValueError if the cloud is empty, holds NaNs or reaches beyond 8 million units, or the folder does not
    exist; OSError if the disk refuses.
    """
    cloud = arrays(gaussians)
    farthest, bits = float(np.abs(cloud["means"]).max()), FRACTION_BITS
    while bits and farthest * 2**bits > POSITION_MAX:
        bits -= 1
    if farthest > POSITION_MAX:
        raise ValueError(
            f"gaussians reach {farthest:g} units from the origin; SPZ holds up to {POSITION_MAX}. Save as ply instead."
        )
    header = np.zeros(1, HEADER)
    header["magic"], header["version"], header["count"] = MAGIC, 3, len(gaussians)
    header["degree"], header["bits"] = gaussians.sh_degree, bits
    planes = {
        "means": lambda v: _fixed_point(v, bits),
        "opacity_logits": opacity_bytes,
        "sh": lambda v: quantised(v[:, 0] * (0.15 * 255) + 127.5, 255),
        "log_scales": lambda v: quantised((v + 10) * 16, 255),
        "quats": _packed,
    }
    passes = [*planes.items(), ("sh", lambda v: quantised(v[:, 1:] * 128 + 128, 255))]
    squeeze = zlib.compressobj(wbits=31)
    with atomic_write(path) as file:
        file.write(squeeze.compress(header.tobytes()))
        for key, encode in passes:
            for start in range(0, len(gaussians), STRETCH):
                file.write(squeeze.compress(encode(cloud[key][start : start + STRETCH]).tobytes()))
        file.write(squeeze.flush())


def load_spz(path: str | os.PathLike[str]) -> Gaussians:
    """Read an SPZ of version 1 to 4 into our Y-up world; SH degree 0 to 3.

    Raises ValueError saying what is wrong with the file and what to do: not an SPZ, unknown version, cut off,
    damaged, more announced than its size allows, or version 4 without the package zstandard.
    """
    name = Path(path).name
    header, planes = read_planes(path, name)
    version, count = int(header["version"]), int(header["count"])
    stored = SH_TERMS[int(header["degree"])] - 1
    terms = 1 + min(stored, 15)
    step = np.float32(2.0 ** -int(header["bits"]))

    def decode(start: int, stop: int) -> Rows:
        here = slice(start, stop)
        parts = {key: plane.reshape(count, -1)[here] if plane.size else plane for key, plane in planes.items()}
        means = _halves(parts["means"]) if version == 1 else _floats(parts["means"], step)
        harmonics = parts["sh"].reshape(stop - start, stored, 3)[:, : terms - 1] if terms > 1 else None
        return Rows(
            means=means,
            log_scales=scaled(parts["scales"], 1 / 16, -10),
            quats=_of_xyz(parts["quats"]) if version < 3 else _of_words(parts["quats"]),
            opacity_logits=logits_of_bytes(parts["opacities"][:, 0]),
            dc=scaled(parts["colors"], 1 / (0.15 * 255), -0.5 / 0.15),
            rest=None if harmonics is None else scaled(harmonics, 1 / 128, -1),
        )

    return assemble(count, terms, decode, name)


def _fixed_point(means: Array, bits: int) -> Array:
    """[n,9] bytes."""
    numbers = np.rint(means.astype(np.float64) * 2**bits).astype("<i4")
    return np.ascontiguousarray(numbers.reshape(-1).view(np.uint8).reshape(-1, 4)[:, :3])


def _floats(data: Array, step: np.float32) -> Array:
    flat = np.append(data.reshape(-1), np.uint8(0))  # the last number's word reaches one byte further
    words: Array = np.ndarray((len(data), 3), "<i4", flat, strides=(9, 3))
    numbers = words.astype(np.int32)
    numbers <<= 8  # the upper byte is the next number's
    numbers >>= 8
    return numbers * step


def _halves(data: Array) -> Array:
    return np.ascontiguousarray(data).view("<f2").astype(np.float32)


def _packed(quats: Array) -> Array:
    largest, others = split(quats[:, [1, 2, 3, 0]])  # the file's order is xyzw
    codes = quantised(np.abs(others) * (np.sqrt(2) * 511), 511, np.uint32) | np.where(others < 0, 512, 0)
    return pack(largest, codes).astype("<u4")


def _of_words(data: Array) -> Array:
    largest, *codes = unpack(np.ascontiguousarray(data).view("<u4")[:, 0])
    x, y, z, w = join(largest, *(ROTATION_OF_CODE.take(code, mode="clip") for code in codes))
    return np.stack((w, x, y, z)).T


def _of_xyz(data: Array) -> Array:
    x, y, z = scaled(data, 1 / 127.5, -1).T
    w = np.sqrt(np.maximum(1 - x * x - y * y - z * z, 0))
    return np.stack((w, x, y, z)).T
