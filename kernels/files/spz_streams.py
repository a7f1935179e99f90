"""The outer shell of SPZ files: header, gzip or Zstandard, and no more memory than the file's size allows."""

from __future__ import annotations

import os
import zlib

import numpy as np

from .assembly import Array

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
# What a file may unpack to: bytes, or times its size. Real clouds shrink to a half or a third; bombs to a thousandth.
SMALL, RATIO = 1 << 22, 100


def read_planes(path: str | os.PathLike[str], name: str) -> tuple[Array, dict[str, Array]]:
    """The header and the planes' bytes by name. Raises ValueError for everything that is wrong with the file."""
    size = os.path.getsize(path)
    with open(path, "rb") as file:
        start = file.read(min(size, 1 << 12))
        zipped = start[:2] == b"\x1f\x8b"
        try:
            head = zlib.decompressobj(31).decompress(start, HEADER.itemsize) if zipped else start[: HEADER.itemsize]
        except zlib.error as error:
            raise _damaged(name, str(error)) from None
        if len(head) < HEADER.itemsize or int.from_bytes(head[:4], "little") != MAGIC:
            raise ValueError(f"{name} is not an SPZ file: it does not begin with NGSP. Choose another file.")
        header = np.frombuffer(head, HEADER)[0]
        sizes = _sizes(header, name, size)
        if zipped != (header["version"] < 4):
            raise _damaged(name, f"version {header['version']} {'is' if zipped else 'is not'} in a gzip stream")
        file.seek(0)
        # At most the size seen above: a file that grows meanwhile cannot make this bigger.
        data = file.read(size)
    raw = _gunzip(data, HEADER.itemsize + sum(sizes.values()), name) if zipped else _unpack_4(data, header, sizes, name)
    planes, begin = {}, len(raw) - sum(sizes.values())
    for key, length in sizes.items():
        planes[key] = raw[begin : begin + length]
        begin += length
    return header, planes


def _sizes(header: Array, name: str, file_size: int) -> dict[str, int]:
    version, count, degree = int(header["version"]), int(header["count"]), int(header["degree"])
    if not 1 <= version <= 4:
        raise ValueError(f"{name} is SPZ version {version}; versions 1 to 4 can be read. Export it as version 3.")
    if degree >= len(SH_TERMS):
        raise _damaged(name, f"its SH degree is {degree}, the greatest is 4")
    if header["bits"] > 23:
        raise _damaged(name, f"its positions have {header['bits']} fractional bits of 24")
    if count == 0:
        raise ValueError(f"{name} holds 0 Gaussians; at least 1 is needed. Choose another file.")
    per = {"means": 6 if version == 1 else 9, "opacities": 1, "colors": 3, "scales": 3}
    per |= {"quats": 3 if version < 3 else 4, "sh": 3 * (SH_TERMS[degree] - 1)}
    total = count * sum(per.values())
    if total > max(SMALL, RATIO * file_size):
        raise ValueError(
            f"{name} announces {count} Gaussians ({total} bytes), but is only {file_size} bytes long: it is cut off or "
            f"damaged. Copy or export the file again."
        )
    return {key: count * size for key, size in per.items()}


def _gunzip(data: bytes, length: int, name: str) -> Array:
    stream = zlib.decompressobj(31)
    try:
        raw = stream.decompress(data, length)
        # Read on to the checksum; a byte that still comes belongs to an extension, which is left out.
        complete = stream.eof or bool(stream.decompress(stream.unconsumed_tail, 1)) or stream.eof
    except zlib.error as error:
        raise _damaged(name, str(error)) from None
    if len(raw) < length or not complete:
        raise ValueError(f"{name} is cut off: {length} bytes were announced, {len(raw)} came. Copy the file again.")
    return np.frombuffer(raw, np.uint8)


def _unpack_4(data: bytes, header: Array, sizes: dict[str, int], name: str) -> Array:
    try:
        import zstandard
    except ImportError:
        raise ValueError(
            f"{name} is SPZ version 4, which needs the package zstandard: python -m pip install zstandard. "
            "Or export it as version 3."
        ) from None
    wanted = [length for length in sizes.values() if length]  # empty planes are left out
    table = int.from_bytes(data[16:20], "little")
    begin = table + 16 * len(wanted)
    if header["streams"] != len(wanted) or table < VERSION_4_HEADER or begin > len(data):
        raise _damaged(name, f"{header['streams']} streams, their table at byte {table}")
    entries = np.frombuffer(data, "<u8", 2 * len(wanted), table).reshape(-1, 2)
    raw = bytearray(sum(wanted))
    at, unpacker = 0, zstandard.ZstdDecompressor(max_window_size=1 << 27)
    for (packed, plain), length in zip(entries, wanted, strict=True):
        end = begin + int(packed)
        if plain != length or end > len(data):
            raise _damaged(name, f"a stream of {packed} bytes for {plain} where {length} are needed")
        try:
            with unpacker.stream_reader(data[begin:end]) as stream:
                view = memoryview(raw)[at : at + length]
                while view and (got := stream.readinto(view)):
                    view = view[got:]
        except zstandard.ZstdError as error:
            raise _damaged(name, str(error)) from None
        if view:
            raise _damaged(name, f"a stream ends {len(view)} bytes early")
        begin, at = end, at + length
    return np.frombuffer(raw, np.uint8)


def _damaged(name: str, what: str) -> ValueError:
    return ValueError(f"{name} is a damaged SPZ: {what}. Copy or export the file again.")
