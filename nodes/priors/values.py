"""What suits a model that nobody has distilled yet, and where each value comes from."""

from __future__ import annotations

from typing import Any

import torch

from ...kernels.priors.noise_schedule import NoiseSchedule
from .families import Family, notes
from .sampling import kind

PAPERS = (20, 500, 980)  # timesteps of Stable Diffusion's schedule, between which papers distil
UNGUIDED = "No negative branch: guidance has no effect, and a step costs half."


def about(prior: Any, told: float | None) -> str:
    """What a user should know of a `ComfyPrior`, in sentences; told: the guidance that its model is
    told, where it has one of its own."""
    latents = f"latents of {prior.latent_channels} channels, {prior.downscale} pixels wide each"
    said = [
        f"{prior.family.name} predicts {kind(prior.model)};"
        f" {'pixels, no latents' if prior.downscale == 1 else latents}; trained at"
        f" {prior.image_size} pixels.",
        *notes(prior.model, prior.family),
    ]
    if not prior.negative_branch:
        levels = f" {prior.few_levels} noise levels." if prior.few_levels else ""
        base = f": {prior.family.base}" if prior.family.base else ""
        said.append(f"{UNGUIDED}{levels} A model that was not distilled teaches better{base}.")
    if told is not None:
        said.append(
            f"It has a guidance of its own and is told {told:g} (distilled_guidance); the losses'"
            " guidance comes on top."
        )
    guided, few = prior.negative_branch, bool(prior.few_levels)
    return " ".join([*said, *suggestions(prior.family, prior.schedule, guided, few)])


def same_noise(schedule: NoiseSchedule) -> list[int]:
    """The timesteps of a schedule that have the noise levels of Stable Diffusion's at `PAPERS`."""
    theirs = NoiseSchedule.scaled_linear().ratio(torch.tensor(PAPERS)).flatten()
    ours = schedule.ratio(torch.arange(len(schedule))).flatten().cpu()
    return [int((ours.log() - level.log()).abs().argmin()) for level in theirs]


def suggestions(family: Family, schedule: NoiseSchedule, guided: bool, few: bool) -> list[str]:
    """Values for a run with the model, a sentence each, with their source."""
    said = []
    if not few:
        low, middle, high = same_noise(schedule)
        said.append(
            f"The papers' timesteps {PAPERS[0]}, {PAPERS[1]} and {PAPERS[2]} (of Stable Diffusion)"
            f" have the noise of {low}, {middle} and {high} here (computed)."
        )
    if guided and family.guidance > 1:
        said.append(
            f"Its pictures are made with guidance {family.guidance:g} (ComfyUI's template); what"
            " suits it as a prior is untried: the losses' defaults were found with other models."
        )
    if family.image_size >= 1024:
        share = "a quarter" if family.image_size == 1024 else "a 16th"
        said.append(f"image_size 512 costs {share} of {family.image_size} (untried).")
    return said
