"""Decoded rows of splat files into one cloud: in stretches that fit the processor's cache, turned,
checked.

Every reader hands over a function that decodes Gaussians ``start`` to ``stop`` of its file; what is
common to all formats (activations, the turn into our world, values that mean something but are not
finite) happens here.
"""

from __future__ import annotations

import os
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from functools import lru_cache
from typing import Any

import numpy as np
import torch

from ..gaussians.cloud import Gaussians
from .frame import SH_SIGNS, to_file_frame
from .notes import note

Array = np.ndarray[Any, Any]

STRETCH = 8192  # Gaussians decoded at a time, a whole number of compressed PLY's chunks
FILLED = 8  # times as many where compiled code leaves nothing between
WORTH_COMPILING = 100_000  # Gaussians; numba's import takes about half a second
# exp(20) is half a billion world units: the file held something else, or garbage
LOG_SCALE_LIMIT = 20.0
LOGIT_LIMIT = 20.0  # an opacity of exactly 0 or 1
OPACITY_MARGIN = 1e-6  # keeps the logit of an opacity of exactly 0 or 1 finite

# Logit of an opacity byte; of those that mean exactly 0 and 1 as of other opacities of 0 and 1.
_UNIT = np.clip(np.arange(256) / 255, OPACITY_MARGIN, 1 - OPACITY_MARGIN)
LOGIT_OF_BYTE = np.log(_UNIT / (1 - _UNIT)).astype(np.float32)


class NegativeScaleError(ValueError):
    """A linear scale below 0; it may be a logarithm."""


@dataclass
class Rows:
    """Some Gaussians as a file holds them, views where possible; of scales and opacities, either
    form.

    Args:
        means: [n,3]
        quats: [n,4] wxyz
        dc: [n,3] the constant harmonic
        rest: [n,K-1,3] the higher ones
        log_scales: [n,3] natural logarithms, or
        scales: [n,3] linear
        opacity_logits: [n], or
        opacities: [n] 0..1
    """

    means: Array
    quats: Array
    dc: Array
    rest: Array | None = None
    log_scales: Array | None = None
    scales: Array | None = None
    opacity_logits: Array | None = None
    opacities: Array | None = None


def assemble(
    count: int,
    terms: int,
    decode: Callable[[int, int], Rows],
    name: str,
    turned: bool = True,
    fill: Callable[[int, int, dict[str, Array]], bool] | None = None,
) -> Gaussians:
    """The cloud of ``count`` Gaussians with ``terms`` harmonics that ``decode(start, stop)`` gives
    piece by piece.

    ``turned``: the rows are in the frame of splat files (Y down), else in our own. Infinite logits,
    scales of 0 and zero quaternions become finite. Gaussians with NaNs, infinities or absurd scales
    are left out, which is noted; raises ValueError naming the file where they are more than half.
    What ``decode`` raises passes through. ``decode`` runs in several threads.

    ``fill(start, stop, out)`` is a faster way: it fills the cloud's arrays, and returns False where
    something is not as usual, which is then decoded and judged as without it.
    """
    out = empty(count, terms)
    length = STRETCH * (FILLED if fill else 1)
    absurd: list[ValueError] = []

    def stretch(start: int) -> bool:
        stop = min(start + length, count)
        part = {key: value[start:stop] for key, value in out.items()}
        if fill and fill(start, stop, part):
            return True
        with np.errstate(all="ignore"):  # what comes out infinite or NaN is found by the check
            if error := _store(decode(start, stop), part, turned, name):
                absurd.append(error)
            # A sum is finite only if every value is; one that merely overflows costs the thorough
            # check.
            return all(np.isfinite(value.sum()) for value in part.values())

    starts = range(0, count, length)
    workers = min(threads(), len(starts))
    if workers > 1:
        with ThreadPoolExecutor(workers) as pool:
            finite = all(list(pool.map(stretch, starts)))
    else:
        finite = all(list(map(stretch, starts)))
    cloud = Gaussians(**{key: torch.from_numpy(value) for key, value in out.items()})
    return cloud if finite else sound(cloud, name, *absurd)


