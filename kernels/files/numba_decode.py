"""Packed splats decoded in one pass, as compiled loops: what the readers' own numpy code does, to
the bit.

Every kernel fills the cloud's arrays for some Gaussians, turned into our world, and returns whether
everything it met was ordinary. Where it was not (a NaN, a scale of 0, a quaternion of 0) what it
left is void and the readers decode that stretch with numpy, which knows the cures and the errors.
Importing this module imports numba; `fast` guards it.

The file's frame is Y down: (x, y, z) becomes (x, -y, -z), and wxyz becomes (x, -w, z, -y); see
`frame`. Any is an array or a number of whichever dtype: Numba compiles for each.
"""

from __future__ import annotations

from math import sqrt
from typing import Any

import numpy as np
from numba import njit

from ..devices.compiled import compiled

# unsigned indices: no look whether they count from the end
F, S, U = np.float32, np.int32, np.uint64
LARGEST_SCALE = 4.8e8  # a little less than exp(assembly.LOG_SCALE_LIMIT)
LARGEST_LOG = 20.0  # assembly.LOG_SCALE_LIMIT


@compiled()
def splat(rows: Any, parts: Any, colors: Any, units: Any, logit: Any, out: Any) -> bool:
    """.splat: rows [n,8] float32 and the same memory as bytes [n,32]; ``scales`` of ``out`` stay
    linear.

    Tables [256] float32 of a byte: ``colors`` constant harmonics, ``units`` parts of quaternions,
    ``logit`` opacities.
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
        quats[n, 0], quats[n, 1], quats[n, 2], quats[n, 3] = (
            units[i],
            -units[w],
            units[k],
            -units[j],
        )
    return good and void == 0


@compiled()
def table(rows: Any, at: Any, rest: Any, signs: Any, out: Any) -> bool:
    """A PLY of float32 only: rows [n,columns]; ``at`` [14] the columns of x y z, f_dc, opacity,
    scale and rot.

    ``rest`` [3 K] those of f_rest, all red ones first; ``signs`` [1 + K] of the harmonics in our
    world.
    """
    means, log_scales, quats, logits, sh = out
    terms = sh.shape[1] - 1
    good, void = True, F(0)
    for n in range(rows.shape[0]):
        x, y, z, logit = rows[n, at[0]], rows[n, at[1]], rows[n, at[2]], rows[n, at[6]]
        w, i, j, k = rows[n, at[10]], rows[n, at[11]], rows[n, at[12]], rows[n, at[13]]
        # NaN from the first value on that is not finite
        void += (x + y + z + logit + w + i + j + k) * F(0)
        means[n, 0], means[n, 1], means[n, 2] = x, -y, -z
        logits[n] = logit
        good &= not (w == 0 and i == 0 and j == 0 and k == 0)
        quats[n, 0], quats[n, 1], quats[n, 2], quats[n, 3] = i, -w, k, -j
        for axis in range(3):
            scale, color = rows[n, at[7 + axis]], rows[n, at[3 + axis]]
            void += (scale + color) * F(0)
            good &= scale <= F(LARGEST_LOG)
            log_scales[n, axis] = scale
            sh[n, 0, axis] = color
            for term in range(terms):
                value = rows[n, rest[axis * terms + term]] * signs[1 + term]
                void += value * F(0)
                sh[n, 1 + term, axis] = value
    return good and void == 0


@compiled()
def planes(
    positions: Any, rotations: Any, sizes: Any, opacities: Any, colors: Any, out: Any
) -> bool:
    """glTF's attributes, float32 [n,3], [n,4] as xyzw, [n,3], [n,1] and [n,3]; their frame is ours.

    Scales and opacities of ``out`` stay as the file has them.
    """
    means, scales, quats, units, sh = out
    good, void = True, F(0)
    for n in range(positions.shape[0]):
        x, y, z, w = rotations[n, 0], rotations[n, 1], rotations[n, 2], rotations[n, 3]
        void += (x + y + z + w) * F(0)
        good &= not (x == 0 and y == 0 and z == 0 and w == 0)
        quats[n, 0], quats[n, 1], quats[n, 2], quats[n, 3] = w, x, y, z
        good &= F(0) <= opacities[n, 0] <= F(1)
        units[n] = opacities[n, 0]
        for axis in range(3):
            value, size, color = positions[n, axis], sizes[n, axis], colors[n, axis]
            void += (value + color) * F(0)
            good &= F(0) < size < F(LARGEST_SCALE)
            means[n, axis], scales[n, axis], sh[n, 0, axis] = value, size, color
    return good and void == 0


@njit(error_model="numpy")
def joined(word: Any, a: Any, b: Any, c: Any) -> tuple[Any, Any, Any, Any]:
    """The four parts, in the file's order, of a quaternion packed as its smallest three."""
    left = F(1) - a * a - b * b - c * c
    found = F(sqrt(left if left > F(0) else F(0)))
    largest = word >> 30 & 3
    # Products with 0 and 1, which are exact: a choice would be a jump, and the processor could do
    # one at a time only.
    first, second, third = F(largest == 0), F(largest == 1), F(largest == 2)
    fourth, two = F(largest == 3), first + second
    return (
        found * first + a * (F(1) - first),
        found * second + a * first + b * (third + fourth),
        found * third + b * two + c * fourth,
        found * fourth + c * (two + third),
    )


