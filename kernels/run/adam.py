"""Adam over the cloud's parameter groups as a pure function: moments outside, nothing in place, no
host sync.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping

import torch
from torch import Tensor

BETA1, BETA2 = 0.9, 0.999
EPS = 1e-15  # 3DGS: gradients per Gaussian are tiny, a usual 1e-8 would damp them

Tensors = dict[str, Tensor]


def all_finite(tensors: Iterable[Tensor]) -> Tensor:
    """A bool scalar on the device: every value finite, and its square too, as Adam's second moment
    needs.
    """
    return torch.stack([t.square().sum() for t in tensors]).isfinite().all()


def clipped_norms(gradients: Mapping[str, Tensor], most: float) -> Tensors:
    """Each gradient, shortened to the norm ``most`` where it is longer (SegmentDreamer, after
    torch's clip_grad_norm_)."""
    return {
        name: value * (most / (value.norm() + 1e-6)).clamp(max=1)
        for name, value in gradients.items()
    }


def adam(
    params: Mapping[str, Tensor],
    gradients: Mapping[str, Tensor],
    first: Mapping[str, Tensor],
    second: Mapping[str, Tensor],
    updates: Tensor,
    rates: Mapping[str, float | Tensor],
    accept: Tensor,
) -> tuple[Tensors, Tensors, Tensors, Tensor]:
    """One step of Adam (Kingma and Ba 2015, Algorithm 1), taken only where ``accept`` says so.

    ``updates`` [] int64 counts the steps taken so far, ``accept`` [] bool: False returns every
    value as it was, even when gradients are NaN. Returns new (params, first, second, updates); the
    arguments stay as they are.
    """
    t = updates + 1
    new_params, new_first, new_second = {}, {}, {}
    for name, value in params.items():
        g = gradients[name]
        m = torch.lerp(first[name], g, 1 - BETA1)
        v = BETA2 * second[name] + (1 - BETA2) * g.square()
        # expm1 keeps 1 - beta^t exact for small t in float32
        m_hat = m / -torch.expm1(t.to(value.dtype) * math.log(BETA1))
        v_hat = v / -torch.expm1(t.to(value.dtype) * math.log(BETA2))
        new_params[name] = torch.where(
            accept, value - rates[name] * m_hat / (v_hat.sqrt() + EPS), value
        )
        new_first[name] = torch.where(accept, m, first[name])
        new_second[name] = torch.where(accept, v, second[name])
    return new_params, new_first, new_second, torch.where(accept, t, updates)
