"""What a 2D diffusion model looks like to a loss: the interface, its conditioning and its noise
schedule.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping, Sequence
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass, replace
from typing import Any, Protocol, runtime_checkable

import torch
from torch import Tensor

from ..devices.streams import sent
from .rows import TextRow, blend, lengthened, stacked

# preparing fast networks takes some seconds, as much as they save in so many steps
REPAYING_STEPS = 100
ABAR_MIN = 1e-6  # keeps sigma/alpha finite where a schedule ends in pure noise
# what a network may put out; see noise_from_output
PREDICTIONS = ("epsilon", "v_prediction", "flow", "edm")
# sigma_data, the latents' spread that an EDM network was built for; Karras et al. 2022
EDM_SPREAD = 0.5


@dataclass(frozen=True)
class Conditioning:
    """Text embeddings as one prior's denoiser takes them; B rows, meaningful to the prior that made
    them only.

    Args:
        embeddings: [B,L,D]
        pooled: [B,P], for priors that take a pooled embedding besides
        against: texts that the estimate is bent away from (Perp-Neg)
        camera: [B,K], for priors that are told where each row is seen from; see `seeing.told`
        hint: [B,3,H,W] 0..1, for priors that are shown a picture of each row's shape
        negative: [B] bool on the CPU: rows that guidance leads away from; None: there are none
        rows: B texts as their encoder gives them; ``embeddings`` is then only for comparing texts
    """

    embeddings: Tensor
    pooled: Tensor | None = None
    against: Against | None = None
    camera: Tensor | None = None
    hint: Tensor | None = None
    negative: Tensor | None = None
    rows: tuple[TextRow, ...] | None = None

    def __len__(self) -> int:
        return self.embeddings.shape[0]

    def _map(self, each: Callable[[Tensor], Tensor], against: Against | None) -> Conditioning:
        values = (self.pooled, self.camera, self.hint, self.negative)
        pooled, camera, hint, negative = (
            None if value is None else each(value) for value in values
        )
        return Conditioning(
            each(self.embeddings), pooled, against, camera, hint, negative, self.rows
        )

    def to(self, device: torch.device | str) -> Conditioning:
        """The same rows on another device."""
        moved = self._map(lambda value: value.to(device), self.against and self.against.to(device))
        rows = self.rows and tuple(row.to(device) for row in self.rows)
        return replace(moved, negative=self.negative, rows=rows)

    def led_away(self) -> Tensor:
        """`negative`, written out where there are none too."""
        return torch.zeros(len(self), dtype=torch.bool) if self.negative is None else self.negative

    def as_negative(self) -> Conditioning:
        """The same rows as such that guidance leads away from."""
        return replace(self, negative=torch.ones(len(self), dtype=torch.bool))

    def index(self, rows: int | slice | Sequence[int] | Tensor) -> Conditioning:
        """The chosen rows, [b,L,D]; an int keeps its row dimension. A tensor of rows had better be
        on the CPU, where it may be read."""
        chosen = [rows] if isinstance(rows, int) else rows
        picked = self._map(
            lambda value: value[
                sent(chosen, value.device) if isinstance(chosen, Tensor) else chosen
            ],
            self.against and self.against.index(chosen),
        )
        if self.rows is None:
            return picked
        places = torch.arange(len(self))[
            chosen.cpu() if isinstance(chosen, Tensor) else chosen
        ].tolist()
        return replace(picked, rows=tuple(self.rows[place] for place in places))

    def repeat(self, count: int) -> Conditioning:
        """One row as ``count`` equal rows. Raises ValueError when there is not exactly one row."""
        if len(self) != 1:
            raise ValueError(
                f"Conditioning: repeat needs exactly 1 row, this one holds {len(self)}. Use index()"
                " first."
            )
        against = self.against and self.against.repeat(count)
        result = self._map(lambda value: value.expand(count, *[-1] * (value.dim() - 1)), against)
        return replace(result, rows=self.rows and self.rows * count)

    def seen(self, camera: Tensor | None, hint: Tensor | None) -> Conditioning:
        """The same texts with what a prior is told of each row's view; Perp-Neg's texts are of the
        same views.
        """
        return replace(
            self, camera=camera, hint=hint, against=self.against and self.against.seen(camera, hint)
        )

    @staticmethod
    def lerp(a: Conditioning, b: Conditioning, weight: Tensor) -> Conditioning:
        """Rows (1 - weight) a + weight b; weight [B]. A single row on either side serves every
        weight.

        The result is a text of its own: what a and b are bent away from, and the views they are of,
        stay behind. ``weight`` had better be on the CPU, where it may be read; see `rows.blend`.
        """
        rows = None
        if a.rows is not None and b.rows is not None:
            count = len(weight)
            starts, ends = (rows * count if len(rows) == 1 else rows for rows in (a.rows, b.rows))
            rows = tuple(map(blend, starts, ends, weight.tolist()))
        weight = sent(weight, a.embeddings.device).to(a.embeddings)
        longest = max(a.embeddings.shape[1], b.embeddings.shape[1])
        start, end = (lengthened(text.embeddings, 1, longest, repeat=False) for text in (a, b))
        embeddings = torch.lerp(start, end, weight[:, None, None])
        pooled = None
        if a.pooled is not None and b.pooled is not None:
            pooled = torch.lerp(a.pooled, b.pooled, weight[:, None])
        return Conditioning(embeddings, pooled, rows=rows)

    @staticmethod
    def cat(parts: Sequence[Conditioning]) -> Conditioning:
        """All rows of all parts, in order. Raises ValueError for an empty list, and for parts with
        ``against``.
        """
        if not parts:
            raise ValueError("Conditioning: cat was given no parts; pass at least one.")
        if any(part.against for part in parts):
            raise ValueError(
                "Conditioning: cat cannot join texts with Perp-Neg branches; pass predict a list of"
                " them."
            )
        joined: dict[str, Any] = {}
        for name, what in (
            ("pooled", "a pooled embedding"),
            ("camera", "a camera"),
            ("hint", "a hint"),
        ):
            values = [value for part in parts if (value := getattr(part, name)) is not None]
            if values and len(values) != len(parts):
                raise ValueError(
                    f"Conditioning: cat mixes parts with and without {what}; make all for one"
                    " prior."
                )
            joined[name] = torch.cat(values) if values else None
        if any(part.negative is not None for part in parts):
            joined["negative"] = torch.cat([part.led_away() for part in parts])
        if all(part.rows is not None for part in parts):
            joined["rows"] = tuple(row for part in parts for row in part.rows or ())
        return Conditioning(stacked([part.embeddings for part in parts]), **joined)


@dataclass(frozen=True)
class Against:
    """What a text of B rows is bent away from whenever it is predicted with; see
    `perp_neg.predict`.

    Args:
        branches: B rows and a weight for each: below 0 away, 0 unused
        null: B rows of the null text, from which directions are measured
    """

    branches: tuple[tuple[Conditioning, tuple[float, ...]], ...]
    null: Conditioning

    # The weights are plain numbers: which rows are worth evaluating must be known without waiting
    # for the device.

    def to(self, device: torch.device | str) -> Against:
        return Against(
            tuple((text.to(device), weights) for text, weights in self.branches),
            self.null.to(device),
        )

    def index(self, rows: slice | Sequence[int] | Tensor) -> Against:
        picked = torch.arange(len(self.null))[
            rows.cpu() if isinstance(rows, Tensor) else rows
        ].tolist()
        branches = (
            (text.index(rows), tuple(weights[row] for row in picked))
            for text, weights in self.branches
        )
        return Against(tuple(branches), self.null.index(rows))

    def seen(self, camera: Tensor | None, hint: Tensor | None) -> Against:
        branches = tuple((text.seen(camera, hint), weights) for text, weights in self.branches)
        return Against(branches, self.null.seen(camera, hint))

    def repeat(self, count: int) -> Against:
        return Against(
            tuple((t.repeat(count), w * count) for t, w in self.branches), self.null.repeat(count)
        )


@dataclass(frozen=True)
class NoiseSchedule:
    """Variance-preserving noise levels of the integer steps 0..T-1: z_t = alpha(t) z0 + sigma(t)
    eps.

    Every function takes an integer tensor t [B] and returns [B,1,1,1], ready to multiply latents.

    Args:
        alphas_cumprod: [T], falling from almost 1 to almost 0
        noise: [T], 1 - alphas_cumprod where that would be lost in rounding
    """

    alphas_cumprod: Tensor
    noise: Tensor | None = None

    @staticmethod
    def scaled_linear(
        beta_start: float = 0.00085, beta_end: float = 0.012, steps: int = 1000
    ) -> NoiseSchedule:
        """Stable Diffusion's schedule: betas linear in their square root."""
        roots = torch.linspace(beta_start**0.5, beta_end**0.5, steps, dtype=torch.float64)
        return NoiseSchedule(torch.cumprod(1 - roots**2, 0).float())

    @staticmethod
    def from_ratios(ratios: Tensor) -> NoiseSchedule:
        """The schedule whose noise levels sigma/alpha are ``ratios`` [T], rising; infinite ones are
        cut to 1000.
        """
        abar = (1 / (1 + ratios.double().square())).clamp(min=ABAR_MIN)
        return NoiseSchedule(abar.float(), (1 - abar).float())

    @staticmethod
    def flow(shift: float = 1.0, steps: int = 1000) -> NoiseSchedule:
        """A rectified flow's levels at the times 1/T .. 1, shifted towards the noise (Esser et al.
        2024, equation 23).

        At time r such a model sees (1 - r) z0 + r eps, so that its noise level is r / (1 - r);
        `flow_input` gives back that latent and r. shift: 3 for Stable Diffusion 3, exp(mu) for
        FLUX. A step of the losses is a time, and what they say of timesteps holds in the model's
        own schedule.
        """
        even = torch.arange(1, steps + 1, dtype=torch.float64) / steps
        return NoiseSchedule.from_times(shift * even / (1 + (shift - 1) * even))

    @staticmethod
    def from_times(times: Tensor) -> NoiseSchedule:
        """The schedule of a rectified flow at its ``times`` [T], rising, 0..1."""
        return NoiseSchedule.from_ratios(times.double() / (1 - times.double()))

    def __len__(self) -> int:
        return self.alphas_cumprod.shape[0]

    def to(self, device: torch.device | str) -> NoiseSchedule:
        return NoiseSchedule(
            self.alphas_cumprod.to(device), None if self.noise is None else self.noise.to(device)
        )

    def _at(self, values: Tensor, t: Tensor) -> Tensor:
        return values.to(t.device)[t][:, None, None, None]

    def alpha(self, t: Tensor) -> Tensor:
        """Share of the clean latent in z_t, sqrt(abar_t)."""
        return self._at(self.alphas_cumprod, t).sqrt()

    def sigma(self, t: Tensor) -> Tensor:
        """Share of the noise in z_t, sqrt(1 - abar_t)."""
        return self._at(1 - self.alphas_cumprod if self.noise is None else self.noise, t).sqrt()

    def ratio(self, t: Tensor) -> Tensor:
        """Noise level of the variance-exploding form z_t / alpha(t) = z0 + ratio(t) eps."""
        return self.sigma(t) / self.alpha(t)


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

    def running(self, accelerate: bool, pictures_at_once: int) -> AbstractContextManager[None]:
        """Inside, the networks run faster, at the cost of preparing that and of memory, if
        ``accelerate``; and on no more than so many pictures at a time, which takes longer and less
        memory, if not 0."""
        ...


