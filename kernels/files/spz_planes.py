"""The planes of SPZ files decoded with numpy; `numba_decode` has the same functions, compiled, for
those that matter.

Each takes some Gaussians' bytes of one plane and fills their part of the cloud's arrays, turned
into our world: the file's frame is taken to be Y down, so (x, y, z) becomes (x, -y, -z) and wxyz
becomes (x, -w, z, -y), as in `frame`.
"""

from __future__ import annotations

import numpy as np

from .assembly import Array
from .assembly import scaled as floats
from .smallest_three import join, unpack


def fixed_point(data: Array, step: np.float32, means: Array) -> None:
    """Positions of version 2 and later: bytes [9 n], little-endian 24-bit numbers, each times
    ``step``; means [3 n].
    """
    flat = np.append(data, np.uint8(0))  # the last number's word reaches one byte further
    words: Array = np.ndarray((len(data) // 9, 3), "<i4", flat, strides=(9, 3))
    numbers = words.astype(np.int32)
    numbers <<= 8  # the upper byte is the next number's
    numbers >>= 8
    np.multiply(numbers, np.array([step, -step, -step]), out=means.reshape(-1, 3))


def halves(data: Array, means: Array) -> None:
    """Positions of version 1: bytes [n,6], three half-precision numbers."""
    with np.errstate(invalid="ignore"):  # a NaN is for the check of the cloud
        np.multiply(
            np.ascontiguousarray(data).view("<f2"), np.array([1, -1, -1], np.float32), out=means
        )


def looked_up(data: Array, table: Array, values: Array) -> None:
    """``table`` [256] of bytes [n] into values [n]."""
    values[...] = table.take(data, mode="clip")


def scaled(data: Array, factor: np.float32, shift: np.float32, values: Array) -> None:
    """Bytes [n] times ``factor`` plus ``shift`` into values [n]."""
    np.multiply(data, factor, out=values, dtype=np.float32)
    values += shift


def smallest_three(words: Array, factor: np.float32, quats: Array) -> None:
    """Rotations of version 3 and later: words [n] uint32 of xyzw into quats [4 n].

    A code's lower nine bits count, times ``factor``; the tenth is the sign.
    """
    largest, *codes = unpack(words)
    parts = (
        (code & 511).astype(np.float32) * factor * (1 - (code >> 8 & 2)).astype(np.float32)
        for code in codes
    )
    i, j, k, w = join(largest, *parts)
    rows = quats.reshape(-1, 4)
    for axis, part in enumerate((i, -w, k, -j)):
        rows[:, axis] = part


def first_three(data: Array, quats: Array) -> None:
    """Rotations before version 3: bytes [n,3] of xyz, w is never negative."""
    i, j, k = floats(data, 1 / 127.5, -1).T
    w = np.sqrt(np.maximum(1 - i * i - j * j - k * k, 0))
    for axis, part in enumerate((i, -w, k, -j)):
        quats[:, axis] = part


def harmonics(data: Array, table: Array, signs: Array, channels_first: bool, sh: Array) -> None:
    """Higher harmonics from bytes [n,3 K], coefficient by coefficient; ``table`` [256], ``signs``
    [1 + K].

    ``channels_first`` is compressed PLY's order, which only the compiled version knows.
    """
    assert not channels_first
    known = sh.shape[1] - 1
    values = table.take(data[:, : 3 * known], mode="clip").reshape(len(data), known, 3)
    np.multiply(values, signs[1 : 1 + known, None], out=sh[:, 1:])
