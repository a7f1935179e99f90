"""Gaussian clouds as compressed PLY (PlayCanvas, SuperSplat): 16 bytes per Gaussian, and one per
higher harmonic.

Chunks of 256 Gaussians hold their boxes (float32: least and greatest x y z, then logarithmic scale,
then colour); each Gaussian is packed into four 32-bit words within its chunk's box: position and
scale as 11, 10 and 11 bits, the rotation as its three smallest parts in 10 bits each, colour and
opacity as RGBA bytes. Higher harmonics are bytes in an element of their own, channel-major. Y down,
as in `ply`.

What is lost: precision. An error is 1/2047 (y: 1/1023) of a chunk's box at most, so the Gaussians
are sorted along a Morton curve first, which makes the boxes small: **the order changes**. Opacity
and colour keep 8 bits, rotations about 1e-3, harmonics 1/32 (and those beyond -4..4 are clamped),
scales are clamped to e^-20..e^20.
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
from .frame import SH_SIGNS
from .ply_header import Header, cut_off, read_header
from .smallest_three import join, pack, split, unpack

CHUNK = 256
# each min_ thrice, then max_ thrice
BOXES = (("x", "y", "z"), ("scale_x", "scale_y", "scale_z"), ("r", "g", "b"))
WORDS = ("packed_position", "packed_rotation", "packed_scale", "packed_color")
SHIFTS_11_10_11 = ((21, 2047), (11, 1023), (0, 2047))
SHIFTS_COLOR = ((24, 255), (16, 255), (8, 255))
REST_COUNTS = (0, 9, 24, 45)
# Bytes 0 and 255 stand for the ends themselves, as PlayCanvas reads them, the others for the
# middles of their steps.
_SH_UNIT = np.concatenate([[0], (np.arange(1, 255) + 0.5) / 256, [1]])
ROTATION = np.float32(2**0.5 / 1023), np.float32(-(0.5**0.5))  # factor and shift of a code
ROTATION_OF_CODE = scaled(np.arange(1024), *ROTATION)
SH_OF_BYTE = ((_SH_UNIT - 0.5) * 8).astype(np.float32)


def save_compressed_ply(gaussians: Gaussians, path: str | os.PathLike[str]) -> None:
    """Write the cloud as a compressed PLY, in another order; atomic.

    Raises ValueError if the cloud is empty or holds NaNs, or the folder does not exist; OSError if
    the disk refuses.
    """
    cloud = arrays(gaussians)
    order = morton_order(cloud["means"])
    count, rest = len(order), 3 * (cloud["sh"].shape[1] - 1)
    chunks, words = -(-count // CHUNK), np.empty((count, 4), "<u4")
    boxes = np.empty((chunks, 18), "<f4")
    for start in range(0, count, STRETCH):
        part = {key: value[order[start : start + STRETCH]] for key, value in cloud.items()}
        of = slice(start, start + STRETCH)
        here = slice(start // CHUNK, start // CHUNK + -(-len(part["means"]) // CHUNK))
        words[of, 0] = _boxed(part["means"], boxes[here, 0:6], SHIFTS_11_10_11)
        words[of, 2] = _boxed(
            np.clip(part["log_scales"], -20, 20), boxes[here, 6:12], SHIFTS_11_10_11
        )
        words[of, 3] = _boxed(0.5 + SH_C0 * part["sh"][:, 0], boxes[here, 12:18], SHIFTS_COLOR)
        words[of, 3] |= opacity_bytes(part["opacity_logits"])
        largest, others = split(part["quats"])
        words[of, 1] = pack(largest, quantise((others / np.sqrt(2) + 0.5) * 1023, 1023, np.uint32))
    header = ["ply", "format binary_little_endian 1.0", f"element chunk {chunks}"]
    header += [f"property float {box}" for box in _names(BOXES)]
    header += [f"element vertex {count}", *(f"property uint {word}" for word in WORDS)]
    if rest:  # an element without properties trips readers
        header += [f"element sh {count}", *(f"property uchar f_rest_{i}" for i in range(rest))]
    with atomic_write(path) as file:
        file.write("\n".join([*header, "end_header", ""]).encode("ascii"))
        file.write(boxes.tobytes())
        file.write(words.tobytes())
        for start in range(0, count if rest else 0, STRETCH):
            harmonics = cloud["sh"][order[start : start + STRETCH], 1:].transpose(0, 2, 1)
            file.write(quantise(np.floor((harmonics / 8 + 0.5) * 256), 255).tobytes())


def load_compressed_ply(path: str | os.PathLike[str]) -> Gaussians:
    """Read a compressed PLY into our Y-up world; SH degree 0 to 3.

    Files of before 2024 without colour boxes are read too. Raises ValueError saying what is wrong
    with the file and what to do: not a compressed PLY, cut off, 0 Gaussians, NaNs in the boxes.
    """
    name = Path(path).name
    header = read_header(path, name)
    count, rest = _checked(header, name)
    begins, begin = {}, header.end
    for element in ("chunk", "vertex", "sh"):
        begins[element] = begin
        if element in header.elements:
            begin += header.elements[element][1] * header.dtype(element).itemsize
    if begin > header.size:
        raise cut_off(name, count, header.body)
    box_type, word_type, used = header.dtype("chunk"), header.dtype("vertex"), -(-count // CHUNK)
    box_rows = read_stretch(path, begins["chunk"], used * box_type.itemsize, name).view(box_type)
    with np.errstate(all="ignore"):  # NaNs in a damaged box reach the check of the cloud
        boxes = [_ends(box_rows, axes) for axes in BOXES]
        boxes[2] = (
            (boxes[2][0] - np.float32(0.5)) / np.float32(SH_C0),
            boxes[2][1] / np.float32(SH_C0),
        )  # as harmonics

    def vertices(start: int, stop: int) -> Array:
        size = word_type.itemsize
        return read_stretch(path, begins["vertex"] + start * size, (stop - start) * size, name)

    def rest_bytes(start: int, stop: int) -> Array:
        return read_stretch(path, begins["sh"] + start * rest, (stop - start) * rest, name)

    def decode(start: int, stop: int) -> Rows:
        rows = vertices(start, stop).view(word_type)
        position, rotation, scale, color = (np.ascontiguousarray(rows[word]) for word in WORDS)
        here = slice(start // CHUNK, -(-stop // CHUNK))
        harmonics = None
        if rest:
            harmonics = SH_OF_BYTE.take(rest_bytes(start, stop), mode="clip").reshape(
                stop - start, 3, -1
            )
        largest, *codes = unpack(rotation)
        return Rows(
            means=_unboxed(position, boxes[0], here, SHIFTS_11_10_11),
            log_scales=_unboxed(scale, boxes[1], here, SHIFTS_11_10_11),
            quats=np.stack(
                join(largest, *(ROTATION_OF_CODE.take(code, mode="clip") for code in codes))
            ).T,
            opacity_logits=logits_of_bytes(color & np.uint32(255)),
            dc=_unboxed(color, boxes[2], here, SHIFTS_COLOR),
            rest=None if harmonics is None else harmonics.transpose(0, 2, 1),
        )

    offsets = [header.dtype("vertex").fields[word][1] for word in WORDS]  # type: ignore[index]
    fast = (
        compiled_decoders(count) if offsets == [0, 4, 8, 12] and word_type.itemsize == 16 else None
    )
    if fast is None:
        return assemble(count, 1 + rest // 3, decode, name)
    table = _steps(boxes)

    def fill(start: int, stop: int, out: dict[str, Array]) -> bool:
        flat = {key: value.reshape(-1) for key, value in out.items()}
        if rest:
            signs = np.array(SH_SIGNS, np.float32)
            fast.harmonics(
                rest_bytes(start, stop).reshape(-1, rest), SH_OF_BYTE, signs, True, out["sh"]
            )
            flat["sh"] = np.empty(3 * (stop - start), np.float32)
        words = vertices(start, stop).view("<u4")
        usual: bool = fast.compressed(
            words, table[start // CHUNK :], *ROTATION, LOGIT_OF_BYTE, tuple(flat.values())
        )
        if rest:
            out["sh"][:, 0] = flat["sh"].reshape(-1, 3)
        return usual

    return assemble(count, 1 + rest // 3, decode, name, fill=fill)


def morton_order(means: Array) -> Array:
    """The order [N] along a Morton curve of 10 bits per axis through the cloud's box: neighbours
    come together.
    """
    low = means.min(0)
    cells = ((means - low) / np.maximum(np.ptp(means, 0), 1e-30) * 1023).astype(np.uint64)
    code = np.zeros(len(means), np.uint64)
    for axis in range(3):
        bits = cells[:, axis]
        # two gaps per bit
        for shift, mask in ((16, 0x30000FF), (8, 0x300F00F), (4, 0x30C30C3), (2, 0x9249249)):
            bits = (bits | bits << np.uint64(shift)) & np.uint64(mask)
        code |= bits << np.uint64(axis)
    return np.argsort(code, kind="stable")


def _checked(header: Header, name: str) -> tuple[int, int]:
    """Number of Gaussians and of higher harmonics times colours, after every check the header
    allows.
    """
    elements = header.elements
    if header.encoding != "<":
        raise ValueError(
            f"{name} is a compressed splat PLY that is not little-endian binary. Export it again."
        )
    if list(elements)[:2] != ["chunk", "vertex"] or list(elements)[2:3] not in ([], ["sh"]):
        raise ValueError(
            f"{name} holds {', '.join(elements)}; a compressed splat PLY holds chunk, vertex"
            " and sh."
        )
    # all of these boxes or none
    colored = any(box in _names(BOXES[2:]) for box, _ in elements["chunk"][0])
    wanted = {
        "chunk": (_names(BOXES if colored else BOXES[:2]), "f4"),
        "vertex": (list(WORDS), "u4"),
    }
    for element, (names, kind) in wanted.items():
        missing = [n for n in names if (n, kind) not in elements[element][0]]
        if missing:
            raise ValueError(
                f"{name} is no whole compressed splat PLY: {element} lacks {', '.join(missing)}."
            )
    if any(not kind for properties, _ in list(elements.values())[:3] for _, kind in properties):
        raise ValueError(f"{name} has list properties, which no splat has. Export it again.")
    count, rest = elements["vertex"][1], elements.get("sh", ([], 0))[0]
    if count == 0:
        raise ValueError(f"{name} holds 0 Gaussians; at least 1 is needed. Choose another file.")
    if elements["chunk"][1] < -(-count // CHUNK):
        raise ValueError(
            f"{name} has {elements['chunk'][1]} chunks for {count} Gaussians; there must be one for"
            f" every {CHUNK}. Export it again."
        )
    if len(rest) not in REST_COUNTS or rest != [(f"f_rest_{i}", "u1") for i in range(len(rest))]:
        raise ValueError(
            f"{name} has {len(rest)} harmonics; a splat has 0, 9, 24 or 45 bytes f_rest_*. Export"
            " again."
        )
    if rest and elements["sh"][1] != count:
        raise ValueError(
            f"{name} has harmonics for {elements['sh'][1]} of {count} Gaussians. Export it again."
        )
    return count, len(rest)


def _names(boxes: tuple[tuple[str, ...], ...]) -> list[str]:
    return [f"{end}_{axis}" for axes in boxes for end in ("min", "max") for axis in axes]


def _ends(rows: Array, axes: tuple[str, ...]) -> tuple[Array, Array]:
    """Least values and extents [3,chunks]; 0 and 1 for colours where the file has no boxes for
    them.
    """
    names = rows.dtype.names or ()
    if f"min_{axes[0]}" not in names:
        return np.zeros((3, len(rows)), np.float32), np.ones((3, len(rows)), np.float32)
    low, high = (np.stack([rows[f"{end}_{axis}"] for axis in axes]) for end in ("min", "max"))
    return low.astype(np.float32), (high - low).astype(np.float32)


def _steps(boxes: list[tuple[Array, Array]]) -> Array:
    """[chunks,18]: least values and the size of a code's step, of positions, scales and colours."""
    tops = [
        [np.float32(1 / top) for _, top in fields]
        for fields in (SHIFTS_11_10_11, SHIFTS_11_10_11, SHIFTS_COLOR)
    ]
    with np.errstate(all="ignore"):
        steps = [
            extent * np.array(top)[:, None] for (_, extent), top in zip(boxes, tops, strict=True)
        ]
    return np.ascontiguousarray(
        np.concatenate(
            [v for (low, _), step in zip(boxes, steps, strict=True) for v in (low, step)]
        ).T
    )


