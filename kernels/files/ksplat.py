"""Reads Gaussian clouds as KSPLAT, the format of GaussianSplats3D (mkkellogg), which ComfyUI's core
writes too.

A header of 4,096 bytes, one of 1,024 for each section, then the sections: sizes of partly filled
buckets, centres of buckets, Gaussians. Of three levels the first is float32; the second and third
have places as uint16 around their bucket's centre, the rest in half precision, harmonics of the
third as bytes. Scales are linear, rotations wxyz, colour and opacity bytes; higher harmonics come
degree by degree, within it channel by channel. Y down, as in `ply`.
"""

from __future__ import annotations

import os
from pathlib import Path
from typing import Any

import numpy as np
import torch

from ..gaussians.cloud import Gaussians
from .assembly import Array, Rows, assemble, logits_of_bytes, read_stretch
from .splat_file import COLOR_OF_BYTE

HEADER, SECTION_HEADER = 4096, 1024  # bytes
SECTIONS_LIMIT = 10_000
REST = (0, 9, 24, 45)  # numbers of higher harmonics by degree
RANGE = 32767  # of places within a bucket, where the section does not say


def load_ksplat(path: str | os.PathLike[str]) -> Gaussians:
    """Read a .ksplat of any level into our Y-up world; SH degree 0 to 3, the greatest of its
    sections'.

    Raises ValueError saying what is wrong with the file and what to do: no KSPLAT, unknown version
    or level, cut off, NaNs, 0 Gaussians.
    """
    name, size = Path(path).name, os.path.getsize(path)
    if size < HEADER:
        raise ValueError(
            f"{name} is no .ksplat, or cut off: it has {size} bytes, its header alone has {HEADER}."
            " Copy or export the file again."
        )
    head = read_stretch(path, 0, HEADER, name)
    level, sections = int(head[20:22].view("<u2")[0]), int(head[4:8].view("<u4")[0])
    if head[0] != 0 or head[1] < 1 or level > 2:
        raise ValueError(
            f"{name} is KSPLAT version {head[0]}.{head[1]} of level {level}; versions 0.1 and later"
            " of level 0 to 2 are read. Export it as ply."
        )
    if sections > SECTIONS_LIMIT or HEADER + sections * SECTION_HEADER > size:
        raise _damaged(name, f"{sections} sections do not fit into {size} bytes")
    low, high = (float(value) for value in head[36:44].view("<f4"))
    span = (low or -1.5, high or 1.5)
    clouds, begin = [], HEADER + sections * SECTION_HEADER
    for index in range(sections):
        entry = read_stretch(path, HEADER + index * SECTION_HEADER, SECTION_HEADER, name)
        section = _Section(entry, level, begin, name)
        begin = section.end
        if begin > size:
            raise ValueError(
                f"{name} is cut off: its section {index} ends at byte {begin}, the file at {size}."
                " Copy or export the file again."
            )
        if section.count:
            clouds.append(section.load(path, span))
    if not clouds:
        raise ValueError(f"{name} holds 0 Gaussians; at least 1 is needed. Choose another file.")
    terms = max(cloud.sh.shape[1] for cloud in clouds)
    pad = torch.nn.functional.pad
    whole = [cloud.tensors() for cloud in clouds]
    for tensors in whole:
        tensors["sh"] = pad(tensors["sh"], (0, 0, 0, terms - tensors["sh"].shape[1]))
    return Gaussians(**{key: torch.cat([part[key] for part in whole]) for key in whole[0]})


class _Section:
    """Where a section's parts lie, after every check that its header allows."""

    def __init__(self, head: Array, level: int, begin: int, name: str) -> None:
        words = head[:40].view("<u4").astype(np.int64).tolist()
        self.count, self.room, self.capacity, self.buckets = words[:4]
        self.full, self.partial = words[8:10]
        self.name, self.level, self.begin = name, level, begin
        self.side = float(head[16:20].view("<f4")[0])
        self.range = words[6] or RANGE
        stored = int(head[20:22].view("<u2")[0])
        self.degree = int(head[40:42].view("<u2")[0])
        if self.degree > 3 or self.count > self.room:
            raise _damaged(
                name,
                f"a section of SH degree {self.degree} has {self.count} Gaussians of {self.room}",
            )
        if (
            level
            and self.count
            and (
                stored != 12
                or self.full + self.partial > self.buckets
                or not np.isfinite(self.side)
            )
        ):
            raise _damaged(name, f"{self.full} + {self.partial} buckets of {self.buckets}")
        wide = ("<f4", "<f2", "<f2")[level]
        fields: list[Any] = [("means", "<f4" if level == 0 else "<u2", 3), ("scales", wide, 3)]
        fields += [("quats", wide, 4), ("rgba", "u1", 4)]
        fields += [("rest", ("<f4", "<f2", "u1")[level], REST[self.degree])]
        self.row = np.dtype(fields)
        self.centres = begin + 4 * self.partial
        self.rows = self.centres + stored * self.buckets
        self.end = self.rows + self.room * self.row.itemsize

    def load(self, path: str | os.PathLike[str], span: tuple[float, float]) -> Gaussians:
        middle = self._middles(path) if self.level else None
        step = self.side / 2 / self.range

        def decode(start: int, stop: int) -> Rows:
            size = self.row.itemsize
            data = read_stretch(path, self.rows + start * size, (stop - start) * size, self.name)
            rows = data.view(self.row)
            means = rows["means"].astype(np.float32)
            if middle is not None:
                means = (means - self.range) * np.float32(step) + middle(start, stop)
            rest = rows["rest"].astype(np.float32)
            if self.level == 2:
                rest = span[0] + rest * np.float32((span[1] - span[0]) / 255)
            return Rows(
                means=means,
                scales=rows["scales"].astype(np.float32),
                quats=rows["quats"].astype(np.float32),
                opacity_logits=logits_of_bytes(rows["rgba"][:, 3]),
                dc=COLOR_OF_BYTE.take(rows["rgba"][:, :3]),
                rest=_by_coefficient(rest, self.degree) if self.degree else None,
            )

        return assemble(self.count, (self.degree + 1) ** 2, decode, self.name)

    def _middles(self, path: str | os.PathLike[str]) -> Any:
        """What gives the bucket's centre [n,3] of Gaussians ``start`` to ``stop``."""
        filled = self.full * self.capacity
        sizes = read_stretch(path, self.begin, 4 * self.partial, self.name).view("<u4")
        ends = filled + np.cumsum(sizes.astype(np.int64))
        if self.count > (ends[-1] if self.partial else filled):
            raise _damaged(self.name, f"its buckets hold fewer than its {self.count} Gaussians")
        centres = read_stretch(path, self.centres, 12 * self.buckets, self.name)
        places = centres.view("<f4").reshape(-1, 3)

        def middle(start: int, stop: int) -> Array:
            at = np.arange(start, stop)
            late = self.full + np.searchsorted(ends, at, "right")
            found: Array = places[np.where(at < filled, at // max(1, self.capacity), late)]
            return found

        return middle


def _by_coefficient(rest: Array, degree: int) -> Array:
    """[n,K-1,3] of numbers in the file's order."""
    parts, begin = [], 0
    for d in range(1, degree + 1):
        width = 2 * d + 1
        parts.append(rest[:, begin : begin + 3 * width].reshape(-1, 3, width).transpose(0, 2, 1))
        begin += 3 * width
    return np.concatenate(parts, 1)


def _damaged(name: str, what: str) -> ValueError:
    return ValueError(f"{name} is a damaged KSPLAT: {what}. Copy or export the file again.")
