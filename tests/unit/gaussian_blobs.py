"""A few Gaussians in front of a camera that looks straight at them."""

import math

import torch

from distill3d.kernels.cameras.pinhole import Cameras
from distill3d.kernels.gaussians.cloud import SH_C0, Gaussians


def facing_cameras(count=1, width=33, height=33, focal=40.0, dtype=torch.float32):
    """Cameras at distance 2 in front of the origin (+Z) that look along -Z, x to the right."""
    viewmat = torch.tensor([[1.0, 0, 0, 0], [0, -1, 0, 0], [0, 0, -1, 2], [0, 0, 0, 1]])
    k = torch.tensor([[focal, 0, width / 2], [0, focal, height / 2], [0, 0, 1]])
    zeros = torch.zeros(count)
    cameras = (
        viewmat.repeat(count, 1, 1).to(dtype),
        k.repeat(count, 1, 1).to(dtype),
        width,
        height,
    )
    return Cameras(*cameras, zeros, zeros, zeros + 2)


def blobs(positions, sigma=0.1, opacity=0.8, colors=((1.0, 0.5, 0.25),), dtype=torch.float32):
    """Round Gaussians at these places."""
    means = torch.tensor(positions, dtype=dtype)
    n = len(means)
    return Gaussians(
        means=means,
        log_scales=torch.full((n, 3), math.log(sigma), dtype=dtype),
        quats=torch.tensor([1.0, 0, 0, 0], dtype=dtype).repeat(n, 1),
        opacity_logits=torch.logit(torch.full((n,), opacity, dtype=dtype)),
        sh=((torch.tensor(colors, dtype=dtype).expand(n, 3) - 0.5) / SH_C0)[:, None],
    )
