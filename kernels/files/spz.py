"""Gaussian clouds as SPZ (Niantic): about a tenth of a PLY. Written as version 4, 3 or 2; versions
1 to 4 are read.

One gzip stream: 16 bytes of header (`HEADER`), then one plane per property: positions as 24-bit
fixed point, opacity, colour and logarithmic scale as bytes, rotation as its three smallest parts in
32 bits, harmonics as bytes, coefficient by coefficient RGB. Version 1 has half-precision positions,
1 and 2 rotations as the three bytes xyz. Version 4 has no gzip: a plain header, a table of sizes,
one Zstandard stream per plane (needs the package zstandard).

Axes: by SPZ's own text they are right, up, back (RUB), as our world's, unless an extension names
others. Only PlayCanvas' tools up to 2.7 kept to that; those from 3.4 on, ComfyUI's nodes and
viewer, gsply and gaussforge take every SPZ for Y down, as in `ply`. So ours is Y down and versions 3
and 4 say so (RDF), which is right for all of them. But readers that compare the stream's length
with the header's numbers refuse such a record in version 3 (three.js, GaussianSplats3D, which knows
version 2 only), so version 2 is written without. A file that does not say is read as Y down; of
version 4, which PlayCanvas' tools have written either way without a difference that would tell
them apart, that is noted.

What is lost: precision. Positions to 1.2e-4 units (more in clouds beyond 2,048 units), scales to
3.2 % and clamped to 4.5e-5..380 units, opacity to 1/510, colour to 0.0038 and clamped to
-0.44..1.44, rotations to about 1e-3 (version 2: 0.01, near half a turn 0.1), harmonics to 1/256 and
clamped to -1..0.992. A fourth SH degree is left out on reading.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import numpy as np
import torch

from ..gaussians.cloud import Gaussians
from . import spz_planes
from .assembly import (
    FILLED,
    LOGIT_OF_BYTE,
    STRETCH,
    Array,
    arrays,
    compiled_decoders,
    empty,
    opacity_bytes,
    quantise,
    scaled,
    sound,
    threads,
)
from .atomic import atomic_write
from .frame import SH_SIGNS, mirrored, to_file_frame
from .notes import note
from .smallest_three import pack, split
from .spz_streams import (
    EXTENDED,
    HEADER,
    MAGIC,
    Planes,
    axes_record,
    open_spz,
    write_gzip,
    write_zstandard,
    zstandard_for,
)

UNNAMED = "RDF"  # the axes of files that name none
FRACTION_BITS = 12
POSITION_MAX = (1 << 23) - 1
# of the lower nine bits of a code, whose tenth is the sign
ROTATION = np.float32(1 / (511 * 2**0.5))
COLOR = np.float32(1 / (0.15 * 255)), np.float32(-0.5 / 0.15)  # factor and shift of a byte
SCALE = np.float32(1 / 16), np.float32(-10)
SH_OF_BYTE = scaled(np.arange(256), 1 / 128, -1)

Decoder = Callable[[Array, int, int], None]


def save_spz(gaussians: Gaussians, path: str | os.PathLike[str]) -> None:
    """Write the cloud as SPZ version 3, which says that Y is down; atomic.

    Raises ValueError if the cloud is empty, holds NaNs or reaches beyond 8 million units, or the
    folder does not exist; OSError if the disk refuses.
    """
    _save(gaussians, path, 3)


def save_spz_2(gaussians: Gaussians, path: str | os.PathLike[str]) -> None:
    """`save_spz` as version 2, which names no axes: for readers that know no more."""
    _save(gaussians, path, 2)


def save_spz_4(gaussians: Gaussians, path: str | os.PathLike[str]) -> None:
    """`save_spz` as version 4, the newest. Raises ValueError without the package zstandard too."""
    _save(gaussians, path, 4)


def _save(gaussians: Gaussians, path: str | os.PathLike[str], version: int) -> None:
    if version >= 4:
        zstandard_for("gaussians")  # before long work
    cloud = arrays(gaussians)
    farthest, bits = float(np.abs(cloud["means"]).max()), FRACTION_BITS
    while bits and farthest * 2**bits > POSITION_MAX:
        bits -= 1
    if farthest > POSITION_MAX:
        raise ValueError(
            f"gaussians reach {farthest:g} units from the origin; SPZ holds up to {POSITION_MAX}."
            " Save as ply instead."
        )
    header = np.zeros(1, HEADER)
    header["magic"], header["version"], header["count"] = MAGIC, version, len(gaussians)
    header["degree"], header["bits"], header["flags"] = (
        gaussians.sh_degree,
        bits,
        EXTENDED if version >= 3 else 0,
    )
    planes = {
        "means": lambda v: _fixed_point(v, bits),
        "opacity_logits": opacity_bytes,
        "sh": lambda v: quantise(v[:, 0] * (0.15 * 255) + 127.5, 255),
        "log_scales": lambda v: quantise((v + 10) * 16, 255),
        "quats": _packed if version >= 3 else _first_three,
    }
    passes = [*planes.items(), ("sh", lambda v: quantise(v[:, 1:] * 128 + 128, 255))]
    passes = passes if gaussians.sh_degree else passes[:-1]

    def pieces(key: str, encode: Callable[[Array], Array]) -> Iterator[Array]:
        for start in range(0, len(gaussians), STRETCH):
            yield encode(cloud[key][start : start + STRETCH])

    records = axes_record("RDF") if version >= 3 else b""
    with atomic_write(path) as file:
        write = write_zstandard if version >= 4 else write_gzip
        write(file, header, (pieces(*each) for each in passes), records)


def load_spz(path: str | os.PathLike[str], axes: str = "") -> Gaussians:
    """Read an SPZ of version 1 to 4 into our Y-up world; SH degree 0 to 3.

    ``axes``: where x, y and z point, one of `spz_streams.AXES`, whatever the file says.

    Raises ValueError saying what is wrong with the file and what to do: not an SPZ, unknown
    version, cut off, damaged, more announced than its size allows, or version 4 without the package
    zstandard.
    """
    name = Path(path).name
    with open_spz(path, name) as planes:
        count, workers = planes.count, threads() - 1  # this one unpacks
        out = empty(count, min(planes.terms, 16))
        decoders = _decoders(planes, out)
        length = STRETCH * FILLED

        def pieces(key: str) -> Iterator[tuple[Array, int, int]]:
            size = planes.sizes[key]
            for start in range(0, count if size else 0, length):
                stop = min(start + length, count)
                yield planes.read(key, (stop - start) * size).reshape(-1, size), start, stop

        def whole(key: str) -> None:
            for piece in pieces(key):
                decoders[key](*piece)

        if planes.apart and workers and count > length:
            with ThreadPoolExecutor(workers + 1) as pool:  # the largest first
                list(pool.map(whole, sorted(planes.sizes, key=lambda k: -planes.sizes[k])))
        else:
            # One stream's unpacking cannot be shared out, but what has been unpacked is decoded
            # meanwhile.
            with ThreadPoolExecutor(max(workers, 1)) as pool:
                waiting = []
                for key in planes.sizes:
                    for piece in pieces(key):
                        if workers and count > length:
                            waiting.append(pool.submit(decoders[key], *piece))
                        else:
                            decoders[key](*piece)
                for future in waiting:
                    future.result()
        said = planes.finish()
    cloud = Gaussians(**{key: torch.from_numpy(value) for key, value in out.items()})
    if planes.version == 1:
        cloud = sound(cloud, name)  # half-precision positions can be NaN
    if planes.terms > 16:
        note(f"{name} has harmonics of degree 4; those up to 3 are kept.")
    if not (axes or said) and planes.version >= 4:
        note(
            f"{name} does not say which way is up. It is taken for Y down, as splat-transform from"
            " 3.4 on writes it; if it stands on its head, as that of older ones, choose up_axis Y"
            " up."
        )
    axes = axes or said or UNNAMED
    return (
        cloud
        if axes == "RDF"
        else mirrored(to_file_frame(cloud), *(1 if a in "RUB" else -1 for a in axes))
    )


def _decoders(planes: Planes, out: dict[str, Array]) -> dict[str, Decoder]:
    """By plane, what decodes Gaussians ``start`` to ``stop`` of it from their bytes [n,size] into
    ``out``.
    """
    fast: Any = compiled_decoders(planes.count) or spz_planes
    step, signs = np.float32(2.0**-planes.bits), np.array(SH_SIGNS, np.float32)
    flat = {key: value.reshape(-1) for key, value in out.items()}
    plain = out["sh"].shape[1] == 1

    def means(data: Array, start: int, stop: int) -> None:
        if planes.version == 1:
            spz_planes.halves(data, out["means"][start:stop])
        else:
            fast.fixed_point(data.reshape(-1), step, flat["means"][3 * start : 3 * stop])

    def quats(data: Array, start: int, stop: int) -> None:
        if planes.version < 3:
            spz_planes.first_three(data, out["quats"][start:stop])
        else:
            fast.smallest_three(
                data.view("<u4")[:, 0], ROTATION, flat["quats"][4 * start : 4 * stop]
            )

    def opacities(data: Array, start: int, stop: int) -> None:
        fast.looked_up(data.reshape(-1), LOGIT_OF_BYTE, flat["opacity_logits"][start:stop])

    def scales(data: Array, start: int, stop: int) -> None:
        fast.scaled(data.reshape(-1), *SCALE, flat["log_scales"][3 * start : 3 * stop])

    def colors(data: Array, start: int, stop: int) -> None:
        values = flat["sh"][3 * start : 3 * stop] if plain else np.empty(data.size, np.float32)
        fast.scaled(data.reshape(-1), *COLOR, values)
        if not plain:
            out["sh"][start:stop, 0] = values.reshape(-1, 3)

    def harmonics(data: Array, start: int, stop: int) -> None:
        fast.harmonics(data, SH_OF_BYTE, signs, False, out["sh"][start:stop])

    return {
        "means": means,
        "opacities": opacities,
        "colors": colors,
        "scales": scales,
        "quats": quats,
        "sh": harmonics,
    }


def _fixed_point(means: Array, bits: int) -> Array:
    """[n,9] bytes."""
    numbers = np.rint(means.astype(np.float64) * 2**bits).astype("<i4")
    return np.ascontiguousarray(numbers.reshape(-1).view(np.uint8).reshape(-1, 4)[:, :3])


def _packed(quats: Array) -> Array:
    largest, others = split(quats[:, [1, 2, 3, 0]])  # the file's order is xyzw
    codes = quantise(np.abs(others) * (np.sqrt(2) * 511), 511, np.uint32) | np.where(
        others < 0, 512, 0
    )
    return pack(largest, codes).astype("<u4")


def _first_three(quats: Array) -> Array:
    """Of version 2: bytes [n,3] of xyz, of the one of q and -q whose w is not negative."""
    return quantise((quats[:, 1:] * np.where(quats[:, :1] < 0, -1, 1)) * 127.5 + 127.5, 255)
