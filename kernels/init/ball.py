"""A random ball."""

from __future__ import annotations

import torch

from ..gaussians.cloud import Gaussians
from .parameters import check_count, make_cloud


def random_ball(
    count: int = 4000,
    radius: float = 0.6,
    scale: float = 0.03,
    opacity_logit: float = -4.0,
    generator: torch.Generator | None = None,
    color_noise: float = 0.1,
    sh_degree: int = 0,
) -> Gaussians:
    """``count`` round Gaussians, uniform in a ball around the origin, in noisy grey.

    radius and scale (one standard deviation) in world units; color_noise: standard deviation of the
    sRGB colours around 0.5. Without a generator: seed 0. On the generator's device. Raises
    ValueError for values out of range. After LucidDreamer, whose ball has radius 0.5, random
    colours and opacity 0.1.
    """
    check_count(count)
    for name, value in (("radius", radius), ("scale", scale)):
        if not 1e-5 <= value <= 1000:
            raise ValueError(
                f"Random ball: {name} is {value}; choose a value within 1e-5..1000 world units."
            )
    generator = generator or torch.Generator().manual_seed(0)
    draws = torch.randn(count, 10, generator=generator, device=generator.device)
    lengths = torch.rand(count, 1, generator=generator, device=generator.device) ** (1 / 3)
    means = radius * lengths * torch.nn.functional.normalize(draws[:, :3], dim=-1)
    colors = 0.5 + color_noise * draws[:, 3:6]
    # Random axes: a round Gaussian gets its first shape from the gradient of its scales, along the
    # axes it has.
    quats = torch.nn.functional.normalize(draws[:, 6:10], dim=-1)
    log_scales = torch.full_like(means, scale).log()
    return make_cloud(means, log_scales, quats, opacity_logit, colors, sh_degree)
