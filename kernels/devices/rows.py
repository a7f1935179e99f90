"""Networks on a CPU, each thread with rows of its own.

Left to itself torch shares every single operation among its threads, which then wait for the
slowest some thousand times a call: beside other work, when one of them has no core, a step takes
ten times as long. Rows need no waiting, but at the end.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import torch
from torch import Tensor

from .autograd import Function
from .workers import openmp, spread


def by_rows(network: Callable[..., Tensor], rows: Sequence[Tensor], multiple: int = 1) -> Tensor:
    """network(*rows), without gradient, for tensors of as many rows [B,...]; where they are on the
    CPU and enough for all of torch's threads, each thread takes as many, in one piece.

    ``multiple``: of rows that belong together. The numbers are those of smaller batches.
    """
    count = shares(rows[0], multiple)
    if count == 1:
        return network(*rows)
    parts = list(zip(*(row.split(_most(len(row), count, multiple)) for row in rows), strict=True))
    results: list[Tensor] = [rows[0]] * len(parts)

    def work(worker: int, _: int) -> None:
        with torch.no_grad():  # which each thread has for itself
            results[worker] = network(*parts[worker])

    spread(work, len(parts))
    return torch.cat(results)


def by_rows_with_gradient(network: Callable[[Tensor], Tensor], rows: Tensor) -> Tensor:
    """As `by_rows`, with gradients to ``rows`` [B,...], which are found by rows, too."""
    count = shares(rows)
    if count == 1 or not (torch.is_grad_enabled() and rows.requires_grad):
        return network(rows) if count == 1 else by_rows(network, [rows])
    result: Tensor = _ByRows.apply(rows, network, count)
    return result


def shares(rows: Tensor, multiple: int = 1) -> int:
    """How many threads get rows; 1 where all threads had better share every operation."""
    threads = torch.get_num_threads()
    enough = len(rows) // multiple >= threads > 1
    # elsewhere torch's own threads cannot be told to keep to one piece each
    alone = rows.device.type == "cpu" and enough and openmp() is not None
    return threads if alone else 1


def _most(rows: int, shares: int, multiple: int) -> int:
    return -(-(rows // multiple) // shares) * multiple


class _ByRows(Function):
    @staticmethod
    def forward(
        context: Any, rows: Tensor, network: Callable[[Tensor], Tensor], count: int
    ) -> Tensor:
        parts = rows.detach().split(_most(len(rows), count, 1))
        given: list[Tensor] = list(parts)
        results: list[Tensor] = list(parts)

        def work(worker: int, _: int) -> None:
            with torch.enable_grad():
                given[worker] = parts[worker].requires_grad_()
                results[worker] = network(given[worker])

        spread(work, len(parts))
        context.given, context.results = given, results
        return torch.cat([result.detach() for result in results])

    @staticmethod
    def backward(context: Any, *gradients: Tensor) -> tuple[Tensor | None, ...]:
        given, results = context.given, context.results
        parts = gradients[0].split([len(result) for result in results])
        found: list[Tensor] = list(given)

        def work(worker: int, _: int) -> None:
            (found[worker],) = torch.autograd.grad(results[worker], given[worker], parts[worker])

        spread(work, len(parts))
        context.given = context.results = None  # the graphs have been used up
        return torch.cat(found), None, None
