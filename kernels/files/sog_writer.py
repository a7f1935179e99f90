"""Writes Gaussian clouds as SOG version 2; see `sog` for the layout."""

from __future__ import annotations

import io
import json
import os
import zipfile
from concurrent.futures import Future, ThreadPoolExecutor
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image

from ..gaussians.cloud import Gaussians
from .assembly import Array, arrays, opacity_bytes, quantise, threads
from .atomic import atomic_write, write_together
from .codebook import codebook, labels_of, palette
from .compressed_ply import morton_order
from .smallest_three import split
from .sog import LINE, META

CAREFUL = 1 << 20  # texels up to which pictures are squeezed as far as they go
PALETTE = 1 << 16  # rows at most, which is what two bytes can tell
GAUSSIANS_PER_ROW = 8  # so many Gaussians, or a few more, share a row of the palette
SIDE_LIMIT = 16383  # texels along a side of a WebP


def save_sog(gaussians: Gaussians, path: str | os.PathLike[str]) -> None:
    """Write the cloud as one .sog, in another order; atomic.

    Raises ValueError if the cloud is empty, holds NaNs or more than 268 million Gaussians, or the
    folder does not exist; OSError if the disk refuses.
    """
    with atomic_write(path) as file, zipfile.ZipFile(file, "w", zipfile.ZIP_STORED) as archive:
        for name, data in _files(gaussians, "").items():
            # without a date: the same cloud gives the same file
            archive.writestr(zipfile.ZipInfo(name), data)


def save_sog_folder(gaussians: Gaussians, path: str | os.PathLike[str]) -> None:
    """The same as ``NAME.meta.json`` with its pictures ``NAME.*.webp`` beside it, all or none."""
    path = Path(path)
    stem = path.name.removesuffix(META)
    stem = stem if stem != path.name else f"{path.stem}."
    files = _files(gaussians, stem)
    files[path.name] = files.pop(f"{stem}{META}")  # last: it names the others
    write_together({path.parent / name: data for name, data in files.items()})


def _files(gaussians: Gaussians, stem: str) -> dict[str, bytes]:
    """Every file by its name; the one that names the others comes last."""
    with ThreadPoolExecutor(threads()) as pool:  # squeezes pictures while others are made
        return _made(gaussians, stem, pool)


def _made(gaussians: Gaussians, stem: str, pool: ThreadPoolExecutor) -> dict[str, bytes]:
    cloud = arrays(gaussians)
    order = morton_order(cloud["means"])
    cloud = {key: value[order] for key, value in cloud.items()}
    count = len(order)
    width = -(-int(np.ceil(np.sqrt(count))) // 4) * 4
    height = -(-count // width // 4) * 4 if count > width * 4 else -(-count // width)
    if max(width, height) > SIDE_LIMIT:
        raise ValueError(
            f"gaussians are {count}; SOG holds up to {SIDE_LIMIT}² of them. Save as ply instead."
        )
    meta: dict[str, Any] = {"version": 2, "asset": {"generator": "Distill3D"}, "count": count}
    pictures: dict[str, Future[bytes]] = {}

    def add(key: str, texels: dict[str, Array], **more: Any) -> None:
        for name, values in texels.items():
            pictures[f"{stem}{name}.webp"] = pool.submit(_webp, _picture(values, width, height))
        meta[key] = more | {"files": [f"{stem}{name}.webp" for name in texels]}

    low, high, codes = _places(cloud["means"])
    add(
        "means",
        {"means_l": (codes & 255).astype(np.uint8), "means_u": (codes >> 8).astype(np.uint8)},
        mins=low.tolist(),
        maxs=high.tolist(),
    )
    add("quats", {"quats": _turns(cloud["quats"])})
    book = codebook(cloud["log_scales"])
    add("scales", {"scales": labels_of(cloud["log_scales"], book)}, codebook=_whole(book))
    book = codebook(cloud["sh"][:, 0])
    colors, opacities = labels_of(cloud["sh"][:, 0], book), opacity_bytes(cloud["opacity_logits"])
    add("sh0", {"sh0": np.column_stack([colors, opacities])}, codebook=_whole(book))
    if gaussians.sh_degree:
        rows, labels = _harmonics(cloud["sh"][:, 1:])
        book = codebook(rows)
        add(
            "shN",
            {"shN_labels": np.column_stack([labels & 255, labels >> 8, 0 * labels]).astype("u1")},
            count=len(rows),
            bands=gaussians.sh_degree,
            codebook=_whole(book),
        )
        terms = rows.shape[1]
        texels = labels_of(rows, book).reshape(-1, 3)
        name = f"{stem}shN_centroids.webp"
        height = -(-len(rows) // LINE)
        pictures[name] = pool.submit(_webp, _picture(texels, LINE * terms, height))
        meta["shN"]["files"].insert(0, name)
    encoded = {name: picture.result() for name, picture in pictures.items()}
    return encoded | {f"{stem}{META}": json.dumps(meta).encode()}


def _places(means: Array) -> tuple[Array, Array, Array]:
    """The logarithmic box's low and high corner [3], and 16-bit codes [N,3] within it."""
    logs = np.copysign(np.log1p(np.abs(means.astype(np.float64))), means)
    low, high = logs.min(0), logs.max(0)
    logs -= low
    logs *= 65535 / np.where(high > low, high - low, 1)
    return low, high, quantise(logs, 65535, np.uint16)


def _turns(quats: Array) -> Array:
    """[N,4] bytes."""
    largest, others = split(quats)
    parts = quantise((others * np.float32(0.5**0.5) + np.float32(0.5)) * 255, 255)
    return np.column_stack([parts, (252 + largest).astype(np.uint8)])


def _harmonics(rest: Array) -> tuple[Array, Array]:
    """The palette's rows [R,K-1,3] and which one every Gaussian has [N]."""
    count = len(rest)
    size = min(PALETTE, 1 << max(10, (count // GAUSSIANS_PER_ROW).bit_length() - 1))
    rows, labels = palette(rest.reshape(count, -1), size)
    return rows.reshape(len(rows), *rest.shape[1:]), labels


def _whole(book: Array) -> list[float]:
    """256 numbers: readers expect as many; nine digits tell a float32."""
    return [float(f"{value:.9g}") for value in np.pad(book, (0, 256 - len(book)), "edge")]


def _picture(texels: Array, width: int, height: int) -> Array:
    """[height,width,3 or 4] of bytes [N,3 or 4], the rest zeros."""
    whole = np.zeros((height * width, texels.shape[1]), np.uint8)
    whole[: len(texels)] = texels
    return whole.reshape(height, width, -1)


def _webp(texels: Array) -> bytes:
    effort = (
        {"quality": 75, "method": 4} if texels.size <= 4 * CAREFUL else {"quality": 50, "method": 1}
    )
    file = io.BytesIO()
    # exact: else colours of invisible texels, those of faint Gaussians, would be lost
    Image.fromarray(texels).save(file, "WEBP", lossless=True, exact=True, **effort)
    return file.getvalue()
