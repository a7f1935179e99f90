"""What every distillation loss shares: the interface, guidance, and how a gradient becomes a value
to descend.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Protocol, TypeVar

import torch
from torch import Tensor

from ..cameras.pinhole import Cameras
from ..devices.streams import send
from ..priors.base import Prior
from ..priors.conditioning import Conditioning
from ..priors.noise_schedule import NoiseSchedule

WEIGHTINGS = ("1-abar", "sigma/alpha", "one")
REDUCTIONS = ("mean", "sum", "elements")


@dataclass(frozen=True)
class Views:
    """What a loss may know about the V renders of one step.

    Args:
        text: V rows, the prompt as seen from each camera
        negative: V rows, the empty or the negative prompt
        step: steps done so far in the whole schedule, 0-based
        steps: length of the whole schedule
        guidance_factor: [V,1,1,1], multiplies the guidance scale of every loss, view by view
        together: so many views in a row are judged as one, which takes one noise level
        own_progress: that of a loss which anneals over a share of the schedule; None: over all of
            it
        base: V rows, the prompt without view words
        null: V rows, the null text; None: losses that want it embed it
    """

    text: Conditioning
    negative: Conditioning
    cameras: Cameras
    step: int
    steps: int
    guidance_factor: Tensor | float = 1.0
    views_per_group: int = 1
    own_progress: float | None = None
    base: Conditioning | None = None
    null: Conditioning | None = None

    @property
    def progress(self) -> float:
        """Share of the schedule that is done, 0..1; where a loss anneals over a part of it, of
        that.
        """
        if self.own_progress is not None:
            return self.own_progress
        return min(self.step / max(self.steps, 1), 1.0)

    def alike(self, values: Tensor) -> Tensor:
        """Values [V,...] drawn view by view, as views that are judged together share them: those of
        their first.
        """
        return (
            values
            if self.views_per_group == 1
            else values[:: self.views_per_group].repeat_interleave(self.views_per_group, 0)
        )


class LossRun(Protocol):
    """A loss at work on one optimization; holds what it must remember between steps."""

    def __call__(
        self, latents: Tensor, views: Views, generator: torch.Generator
    ) -> tuple[Tensor, dict[str, Tensor]]:
        """A scalar to descend and detached scalar logs, for latents [V,C,h,w].

        The scalar's gradient with respect to the latents is the distillation direction / V, unless
        the loss is told another reduction. All random numbers are drawn from ``generator``, on its
        own device, so that a CPU generator gives the same run everywhere.
        """
        ...

    def state(self) -> dict[str, Tensor]:
        """All that a resume needs, to be passed to `Loss.start`; the tensors are never changed in
        place.
        """
        ...


class Loss(Protocol):
    """The settings of a loss."""

    @property
    def name(self) -> str: ...

    def start(
        self,
        prior: Prior,
        latent_shape: tuple[int, int, int],
        generator: torch.Generator,
        state: Mapping[str, Tensor] | None = None,
    ) -> LossRun:
        """Begin a run on latents of shape (C,h,w), or continue the one whose ``state`` is given.

        Continuing draws nothing from the generator. Raises ValueError for settings or states that
        do not fit.
        """
        ...

    def check(self) -> None:
        """Raises ValueError that names the setting, the value given, what is allowed and the
        cure.
        """
        ...

    def below(self, top: int) -> Loss:
        """The loss with its timesteps at most ``top``; lower bounds above half of that come down to
        it.
        """
        ...

    def near(self, t: int) -> Loss:
        """The loss with its timesteps at ``t``, or as near to it as its settings let them be."""
        ...

    def guidance_at(self, progress: float) -> float:
        """The guidance scale, standard form, at ``progress`` 0..1 of the schedule."""
        ...


def identity(loss: Loss) -> str:
    """The loss's name with those of its parts: what tells whether a saved loss state is this loss's
    own.
    """
    parts = ", ".join(identity(part) for part in getattr(loss, "losses", ()))
    return f"{loss.name}({parts})" if parts else loss.name


SomeLoss = TypeVar("SomeLoss", bound=Loss)


def first_valid(*candidates: SomeLoss) -> SomeLoss:
    """The first loss whose settings fit each other; the last one unseen."""
    for loss in candidates[:-1]:
        try:
            loss.check()
        except ValueError:
            continue
        return loss
    return candidates[-1]


def guided(text: Tensor, negative: Tensor, scale: Tensor | float) -> Tensor:
    """Classifier-free guidance in its standard form, e_u + s (e_c - e_u) (Ho & Salimans 2022); s
    may be [B,1,1,1].

    Papers that write e_c + w (e_c - e_u) mean s = w + 1.
    """
    return negative + scale * (text - negative)


def inject(latents: Tensor, gradient: Tensor) -> Tensor:
    """A scalar whose value is |gradient|^2 / 2V and whose gradient with respect to the latents is
    gradient / V.

    Equals 0.5 |z0 - sg(z0 - g)|^2 / V (sum over latent elements, mean over the V views), written so
    that g is not first rounded to the precision of z0. latents, gradient [V,C,h,w].
    """
    gradient = gradient.detach()
    return (
        0.5 * gradient.square() + gradient * (latents - latents.detach())
    ).sum() / latents.shape[0]


def reduction_factor(reduction: str, latents: Tensor) -> float:
    """What makes of a mean over the views of latents [V,C,h,w], which `inject` takes, one of
    REDUCTIONS: "sum" over them (LucidDreamer, SegmentDreamer), or the mean over the "elements" of
    the latents too (SDI).
    """
    return {"mean": 1.0, "sum": float(len(latents)), "elements": 1 / latents[0].numel()}[reduction]


def cleaned(gradient: Tensor, clip: float = 0.0) -> Tensor:
    """The gradient with NaNs set to 0; if clip > 0 every value clamped to +-clip, infinite ones
    too, else these set to 0.

    A half-precision denoiser may overflow at single latents, which should not cost the step. A
    gradient with no finite value at all is left as it is, for the loop to notice.

    gradient: [V,C,h,w].
    """
    finite = torch.isfinite(gradient)
    kept = gradient.nan_to_num(0.0, clip, -clip)
    return torch.where(finite.any(), kept.clamp(-clip, clip) if clip > 0 else kept, gradient)


def gradient_logs(gradient: Tensor) -> dict[str, Tensor]:
    """Root mean square of the gradient's values, and the share of them that were not finite.

    gradient: [V,C,h,w]; both logs are scalars on its device.
    """
    gradient = gradient.detach()
    return {
        "gradient": gradient.nan_to_num(0.0, 0.0, 0.0).square().mean().sqrt(),
        "nonfinite": (~torch.isfinite(gradient)).float().mean(),
    }


def weighting(schedule: NoiseSchedule, t: Tensor, kind: str) -> Tensor:
    """The weight w(t) [B,1,1,1] of a direction in noise form; kind is one of WEIGHTINGS.

    "1-abar" is DreamFusion's sigma_t^2, "sigma/alpha" LucidDreamer's (a direction in units of the
    latent).
    """
    if kind == "1-abar":
        return schedule.sigma(t).square()
    if kind == "sigma/alpha":
        return schedule.ratio(t)
    return torch.ones_like(schedule.sigma(t))


def draw_noise(shape: tuple[int, ...], generator: torch.Generator, like: Tensor) -> Tensor:
    """Standard normal numbers, drawn on the generator's device and moved to where ``like`` is.

    Of ``shape``, in the dtype of ``like``.
    """
    return send(torch.randn(shape, generator=generator, device=generator.device), like.device).to(
        like.dtype
    )


def check_choice(owner: str, field: str, value: str, allowed: tuple[str, ...]) -> None:
    """Raises ValueError unless ``value`` is among those allowed."""
    if value not in allowed:
        raise ValueError(f"{owner}: {field} is {value!r}; choose one of {', '.join(allowed)}.")


def check_range(owner: str, field: str, value: float, low: float, high: float) -> None:
    """Raises ValueError unless low <= value <= high (NaN never is)."""
    if not low <= value <= high:
        raise ValueError(
            f"{owner}: {field} is {value:g}; it must lie between {low:g} and {high:g}."
        )


def check_steps(owner: str, prior: Prior, fields: Mapping[str, int]) -> None:
    """Raises ValueError when a timestep setting lies beyond the prior's schedule."""
    last = len(prior.schedule) - 1
    for field, value in fields.items():
        if value > last:
            raise ValueError(
                f"{owner}: {field} {value} is beyond prior {prior.name!r}, whose last step is"
                f" {last}."
            )


def restored(
    owner: str, state: Mapping[str, Tensor], key: str, shape: tuple[int, ...], like: Any
) -> Tensor:
    """The tensor of a saved state, on the device ``like``; raises ValueError when it is missing or
    misshapen.
    """
    value = state.get(key)
    if value is None or tuple(value.shape) != shape:
        found = "missing" if value is None else f"of shape {tuple(value.shape)}"
        raise ValueError(
            f"{owner}: the saved loss state's {key!r} is {found}, expected {shape}. It comes from"
            " another loss, prior or render size; use the same ones, or start afresh from a cloud"
            " without training state."
        )
    return value.detach().to(like).clone()
