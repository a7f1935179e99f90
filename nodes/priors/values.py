"""What suits a model that nobody has distilled yet, and where each value comes from."""

from __future__ import annotations

from typing import Any

from ...kernels.losses.suited import facts, same_noise, suited_size
from ...kernels.priors.noise_schedule import NoiseSchedule
from .families import notes
from .sampling import kind

PAPERS = (20, 500, 980)  # timesteps of Stable Diffusion's schedule, between which papers distil
AUTO_HINT = "values = auto, in the losses and Orbit Cameras, fills in what suits it."
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
    return " ".join([*said, *suggestions(prior)])


def suggestions(prior: Any) -> list[str]:
    """Values for a run with the model, a sentence each, with their source."""
    said, guided = [], prior.negative_branch
    if not prior.few_levels:
        home = NoiseSchedule.scaled_linear()
        low, middle, high = (same_noise(t, home, prior.schedule) for t in PAPERS)
        said.append(
            f"The papers' timesteps {PAPERS[0]}, {PAPERS[1]} and {PAPERS[2]} (of Stable Diffusion)"
            f" have the noise of {low}, {middle} and {high} here (computed)."
        )
    if guided and (pictures := facts(prior).get("pictures", 0.0)) > 1:
        said.append(
            f"Its pictures are made with guidance {pictures:g} (ComfyUI's template); what suits it"
            " as a prior is untried: the losses' defaults were found with other models."
        )
    pixels, source = suited_size(prior)
    if pixels != prior.image_size:
        said.append(f"image_size 0 is {pixels} ({source}).")
    return [*said, AUTO_HINT]