def running(
    prior: Prior, accelerate: bool = False, pictures_at_once: int = 0
) -> AbstractContextManager[None]:
    """See `TunablePrior.running`; any other prior runs as it does. Raises ValueError if it cannot
    do what is asked.
    """
    if isinstance(prior, TunablePrior):
        return prior.running(accelerate, pictures_at_once)
    if pictures_at_once:
        raise ValueError(
            f"pictures_at_once is {pictures_at_once}, but prior {prior.name!r} takes all pictures"
            " of a step at once. Set it to 0 and lower views, or load the prior from a diffusers"
            " folder."
        )
    return nullcontext()


def noise_from_output(
    output: Tensor, z_t: Tensor, alpha: Tensor, sigma: Tensor, prediction: str
) -> Tensor:
    """The noise estimate in a network's output, at z_t = alpha z0 + sigma eps.

    prediction: "epsilon"; "v_prediction" (v = alpha eps - sigma z0, Salimans & Ho 2022); "flow" (u
    = eps - z0, for a network evaluated at `flow_input`); "edm" (the network F inside a denoiser of
    Karras et al. 2022, table 1, evaluated at z_t / alpha). All four are linear in the output at
    fixed z_t, so guidance commutes with the conversion. Raises ValueError for any other prediction.
    """
    if prediction == "epsilon":
        return output
    if prediction == "v_prediction":
        return sigma * z_t + alpha * output
    if prediction == "flow":
        z, r = flow_input(z_t, alpha, sigma)
        return z + (1 - r) * output
    if prediction == "edm":
        skip, out = edm_shares(sigma / alpha)
        clean = skip * z_t / alpha + out * output
        return noise_from_clean(z_t, clean, alpha, sigma)
    raise ValueError(f"prior: prediction is {prediction!r}; known are {', '.join(PREDICTIONS)}.")


def flow_input(z_t: Tensor, alpha: Tensor, sigma: Tensor) -> tuple[Tensor, Tensor]:
    """The same noisy latent as a flow model takes it: (1 - r) z0 + r eps and its time r
    [B,1,1,1].
    """
    r = sigma / (alpha + sigma)
    return z_t / (alpha + sigma), r


def edm_shares(ratio: Tensor, spread: float = EDM_SPREAD) -> tuple[Tensor, Tensor]:
    """c_skip and c_out of an EDM denoiser D = c_skip x + c_out F at the noise level ``ratio``, x =
    z_t / alpha.
    """
    whole = ratio.square() + spread**2
    return spread**2 / whole, ratio * spread / whole.sqrt()


def clean_from_noise(z_t: Tensor, noise: Tensor, alpha: Tensor, sigma: Tensor) -> Tensor:
    """The clean latent that a noise estimate implies, (z_t - sigma e) / alpha."""
    return (z_t - sigma * noise) / alpha


def noise_from_clean(z_t: Tensor, clean: Tensor, alpha: Tensor, sigma: Tensor) -> Tensor:
    """The noise estimate that an estimate of the clean latent implies, (z_t - alpha x0) / sigma."""
    return (z_t - alpha * clean) / sigma


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