def _boxed(values: Array, boxes: Array, fields: tuple[tuple[int, int], ...]) -> Array:
    """Words [n] of the values [n,3] within their chunks' boxes, which are written to ``boxes``
    [chunks,6].
    """
    edges = np.arange(0, len(values), CHUNK)
    boxes[:, :3], boxes[:, 3:] = (
        np.minimum.reduceat(values, edges),
        np.maximum.reduceat(values, edges),
    )
    repeats = np.repeat(boxes, CHUNK, 0)[: len(values)]
    # not 0/0 where all agree
    extent = np.where(repeats[:, 3:] > repeats[:, :3], repeats[:, 3:] - repeats[:, :3], 1)
    unit = (values - repeats[:, :3]) / extent
    words = np.zeros(len(values), np.uint32)
    for axis, (shift, top) in enumerate(fields):
        words |= quantise(unit[:, axis] * top, top, np.uint32) << np.uint32(shift)
    return words


def _unboxed(
    words: Array, box: tuple[Array, Array], here: slice, fields: tuple[tuple[int, int], ...]
) -> Array:
    """The inverse of `_boxed`: [n,3] float32, for the chunks ``here``."""
    low, extent = (ends[:, here, None] for ends in box)
    missing = low.shape[1] * CHUNK - len(words)
    padded = (np.pad(words, (0, missing)) if missing else words).reshape(-1, CHUNK).view(np.int32)
    out = np.empty((3, *padded.shape), np.float32)
    for axis, (shift, top) in enumerate(fields):
        out[axis] = padded >> shift & top
        out[axis] *= extent[axis] * np.float32(1 / top)
        out[axis] += low[axis]
    rows: Array = out.reshape(3, -1)[:, : len(words)].T
    return rows
