"""Gaussian clouds as SOG version 2 (PlayCanvas): a tenth to a fifteenth of a PLY, in lossless WebP
pictures. Read here, written by `sog_writer`.

``meta.json`` and pictures of one texel per Gaussian, row by row: places as sign * ln(1 + |x|) in 16
bits over the cloud's box (``means_l``, ``means_u``), natural logarithms of scales and constant
harmonics by codebooks of 256 numbers (``scales``, ``sh0``, whose alpha is the opacity), rotations
wxyz as their three smallest parts in bytes (``quats``, alpha 252 + the index of the largest),
higher harmonics as the number of a row of a palette (``shN_labels``), whose rows lie 64 to a line
in ``shN_centroids``. Either all in a zip archive (``.sog``), or beside ``NAME.meta.json``. Y down,
as in `ply`.

What is lost: precision. Places to 1/131,000 of the logarithmic box, rotations to 0.003, scales and
colours to the codebook's steps, opacity to 1/510, view dependence to the palette's rows; the order.
"""

from __future__ import annotations

import io
import json
import os
import warnings
import zipfile
import zlib
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image

from ..gaussians.cloud import Gaussians
from .assembly import LOGIT_OF_BYTE, Array, Rows, assemble, compiled_decoders, scaled, threads
from .frame import SH_SIGNS
from .smallest_three import join

META = "meta.json"
META_LIMIT = 1 << 20  # bytes; codebooks have some 20,000
MEMBERS = 64  # files of an archive; a cloud has 8
LINE = 64  # rows of the palette in a line of its picture
COEFFICIENTS = (0, 3, 8, 15)  # higher harmonics by degree
PER_GAUSSIAN = 19  # bytes of its texels
# What a file may unpack to: bytes, or times its size; as for SPZ.
SMALL, RATIO = 1 << 21, 100
ROOM = 1 << 16  # texels that a picture may have beyond twice the Gaussians
UNIT_OF_BYTE = scaled(np.arange(256), 2**0.5 / 255, -(0.5**0.5))


def load_sog(path: str | os.PathLike[str]) -> Gaussians:
    """Read a .sog, or a meta.json with its pictures beside it, into our Y-up world; SH degree 0 to
    3.

    Raises ValueError saying what is wrong with the file and what to do: no SOG, version 1,
    streamed, cut off, damaged, a picture missing.
    """
    with open_sog(path) as source, ThreadPoolExecutor(threads()) as pool:
        names = ["means_l", "means_u", "quats", "scales", "sh0"]
        names += ["shN_labels", "shN_centroids"] if source.degree else []
        found = dict(zip(names, pool.map(source.picture, names), strict=True))
        return _assembled(source, found)


