"""Steps along the prior's probability-flow ODE, in the variance-exploding form z = z0 + sigma(t) /
alpha(t) eps.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from itertools import pairwise

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


def even_levels(to: Tensor, stride: int, strides: int, start: int = 0) -> list[Tensor]:
    """The levels of an inversion, [B] each: ``start``, ``strides`` steps of ``stride``, the last
    one that a row takes shorter, so that it ends at ``to`` [B] and stands still from there.
    """
    levels = [torch.full_like(to, start)]
    for _ in range(strides):
        levels.append(torch.minimum(levels[-1] + stride, to))
    return levels


def inverted(
    schedule: NoiseSchedule,
    z: Tensor,
    levels: Sequence[Tensor],
    estimate: Callable[[Tensor, Tensor], Tensor],
    kick: Callable[[Tensor, Tensor, Tensor], Tensor] | None = None,
) -> Tensor:
    """DDIM inversion: z [B,C,h,w] variance-exploding at the first of the ``levels``, steps [B]
    each, moved up the ODE to the last.

    estimate(z, t) gives the noise; kick(z, t, to), if any, is what to add after a step. No step's
    count is read from the device.
    """
    for t, above in pairwise(levels):
        z = ode_step(schedule, z, estimate(z, t), t, above)
        if kick is not None:
            z = z + kick(z, t, above)
    return z
