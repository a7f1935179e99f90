"""Gaussian clouds as .splat files (the layout of the web viewer antimatter15/splat).

32 bytes per Gaussian without a header: position as three float32, linear scale as three float32,
colour and opacity as RGBA bytes, the quaternion wxyz as bytes of q * 128 + 128. Y down, as in
`ply`.

What is lost: all harmonics but the constant one, colours outside 0..1, and precision: colour and
opacity to 1/255, each part of a rotation to 1/128.
"""

from __future__ import annotations

import os
from pathlib import Path

import numpy as np

from ..gaussians.cloud import SH_C0, Gaussians
from .assembly import (
    LOGIT_OF_BYTE,
    STRETCH,
    Array,
    Rows,
    arrays,
    assemble,
    compiled_decoders,
    logits_of_bytes,
    opacity_bytes,
    quantise,
    read_stretch,
    scaled,
)
from .atomic import atomic_write

ROW = np.dtype([("mean", "<f4", 3), ("scale", "<f4", 3), ("rgba", "u1", 4), ("quat", "u1", 4)])
COLOR_OF_BYTE = scaled(np.arange(256), 1 / (255 * SH_C0), -0.5 / SH_C0)
UNIT_OF_BYTE = scaled(np.arange(256), 1 / 128, -1)


def save_splat(gaussians: Gaussians, path: str | os.PathLike[str]) -> None:
    """Write the cloud as a .splat; atomic.

    Raises ValueError if the cloud is empty or holds NaNs, or the folder does not exist; OSError if
    the disk refuses.
    """
    cloud = arrays(gaussians)
    with atomic_write(path) as file:
        for start in range(0, len(gaussians), STRETCH):
            part = {key: value[start : start + STRETCH] for key, value in cloud.items()}
            rows = np.empty(len(part["means"]), ROW)
            rows["mean"] = part["means"]
            rows["scale"] = np.exp(part["log_scales"])
            rows["rgba"][:, :3] = quantise((0.5 + SH_C0 * part["sh"][:, 0]) * 255, 255)
            rows["rgba"][:, 3] = opacity_bytes(part["opacity_logits"])
            rows["quat"] = quantise(part["quats"] * 128 + 128, 255)
            file.write(rows.tobytes())


def load_splat(path: str | os.PathLike[str]) -> Gaussians:
    """Read a .splat into our Y-up world; SH degree 0.

    Raises ValueError saying what is wrong with the file: not a whole number of Gaussians, none,
    NaNs, bad scales.
    """
    name, size = Path(path).name, os.path.getsize(path)
    if size == 0 or size % ROW.itemsize:
        raise ValueError(
            f"{name} is no .splat, or cut off: its size of {size} bytes is no multiple of"
            f" {ROW.itemsize} above 0. Copy or export the file again."
        )

    def rows(start: int, stop: int) -> Array:
        return read_stretch(path, start * ROW.itemsize, (stop - start) * ROW.itemsize, name)

    def decode(start: int, stop: int) -> Rows:
        data = rows(start, stop)
        floats, parts = data.view("<f4").reshape(-1, 8), data.view("<u4").reshape(-1, 8)
        rgba, quats = (
            np.ascontiguousarray(parts[:, i]).view(np.uint8).reshape(-1, 4) for i in (6, 7)
        )
        return Rows(
            means=floats[:, :3],
            scales=floats[:, 3:6],
            opacity_logits=logits_of_bytes(rgba[:, 3]),
            quats=UNIT_OF_BYTE.take(quats, mode="clip"),
            dc=COLOR_OF_BYTE.take(rgba, mode="clip")[:, :3],
        )

    fast = compiled_decoders(size // ROW.itemsize)

    def fill(start: int, stop: int, out: dict[str, Array]) -> bool:
        data = rows(start, stop)
        tables = COLOR_OF_BYTE, UNIT_OF_BYTE, LOGIT_OF_BYTE
        usual = fast.splat(
            data.view("<f4").reshape(-1, 8), data.reshape(-1, 32), *tables, tuple(out.values())
        )
        return usual and np.log(out["log_scales"], out=out["log_scales"]) is not None

    return assemble(size // ROW.itemsize, 1, decode, name, fill=fill if fast else None)