@dataclass
class Source:
    """An opened file: what its JSON says, and its pictures."""

    name: str
    meta: dict[str, Any]
    size: int  # bytes of the whole
    archive: zipfile.ZipFile | None
    folder: Path  # within the archive, or on the disk

    @property
    def count(self) -> int:
        return int(self.meta["count"])

    @property
    def degree(self) -> int:
        return int(self.meta["shN"]["bands"]) if "shN" in self.meta else 0

    @property
    def rows(self) -> int:
        """Of the palette."""
        return int(self.meta["shN"]["count"])

    def numbers(self, key: str, of: str, length: tuple[int, ...]) -> Array:
        """``meta[key][of]`` as float64. Raises ValueError where they are not so many finite
        numbers.
        """
        values = self.meta[key].get(of)
        if not isinstance(values, list) or len(values) not in length:
            raise damaged(self.name, f"{key}.{of} is no list of {length[-1]} numbers")
        if of == "codebook" and len(values) == 256 and values[0] is None:
            # PlayCanvas' first writers lost the first number; their engine continues the others
            values = [values[1] + (values[1] - values[255]) / 255, *values[1:]]
        try:
            found = np.array(values, np.float64)
        except (TypeError, ValueError, OverflowError):
            found = np.array([np.nan])
        if found.ndim != 1 or not np.isfinite(found).all():
            raise damaged(self.name, f"{key}.{of} holds something that is no finite number")
        return found

    def codebook(self, key: str) -> Array:
        """[256] float32."""
        found = self.numbers(key, "codebook", tuple(range(1, 257))).astype(np.float32)
        return np.pad(found, (0, 256 - len(found)), "edge")

    def picture(self, name: str) -> Array:
        """[texels,4] bytes of the picture, of a Gaussian each or of the palette."""
        key = "means" if name.startswith("means") else name.partition("_")[0]
        files = self.meta[key].get("files")
        index = int(name in ("means_u", "shN_labels"))
        if not isinstance(files, list) or len(files) <= index or not isinstance(files[index], str):
            raise damaged(self.name, f"{key}.files does not name its pictures")
        wide = LINE * COEFFICIENTS[self.degree] if name == "shN_centroids" else 0
        least = wide * -(-self.rows // LINE) if wide else self.count
        data = self.read(files[index], 8 * least + META_LIMIT)
        try:
            with warnings.catch_warnings():
                warnings.simplefilter("error", Image.DecompressionBombWarning)
                image = Image.open(io.BytesIO(data), formats=["WEBP"])
            texels = image.width * image.height
            if texels < least or texels > 2 * least + ROOM or wide not in (0, image.width):
                raise damaged(
                    self.name,
                    f"{files[index][:80]!r} has {image.width} x {image.height} texels where"
                    f" {least} are needed",
                )
            return np.asarray(image.convert("RGBA")).reshape(-1, 4)
        except (OSError, EOFError, Image.DecompressionBombWarning, Image.DecompressionBombError):
            raise damaged(self.name, f"{files[index][:80]!r} is no WebP picture") from None

    def read(self, file: str, limit: int) -> bytes:
        """A file's bytes, ``limit`` at most. Raises ValueError."""
        if Path(file).name != file or file in (".", ".."):
            raise damaged(self.name, f"it names the file {file[:80]!r}, which is a path")
        if self.archive is None:
            path = self.folder / file
            if not path.is_file():
                raise ValueError(
                    f"{self.name} names the picture {file[:80]!r}, which is not beside it. Copy all"
                    " of its files together."
                )
            size = path.stat().st_size
            data = b"" if size > limit else path.read_bytes()
        else:
            data, size = _member(self.archive, (self.folder / file).as_posix(), self.name, limit)
        if size > limit:
            raise damaged(self.name, f"{file[:80]!r} has {size} bytes; {limit} are the most")
        return data


@contextmanager
def open_sog(path: str | os.PathLike[str]) -> Iterator[Source]:
    """The checked JSON and the pictures. Raises ValueError for everything that is wrong with
    them.
    """
    path = Path(path)
    name, size = path.name, path.stat().st_size
    with open(path, "rb") as file:
        if file.read(2) != b"PK":
            if size > META_LIMIT:
                raise ValueError(f"{name} is no SOG: it is no archive and no meta.json.")
            yield _checked(Source(name, _json(path.read_bytes(), name), 0, None, path.parent))
            return
        try:
            archive = zipfile.ZipFile(file)
        except (zipfile.BadZipFile, OSError, ValueError, NotImplementedError) as error:
            raise ValueError(
                f"{name} is cut off or damaged: its archive cannot be read ({error}). Copy the file"
                " again."
            ) from None
        with archive:
            names = archive.namelist()
            if len(names) > MEMBERS:
                raise damaged(name, f"it holds {len(names)} files; {MEMBERS} are read")
            found = [Path(n) for n in names if Path(n).name == META]
            if not found:
                streamed = any(Path(n).name == "lod-meta.json" for n in names)
                what = (
                    "a streamed SOG (lod-meta.json)"
                    if streamed
                    else "no SOG: no meta.json is in it"
                )
                raise ValueError(f"{name} is {what}. Export it as one .sog or as ply.")
            meta = min(found, key=lambda n: len(n.parts))
            data, length = _member(archive, meta.as_posix(), name, META_LIMIT)
            if length > META_LIMIT:
                raise damaged(name, f"its meta.json has {length} bytes")
            yield _checked(Source(name, _json(data, name), size, archive, meta.parent))


def _member(archive: zipfile.ZipFile, member: str, name: str, limit: int) -> tuple[bytes, int]:
    """A member's bytes and their number; where there are more than ``limit`` the number alone."""
    try:
        info = archive.getinfo(member)
        if info.file_size > limit:
            return b"", info.file_size
        with archive.open(info) as file:
            return file.read(limit), info.file_size
    except KeyError:
        raise damaged(name, f"{member[:80]!r} is not in it") from None
    except (zipfile.BadZipFile, OSError, EOFError, RuntimeError, ValueError, zlib.error) as error:
        raise damaged(name, f"{member[:80]!r} cannot be unpacked ({error})") from None


def _json(data: bytes, name: str) -> dict[str, Any]:
    try:
        tree = json.loads(data.decode("utf-8"))
    except (ValueError, RecursionError) as error:
        raise damaged(name, f"its meta.json cannot be read ({type(error).__name__})") from None
    if not isinstance(tree, dict) or "means" not in tree:
        what = "a streamed SOG" if isinstance(tree, dict) and "lodLevels" in tree else "no SOG"
        raise ValueError(f"{name} is {what}. Export it as one .sog or as ply.")
    return tree


def _checked(source: Source) -> Source:
    meta, name = source.meta, source.name
    if meta.get("version") != 2:
        version = str(meta.get("version", 1))[:20]
        raise ValueError(
            f"{name} is SOG version {version}; version 2 is read. Convert it with PlayCanvas'"
            " splat-transform or SuperSplat."
        )
    parts = ("means", "scales", "quats", "sh0", *(["shN"] if "shN" in meta else []))
    missing = [key for key in parts if not isinstance(meta.get(key), dict)]
    if missing:
        raise damaged(name, f"its meta.json lacks {', '.join(missing)}")
    whole = {"count": meta.get("count")}
    if "shN" in meta:
        whole |= {f"shN.{key}": meta["shN"].get(key) for key in ("count", "bands")}
    for key, value in whole.items():
        if not isinstance(value, int) or isinstance(value, bool) or value < 1:
            raise damaged(name, f"{key} is {str(value)[:40]!r}; a whole number above 0 is needed")
    if "shN" in meta and (meta["shN"]["bands"] > 3 or meta["shN"]["count"] > 1 << 16):
        raise damaged(name, f"its harmonics are {str(meta['shN'])[:40]}")
    size = source.size
    if source.archive is None:
        beside = source.folder.glob("*.webp")
        size = sum(path.stat().st_size for path in beside)
    if source.count * PER_GAUSSIAN > max(SMALL, RATIO * size):
        raise ValueError(
            f"{name} announces {source.count} Gaussians, but is only {size} bytes long: it is cut"
            " off or damaged. Copy or export the file again."
        )
    return source


def _assembled(source: Source, found: dict[str, Array]) -> Gaussians:
    box = (source.numbers("means", key, (3,)) for key in ("mins", "maxs"))
    places = np.stack([_places(low, high) for low, high in zip(*box, strict=True)])
    scales, colors = source.codebook("scales"), source.codebook("sh0")
    rest = _palette(source, found["shN_centroids"]) if source.degree else None

    def labels(start: int, stop: int) -> Array:
        low, high = found["shN_labels"][start:stop, :2].astype(np.int32).T
        assert rest is not None
        rows: Array = np.minimum(low + (high << 8), len(rest) - 1)
        return rows

    def decode(start: int, stop: int) -> Rows:
        low, high, quats, sizes, sh0 = (
            found[key][start:stop] for key in ("means_l", "means_u", "quats", "scales", "sh0")
        )
        codes = low[:, :3].astype(np.int32) + (high[:, :3].astype(np.int32) << 8)
        largest = quats[:, 3].astype(np.int32) - 252
        turns = np.stack(join(largest, *UNIT_OF_BYTE[quats[:, :3]].T), -1)
        turns[largest < 0] = (1, 0, 0, 0)
        return Rows(
            means=np.stack([places[axis].take(codes[:, axis]) for axis in range(3)], -1),
            log_scales=scales.take(sizes[:, :3]),
            quats=turns,
            opacity_logits=LOGIT_OF_BYTE.take(sh0[:, 3]),
            dc=colors.take(sh0[:, :3]),
            rest=None if rest is None else rest[labels(start, stop)],
        )

    fast = compiled_decoders(source.count)
    terms = 1 + COEFFICIENTS[source.degree]
    turned = None
    if rest is not None:
        turned = rest * np.array(SH_SIGNS[1:terms], np.float32)[:, None]

    def fill(start: int, stop: int, out: dict[str, Array]) -> bool:
        keys = ("means_l", "means_u", "quats", "scales", "sh0")
        pictures = (found[key][start:stop] for key in keys)
        tables = places, scales, colors, UNIT_OF_BYTE, LOGIT_OF_BYTE
        usual = fast.sog(*pictures, *tables, tuple(out.values()))
        if usual and turned is not None:
            out["sh"][:, 1:] = turned[labels(start, stop)]
        return bool(usual)

    return assemble(source.count, terms, decode, source.name, fill=fill if fast else None)


def _places(low: float, high: float) -> Array:
    """[65536] what 16-bit numbers stand for."""
    logs = low + ((high - low) or 1) * np.arange(65536) / 65535
    with np.errstate(over="ignore"):  # infinities are for the check of the cloud
        return np.copysign(np.expm1(np.abs(logs)), logs).astype(np.float32)


def _palette(source: Source, texels: Array) -> Array:
    """[rows + 1,K-1,3] harmonics; the last row, for numbers beyond the others, is zeros."""
    terms = COEFFICIENTS[source.degree]
    rows = np.zeros((source.rows + 1, terms, 3), np.float32)
    values = source.codebook("shN").take(texels[:, :3]).reshape(-1, terms, 3)
    rows[:-1] = values[: source.rows]
    return rows


def damaged(name: str, what: str) -> ValueError:
    """The error that says what is wrong with the file of that name, to raise."""
    return ValueError(f"{name} is a damaged SOG: {what}. Copy or export the file again.")
