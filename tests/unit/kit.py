"""What many tests draw and ask: seeded numbers, and a prior that knows one Gaussian per text."""

from __future__ import annotations

import torch
from torch import Tensor

from distill3d.kernels.priors.mixture import Mixture


def seeded(seed: int = 0) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


def normal(seed: int, *shape: int, dtype: torch.dtype = torch.float32) -> Tensor:
    """Standard normal numbers, the same for a seed and a shape."""
    return torch.randn(shape, generator=seeded(seed), dtype=dtype)


def normal64(seed: int, *shape: int) -> Tensor:
    return normal(seed, *shape, dtype=torch.float64)


def around(value: float, variance: float, shape: tuple[int, ...]) -> Mixture:
    """The one Gaussian whose mean is ``value`` everywhere in a latent of that shape, in float64."""
    means = torch.full((1, *shape), value).double()
    return Mixture(means, torch.full((1, 1, 1, 1), variance).double(), torch.ones(1))
