"""Whether the Triton rasterizer can be used here. Importing this module does not import triton."""

from __future__ import annotations

import logging
import os
from collections.abc import Callable
from functools import lru_cache
from importlib.util import find_spec

import torch
from torch import Tensor

from ...cameras.pinhole import Cameras, turntable
from ...gaussians.cloud import Gaussians
from ..projection import Layers
from ..tiled import rasterize_tiled

log = logging.getLogger(__name__)


def home() -> str:
    """The type of the device that the kernels run on: with TRITON_INTERPRET=1, Triton's
    interpreter, the CPU.
    """
    return "cpu" if os.environ.get("TRITON_INTERPRET") == "1" else "cuda"


@lru_cache(maxsize=1)
def present() -> bool:
    """Whether there is a package triton and a device for it. Imports and compiles nothing."""
    return find_spec("triton") is not None and (home() == "cpu" or torch.cuda.is_available())


@lru_cache(maxsize=1)
def ready() -> bool:
    """Compile the kernels and compare them with plain torch. False, with the reason logged, if that
    fails.

    The first time on a machine takes some seconds: Triton compiles, and keeps what it made.
    """
    if not present():
        return False
    try:
        if wrong := mismatched_kernels(home()):
            log.warning(
                "The Triton rasterizer gives wrong numbers here (%s); rendering without it.",
                ", ".join(wrong),
            )
            return False
    except Exception as error:  # a missing compiler or driver function, each in a way of its own
        log.warning("The Triton rasterizer does not work here (%s); rendering without it.", error)
        return False
    return True


@torch.inference_mode(False)
@torch.enable_grad()
def mismatched_kernels(device: str) -> list[str]:
    """Names of the results on a small scene that are not plain torch's. Raises what Triton
    raises.
    """
    from .rasterize import rasterize_triton

    wrong = []
    for antialiased, degree in ((True, 1), (False, 0)):
        generator = torch.Generator().manual_seed(degree)
        cloud = Gaussians(
            means=0.3 * torch.randn(24, 3, generator=generator),
            log_scales=0.4 * torch.randn(24, 3, generator=generator) - 2.5,
            quats=torch.randn(24, 4, generator=generator),
            opacity_logits=torch.randn(24, generator=generator),
            sh=0.5 * torch.randn(24, (degree + 1) ** 2, 3, generator=generator),
        ).to(device)
        cameras = turntable(2, size=(20, 12), device=device)
        found, expected = (
            _results(draw, cloud, cameras, antialiased)
            for draw in (rasterize_triton, rasterize_tiled)
        )
        for name, value in expected.items():
            if not torch.allclose(
                found[name], value, rtol=1e-3, atol=1e-3 * value.abs().max().item()
            ):
                wrong.append(name)
    return wrong


def _results(
    rasterize: Callable[[Gaussians, Cameras, bool, bool], Layers],
    cloud: Gaussians,
    cameras: Cameras,
    depth: bool,
) -> dict[str, Tensor]:
    """Pictures and gradients of one rendering, by name; antialiased if with depth."""
    leaves = cloud.map(lambda tensor: tensor.clone().requires_grad_())
    layers = rasterize(leaves, cameras, depth, depth)
    images = {"color": layers.color, "alpha": layers.alpha}
    if layers.depth is not None:
        images["depth"] = layers.depth
    ramp = torch.linspace(0, 1, cameras.width, device=cloud.device)[:, None]
    loss = torch.stack([(picture * ramp).sum() for picture in images.values()]).sum()
    gradients = torch.autograd.grad(loss, list(leaves.tensors().values()))
    named = {
        f"gradient of {name}": gradient
        for name, gradient in zip(leaves.tensors(), gradients, strict=True)
    }
    return {name: picture.detach() for name, picture in images.items()} | named
