"""Packed splats decoded in one pass, as compiled loops: what the readers' own numpy code does, to the bit.

Every kernel fills the cloud's arrays for some Gaussians, turned into our world, and returns whether everything it met
was ordinary. Where it was not (a NaN, a scale of 0, a quaternion of 0) what it left is void and the readers decode that
stretch with numpy, which knows the cures and the errors. Importing this module imports numba; `fast` guards it.

The file's frame is Y down: (x, y, z) becomes (x, -y, -z), and wxyz becomes (x, -w, z, -y); see `frame`.
"""

from __future__ import annotations

from math import sqrt
from typing import Any

import numpy as np
from numba import njit

from ..gaussians.compiled import compiled

LARGEST_SCALE = 4.8e8  # a little less than exp(assembly.LOG_SCALE_LIMIT)
LARGEST_LOG = 20.0  # assembly.LOG_SCALE_LIMIT


@compiled()
def splat(rows: Any, parts: Any, colors: Any, units: Any, logit: Any, out: Any) -> bool:
    """.splat: rows [n,8] float32 and the same memory as bytes [n,32]; ``scales`` of ``out`` stay linear.

    Tables [256] float32 of a byte: ``colors`` constant harmonics, ``units`` parts of quaternions, ``logit`` opacities.
    """
    means, scales, quats, logits, sh = out
    good = True
    void = np.float32(0)
    for n in range(rows.shape[0]):
        x, y, z = rows[n, 0], rows[n, 1], rows[n, 2]
        void += (x + y + z) * np.float32(0)  # NaN from the first value on that is not finite
        means[n, 0], means[n, 1], means[n, 2] = x, -y, -z
        for axis in range(3):
            scale = rows[n, 3 + axis]
            good &= np.float32(0) < scale < np.float32(LARGEST_SCALE)
            scales[n, axis] = scale
            sh[n, 0, axis] = colors[parts[n, 24 + axis]]
        logits[n] = logit[parts[n, 27]]
        w, i, j, k = parts[n, 28], parts[n, 29], parts[n, 30], parts[n, 31]
        good &= not (w == 128 and i == 128 and j == 128 and k == 128)
        quats[n, 0], quats[n, 1], quats[n, 2], quats[n, 3] = units[i], -units[w], units[k], -units[j]
    return good and void == 0


@njit(error_model="numpy")
def largest_of(a: Any, b: Any, c: Any) -> Any:
    """The part of a unit quaternion that the other three leave."""
    return np.float32(sqrt(max(np.float32(1) - a * a - b * b - c * c, np.float32(0))))


@njit(error_model="numpy")
def joined(word: Any, table: Any) -> tuple:
    """The four parts in the file's order of a quaternion packed as its smallest three; ``table`` [1024] of a code."""
    a, b, c = table[word >> 20 & 1023], table[word >> 10 & 1023], table[word & 1023]
    found, largest = largest_of(a, b, c), word >> 30 & 3
    if largest == 0:
        return found, a, b, c
    if largest == 1:
        return a, found, b, c
    if largest == 2:
        return a, b, found, c
    return a, b, c, found


@compiled()
def compressed(words: Any, at: Any, boxes: Any, table: Any, logit: Any, out: Any) -> bool:
    """Compressed PLY without its harmonics: words [n,m] uint32, those of position, rotation, scale and color at ``at``.

    boxes [chunks,18] float32: least values and steps of positions, scales and colours, the first chunk's first;
    ``table`` [1024] of a code of a rotation, ``logit`` [256] of a byte of opacity.
    """
    means, log_scales, quats, logits, sh = out
    good = True
    void = np.float32(0)
    for n in range(words.shape[0]):
        chunk = n // 256
        position, scale, color = words[n, at[0]], words[n, at[2]], words[n, at[3]]
        x = np.float32(position >> 21 & 2047) * boxes[chunk, 3] + boxes[chunk, 0]
        y = np.float32(position >> 11 & 1023) * boxes[chunk, 4] + boxes[chunk, 1]
        z = np.float32(position & 2047) * boxes[chunk, 5] + boxes[chunk, 2]
        means[n, 0], means[n, 1], means[n, 2] = x, -y, -z
        a = np.float32(scale >> 21 & 2047) * boxes[chunk, 9] + boxes[chunk, 6]
        b = np.float32(scale >> 11 & 1023) * boxes[chunk, 10] + boxes[chunk, 7]
        c = np.float32(scale & 2047) * boxes[chunk, 11] + boxes[chunk, 8]
        log_scales[n, 0], log_scales[n, 1], log_scales[n, 2] = a, b, c
        good &= max(a, max(b, c)) <= np.float32(LARGEST_LOG)
        red = np.float32(color >> 24 & 255) * boxes[chunk, 15] + boxes[chunk, 12]
        green = np.float32(color >> 16 & 255) * boxes[chunk, 16] + boxes[chunk, 13]
        blue = np.float32(color >> 8 & 255) * boxes[chunk, 17] + boxes[chunk, 14]
        sh[n, 0, 0], sh[n, 0, 1], sh[n, 0, 2] = red, green, blue
        void += ((x + y + z) + (a + b + c) + (red + green + blue)) * np.float32(0)
        logits[n] = logit[color & 255]
        w, i, j, k = joined(words[n, at[1]], table)
        quats[n, 0], quats[n, 1], quats[n, 2], quats[n, 3] = i, -w, k, -j
    return good and void == 0


@compiled()
def harmonics(data: Any, table: Any, signs: Any, channels_first: bool, sh: Any) -> None:
    """Higher harmonics from bytes [n,3 K], channel by channel or coefficient by coefficient; ``signs`` [1 + K]."""
    terms = sh.shape[1] - 1
    stored = data.shape[1] // 3
    for n in range(data.shape[0]):
        for term in range(terms):
            for channel in range(3):
                byte = data[n, channel * stored + term] if channels_first else data[n, term * 3 + channel]
                sh[n, 1 + term, channel] = table[byte] * signs[1 + term]


@compiled()
def fixed_point(data: Any, step: Any, means: Any) -> None:
    """SPZ's positions: bytes [n,9], three little-endian 24-bit numbers, each times ``step``."""
    for n in range(data.shape[0]):
        for axis in range(3):
            low, middle, high = data[n, 3 * axis], data[n, 3 * axis + 1], data[n, 3 * axis + 2]
            number = (np.int32(low) | np.int32(middle) << 8 | np.int32(high) << 16) << 8
            value = np.float32(np.int32(number) >> 8) * step
            means[n, axis] = value if axis == 0 else -value


@compiled()
def looked_up(data: Any, table: Any, values: Any) -> None:
    """``table`` [256] of bytes [n,k] into values [n,k]."""
    for n in range(data.shape[0]):
        for i in range(data.shape[1]):
            values[n, i] = table[data[n, i]]


@compiled()
def smallest_three(words: Any, table: Any, quats: Any) -> None:
    """SPZ's rotations: words [n] uint32 of xyzw; ``table`` [1024] of a code."""
    for n in range(words.shape[0]):
        i, j, k, w = joined(words[n], table)
        quats[n, 0], quats[n, 1], quats[n, 2], quats[n, 3] = i, -w, k, -j
