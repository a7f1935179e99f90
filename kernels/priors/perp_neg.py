"""Perp-Neg (Armandpour et al. 2023, arXiv 2304.04968): away from the wrong views' texts, at right
angles to the own.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import replace

import torch
from torch import Tensor

from .conditioning import Conditioning

# z [N,C,h,w], t [N], N rows -> noise estimates [N,C,h,w]
Network = Callable[[Tensor, Tensor, Conditioning], Tensor]


def predict(
    network: Network,
    z_t: Tensor,
    t: Tensor,
    conditionings: Sequence[Conditioning],
    views_per_group: int = 1,
) -> list[Tensor]:
    """Noise estimates [B,C,h,w], one per conditioning, from one call of ``network``; heeds
    ``against``.

    The estimate of a text with ``against`` is e + sum_i w_i perp(d_i, d_0), with d_i = e_i - e_null
    and d_0 = e - e_null. Ordinary guidance with it is the paper's e_null + s [d_0 + sum_i w_i
    perp(d_i, d_0)], so that no loss need know of it; with a negative prompt, guidance starts from
    that one's estimate and the d_i from what ``against.null`` holds. Rows of weight 0 are not evaluated,
    unless the network judges them as one with others, ``views_per_group`` in a row; nor is a null text
    that is among ``conditionings`` evaluated again. Raises ValueError when a conditioning does not
    hold one row per latent.
    """
    everyone: Sequence[int] = range(len(z_t))
    for conditioning in conditionings:
        if len(conditioning) != len(z_t):
            raise ValueError(
                f"predict: {len(conditioning)} rows of conditioning for {len(z_t)} latents; give"
                " one each."
            )
    # what goes to the network: texts, each with the rows of z_t that it is for
    parts: list[tuple[Conditioning, Sequence[int]]] = [
        (replace(conditioning, against=None), everyone) for conditioning in conditionings
    ]
    # places: text, null, branches with weights
    bends: list[tuple[int, int, list[tuple[int, tuple[float, ...]]]]] = []
    for place, against in enumerate(conditioning.against for conditioning in conditionings):
        if against is None:
            continue
        wanted = _whole(
            [i for i in everyone if any(w[i] for _, w in against.branches)], views_per_group
        )
        if not wanted:
            continue
        null = next(
            (k for k, other in enumerate(conditionings) if same_memory(other, against.null)),
            len(parts),
        )
        if null == len(parts):
            parts.append((_taken(against.null, wanted), wanted))
        branches = []
        for text, weights in against.branches:
            if used := _whole([i for i in everyone if weights[i]], views_per_group):
                branches.append((len(parts), weights))
                parts.append((_taken(text, used), used))
        bends.append((place, null, branches))

    output = network(
        torch.cat(
            [z_t if rows is everyone else torch.stack([z_t[i] for i in rows]) for _, rows in parts]
        ),
        torch.cat(
            [t if rows is everyone else torch.stack([t[i] for i in rows]) for _, rows in parts]
        ),
        Conditioning.cat([text for text, _ in parts]),
    )
    estimates = output.split([len(rows) for _, rows in parts])
    by_row = [
        dict(zip(rows, estimate, strict=True))
        for (_, rows), estimate in zip(parts, estimates, strict=True)
    ]
    results = list(estimates[: len(conditionings)])
    for place, null, branches in bends:
        results[place] = results[place].clone()
        for branch, weights in branches:
            _, rows = parts[branch]
            e_i, e, e_null = (
                torch.stack([by_row[k][i] for i in rows]) for k in (branch, place, null)
            )
            for i, across in zip(rows, perpendicular(e_i - e_null, e - e_null), strict=True):
                results[place][i] += weights[i] * across
    return results


def perpendicular(x: Tensor, y: Tensor) -> Tensor:
    """The part of x that is at right angles to y, both [B,C,h,w], sample by sample; x itself where
    y is 0.
    """
    along = (x * y).sum((1, 2, 3), keepdim=True)
    return (
        x - along / y.square().sum((1, 2, 3), keepdim=True).clamp(min=torch.finfo(y.dtype).tiny) * y
    )


def view_weights(azimuth: float) -> tuple[float, float]:
    """How strongly, at most 0, the front and the side text are led away from at an azimuth in
    degrees.

    As LucidDreamer's code has it (negative weight 2, decays 2 and 10): never away from the text
    that is due, less from one that is near.
    """
    turn = _turn(azimuth)
    if turn < 1:
        r = 1 - turn
        return 0.0 if r > 0.8 else -2 * math.exp(-2 * r), (
            0.0 if r < 0.2 else -2 * math.exp(-10 * (1 - r))
        )
    r = 2 - turn
    return -2.0, 0.0 if r > 0.8 else -math.exp(-10 * r)


def threestudio_weights(azimuth: float) -> tuple[float, float]:
    """The same as threestudio's code has it: shifted exponentials a exp(-b r) + c of the share r
    of the text that is due.
    """
    turn = _turn(azimuth)
    if turn < 1:
        return tuple(2.426 - 4 * math.exp(-0.5 * r) for r in (1 - turn, turn))  # type: ignore[return-value]
    r = 2 - turn
    return -math.exp(-0.5 * r) - 0.967, 0.606 - math.exp(-0.5 * r)


def _turn(azimuth: float) -> float:
    """0 at the front, 1 at the sides, 2 at the back."""
    return abs((azimuth + 180) % 360 - 180) / 90


WEIGHTS = {"luciddreamer": view_weights, "threestudio": threestudio_weights}


def _whole(rows: list[int], views_per_group: int) -> list[int]:
    """The rows with all those that are judged together with them."""
    groups = dict.fromkeys(row // views_per_group for row in rows)
    return [group * views_per_group + place for group in groups for place in range(views_per_group)]


def _taken(text: Conditioning, rows: Sequence[int]) -> Conditioning:
    """Rows by plain numbers: slices, for a list of them would first have to be sent to the
    device.
    """
    return Conditioning.cat([text.index(slice(row, row + 1)) for row in rows])


def same_memory(a: Conditioning, b: Conditioning) -> bool:
    """Whether both are views of the same memory; comparing values would mean to wait for the
    device.
    """
    x, y = a.embeddings, b.embeddings
    return (x.device, x.data_ptr(), x.shape, x.stride()) == (
        y.device,
        y.data_ptr(),
        y.shape,
        y.stride(),
    )
