"""On the way to an encoder and back: half precision that does not underflow, and the memory of a
few pictures only.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor


class ChunkedCheckpoint(torch.autograd.Function):
    """function(pictures), a few pictures at a time and once more on the way back: the memory of
    those few.
    """

    @staticmethod
    def forward(
        ctx: Any, pictures: Tensor, function: Callable[[Tensor], Tensor], at_once: int
    ) -> Tensor:
        ctx.save_for_backward(pictures)
        ctx.function, ctx.at_once = function, at_once
        return torch.cat([function(part) for part in pictures.split(at_once)])

    @staticmethod
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor, None, None]:
        gradients = []
        for part, upstream in zip(
            ctx.saved_tensors[0].split(ctx.at_once), grad.split(ctx.at_once), strict=True
        ):
            with torch.enable_grad():
                pictures = part.detach().requires_grad_()
                gradients += torch.autograd.grad(ctx.function(pictures), pictures, upstream)
        return torch.cat(gradients), None, None


class UnscaleGradient(torch.autograd.Function):
    """pictures.half(), whose gradient comes back divided by what `ScaleGradient` left in ``scale``."""

    @staticmethod
    def forward(ctx: Any, pictures: Tensor, scale: list[Tensor]) -> Tensor:
        ctx.dtype, ctx.scale = pictures.dtype, scale
        return pictures.half()

    @staticmethod
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor, None]:
        return grad.to(ctx.dtype) / ctx.scale.pop(), None


class ScaleGradient(torch.autograd.Function):
    """moments.float() of float16, whose gradient goes back multiplied to values around 1, lest
    small ones be lost.
    """

    @staticmethod
    def forward(ctx: Any, moments: Tensor, scale: list[Tensor]) -> Tensor:
        ctx.scale = scale
        return moments.float()

    @staticmethod
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor, None]:
        largest = grad.abs().amax()
        # of two: rounds nothing; NaN stays NaN
        power = 2.0 ** -largest.clamp(1e-30, 1e30).log2().floor()
        ctx.scale.append(power)
        return (grad * power).half(), None