@compiled()
def sog(
    low: Any,
    high: Any,
    turns: Any,
    sizes: Any,
    colors: Any,
    places: Any,
    log_scales: Any,
    harmonics: Any,
    unit: Any,
    logit: Any,
    out: Any,
) -> bool:
    """SOG's pictures, bytes [n,4] each: low and high byte of places, rotations, scales, colours.

    Tables float32: ``places`` [3,65536]; of a byte ``log_scales``, constant ``harmonics``, ``unit``
    parts of quaternions, ``logit`` opacities.
    """
    means, logs, quats, logits, sh = out
    good, void = True, F(0)
    for n in range(low.shape[0]):
        for axis in range(3):
            value = places[axis, S(low[n, axis]) | S(high[n, axis]) << 8]
            size, color = log_scales[sizes[n, axis]], harmonics[colors[n, axis]]
            void += (value + size + color) * F(0)
            good &= size <= F(LARGEST_LOG)
            means[n, axis] = value if axis == 0 else -value
            logs[n, axis], sh[n, 0, axis] = size, color
        logits[n] = logit[colors[n, 3]]
        good &= turns[n, 3] >= 252
        a, b, c = unit[turns[n, 0]], unit[turns[n, 1]], unit[turns[n, 2]]
        w, i, j, k = joined(S(turns[n, 3] & 3) << 30, a, b, c)
        quats[n, 0], quats[n, 1], quats[n, 2], quats[n, 3] = i, -w, k, -j
    return good and void == 0


