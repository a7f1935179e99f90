"""What suits a model that nobody has distilled yet, and where each value comes from."""

from __future__ import annotations

import torch

from ...kernels.priors.base import NoiseSchedule
from .families import Family

PAPERS = (20, 500, 980)  # timesteps of Stable Diffusion's schedule, between which papers distil
UNGUIDED = "No negative branch: guidance has no effect, and a step costs half."
BETTER = (
    "A model that was not distilled teaches better: where there is one (base, RAW, dev), link it."
)


def same_noise(schedule: NoiseSchedule) -> list[int]:
    """The timesteps of a schedule that have the noise levels of Stable Diffusion's at `PAPERS`."""
    theirs = NoiseSchedule.scaled_linear().ratio(torch.tensor(PAPERS)).flatten()
    ours = schedule.ratio(torch.arange(len(schedule))).flatten().cpu()
    return [int((ours.log() - level.log()).abs().argmin()) for level in theirs]


def suggestions(family: Family, schedule: NoiseSchedule, guided: bool) -> str:
    """Values for a run with the model, a sentence each, with their source."""
    low, middle, high = same_noise(schedule)
    said = [
        f"Timesteps {PAPERS[0]}, {PAPERS[1]} and {PAPERS[2]} of the papers (Stable Diffusion) have"
        f" the noise of {low}, {middle} and {high} here (computed)."
    ]
    if guided and family.guidance > 1:
        said.append(
            f"Guidance {family.guidance:g} makes its pictures (ComfyUI's template, or custom); as a"
            " prior untried: the losses' defaults were found with other models."
        )
    if family.image_size > 512:
        said.append(
            f"image_size 512 costs a {(family.image_size / 512) ** 2:.0f}th of"
            f" {family.image_size} (untried)."
        )
    return " ".join(said)
