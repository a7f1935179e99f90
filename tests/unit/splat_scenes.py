"""Clouds before cameras, and what a backend makes of them, for the tests of the rasterizers."""

import math

import torch

from distill3d.kernels.cameras.pinhole import Cameras
from distill3d.kernels.gaussians.cloud import Gaussians
from distill3d.kernels.rasterizers.rasterize import render

# What a scene changes: the number of Gaussians, log scale and its spread, opacity logit, SH degree,
# picture and options of render(). All scales are anisotropic: a round Gaussian has no gradient with
# respect to its quaternion.
DEFAULTS = {
    "count": 120,
    "scale": -2.8,
    "spread": 0.5,
    "logit": 0.0,
    "degree": 0,
    "width": 40,
    "height": 27,
    "options": {},
}


def cloud_of(count, scale, spread, logit, degree, **_):
    """Gaussians around the origin, some of them behind the cameras at distance 2."""
    generator = torch.Generator().manual_seed(count + degree)

    def normal(*shape):
        return torch.randn(*shape, generator=generator, dtype=torch.float64)

    means = normal(count, 3) * 0.35
    means[::10] *= 8
    return Gaussians(
        means=means,
        log_scales=normal(count, 3) * spread + scale,
        quats=normal(count, 4),
        opacity_logits=normal(count) + logit,
        sh=normal(count, (degree + 1) ** 2, 3) * 0.5,
    )


def cameras_of(width, height, count=3, **_):
    """Cameras on a ring, the principal point off the centre."""
    azimuths = torch.arange(count, dtype=torch.float64) * (2 * math.pi / 3) + 0.3
    zeros, ones = torch.zeros_like(azimuths), torch.ones_like(azimuths)
    back = torch.stack((azimuths.sin(), 0.3 * ones, azimuths.cos()), 1)
    back = torch.nn.functional.normalize(back, dim=1)
    right = torch.stack((azimuths.cos(), zeros, -azimuths.sin()), 1)
    rotation = torch.stack((right, torch.linalg.cross(right, back), -back), 1)
    viewmats = torch.eye(4, dtype=torch.float64).repeat(count, 1, 1)
    viewmats[:, :3, :3] = rotation
    viewmats[:, :3, 3] = -(rotation @ (2 * back)[..., None])[..., 0]
    focal = 1.3 * max(width, height)
    k = torch.tensor(
        [[focal, 0, 0.5 * width + 0.3], [0, 1.1 * focal, 0.5 * height - 0.2], [0, 0, 1]]
    )
    return Cameras(viewmats, k.repeat(count, 1, 1), width, height, azimuths, zeros, 2 * ones)


def outcome(cloud, cameras, backend, device, dtype, options):
    """The rendering and the gradients of the cloud and of means2d for one fixed random loss."""
    cloud = cloud.to(device, dtype).map(lambda t: t.detach().requires_grad_())
    on_device = (t.to(device, dtype) for t in (cameras.viewmats, cameras.intrinsics))
    rest = (t.to(device) for t in (cameras.azimuths, cameras.elevations, cameras.distances))
    cameras = Cameras(*on_device, cameras.width, cameras.height, *rest)
    generator = torch.Generator().manual_seed(7)
    background = torch.rand(len(cameras), 3, generator=generator, dtype=torch.float64)
    picture = render(cloud, cameras, background.to(device, dtype), backend, **options)
    picture.means2d.retain_grad()
    loss = 0.0
    for image in (picture.color, picture.alpha, picture.depth):
        weight = torch.randn(image.shape, generator=generator, dtype=torch.float64)
        loss = loss + (image * weight.to(device, dtype)).sum()
    loss.backward()
    gradients = {name: tensor.grad for name, tensor in cloud.tensors().items()}
    return picture, gradients | {"means2d": picture.means2d.grad}


def outcome_with(settings, backend, device, dtype, views=3):
    cloud, cameras = cloud_of(**settings), cameras_of(settings["width"], settings["height"], views)
    return outcome(cloud, cameras, backend, device, dtype, settings["options"])


def assert_near(name, value, truth, tolerance):
    assert value.shape == truth.shape
    error = (value.detach().cpu().double() - truth.detach()).abs().max().item()
    size = truth.detach().abs().max().item()
    assert error <= tolerance * max(size, 1e-3), (
        f"{name}: off by {error:.2e}, the largest value is {size:.2e}"
    )