@njit(error_model="numpy")
def unboxed(words: Any, field: Any, box: Any, begin: Any, signs: Any, values: Any) -> None:
    """A chunk's words at ``field`` of every four into values [3 n], as 11, 10 and 11 bits within
    its box.
    """
    x, y, z, dx, dy, dz = (
        box[begin],
        box[begin + 1],
        box[begin + 2],
        box[begin + 3],
        box[begin + 4],
        box[begin + 5],
    )
    for n in range(U(values.shape[0]) // U(3)):
        word = words[U(4) * n + U(field)]
        values[U(3) * n] = F(S(word >> 21 & 2047)) * dx + x
        values[U(3) * n + U(1)] = (F(S(word >> 11 & 1023)) * dy + y) * signs
        values[U(3) * n + U(2)] = (F(S(word & 2047)) * dz + z) * signs


@njit(error_model="numpy")
def ordinary(box: Any) -> bool:
    """Whether all that a chunk's box [18] can hold is finite, and its scales no larger than may
    be.
    """
    good = True
    for axis in range(9):
        begin = 6 * (axis // 3) + axis % 3
        top = F(255) if axis > 5 else F(1023) if axis % 3 == 1 else F(2047)
        low, high = box[begin], box[begin] + box[begin + 3] * top
        good &= (low + high) * F(0) == 0  # false for NaN and infinities
        good &= axis // 3 != 1 or (low <= F(LARGEST_LOG) and high <= F(LARGEST_LOG))
    return good


@compiled()
def compressed(words: Any, boxes: Any, factor: Any, shift: Any, logit: Any, out: Any) -> bool:
    """Compressed PLY without its harmonics: words [4 n] uint32 of position, rotation, scale and
    color.

    boxes [chunks,18] float32: least values and steps of positions, scales and colours, the first
    chunk's first; a code of a rotation stands for its product with ``factor`` plus ``shift``, a
    byte of opacity for ``logit`` [256]. The arrays of ``out`` are flat. One loop for each, which
    the compiler can do several Gaussians at a time.
    """
    means, log_scales, quats, logits, sh = out
    count = words.shape[0] // 4
    good = True
    for chunk in range((count + 255) // 256):
        first, last = 256 * chunk, min(256 * chunk + 256, count)
        here, box = words[4 * first : 4 * last], boxes[chunk]
        good &= ordinary(box)
        unboxed(here, 0, box, 0, F(-1), means[3 * first : 3 * last])
        unboxed(here, 2, box, 6, F(1), log_scales[3 * first : 3 * last])
        red, green, blue, dr, dg, db = box[12], box[13], box[14], box[15], box[16], box[17]
        colors = sh[3 * first : 3 * last]
        for n in range(U(last - first)):
            word = here[U(4) * n + U(3)]
            colors[U(3) * n] = F(S(word >> 24 & 255)) * dr + red
            colors[U(3) * n + U(1)] = F(S(word >> 16 & 255)) * dg + green
            colors[U(3) * n + U(2)] = F(S(word >> 8 & 255)) * db + blue
        turns = quats[4 * first : 4 * last]
        for n in range(U(last - first)):
            word = here[U(4) * n + U(1)]
            a = F(S(word >> 20 & 1023)) * factor + shift
            b = F(S(word >> 10 & 1023)) * factor + shift
            w, i, j, k = joined(word, a, b, F(S(word & 1023)) * factor + shift)
            (
                turns[U(4) * n],
                turns[U(4) * n + U(1)],
                turns[U(4) * n + U(2)],
                turns[U(4) * n + U(3)],
            ) = (i, -w, k, -j)
        for n in range(last - first):
            logits[first + n] = logit[here[U(4) * U(n) + U(3)] & 255]
    return good


@compiled()
def harmonics(data: Any, table: Any, signs: Any, channels_first: bool, sh: Any) -> None:
    """Higher harmonics from bytes [n,3 K], channel by channel or coefficient by coefficient;
    ``signs`` [1 + K].
    """
    terms = sh.shape[1] - 1
    stored = data.shape[1] // 3
    for n in range(data.shape[0]):
        for term in range(terms):
            for channel in range(3):
                byte = (
                    data[n, channel * stored + term]
                    if channels_first
                    else data[n, term * 3 + channel]
                )
                sh[n, 1 + term, channel] = table[byte] * signs[1 + term]


@compiled()
def fixed_point(data: Any, step: Any, means: Any) -> None:
    """SPZ's positions: bytes [9 n], three little-endian 24-bit numbers, each times ``step``, into
    means [3 n].
    """
    for start in range(0, means.shape[0], 768):
        here, values = data[3 * start : 3 * start + 2304], means[start : start + 768]
        for n in range(U(values.shape[0])):
            low, middle, high = here[U(3) * n], here[U(3) * n + U(1)], here[U(3) * n + U(2)]
            number = S(S(low) << 8 | S(middle) << 16 | S(high) << 24)
            values[n] = F(number >> 8) * step
        for n in range(U(values.shape[0]) // U(3)):
            values[U(3) * n + U(1)] = -values[U(3) * n + U(1)]
            values[U(3) * n + U(2)] = -values[U(3) * n + U(2)]


@compiled()
def looked_up(data: Any, table: Any, values: Any) -> None:
    """``table`` [256] of bytes [n] into values [n]."""
    for n in range(data.shape[0]):
        values[n] = table[data[n]]


@compiled()
def scaled(data: Any, factor: Any, shift: Any, values: Any) -> None:
    """Bytes [n] times ``factor`` plus ``shift`` into values [n]."""
    for n in range(data.shape[0]):
        values[n] = F(data[n]) * factor + shift


@compiled()
def smallest_three(words: Any, factor: Any, quats: Any) -> None:
    """SPZ's rotations: words [n] uint32 of xyzw, codes of nine bits and a sign times ``factor``,
    into quats [4 n].
    """
    for n in range(U(words.shape[0])):
        word = words[n]
        a = F(S(word >> 20 & 511)) * factor * F(S(1 - (word >> 28 & 2)))
        b = F(S(word >> 10 & 511)) * factor * F(S(1 - (word >> 18 & 2)))
        i, j, k, w = joined(word, a, b, F(S(word & 511)) * factor * F(S(1 - (word >> 8 & 2))))
        quats[U(4) * n], quats[U(4) * n + U(1)], quats[U(4) * n + U(2)], quats[U(4) * n + U(3)] = (
            i,
            -w,
            k,
            -j,
        )
