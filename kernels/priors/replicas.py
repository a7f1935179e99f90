"""A prior on several devices: each has its own copy of the networks and judges its own rows.

What a loss sees is one prior on the first device, so that its random numbers, its learned parts and
whatever couples the views of a step stay there and are those of one device.
"""

from __future__ import annotations

import copy
from collections.abc import Sequence
from dataclasses import replace
from typing import Any, Protocol, runtime_checkable

import torch
from torch import Tensor, nn

from ..devices.team import Team
from . import perp_neg
from .conditioning import Conditioning


@runtime_checkable
class ReplicablePrior(Protocol):
    """A prior that can be copied to other devices, and then works on all of them."""

    replicas: Replicas | None

    def replica(self, device: torch.device) -> Any:
        """The same prior with copies of its networks on ``device``; texts are not embedded there.

        Raises ValueError where its weights are not all on a device.
        """
        ...

    def posterior_noise(
        self, shape: Sequence[int], generator: torch.Generator | None
    ) -> Tensor | None:
        """What `Prior.encode` draws for images of ``shape`` [B,3,H,W]."""
        ...

    def encode_with(self, images: Tensor, noise: Tensor | None) -> Tensor:
        """`Prior.encode` with the posterior's noise [B,C,h,w] given; None: its mean."""
        ...


class Replicas:
    """The copies of one prior.

    Args:
        priors: the first answers for the prior itself, on its device
    """

    def __init__(self, priors: Sequence[Any]) -> None:
        self.priors = list(priors)
        self.devices = [torch.device(prior.device) for prior in priors]
        self.team = Team(self.devices)

    def shares(self, count: int, multiple: int = 1) -> list[slice]:
        """Which of ``count`` rows each device gets, as many of each as can be, ``multiple`` in a
        row together; the last devices get what is over, as the first does more. Devices without a
        row are left out.
        """
        groups = count // multiple
        members = max(1, min(len(self.priors), groups))
        ends = [multiple * (groups * index // members) for index in range(1, members)]
        return [slice(*pair) for pair in zip([0, *ends], [*ends, count], strict=True)]

    def encode(self, images: Tensor, noise: Tensor | None) -> Tensor:
        """See `ReplicablePrior.encode_with`; differentiable, on the first device."""
        parts = self.shares(len(images))

        def work(index: int) -> Tensor:
            rows, device = parts[index], self.devices[index]
            own = None if noise is None else noise[rows].to(device)
            latents: Tensor = self.priors[index].encode_with(images[rows].to(device), own)
            return latents

        return self.gathered(self.team.each(work, len(parts)))

    def predict(
        self, z_t: Tensor, t: Tensor, conditionings: Sequence[Conditioning], views_per_group: int
    ) -> list[Tensor]:
        """See `Prior.predict`."""
        whole = all(len(text) == len(z_t) for text in conditionings)  # else the first one says so
        parts = self.shares(len(z_t), views_per_group) if whole else [slice(None)]

        def work(index: int) -> list[Tensor]:
            rows, device = parts[index], self.devices[index]
            texts = _texts(conditionings, rows, device)
            estimates: list[Tensor] = self.priors[index].predict(
                z_t[rows].to(device), t[rows].to(device), texts
            )
            return estimates

        found = self.team.each(work, len(parts))
        return [self.gathered(rows) for rows in zip(*found, strict=True)]

    def gathered(self, parts: Sequence[Tensor]) -> Tensor:
        """The rows of all devices on the first."""
        if len(parts) == 1:
            return parts[0]
        return torch.cat([part.to(self.devices[0]) for part in parts])

    def keep_first(self) -> None:
        """Go on with the first device alone."""
        del self.priors[1:], self.devices[1:]


def copied(module: nn.Module, device: torch.device) -> nn.Module:
    """The module with frozen copies of its weights on ``device``; none is made anywhere else."""
    known: dict[int, Any] = {}
    for weight in module.parameters():
        value = weight.detach().to(device, copy=True)
        known[id(weight)] = nn.Parameter(value, requires_grad=False)
    for buffer in module.buffers():
        known[id(buffer)] = buffer.detach().to(device, copy=True)
    return copy.deepcopy(module, known)


def _texts(
    conditionings: Sequence[Conditioning], rows: slice, device: torch.device
) -> list[Conditioning]:
    """Rows of the texts on a device. A null text among them is not copied again for those that are
    bent away from others (see `perp_neg.predict`)."""
    texts = [text.index(rows).to(device) for text in conditionings]
    for place, text in enumerate(conditionings):
        if text.against is None:
            continue
        null = text.against.null
        known = next(
            (k for k, other in enumerate(conditionings) if perp_neg.same_memory(other, null)), None
        )
        against = texts[place].against
        if known is not None and against is not None:
            shared = replace(against, null=replace(texts[known], against=None))
            texts[place] = replace(texts[place], against=shared)
    return texts
