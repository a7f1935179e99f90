"""The outer shell of SPZ files: header, gzip or Zstandard, and no more memory than the file's size
allows.
"""

from __future__ import annotations

import os
import zlib
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any, BinaryIO

import numpy as np

from .assembly import Array

try:  # unpacks about twice as fast
    from isal import isal_zlib

    inflate: Any = isal_zlib
except ImportError:
    inflate = zlib

MAGIC = 0x5053474E  # "NGSP"
HEADER = np.dtype(
    [
        ("magic", "<u4"),
        ("version", "<u4"),
        ("count", "<u4"),
        ("degree", "u1"),
        ("bits", "u1"),
        ("flags", "u1"),
        ("streams", "u1"),
    ]
)
SH_TERMS = (1, 4, 9, 16, 25)  # by degree
VERSION_4_HEADER = 32
# What a file may unpack to: bytes, or times its size. Real clouds shrink to a half or a third;
# bombs to a thousandth.
SMALL, RATIO = 1 << 21, 100
PIECE = 1 << 16  # bytes of a file at a time
# flags: records of extensions follow; before them, Spark's levels of detail
EXTENDED, LEVELS = 0x02, 0x80
LEVELS_BYTES = 6  # per Gaussian
EXTENSIONS_LIMIT = 1 << 16  # bytes
AXES_EXTENSION = 0xADBE0003  # SPZ_ADOBE_coordinate_system, one number: which of these, from 1 on
# where x, y and z point: RUB is right, up, back
AXES = ("LDB", "RDB", "LUB", "RUB", "LDF", "RDF", "LUF", "RUF")


@dataclass
class Planes:
    """An opened file: what its header says, and its planes' bytes, to be read one after the
    other.
    """

    name: str
    header: Any
    sizes: dict[str, int]  # bytes per Gaussian by plane, in file order
    source: Gzip | Zstandard

    @property
    def version(self) -> int:
        return int(self.header["version"])

    @property
    def count(self) -> int:
        return int(self.header["count"])

    @property
    def bits(self) -> int:
        """Fractional bits of positions."""
        return int(self.header["bits"])

    @property
    def terms(self) -> int:
        """Harmonics per colour, the constant one included."""
        return SH_TERMS[int(self.header["degree"])]

    @property
    def apart(self) -> bool:
        """Whether planes can be read side by side, each by a thread of its own."""
        return self.version >= 4

    def read(self, plane: str, length: int) -> Array:
        """The next bytes [length], which belong to that plane. Raises ValueError where there are
        fewer.
        """
        return self.source.read(plane, length)

    def finish(self) -> str:
        """Where the file's axes point, one of `AXES`, "" if it does not say. Raises ValueError for
        a damaged end.
        """
        records = self.source.extensions()
        return _axes(records, self.name) if self.header["flags"] & EXTENDED else ""


@contextmanager
def open_spz(path: str | os.PathLike[str], name: str) -> Iterator[Planes]:
    """The header and the planes. Raises ValueError for everything that is wrong with the file."""
    size = os.path.getsize(path)
    with open(path, "rb") as file:
        start = file.read(min(size, 1 << 12))
        zipped = start[:2] == b"\x1f\x8b"
        try:
            head = (
                zlib.decompressobj(31).decompress(start, HEADER.itemsize)
                if zipped
                else start[: HEADER.itemsize]
            )
        except zlib.error as error:
            raise damaged(name, str(error)) from None
        if len(head) < HEADER.itemsize or int.from_bytes(head[:4], "little") != MAGIC:
            raise ValueError(
                f"{name} is not an SPZ file: it does not begin with NGSP. Choose another file."
            )
        header = np.frombuffer(head, HEADER)[0]
        sizes = _sizes(header, name, size)
        if zipped != (header["version"] < 4):
            raise damaged(
                name, f"version {header['version']} {'is' if zipped else 'is not'} in a gzip stream"
            )
        file.seek(0)
        if zipped:
            yield Planes(name, header, sizes, Gzip(file, name, header))
            return
        source = Zstandard(file, name, size, header, sizes)
        try:
            yield Planes(name, header, sizes, source)
        finally:
            source.close()


