"""The layers of the fast networks as differentiable functions: Triton where it works, else the
reference.

Weights are frozen, so a gradient goes to the pictures alone, and only what that needs is kept for
the way back.
"""

from __future__ import annotations

import logging
from functools import lru_cache
from typing import Any

import torch
from torch import Tensor
from torch.nn import functional as F

from ..devices.autograd import Function
from . import reference
from .reference import Norm

log = logging.getLogger(__name__)


@lru_cache(maxsize=1)
def triton_works() -> bool:
    """Whether Triton's kernels can be compiled for the CUDA device and agree there with the
    reference.

    Says in the log why not. The first time on a machine takes some seconds: Triton compiles, and
    keeps what it made.
    """
    if not torch.cuda.is_available():
        return False
    try:
        if wrong := mismatched_kernels("cuda"):
            log.warning(
                "Triton kernels give wrong numbers here (%s); going on without them.",
                ", ".join(wrong),
            )
            return False
    # a missing package, compiler or driver function, each in a way of its own
    except Exception as error:
        log.warning("Triton does not work here (%s); going on without fused kernels.", error)
        return False
    return True


@torch.inference_mode(False)
def mismatched_kernels(device: str) -> list[str]:
    """Names of the Triton kernels whose results on small inputs are not the reference's. Raises
    what Triton raises.
    """
    from . import triton_layers, triton_norm

    generator = torch.Generator().manual_seed(0)

    def draw(*shape: int) -> Tensor:
        return torch.randn(shape, generator=generator).to(device)

    x, residual, upstream, further = (draw(2, 64, 9, 9) for _ in range(4))
    (shift, weight, bias), rows = draw(3, 64), draw(33, 64)
    norm = Norm(weight, bias, 8, 1e-5, True)
    with torch.enable_grad():
        x.requires_grad_()
        expected = reference.add_norm_act(x, residual, norm, shift)
        (slope,) = torch.autograd.grad(expected, x, (further, upstream))
    x = x.detach()
    total, y, mean, rstd = triton_norm.forward(x, residual, shift, norm)
    pairs = {
        "sum": (total, expected[0]),
        "group normalisation": (y, expected[1]),
        "gradient": (
            triton_norm.backward(total, None, upstream, further, norm, mean, rstd),
            slope,
        ),
        "shifted group normalisation": (
            triton_norm.forward(x, None, shift, norm)[1],
            reference.norm_act(x, norm, shift),
        ),
        "add": (triton_layers.add(x, residual, shift), reference.add(x, residual, shift)),
        "layer normalisation": (
            triton_layers.layer_norm(rows, shift, weight, bias, 1e-5),
            reference.layer_norm(rows, shift, weight, bias, 1e-5),
        ),
        "GEGLU": (triton_layers.geglu(rows), reference.geglu(rows)),
    }
    return [name for name, pair in pairs.items() if not torch.allclose(*pair, rtol=1e-3, atol=1e-3)]


def fused(x: Tensor) -> bool:
    """Whether Triton's kernels serve this tensor."""
    return x.is_cuda and triton_works()


def norm_act(x: Tensor, norm: Norm, shift: Tensor | None = None) -> Tensor:
    """See `reference.norm_act`; differentiable with respect to x."""
    return _NormAct.apply(x, norm, shift) if fused(x) else reference.norm_act(x, norm, shift)


def add_norm_act(
    x: Tensor, residual: Tensor | None, norm: Norm, shift: Tensor | None
) -> tuple[Tensor, Tensor]:
    """See `reference.add_norm_act`; differentiable with respect to x and residual."""
    return (
        _AddNormAct.apply(x, residual, norm, shift)
        if fused(x)
        else reference.add_norm_act(x, residual, norm, shift)
    )


def add(x: Tensor, residual: Tensor, shift: Tensor) -> Tensor:
    """See `reference.add`; differentiable with respect to x and residual."""
    return _Add.apply(x, residual, shift) if fused(x) else reference.add(x, residual, shift)


def layer_norm(x: Tensor, shift: Tensor, weight: Tensor, bias: Tensor, eps: float) -> Tensor:
    """See `reference.layer_norm`; without gradient."""
    if fused(x):
        from . import triton_layers

        return triton_layers.layer_norm(x, shift, weight, bias, eps)
    return reference.layer_norm(x, shift, weight, bias, eps)


def geglu(x: Tensor) -> Tensor:
    """See `reference.geglu`; without gradient."""
    if fused(x):
        from . import triton_layers

        return triton_layers.geglu(x)
    return reference.geglu(x)


def conv2d(
    x: Tensor, weight: Tensor, bias: Tensor | None = None, stride: int = 1, padding: int = 0
) -> Tensor:
    """torch's conv2d, differentiable with respect to x; does not keep x, which only a weight's
    would need.
    """
    result: Tensor = _Conv.apply(x, weight, bias, stride, padding)
    return result


class _Conv(Function):
    @staticmethod
    def forward(
        ctx: Any, x: Tensor, weight: Tensor, bias: Tensor | None, stride: int, padding: int
    ) -> Tensor:
        ctx.save_for_backward(weight)
        ctx.size, ctx.how = x.shape[2:], (stride, padding)
        return F.conv2d(x, weight, bias, stride, padding)

    @staticmethod
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor | None, ...]:
        (weight,) = ctx.saved_tensors
        stride, padding = ctx.how
        # Not convolution_backward: that one copies a picture of x's size, in which nothing has to
        # be.
        reached = [
            (n - 1) * stride - 2 * padding + k
            for n, k in zip(grad.shape[2:], weight.shape[2:], strict=True)
        ]
        left = [size - found for size, found in zip(ctx.size, reached, strict=True)]
        return F.conv_transpose2d(grad, weight, None, stride, padding, left), None, None, None, None


class _NormAct(Function):
    @staticmethod
    def forward(ctx: Any, x: Tensor, norm: Norm, shift: Tensor | None) -> Tensor:
        from . import triton_norm

        total, y, mean, rstd = triton_norm.forward(x, None, shift, norm)
        ctx.save_for_backward(total, shift, mean, rstd)
        ctx.norm = norm
        return y

    @staticmethod
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor | None, ...]:
        from . import triton_norm

        total, shift, mean, rstd = ctx.saved_tensors
        return triton_norm.backward(total, shift, grad, None, ctx.norm, mean, rstd), None, None


class _AddNormAct(Function):
    @staticmethod
    def forward(
        ctx: Any, x: Tensor, residual: Tensor | None, norm: Norm, shift: Tensor | None
    ) -> tuple[Tensor, Tensor]:
        from . import triton_norm

        total, y, mean, rstd = triton_norm.forward(x, residual, shift, norm)
        ctx.save_for_backward(total, mean, rstd)
        ctx.norm, ctx.added = norm, residual is not None
        ctx.set_materialize_grads(False)
        return total, y

    @staticmethod
    def backward(
        ctx: Any, further: Tensor | None, grad: Tensor | None
    ) -> tuple[Tensor | None, ...]:
        from . import triton_norm

        total, mean, rstd = ctx.saved_tensors
        back = further
        if grad is not None:
            back = triton_norm.backward(total, None, grad, further, ctx.norm, mean, rstd)
        return back, back if ctx.added else None, None, None


class _Add(Function):
    @staticmethod
    def forward(ctx: Any, x: Tensor, residual: Tensor, shift: Tensor) -> Tensor:
        from . import triton_layers

        return triton_layers.add(x, residual, shift)

    @staticmethod
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor | None, ...]:
        return grad, grad, None
