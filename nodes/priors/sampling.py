"""How a MODEL is sampled, asked of its own model_sampling: whatever it is called, it says how noise
is mixed in."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import comfy.samplers
import torch
from torch import Tensor

from ...kernels.priors.noise_schedule import ABAR_MIN, NoiseSchedule

STEPS = 1000
RATIO_MAX = (1 / ABAR_MIN - 1) ** 0.5  # where the schedule is cut
CURE = "Take out a Model Sampling node before it, or link another model."


@dataclass(frozen=True)
class Levels:
    """The noise levels of a model's sampling at the losses' steps, as the model itself counts
    them: it takes clean * z0 + noise * eps at ``values``.

    Args:
        values: [T] what ComfyUI calls sigma
        clean: [T]
        noise: [T]
        few: how many there are of a model that was distilled to few; 0: it was not
    """

    values: Tensor
    clean: Tensor
    noise: Tensor
    few: int = 0

    @property
    def norm(self) -> Tensor:
        """[T] that a latent with alpha^2 + sigma^2 = 1 is multiplied by to be what the model
        takes."""
        return (self.clean.square() + self.noise.square()).sqrt()

    @property
    def schedule(self) -> NoiseSchedule:
        return NoiseSchedule.from_ratios(self.noise.double() / self.clean.double())


def check_sampling(model: Any) -> None:
    """Raises ValueError for a MODEL that is not sampled by taking noise away."""
    sampling = model.get_model_object("model_sampling")
    kinds = " and ".join(kind.__name__ for kind in type(sampling).__bases__)
    values = getattr(sampling, "sigmas", None)
    if values is None or len(values) < 2 or not (values.diff() > 0).all():
        raise ValueError(
            f"model is sampled by {kinds}, which has no rising noise levels; priors need epsilon,"
            f" v, EDM or flow prediction. {CURE}"
        )
    values = values.detach().cpu().float()
    clean, noise = _shares(sampling, values)
    # A network that is shown latents of every size as they are was taught to be shown no noise.
    shown = sampling.calculate_input(values[-1:], torch.ones(1, 1, 1, 1)).item()
    if noise[-1] <= 0 or (clean[-1] == clean[0] and shown == 1 and noise[-1] > 2):
        raise ValueError(
            f"model is sampled by {kinds}: it turns one picture into another and adds no noise, so"
            f" that it cannot judge a render. {CURE}"
        )


def _shares(sampling: Any, values: Tensor) -> tuple[Tensor, Tensor]:
    """Shares [T] of the clean latent and of the noise in what a model takes at ``values`` [T]."""
    one = torch.ones(len(values), 1, 1, 1)
    zero = torch.zeros_like(one)
    clean, noise = (
        sampling.noise_scaling(values.clone(), eps.clone(), z0.clone()).flatten().float()
        for z0, eps in ((one, zero), (zero, one))
    )
    return clean.expand(len(values)), noise.expand(len(values))


def levels(model: Any, few_steps: int = 0) -> Levels:
    """Of a model that `check_sampling` lets pass; a Model Sampling node's shift and schedule count.

    few_steps: if not 0, only the levels that a sampler of so many steps meets (scheduler "simple"),
    each for the losses' steps that are nearest.
    """
    sampling = model.get_model_object("model_sampling")
    with torch.inference_mode(False):
        known = sampling.sigmas.detach().cpu().float().clone()
        # Some have them finer, distilled ones have few.
        places = (torch.arange(1, STEPS + 1) * len(known) - 1).div(STEPS, rounding_mode="floor")
        values = known[places.long()].clone()
        if few_steps:
            met = comfy.samplers.calculate_sigmas(sampling, "simple", few_steps)[:-1].cpu().flip(0)
            nearest = (values[:, None] - met.float()[None]).abs().argmin(1)
            values = met.float()[nearest].clone()
        values = _cut(sampling, values)
        few = few_steps or (len(known) if len(known) < STEPS else 0)
        return Levels(values, *_shares(sampling, values), few)


def _cut(sampling: Any, values: Tensor) -> Tensor:
    """The levels with those that leave less of the clean latent than the schedule can tell moved to
    where just so much is left."""
    clean, noise = _shares(sampling, values)
    beyond = (noise > RATIO_MAX * clean) & (clean != clean[0])
    if not beyond.any():
        return values
    low, high = torch.zeros(1, dtype=torch.float64), values[beyond].max().double()[None]
    for _ in range(60):
        middle = (low + high) / 2
        less, more = _shares(sampling, middle)
        low, high = (middle, high) if more < RATIO_MAX * less else (low, middle)
    values[beyond] = low.float()
    return values


def kind(model: Any) -> str:
    """What a MODEL predicts, in words, by how its output becomes a clean latent."""
    sampling = model.get_model_object("model_sampling")
    values = sampling.sigmas
    middle = values[len(values) // 2 : len(values) // 2 + 1].detach().cpu().float()
    clean = _shares(sampling, middle)[0]
    one, zero = torch.ones(1, 1, 1, 1), torch.zeros(1, 1, 1, 1)
    keeps = sampling.calculate_denoised(middle, zero, one).item()
    turns = sampling.calculate_denoised(middle, one, zero).item()
    if clean.item() != 1 or abs(keeps - 1 / (1 + middle.item())) < 1e-4:
        return "rectified flow"
    if keeps == 0:
        return "the clean picture"
    if abs(keeps - 1) < 1e-6:
        return "epsilon"
    return "v" if turns < 0 else "EDM"