def _sizes(header: Array, name: str, file_size: int) -> dict[str, int]:
    """Bytes per Gaussian of every plane, after every check that the header allows."""
    version, count, degree = int(header["version"]), int(header["count"]), int(header["degree"])
    if not 1 <= version <= 4:
        raise ValueError(
            f"{name} is SPZ version {version}; versions 1 to 4 can be read. Export it as version 3."
        )
    if degree >= len(SH_TERMS):
        raise damaged(name, f"its SH degree is {degree}, the greatest is 4")
    if header["bits"] > 23:
        raise damaged(name, f"its positions have {header['bits']} fractional bits of 24")
    if count == 0:
        raise ValueError(f"{name} holds 0 Gaussians; at least 1 is needed. Choose another file.")
    per = {"means": 6 if version == 1 else 9, "opacities": 1, "colors": 3, "scales": 3}
    per |= {"quats": 3 if version < 3 else 4, "sh": 3 * (SH_TERMS[degree] - 1)}
    total = count * sum(per.values())
    if total > max(SMALL, RATIO * file_size):
        raise ValueError(
            f"{name} announces {count} Gaussians ({total} bytes), but is only {file_size} bytes"
            " long: it is cut off or damaged. Copy or export the file again."
        )
    return per


class Gzip:
    """Versions 1 to 3: one stream after the header, plane after plane."""

    def __init__(self, file: BinaryIO, name: str, header: Array) -> None:
        self.file, self.name = file, name
        self.levels = int(header["count"]) * LEVELS_BYTES if header["flags"] & LEVELS else 0
        self.stream = inflate.decompressobj(31)
        self.read("header", HEADER.itemsize)

    def read(self, plane: str, length: int) -> Array:
        data = self._up_to(length)
        if len(data) < length:
            raise ValueError(
                f"{self.name} is cut off: {length} more bytes of {plane} were announced,"
                f" {len(data)} came. Copy the file again."
            )
        return np.frombuffer(data, np.uint8)

    def extensions(self) -> bytes:
        """What follows the planes, which are only known to be sound once the checksum at the very
        end agrees.
        """
        if self.levels:
            self.read("levels of detail", self.levels)
        rest = self._up_to(EXTENSIONS_LIMIT)
        if self._up_to(1):
            raise damaged(self.name, f"more than {EXTENSIONS_LIMIT} bytes follow its Gaussians")
        if not self.stream.eof:
            raise ValueError(f"{self.name} is cut off: its end is missing. Copy the file again.")
        return rest

    def _up_to(self, length: int) -> bytes:
        parts, missing = [], length
        try:
            while missing and not self.stream.eof:
                packed = self.stream.unconsumed_tail or self.file.read(PIECE)
                part = self.stream.decompress(packed, min(missing, 2 * PIECE))
                if not part and not packed:
                    break
                parts.append(part)
                missing -= len(part)
        except (zlib.error, inflate.error) as error:
            raise damaged(self.name, str(error)) from None
        return b"".join(parts)


class Zstandard:
    """Version 4: a stream for every plane that is not empty, after a table of their sizes."""

    def __init__(
        self, file: BinaryIO, name: str, size: int, header: Array, per: dict[str, int]
    ) -> None:
        self.name = name
        self.streams: dict[str, Any] = {}
        self.opened: list[BinaryIO] = []
        zstandard = zstandard_for(name)
        self.path = file.name
        self.zstandard = zstandard
        # empty planes are left out
        wanted = {key: int(header["count"]) * each for key, each in per.items() if each}
        table = int.from_bytes(file.read(20)[16:], "little")
        begin = table + 16 * len(wanted)
        if header["streams"] != len(wanted) or table < VERSION_4_HEADER or begin > size:
            raise damaged(name, f"{header['streams']} streams, their table at byte {table}")
        file.seek(VERSION_4_HEADER)
        self.records = file.read(min(table - VERSION_4_HEADER, EXTENSIONS_LIMIT))
        file.seek(table)
        entries = np.frombuffer(file.read(16 * len(wanted)), "<u8").reshape(-1, 2)
        self.ranges = {}
        for (packed, plain), (key, length) in zip(entries, wanted.items(), strict=True):
            if plain != length or begin + int(packed) > size:
                raise damaged(
                    name, f"a stream of {packed} bytes for {plain} where {length} are needed"
                )
            self.ranges[key] = (begin, int(packed))
            begin += int(packed)

    def read(self, plane: str, length: int) -> Array:
        try:
            if plane not in self.streams:
                begin, packed = self.ranges[plane]
                file = open(self.path, "rb")  # noqa: SIM115, closed with the others
                self.opened.append(file)
                file.seek(begin)
                unpacker: Any = self.zstandard.ZstdDecompressor(max_window_size=1 << 27)
                self.streams[plane] = unpacker.stream_reader(
                    Part(file, packed), read_size=PIECE, closefd=False
                )
            data = np.empty(length, np.uint8)
            view = memoryview(data)  # type: ignore[arg-type]
            while view and (got := self.streams[plane].readinto(view)):
                view = view[got:]
        except self.zstandard.ZstdError as error:
            raise damaged(self.name, str(error)) from None
        if view:
            raise damaged(self.name, f"a stream ends {len(view)} bytes early")
        data.flags.writeable = False  # as what comes from gzip, for which the decoders are compiled
        return data

    def extensions(self) -> bytes:
        """What lies between the header and the table."""
        return self.records

    def close(self) -> None:
        for file in self.opened:
            file.close()


