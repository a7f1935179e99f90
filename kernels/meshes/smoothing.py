"""Steps on a mesh's vertices that bend the surface (Nicolet, Jacobson and Jakob 2021, "Large Steps
in Inverse Rendering of Geometry")."""

from __future__ import annotations

import math
from typing import Any

import torch
from scipy.sparse import coo_matrix
from scipy.sparse.linalg import splu
from torch import Tensor

from ..devices.autograd import Function

# share of what is to be smoothed by which the iteration may miss the exact solution
TOLERANCE = 1e-6


class Smoothing:
    """x = (1 + s L)^-1 u with the mesh's Laplacian L: a step on u moves neighbours together, so
    that a silhouette's pull bends the surface instead of tearing single vertices out of it. edges
    [E,2], M vertices, s the strength.

    On the CPU by a factorisation, made once; elsewhere by `chebyshev`, so that nothing waits for
    the CPU.
    """

    def __init__(self, edges: Tensor, count: int, strength: float) -> None:
        self.matrix, self.largest = _matrix(edges, count, strength)
        direct = strength > 0 and edges.device.type == "cpu"
        self.solver = splu(_scipy(self.matrix)) if direct else None
        self.strength = strength

    def unsmooth(self, x: Tensor) -> Tensor:
        """u [M,3] whose smoothed version is ``x``."""
        return (self.matrix.double() @ x.detach().double()).to(x)

    def __call__(self, u: Tensor) -> Tensor:
        """x [M,3], differentiable."""
        return u if self.strength == 0 else _Solve.apply(u, self)

    def solve(self, u: Tensor) -> Tensor:
        if self.solver is None:
            return chebyshev(self.matrix, u, self.largest)
        return torch.from_numpy(self.solver.solve(u.detach().cpu().double().numpy())).to(u)


class _Solve(Function):
    @staticmethod
    def forward(ctx: Any, u: Tensor, smoothing: Smoothing) -> Tensor:
        ctx.smoothing = smoothing
        return smoothing.solve(u)

    @staticmethod
    def backward(ctx: Any, gradient: Tensor) -> tuple[Tensor, None]:  # the matrix is symmetric
        return ctx.smoothing.solve(gradient), None


def chebyshev(
    matrix: Tensor, right: Tensor, largest: float, tolerance: float = TOLERANCE
) -> Tensor:
    """matrix^-1 ``right`` [M,K] for a sparse symmetric matrix [M,M] with eigenvalues within
    1..``largest``.

    Chebyshev's iteration (Saad 2003, "Iterative Methods for Sparse Linear Systems", algorithm
    12.1): the number of rounds follows from the range, and no round asks for a number on the host,
    as the inner products of conjugate gradients would before they could stop. A polynomial of the
    matrix, so as symmetric as its inverse.
    """
    middle, half = (largest + 1) / 2, (largest - 1) / 2
    if half <= 0:
        return right / middle
    root = math.sqrt(largest)
    rounds = math.ceil(math.log(2 / tolerance) / math.log((root + 1) / (root - 1)))
    result, residual, step = torch.zeros_like(right), right, right / middle
    rate = half / middle
    for _ in range(rounds):
        result = result + step
        residual = residual - matrix @ step
        following = 1 / (2 * middle / half - rate)
        step = following * rate * step + (2 * following / half) * residual
        rate = following
    return result


def _matrix(edges: Tensor, count: int, strength: float) -> tuple[Tensor, float]:
    """1 + s L, sparse [M,M] float32, and a bound of its largest eigenvalue."""
    degree = torch.bincount(edges.flatten(), minlength=count).float()
    index = torch.arange(count, device=edges.device)
    indices = torch.cat([edges.T, edges.flip(1).T, index.repeat(2, 1)], 1)
    values = torch.cat([degree.new_full((2 * len(edges),), -strength), 1 + strength * degree])
    matrix = torch.sparse_coo_tensor(
        indices, values, (count, count), check_invariants=False
    ).coalesce()
    # Anderson and Morley 1985: no eigenvalue of a graph's Laplacian is above the largest sum of an
    # edge's two degrees.
    most = float(degree[edges].sum(1).max()) if len(edges) else 0.0
    return matrix, 1 + strength * most


def _scipy(matrix: Tensor) -> Any:
    values, shape = matrix.values().double().numpy(), tuple(matrix.shape)
    return coo_matrix((values, tuple(matrix.indices().numpy())), shape).tocsc()
