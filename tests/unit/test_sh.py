"""The harmonics against their definition by Legendre functions."""

import math

import numpy as np
import pytest
import torch
from scipy.special import lpmv

from distill3d.kernels.gaussians.sh import sh_basis


@pytest.mark.parametrize("degree", [0, 1, 2, 3])
def test_the_basis_is_the_real_harmonics_with_condon_shortley_phase(degree):
    generator = torch.Generator().manual_seed(0)
    directions = torch.nn.functional.normalize(
        torch.randn(50, 3, generator=generator, dtype=torch.float64), dim=1
    )
    x, y, z = directions.numpy().T
    phi = np.arctan2(y, x)
    expected = []
    for order in range(degree + 1):
        for m in range(-order, order + 1):
            k = abs(m)
            norm = math.sqrt(
                (2 * order + 1)
                / (4 * math.pi)
                * math.factorial(order - k)
                / math.factorial(order + k)
            )
            wave = 1.0 if m == 0 else math.sqrt(2) * (np.cos(m * phi) if m > 0 else np.sin(k * phi))
            expected.append(norm * wave * lpmv(k, order, z))
    basis = sh_basis(directions, degree)
    assert basis.shape == (50, (degree + 1) ** 2)
    np.testing.assert_allclose(basis.numpy(), np.stack(expected, 1), atol=1e-12)