def zstandard_for(name: str) -> Any:
    """The package. Raises ValueError naming the cure where it is missing."""
    try:
        import zstandard
    except ImportError:
        raise ValueError(
            f"{name}: SPZ version 4 needs the package zstandard: python -m pip install zstandard."
            " Or use version 3."
        ) from None
    return zstandard


def write_gzip(
    file: BinaryIO, header: Array, planes: Iterable[Iterable[Array]], records: bytes
) -> None:
    """Versions 1 to 3: header [1], planes piece by piece and records of extensions."""
    squeeze = zlib.compressobj(wbits=31)
    file.write(squeeze.compress(header.tobytes()))
    for plane in planes:
        for piece in plane:
            file.write(squeeze.compress(piece.tobytes()))
    file.write(squeeze.compress(records))
    file.write(squeeze.flush())


def write_zstandard(
    file: BinaryIO, header: Array, planes: Iterable[Iterable[Array]], records: bytes
) -> None:
    """The same as version 4."""
    zstandard, streams, sizes = zstandard_for("gaussians"), [], []
    for plane in planes:
        squeeze, packed, plain = zstandard.ZstdCompressor().compressobj(), [], 0
        for piece in plane:
            packed.append(squeeze.compress(piece.tobytes()))
            plain += piece.nbytes
        packed.append(squeeze.flush())
        streams += packed
        sizes.append((sum(map(len, packed)), plain))
    header["streams"] = len(sizes)
    table = VERSION_4_HEADER + len(records)
    file.write(header.tobytes() + np.array([table, 0, 0, 0], "<u4").tobytes() + records)
    file.write(np.array(sizes, "<u8").tobytes())
    file.writelines(streams)


@dataclass
class Part:
    """The next ``left`` bytes of a file, as a file."""

    file: BinaryIO
    left: int

    def read(self, size: int) -> bytes:
        data = self.file.read(min(size, self.left))
        self.left -= len(data)
        return data


def _axes(records: bytes, name: str) -> str:
    """The axes that these records of extensions name, each a type, a length and so many bytes."""
    while len(records) >= 8:
        kind, length = (int(number) for number in np.frombuffer(records, "<u4", 2))
        if kind == AXES_EXTENSION and length == 4 and len(records) >= 12:
            code = int.from_bytes(records[8:12], "little")
            if not 1 <= code <= len(AXES):
                raise ValueError(
                    f"{name} has axes of kind {code}, Z up or unknown; 1 to {len(AXES)} are read."
                    " Export it with the axes RUB (right, up, back)."
                )
            return AXES[code - 1]
        records = records[8 + length :]
    return ""


def axes_record(axes: str) -> bytes:
    """The record that names them."""
    return np.array([AXES_EXTENSION, 4, 1 + AXES.index(axes)], "<u4").tobytes()


def damaged(name: str, what: str) -> ValueError:
    """The error for a file called ``name``, to be raised."""
    return ValueError(f"{name} is a damaged SPZ: {what}. Copy or export the file again.")
