"""What the fused kernels compute, in plain torch: the truth they are tested against, and what runs
without Triton.
"""

from __future__ import annotations

from dataclasses import dataclass

from torch import Tensor, nn
from torch.nn import functional as F


@dataclass(frozen=True)
class Norm:
    """A frozen group normalisation, with SiLU after it or without.

    Args:
        weight: [C]
        bias: [C]
    """

    weight: Tensor
    bias: Tensor
    groups: int
    eps: float
    silu: bool

    @staticmethod
    def of(module: nn.GroupNorm, silu: bool) -> Norm:
        return Norm(
            module.weight.detach(), module.bias.detach(), module.num_groups, module.eps, silu
        )


def norm_act(x: Tensor, norm: Norm, shift: Tensor | None = None) -> Tensor:
    """silu(group_norm(x + shift)) (Wu & He 2018), [N,C,H,W]; shift [C] or [N,C] is the bias of the
    layer before.
    """
    x = x if shift is None else x + shift[..., None, None]
    y = F.group_norm(x, norm.groups, norm.weight, norm.bias, norm.eps)
    return F.silu(y) if norm.silu else y


def add_norm_act(
    x: Tensor, residual: Tensor | None, norm: Norm, shift: Tensor | None
) -> tuple[Tensor, Tensor]:
    """The sum x + residual + shift, or x where these are None, and its `norm_act`, both [N,C,H,W];
    shift [C].
    """
    total = x if residual is None or shift is None else add(x, residual, shift)
    return total, norm_act(total, norm)


def add(x: Tensor, residual: Tensor, shift: Tensor) -> Tensor:
    """x + residual + shift, [N,C,H,W]; shift [C]."""
    return x + residual + shift[:, None, None]


def layer_norm(x: Tensor, shift: Tensor, weight: Tensor, bias: Tensor, eps: float) -> Tensor:
    """layer_norm(x + shift) (Ba et al. 2016) over the last of x [N,D]; shift, weight, bias [D]."""
    return F.layer_norm(x + shift, weight.shape, weight, bias, eps)


def geglu(x: Tensor) -> Tensor:
    """a gelu(b) of the halves a, b of x [N,2D] (Shazeer 2020): [N,D]."""
    a, b = x.chunk(2, -1)
    return a * F.gelu(b)
