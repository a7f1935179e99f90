"""Gaussian clouds as PLY files in the layout of 3D Gaussian Splatting (Kerbl et al. 2023, the INRIA code).

Per Gaussian, float32 little-endian: x y z, nx ny nz (zero, but some readers expect them), f_dc_0..2, f_rest_*
(channel-major: all red coefficients, then green, then blue), opacity (logit), scale_0..2 (natural log), rot_0..3
(wxyz). Files are in the COLMAP frame, Y down and Z forward, which is what splat viewers expect; see `frame`.
"""

from __future__ import annotations

import os
import re
from pathlib import Path

import numpy as np
import torch
from torch import Tensor

from ..gaussians.cloud import Gaussians
from .atomic import atomic_write
from .frame import from_file_frame, to_file_frame

# fmt: off
REQUIRED = (
    "x", "y", "z", "f_dc_0", "f_dc_1", "f_dc_2", "opacity",
    "scale_0", "scale_1", "scale_2", "rot_0", "rot_1", "rot_2", "rot_3",
)
# fmt: on
REST_COUNTS = (0, 9, 24, 45)  # f_rest properties at SH degree 0..3
HEADER_LIMIT = 1 << 16  # bytes; a real header has about 1500
LOG_SCALE_LIMIT = 20.0  # exp(20) is half a billion world units: the file held linear scales or garbage
TYPES = {"char": "i1", "uchar": "u1", "short": "i2", "ushort": "u2", "int": "i4", "uint": "u4", "float": "f4"}
TYPES |= {"double": "f8", "int8": "i1", "uint8": "u1", "int16": "i2", "uint16": "u2", "int32": "i4", "uint32": "u4"}
TYPES |= {"float32": "f4", "float64": "f8"}


def save_ply(gaussians: Gaussians, path: str | os.PathLike[str]) -> None:
    """Write the cloud as a binary INRIA PLY, in the file frame (Y down), quaternions normalised; atomic.

    Raises ValueError if the cloud is empty or holds NaNs, or the folder does not exist; OSError if the disk refuses.
    An existing file stays as it was unless everything was written.
    """
    cloud = to_file_frame(gaussians.check().map(lambda v: v.detach().to("cpu", torch.float32)))
    rest = cloud.sh[:, 1:].transpose(1, 2).reshape(len(cloud), -1)  # channel-major
    columns = [cloud.means, torch.zeros(len(cloud), 3), cloud.sh[:, 0], rest, cloud.opacity_logits[:, None]]
    columns += [cloud.log_scales, torch.nn.functional.normalize(cloud.quats, dim=-1)]
    names = ["x", "y", "z", "nx", "ny", "nz", "f_dc_0", "f_dc_1", "f_dc_2"]
    names += [f"f_rest_{i}" for i in range(rest.shape[1])]
    names += ["opacity", "scale_0", "scale_1", "scale_2", "rot_0", "rot_1", "rot_2", "rot_3"]
    header = ["ply", "format binary_little_endian 1.0", f"element vertex {len(cloud)}"]
    header += [f"property float {name}" for name in names] + ["end_header", ""]
    with atomic_write(path) as file:
        file.write("\n".join(header).encode("ascii"))
        file.write(torch.cat(columns, 1).numpy().astype("<f4").tobytes())


def load_ply(path: str | os.PathLike[str]) -> Gaussians:
    """Read a Gaussian PLY (ascii or binary, any property order, extra properties ignored) into our Y-up world.

    SH degree 0..3 from the number of f_rest properties. An infinite opacity logit (opacity exactly 0 or 1) and a
    scale of exactly 0 become finite; a zero quaternion becomes the identity. Raises ValueError saying what is wrong
    with the file and what to do: not a PLY, no splat, cut off, NaNs, 0 Gaussians.
    """
    name = Path(path).name
    rows = _read_rows(path, name)
    rest_names = [p for p in rows.dtype.names or () if re.fullmatch(r"f_rest_\d+", p)]
    expected = [f"f_rest_{i}" for i in range(len(rest_names))]
    if len(rest_names) not in REST_COUNTS or set(rest_names) != set(expected):
        raise ValueError(
            f"{name} has {len(rest_names)} f_rest properties; a splat has 0, 9, 24 or 45 (SH degree 0 to 3), numbered "
            "from 0. Export it again with a whole SH degree."
        )

    def columns(*names: str) -> Tensor:
        with np.errstate(over="ignore"):  # a double too large for float32 becomes infinite and is reported below
            return torch.from_numpy(np.stack([rows[n].astype(np.float32) for n in names], -1))

    opacity_logits = columns("opacity")[:, 0]
    log_scales = columns("scale_0", "scale_1", "scale_2")
    quats = columns("rot_0", "rot_1", "rot_2", "rot_3")
    sh = columns("f_dc_0", "f_dc_1", "f_dc_2")[:, None]
    if rest_names:
        rest = columns(*expected).reshape(len(rows), 3, -1).transpose(1, 2)
        sh = torch.cat([sh, rest], 1)
    cloud = Gaussians(
        means=columns("x", "y", "z"),
        log_scales=torch.where(log_scales == -torch.inf, -LOG_SCALE_LIMIT, log_scales),
        quats=torch.where((quats == 0).all(-1, keepdim=True), torch.tensor([1.0, 0, 0, 0]), quats),
        opacity_logits=torch.where(opacity_logits.isinf(), 20 * opacity_logits.sign(), opacity_logits),
        sh=sh.contiguous(),
    )
    largest = float(cloud.log_scales.nan_to_num(posinf=0).max())
    if largest > LOG_SCALE_LIMIT:
        raise ValueError(
            f"{name} holds a scale_* of {largest:g}; a splat PLY holds natural logarithms, at most "
            f"{LOG_SCALE_LIMIT:g}. Export it again with logarithmic scales."
        )
    return from_file_frame(cloud.check(name))


