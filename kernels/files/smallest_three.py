"""Unit quaternions as their three smallest parts: compressed PLY and SPZ pack them so, in 2 + 3 *
10 bits.
"""

from __future__ import annotations

import numpy as np

from .assembly import Array

_OTHERS = np.array([[1, 2, 3], [0, 2, 3], [0, 1, 3], [0, 1, 2]])


def split(quats: Array) -> tuple[Array, Array]:
    """Index of the largest part [n] and the other three in order [n,3], the sign such that the
    largest is positive.
    """
    rows = np.arange(len(quats))
    largest = np.abs(quats).argmax(1)
    signs = np.where(quats[rows, largest] < 0, -1, 1).astype(quats.dtype)
    return largest, quats[rows[:, None], _OTHERS[largest]] * signs[:, None]


def join(largest: Array, a: Array, b: Array, c: Array) -> tuple[Array, Array, Array, Array]:
    """The four parts [n] of the quaternions, in the order that ``largest`` counts in."""
    found = np.sqrt(np.maximum(1 - a * a - b * b - c * c, 0))
    first = largest == 0
    second = np.where(first, a, np.where(largest == 1, found, b))
    third = np.where(largest < 2, b, np.where(largest == 2, found, c))
    return np.where(first, found, a), second, third, np.where(largest == 3, found, c)


def pack(largest: Array, codes: Array) -> Array:
    """uint32 [n] of the index (bits 30 and 31) and three 10-bit codes [n,3] (bits 20, 10 and 0)."""
    codes = codes.astype(np.uint32)
    words: Array = (
        largest.astype(np.uint32) << 30 | codes[:, 0] << 20 | codes[:, 1] << 10 | codes[:, 2]
    )
    return words


def unpack(packed: Array) -> tuple[Array, Array, Array, Array]:
    """The inverse of `pack`: the index [n] and the three codes [n], as int32."""
    words = packed.view(np.int32)
    return words >> 30 & 3, words >> 20 & 1023, words >> 10 & 1023, words & 1023
