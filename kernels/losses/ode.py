"""Steps along the prior's probability-flow ODE, in the variance-exploding form z = z0 + sigma(t) /
alpha(t) eps.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence

import torch
from torch import Tensor

from ..priors.base import Prior
from ..priors.conditioning import Conditioning
from ..priors.noise_schedule import NoiseSchedule


def estimates(
    prior: Prior, z: Tensor, t: Tensor, conditionings: Sequence[Conditioning]
) -> list[Tensor]:
    """The prior's noise estimates at z [B,C,h,w], variance-exploding, of step t [B]; one per
    conditioning.
    """
    return prior.predict(prior.schedule.alpha(t) * z, t, conditionings)


def ode_step(schedule: NoiseSchedule, z: Tensor, noise: Tensor, t: Tensor, to: Tensor) -> Tensor:
    """One Euler step of dz/dsigma = e from step t to step ``to``, up or down; this is DDIM (Song et
    al. 2021).

    z, noise: [B,C,h,w], the noise estimated at t; t, to: [B].
    """
    return z + (schedule.ratio(to) - schedule.ratio(t)) * noise


def inverted(
    schedule: NoiseSchedule,
    latents: Tensor,
    to: Tensor,
    stride: int,
    strides: int,
    estimate: Callable[[Tensor, Tensor], Tensor],
    kick: Callable[[Tensor, Tensor, Tensor], Tensor] | None = None,
) -> Tensor:
    """DDIM inversion: the clean latents, taken for step 0, moved up the ODE to the steps ``to``
    [B].

    estimate(z, t) gives the noise; kick(z, t, to), if any, is what to add after a step. There are
    ``strides`` steps of ``stride`` each, the last one shorter; a row that has arrived stands still,
    so that no step's count is read from the device.
    """
    z, t = latents, torch.zeros_like(to)
    for _ in range(strides):
        above = torch.minimum(t + stride, to)
        z = ode_step(schedule, z, estimate(z, t), t, above)
        if kick is not None:
            z = z + kick(z, t, above)
        t = above
    return z