def sound(gaussians: Gaussians, name: str, *errors: ValueError) -> Gaussians:
    """The cloud without the Gaussians that hold NaNs or infinities, which is noted.

    Raises the first of ``errors``, else ValueError, where they are more than half.
    """
    bad = torch.zeros(len(gaussians), dtype=torch.bool)
    for value in gaussians.tensors().values():
        bad |= ~torch.isfinite(value).reshape(len(bad), -1).all(1)
    lost = int(bad.sum())
    if 2 * lost > len(bad):
        if errors:
            raise errors[0]
        gaussians.check(name)
    if lost:
        note(
            f"{name}: {lost} of {len(bad)} Gaussians hold numbers that are NaN, infinite or beyond"
            " all scale; they are left out."
        )
    return gaussians.map(lambda value: value[~bad])


def empty(count: int, terms: int) -> dict[str, Array]:
    """The arrays of a cloud, to be filled."""
    shapes = {
        "means": (count, 3),
        "log_scales": (count, 3),
        "quats": (count, 4),
        "opacity_logits": (count,),
    }
    return {
        key: np.empty(shape, np.float32)
        for key, shape in (shapes | {"sh": (count, terms, 3)}).items()
    }


def threads() -> int:
    """How many threads decode."""
    return min(torch.get_num_threads(), os.cpu_count() or 1)


def compiled_decoders(count: int) -> Any:
    """The module `numba_decode`, or None where numba is missing or too few Gaussians to be worth
    its import.
    """
    return _compiled() if count >= WORTH_COMPILING else None


@lru_cache(maxsize=1)
def _compiled() -> Any:
    try:
        from . import numba_decode
    except Exception:  # numba that does not fit its numpy raises more than ImportError
        return None
    return numba_decode


def _store(rows: Rows, out: dict[str, Array], turned: bool, name: str) -> ValueError | None:
    """Fills ``out``; returns the error of absurd scales, which are NaN in it then."""
    _put(out["means"], rows.means, (1, -1, -1) if turned else (1, 1, 1))
    # as from_file_frame
    order, signs = ((1, 0, 3, 2), (1, -1, 1, -1)) if turned else ((0, 1, 2, 3), (1, 1, 1, 1))
    _put(out["quats"], rows.quats, signs, order)
    _put(out["sh"][:, 0], rows.dc, (1, 1, 1))
    for term in range(1, out["sh"].shape[1]):
        assert rows.rest is not None
        _put(out["sh"][:, term], rows.rest[:, term - 1], (SH_SIGNS[term] if turned else 1,) * 3)
    error = _store_scales(rows, out["log_scales"], name)
    logits = out["opacity_logits"]
    if rows.opacity_logits is not None:
        logits[:] = rows.opacity_logits
        infinite = np.isinf(logits)
        if infinite.any():
            logits[infinite] = np.copysign(LOGIT_LIMIT, logits[infinite])
    else:
        _store_opacities(rows.opacities, logits, name)
    quats = out["quats"]
    zero = quats[:, 0] == 0
    for axis in (1, 2, 3):
        zero &= quats[:, axis] == 0
    if zero.any():
        quats[zero] = (1, 0, 0, 0)
    return error


def _put(
    out: Array, values: Array, signs: tuple[int, ...], order: tuple[int, ...] | None = None
) -> None:
    # Column by column: numpy is many times slower at loops over pairs of three. And a product with
    # -1: np.negative from a strided array into a strided one is wrong in numpy 2.4.6 on processors
    # with AVX-512.
    for axis, sign in enumerate(signs):
        column = values[:, order[axis] if order else axis]
        if sign < 0:
            np.multiply(column, np.float32(-1), out=out[:, axis], casting="same_kind")
        else:
            out[:, axis] = column


