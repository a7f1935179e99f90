"""Few values or rows for many, for formats that write numbers by codebooks: Lloyd's algorithm
(1982; for rows k-means), deterministic.
"""

from __future__ import annotations

import numpy as np
import torch
from scipy.sparse import csr_matrix
from torch import Tensor

from ..devices.pace import reached
from .assembly import Array

SAMPLE = 1 << 20  # values that a codebook is made from
CELLS = 4096  # of the sample, for its density
ROUNDS = 12
FLAT = 1 << 26  # row and palette pairs up to which every row is held against all of the palette
ROWS = 1 << 15  # at a time
TRAINED = 24  # rows of a sample for each of the palette's


def codebook(values: Array, size: int = 256) -> Array:
    """At most ``size`` float32 numbers in rising order that stand for the finite ``values`` (any
    shape) with little squared error; the values themselves where they are no more.
    """
    flat = values.reshape(-1)
    step = max(1, len(flat) // SAMPLE)
    # the ends always count, or what lies beyond the sample would be far off
    sample = np.concatenate([flat[::step], [flat.min(), flat.max()]]).astype(np.float64)
    sample.sort()
    if step == 1:
        found = np.unique(sample)
        if len(found) <= size:
            return found.astype(np.float32)
    sums = np.concatenate([[0.0], np.cumsum(sample)])
    # Where values are dense they lie closer by the third root of the density (Panter and Dite
    # 1951), which is one over a cell's width as all hold equally many.
    cells = min(CELLS, len(sample) - 1)
    edges = sample[np.linspace(0, len(sample) - 1, cells + 1).astype(np.int64)]
    weights = np.cbrt(np.diff(edges)) ** 2
    for _ in range(ROUNDS):  # no more numbers for the few far away than they are
        weights = np.minimum(weights, len(sample) / cells * weights.sum() / size)
    shares = np.concatenate([[0.0], np.cumsum(weights)])
    centres = np.interp((np.arange(size) + 0.5) / size * shares[-1], shares, edges)
    for _ in range(ROUNDS):
        cuts = np.searchsorted(sample, (centres[1:] + centres[:-1]) / 2)
        at = np.concatenate([[0], cuts, [len(sample)]])
        counts = np.diff(at)
        means = np.diff(sums[at]) / np.maximum(counts, 1)
        centres = np.where(counts, means, centres)
    return np.sort(centres).astype(np.float32)


def labels_of(values: Array, book: Array) -> Array:
    """The index [like values] uint8 of the nearest number of a rising ``book`` of at most 256."""
    cuts = (book[1:] + book[:-1]) / 2
    found = np.empty(values.shape, np.uint8)
    for start in range(0, len(values), SAMPLE):
        found[start : start + SAMPLE] = np.searchsorted(cuts, values[start : start + SAMPLE])
    return found


def palette(rows: Array, size: int) -> tuple[Array, Array]:
    """``size`` rows [size,D] float32 that stand for ``rows`` [N,D], and which one for each [N]
    int32.

    Up to `FLAT` pairs by k-means; beyond it in two levels, each row only against one group of the
    palette. The rows themselves where they are no more than ``size``.
    """
    count = len(rows)
    if count <= size:
        return rows.astype(np.float32), np.arange(count, dtype=np.int32)
    data = torch.from_numpy(np.ascontiguousarray(rows, np.float32))
    generator = torch.Generator().manual_seed(0)
    if count * size <= FLAT:
        centres = _trained(data, size, 6, generator)
        return centres.numpy(), _nearest(data, centres).numpy().astype(np.int32)
    groups = int(size**0.5)
    chosen = torch.randperm(count, generator=generator)[: TRAINED * size]
    sample = data[chosen]
    coarse = _trained(sample, groups, 6, generator)
    of_sample, of_row = _nearest(sample, coarse), _nearest(data, coarse)
    # every group's share of the palette is that of its spread, the same for an even error
    errors = (sample - coarse[of_sample]).square().sum(1)
    spread = torch.bincount(of_sample, errors.double(), groups)
    members = torch.bincount(of_sample, minlength=groups)
    wanted = (members * (spread / members.clamp(min=1)).sqrt()).clamp(min=1e-9)
    shares = (wanted / wanted.sum() * (size - groups)).floor().long() + 1
    parts: list[Tensor] = []
    labels, begin = torch.zeros(count, dtype=torch.int64), 0
    for group in range(groups):
        here = (of_row == group).nonzero()[:, 0]
        if not len(here):
            continue
        known = sample[of_sample == group]
        own = _trained(known if len(known) else data[here[:1]], int(shares[group]), 4, generator)
        labels[here] = begin + _nearest(data[here], own)
        parts.append(own)
        begin += len(own)
    return torch.cat(parts).numpy(), labels.numpy().astype(np.int32)


def _trained(data: Tensor, size: int, rounds: int, generator: torch.Generator) -> Tensor:
    """[at most size,D] k-means centres of data [N,D], from rows drawn at random."""
    if len(data) <= size:
        return data.clone()
    centres = data[torch.randperm(len(data), generator=generator)[:size]].clone()
    for _ in range(rounds):
        labels = _nearest(data, centres)
        counts = torch.bincount(labels, minlength=size)
        # one that nothing is near to is drawn anew
        anew = data[torch.randint(len(data), (size,), generator=generator)]
        means = _sums(data, labels, size) / counts.clamp(min=1)[:, None]
        centres = torch.where(counts[:, None] > 0, means, anew)
    return centres


def _sums(data: Tensor, labels: Tensor, size: int) -> Tensor:
    """[size,D] the sums of the rows of data [N,D] with each label [N]: as a sparse product, which is
    quicker than index_add and adds in the same order always.
    """
    count = len(labels)
    ones = np.ones(count, np.float32)
    chosen = csr_matrix((ones, (labels.numpy(), np.arange(count))), (size, count))
    return torch.from_numpy(chosen @ data.numpy())


def _nearest(data: Tensor, centres: Tensor) -> Tensor:
    """[N] the nearest centre's index."""
    half = 0.5 * centres.square().sum(1)
    rows = max(256, min(ROWS, (1 << 24) // len(centres)))
    found = []
    for part in data.split(rows):
        reached()  # of large clouds this is what takes long
        found.append(torch.addmm(half, part, centres.T, alpha=-1).argmin(1))
    return torch.cat(found)
