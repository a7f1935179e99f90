"""The header of PLY files, as the readers of plain and of compressed splats need it."""

from __future__ import annotations

import os
import re
from dataclasses import dataclass

import numpy as np

HEADER_LIMIT = 1 << 16  # bytes; a real header has about 1500
TYPES = {
    "char": "i1",
    "uchar": "u1",
    "short": "i2",
    "ushort": "u2",
    "int": "i4",
    "uint": "u4",
    "float": "f4",
}
TYPES |= {
    "double": "f8",
    "int8": "i1",
    "uint8": "u1",
    "int16": "i2",
    "uint16": "u2",
    "int32": "i4",
    "uint32": "u4",
}
TYPES |= {"float32": "f4", "float64": "f8"}


Properties = list[tuple[str, str]]  # name, numpy type ("" for a list)


@dataclass
class Header:
    """What a PLY file says of itself.

    Args:
        encoding: "ascii", "<" or ">"
        elements: in file order: properties and count
        end: bytes up to the first value
        size: bytes of the whole file
        comments: their text, in file order
    """

    encoding: str
    elements: dict[str, tuple[Properties, int]]
    end: int
    size: int
    comments: tuple[str, ...] = ()

    @property
    def body(self) -> int:
        return self.size - self.end

    def begin(self, element: str) -> int:
        """Where a binary file's rows of that element begin; those before it may hold no lists."""
        at = self.end
        for name, (_, count) in self.elements.items():
            if name == element:
                break
            at += count * self.dtype(name).itemsize if count else 0
        return at

    def dtype(self, element: str) -> np.dtype:
        """A binary file's rows of that element."""
        return np.dtype([(name, self.encoding + kind) for name, kind in self.elements[element][0]])


def read_header(path: str | os.PathLike[str], name: str) -> Header:
    """The parsed header. Raises ValueError for files that are no PLY or whose header is damaged."""
    with open(path, "rb") as file:
        head = file.read(HEADER_LIMIT)
        size = os.fstat(file.fileno()).st_size
    if not re.match(rb"ply\s", head):
        raise ValueError(
            f"{name} is not a PLY file: it does not begin with 'ply'. Choose another file."
        )
    end = re.search(rb"\nend_header[ \t]*\r?\n", head)
    if end is None:
        raise ValueError(
            f"{name} has no end_header in its first {HEADER_LIMIT} bytes; it is cut off or damaged."
        )
    text = head[: end.start()].decode("ascii", "replace")
    encoding, elements = _parse(text, name)
    comments = re.findall(r"^comment[ \t]+([^\r\n]*)", text, re.M)
    return Header(encoding, elements, end.end(), size, tuple(comments))


def cut_off(name: str, count: int, body: int) -> ValueError:
    """The error of a file shorter than its header says."""
    return ValueError(
        f"{name} is cut off: its header announces {count} Gaussians, but only {body} bytes follow"
        " it. Copy or export the file again."
    )


def _parse(header: str, name: str) -> tuple[str, dict[str, tuple[Properties, int]]]:
    """The encoding ("ascii", "<" or ">") and the elements in file order: their properties and their
    count.
    """
    encodings = {"ascii": "ascii", "binary_little_endian": "<", "binary_big_endian": ">"}
    encoding = ""
    elements: dict[str, tuple[Properties, int]] = {}
    current: Properties | None = None
    for line in header.splitlines()[1:]:
        words = line.split()
        match words:
            case [] | ["comment" | "obj_info", *_]:
                continue
            case ["format", kind, *_] if kind in encodings:
                encoding = encodings[kind]
            case ["element", element, count] if (
                re.fullmatch(r"\d{1,18}", count) and element not in elements
            ):
                current = []
                elements[element] = (current, int(count))
            case ["property", "list", _, _, prop] if current is not None:
                current.append((prop, ""))
            case ["property", kind, prop] if current is not None and kind in TYPES:
                if prop in [p for p, _ in current]:
                    raise ValueError(
                        f"{name} has a damaged PLY header: property {prop!r} appears twice."
                    )
                current.append((prop, TYPES[kind]))
            case _:
                raise ValueError(
                    f"{name} has a damaged PLY header: cannot make sense of {line[:80]!r}."
                )
    if not encoding:
        raise ValueError(
            f"{name} has a damaged PLY header: it names no known format (ascii or binary)."
        )
    return encoding, elements