def _store_scales(rows: Rows, logs: Array, name: str) -> ValueError | None:
    if rows.log_scales is not None:
        if rows.log_scales.flags.c_contiguous:
            logs[:] = rows.log_scales
        else:
            _put(logs, rows.log_scales, (1, 1, 1))
    else:
        assert rows.scales is not None
        for axis in range(3):
            scales = np.ascontiguousarray(rows.scales[:, axis])
            smallest = scales.min()
            if smallest < 0:
                raise NegativeScaleError(
                    f"{name} holds a scale of {smallest:g}; linear scales are 0 or more. Export it"
                    " again."
                )
            logs[:, axis] = np.log(scales)
    if np.isneginf(logs.min()):
        logs[np.isneginf(logs)] = -LOG_SCALE_LIMIT
    largest = float(logs.max())
    if not np.isfinite(largest):
        largest = float(np.max(logs, initial=-np.inf, where=np.isfinite(logs)))
    if largest <= LOG_SCALE_LIMIT:
        return None
    logs[logs > LOG_SCALE_LIMIT] = np.nan
    if rows.log_scales is not None:
        return ValueError(
            f"{name} holds a scale_* of {largest:g}; a splat PLY holds natural logarithms, at most"
            f" {LOG_SCALE_LIMIT:g}. Export it again with logarithmic scales."
        )
    return ValueError(
        f"{name} holds a scale of {np.exp(np.float64(largest)):g} units, more than any scene's."
        " It is damaged; export it again."
    )


def _store_opacities(opacities: Array | None, logits: Array, name: str) -> None:
    assert opacities is not None
    lowest, highest = opacities.min(), opacities.max()
    if lowest < 0 or highest > 1:
        worst = lowest if lowest < 0 else highest
        raise ValueError(
            f"{name} holds an opacity of {worst:g}; it must be within 0 and 1. Export it again."
        )
    logits[:] = logits_of(opacities)


def read_stretch(path: str | os.PathLike[str], start: int, size: int, name: str) -> Array:
    """``size`` bytes of the file from ``start`` on. Raises ValueError where it has become shorter
    meanwhile.
    """
    data = np.fromfile(path, np.uint8, size, offset=start)
    if len(data) < size:
        raise ValueError(
            f"{name} is cut off: it has become shorter while it was read. Read it again."
        )
    return data


def arrays(gaussians: Gaussians, turned: bool = True) -> dict[str, Array]:
    """The cloud's five tensors as float32 arrays for a writer, quaternions normalised; Y down if
    ``turned``.

    Raises ValueError for an empty cloud, NaNs and infinities.
    """
    cloud = gaussians.check().map(lambda v: v.detach().to("cpu", torch.float32))
    cloud = to_file_frame(cloud) if turned else cloud
    found = {key: value.contiguous().numpy() for key, value in cloud.tensors().items()}
    return found | {"quats": torch.nn.functional.normalize(cloud.quats, dim=-1).numpy()}


def scaled(values: Array, factor: float, shift: float) -> Array:
    """Whole numbers of any shape as float32: values * factor + shift."""
    floats = values.astype(np.float32)
    flat = floats.reshape(-1)
    flat *= np.float32(factor)
    flat += np.float32(shift)
    return floats


def logits_of(opacities: Array) -> Array:
    """Logits [n] of opacities [n] in 0..1; those of 0 and 1 are finite."""
    unit = np.clip(opacities, OPACITY_MARGIN, 1 - OPACITY_MARGIN, dtype=np.float32)
    logits: Array = np.log(unit / (1 - unit))
    return logits


def logits_of_bytes(values: Array) -> Array:
    """Logits [n] of opacity bytes [n]."""
    return LOGIT_OF_BYTE.take(values, mode="clip")


def quantise(values: Array, top: int, dtype: type = np.uint8) -> Array:
    """``values`` rounded to whole numbers and clamped to 0..top."""
    return np.clip(np.rint(values), 0, top).astype(dtype)


def opacity_bytes(logits: Array) -> Array:
    """Opacities as bytes, rounded."""
    with np.errstate(over="ignore"):
        return quantise(255 / (1 + np.exp(-logits)), 255)
