"""What a 2D diffusion model looks like to a loss: the interface, its conditioning and its noise
schedule.
"""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from contextlib import AbstractContextManager, nullcontext
from typing import Protocol, runtime_checkable

import torch
from torch import Tensor

from .conditioning import Conditioning
from .noise_schedule import NoiseSchedule

# preparing fast networks takes as long as they save in so many steps, or less
REPAYING_STEPS = 40


class Prior(Protocol):
    """A 2D diffusion model as a loss sees it. Losses never ask which model it is or what its
    network predicts.
    """

    @property
    def name(self) -> str: ...
    @property
    def image_size(self) -> int: ...  # pixels of the square render it was trained for
    @property
    def latent_channels(self) -> int: ...
    @property
    def downscale(self) -> int: ...  # image pixels per latent pixel
    @property
    def device(self) -> torch.device: ...
    @property
    def dtype(self) -> torch.dtype: ...  # of the denoiser's weights; latents stay float32
    @property
    def schedule(self) -> NoiseSchedule: ...
    @property
    # words it was trained on, None = open vocabulary
    def vocabulary(self) -> frozenset[str] | None: ...
    @property
    def background(self) -> float | None: ...  # background grey it was trained on, None = any

    def embed(self, texts: Sequence[str]) -> Conditioning:
        """One row per text; "" is the null text. Rows are cached by text."""
        ...

    def encode(self, images: Tensor, generator: torch.Generator | None = None) -> Tensor:
        """Latents [B,C,h,w], float32 and differentiable, of images [B,3,H,W] in 0..1.

        Without a generator the posterior's mean, with one a sample of the posterior.
        """
        ...

    def decode(self, latents: Tensor) -> Tensor:
        """Images [B,3,H,W] in 0..1 of latents [B,C,h,w]."""
        ...

    def predict(
        self, z_t: Tensor, t: Tensor, conditionings: Sequence[Conditioning]
    ) -> list[Tensor]:
        """Noise estimates, one [B,C,h,w] float32 per conditioning, from one network call without
        gradients.

        z_t [B,C,h,w] = alpha(t) z0 + sigma(t) eps, t [B] integer steps. A conditioning's
        ``against`` is heeded, as `perp_neg.predict` does. Raises ValueError when a conditioning
        does not hold one row per latent.
        """
        ...

    def check_size(self, size: int) -> None:
        """Raises ValueError naming the allowed multiples when a render of size x size pixels does
        not fit.
        """
        ...

    def check_text(self, text: str) -> None:
        """Raises ValueError for an empty text or one with words outside the vocabulary."""
        ...


class Adapter(Protocol):
    """A prior's denoiser with small trainable weights beside its own, which stay as they are.

    The trainable weights are no part of it but passed in, as a flat dict, and never changed in
    place.
    """

    def initial(self, generator: torch.Generator) -> dict[str, Tensor]:
        """Fresh float32 weights on the prior's device, with which it answers as the prior does."""
        ...

    def predict(
        self, weights: Mapping[str, Tensor], z_t: Tensor, t: Tensor, text: Conditioning
    ) -> Tensor:
        """The noise estimate [B,C,h,w] float32, without gradients."""
        ...

    def error(
        self,
        weights: Mapping[str, Tensor],
        z0: Tensor,
        noise: Tensor,
        t: Tensor,
        text: Conditioning,
    ) -> Tensor:
        """[B,C,h,w] float32, differentiable in the weights: how far the network's output at
        alpha(t) z0 + sigma(t) noise is from what it was trained to put out there."""
        ...


@runtime_checkable
class AdaptablePrior(Protocol):
    """A prior whose network can be fine-tuned without changing it, for losses that learn the
    renders' own score.
    """

    def adapter(self, rank: int) -> Adapter: ...


@runtime_checkable
class TunablePrior(Protocol):
    """A prior that can be told how its networks are to run."""

    def running(self, accelerate: bool, micro_batch: int) -> AbstractContextManager[None]:
        """Inside, the networks run faster, at the cost of preparing that and of memory, if
        ``accelerate``; and on no more than so many pictures at a time, which takes longer and less
        memory, if not 0."""
        ...


def running(
    prior: Prior, accelerate: bool = False, micro_batch: int = 0
) -> AbstractContextManager[None]:
    """See `TunablePrior.running`; any other prior runs as it does. Raises ValueError if it cannot
    do what is asked.
    """
    if isinstance(prior, TunablePrior):
        return prior.running(accelerate, micro_batch)
    if micro_batch:
        raise ValueError(
            f"micro_batch is {micro_batch}, but prior {prior.name!r} takes all pictures"
            " of a step at once. Set it to 0 and lower views, or load the prior from a diffusers"
            " folder."
        )
    return nullcontext()


def check_multiple(size: int, multiple: int, name: str) -> None:
    """Raises ValueError unless ``size`` is a positive multiple of ``multiple``."""
    if size < multiple or size % multiple:
        low = max(size // multiple, 1) * multiple
        raise ValueError(
            f"image_size {size} does not fit prior {name!r}: it must be a multiple of {multiple}, "
            f"for instance {low} or {low + multiple}."
        )


def check_guided(owner: str, prior: Prior) -> None:
    """Raises ValueError for a prior without a negative branch (``negative_branch`` False), where
    ``owner`` is nothing but guidance."""
    if not getattr(prior, "negative_branch", True):
        raise ValueError(
            f"{owner}: prior {prior.name!r} has no negative branch (it was distilled to few steps,"
            " or negative_branch is off), and this loss is what guidance adds: it would move"
            " nothing. Use SDS, CDS or Picture Loss, or the model it was distilled from."
        )


def check_words(text: str, vocabulary: frozenset[str] | None, name: str) -> None:
    """Raises ValueError for a blank text, or one with words the prior was never trained on (None:
    all are known).
    """
    if not text.strip():
        raise ValueError("prompt is empty; describe the object, for instance 'a red mug'.")
    if vocabulary is None:
        return
    unknown = [
        word for word in dict.fromkeys(re.findall(r"\w+", text.lower())) if word not in vocabulary
    ]
    if unknown:
        raise ValueError(
            f"prompt {text!r}: prior {name!r} does not know {', '.join(map(repr, unknown))}. "
            f"It was trained on these words: {', '.join(sorted(vocabulary))}. "
            "Use them, or load an open-vocabulary prior such as Stable Diffusion."
        )
