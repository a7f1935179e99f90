"""On the way to an encoder and back: half precision that does not underflow, and the memory of a
few images only.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor

from ...devices.autograd import Function


class ChunkedCheckpoint(Function):
    """function(images), a few images at a time and once more on the way back: the memory of
    those few.
    """

    @staticmethod
    def forward(
        ctx: Any, images: Tensor, function: Callable[[Tensor], Tensor], chunk: int
    ) -> Tensor:
        ctx.save_for_backward(images)
        ctx.function, ctx.chunk = function, chunk
        return torch.cat([function(part) for part in images.split(chunk)])

    @staticmethod
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor, None, None]:
        gradients = []
        for part, upstream in zip(
            ctx.saved_tensors[0].split(ctx.chunk), grad.split(ctx.chunk), strict=True
        ):
            with torch.enable_grad():
                images = part.detach().requires_grad_()
                gradients += torch.autograd.grad(ctx.function(images), images, upstream)
        return torch.cat(gradients), None, None


class UnscaleGradient(Function):
    """images.half(), whose gradient comes back divided by what `ScaleGradient` left in ``scale``."""

    @staticmethod
    def forward(ctx: Any, images: Tensor, scale: list[Tensor]) -> Tensor:
        ctx.dtype, ctx.scale = images.dtype, scale
        return images.half()

    @staticmethod
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor, None]:
        return grad.to(ctx.dtype) / ctx.scale.pop(), None


class ScaleGradient(Function):
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