def _read_rows(path: str | os.PathLike[str], name: str) -> np.ndarray:
    """The vertex element as a structured array, after every check the header and the file's size allow."""
    size = os.path.getsize(path)
    with open(path, "rb") as file:
        head = file.read(HEADER_LIMIT)
        if not re.match(rb"ply\s", head):
            raise ValueError(f"{name} is not a PLY file: it does not begin with 'ply'. Choose another file.")
        end = re.search(rb"\nend_header[ \t]*\r?\n", head)
        if end is None:
            raise ValueError(f"{name} has no end_header in its first {HEADER_LIMIT} bytes; it is cut off or damaged.")
        encoding, elements = _parse_header(head[: end.start()].decode("ascii", "replace"), name)
        properties, count, before = _splat_element(elements, name)
        body = size - end.end()
        if encoding == "ascii":
            # Each value takes a digit and a separator at least: a bound that needs no reading.
            if (sum(n * len(p) for p, n in before) + count * len(properties)) * 2 > body + 1:
                raise _cut_off(name, count, body)
            file.seek(end.end())
            return _ascii_rows(file.read(), properties, count, sum(n * len(p) for p, n in before), name)
        dtype = np.dtype([(n, encoding + t) for n, t in properties])
        start = end.end() + sum(n * sum(np.dtype(t).itemsize for _, t in p) for p, n in before)
        if start + count * dtype.itemsize > size:
            raise _cut_off(name, count, body)
        file.seek(start)
        data = file.read(count * dtype.itemsize)
        if len(data) < count * dtype.itemsize:
            raise _cut_off(name, count, body)
        return np.frombuffer(data, dtype)


def _cut_off(name: str, count: int, body: int) -> ValueError:
    return ValueError(
        f"{name} is cut off: its header announces {count} Gaussians, but only {body} bytes follow it. "
        "Copy or export the file again."
    )


Properties = list[tuple[str, str]]  # name, numpy type ("" for a list)


def _parse_header(header: str, name: str) -> tuple[str, dict[str, tuple[Properties, int]]]:
    """The encoding ("ascii", "<" or ">") and the elements in file order: their properties and their count."""
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
            case ["element", element, count] if re.fullmatch(r"\d{1,18}", count) and element not in elements:
                current = []
                elements[element] = (current, int(count))
            case ["property", "list", _, _, prop] if current is not None:
                current.append((prop, ""))
            case ["property", kind, prop] if current is not None and kind in TYPES:
                if prop in [p for p, _ in current]:
                    raise ValueError(f"{name} has a damaged PLY header: property {prop!r} appears twice.")
                current.append((prop, TYPES[kind]))
            case _:
                raise ValueError(f"{name} has a damaged PLY header: cannot make sense of {line[:80]!r}.")
    if not encoding:
        raise ValueError(f"{name} has a damaged PLY header: it names no known format (ascii or binary).")
    return encoding, elements


def _splat_element(
    elements: dict[str, tuple[Properties, int]], name: str
) -> tuple[Properties, int, list[tuple[Properties, int]]]:
    """Properties and count of the vertex element, and the elements before it; ValueError if it is no splat."""
    properties, count = elements.get("vertex", ([], 0))
    names = [p for p, _ in properties]
    if "packed_position" in names:
        raise ValueError(f"{name} is a compressed splat PLY. Convert it to a plain PLY (for example in SuperSplat).")
    missing = [p for p in REQUIRED if p not in names]
    if missing:
        what = (
            "a mesh" if elements.get("face", ([], 0))[1] else "a point cloud" if {"x", "y", "z"} <= set(names) else ""
        )
        raise ValueError(
            f"{name} holds no Gaussian splats{what and f', it looks like {what}'}: its vertices lack "
            f"{', '.join(missing)}. Choose a splat PLY, or initialise Gaussians from the mesh."
        )
    if count == 0:
        raise ValueError(f"{name} holds 0 Gaussians; at least 1 is needed. Choose another file.")
    before = []
    for element, (others, number) in elements.items():
        if element == "vertex":
            break
        before.append((others, number))
    if any(not kind for others, _ in [(properties, count), *before] for _, kind in others):
        raise ValueError(f"{name} has list properties in or before its vertices, which no splat has. Export it again.")
    return properties, count, before


def _ascii_rows(text: bytes, properties: Properties, count: int, skip: int, name: str) -> np.ndarray:
    words = text.split(maxsplit=skip + count * len(properties))[skip : skip + count * len(properties)]
    if len(words) < count * len(properties):
        raise _cut_off(name, count, len(text))
    try:
        values = np.fromiter(map(float, words), np.float64, len(words)).reshape(count, len(properties))
    except ValueError as error:
        raise ValueError(f"{name} holds something that is no number among its values ({error}).") from None
    dtype = np.dtype([(n, "f8") for n, _ in properties])
    return values.view(dtype)[:, 0]
