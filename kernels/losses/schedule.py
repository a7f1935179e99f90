"""How a setting moves over the run, and how timesteps are drawn from a range that does."""

from __future__ import annotations

import math
from dataclasses import dataclass

import torch
from torch import Tensor

from ..devices.streams import send
from .base import check_choice, check_range

SHAPES = ("constant", "linear", "sqrt", "cosine")
ANNEALS = (*SHAPES, "jump")


def annealed(start: float, end: float, progress: float, shape: str = "linear") -> float:
    """From start (progress 0) to end (progress 1) along one of SHAPES; "constant" stays at
    start.
    """
    fraction = {
        "constant": 0.0,
        "linear": progress,
        "sqrt": math.sqrt(progress),
        "cosine": 0.5 - 0.5 * math.cos(math.pi * progress),
    }[shape]
    return start + (end - start) * fraction


@dataclass(frozen=True)
class TimestepRange:
    """t ~ U{t_min .. t_max(k)}, whose upper end moves as the run goes on.

    High t decides the overall shape, low t the details: hence the upper end comes down
    (ProlificDreamer, section 5; LucidDreamer's code goes from 980 to 500 over its first 1500 of
    5000 steps).

    Args:
        t_min: steps of the noise schedule, 0..999
        t_max_start: steps, upper end at the start of the run
        t_max_end: steps, upper end once annealing is over
        shape: constant | linear | sqrt | cosine | jump; constant keeps t_max_start, jump keeps it
            until the share is over
        share: share of the run over which the upper end moves, >0..1
    """

    t_min: int = 20
    t_max_start: int = 980
    t_max_end: int = 500
    shape: str = "linear"
    share: float = 1.0

    def check(self, owner: str) -> None:
        """Raises ValueError naming the setting that is wrong."""
        check_choice(owner, "t_anneal", self.shape, ANNEALS)
        check_range(owner, "t_anneal_share", self.share, 1e-3, 1)
        if self.t_min < 0:
            raise ValueError(f"{owner}: t_min is {self.t_min}; timesteps begin at 0.")
        for field, value in (("t_max_start", self.t_max_start), ("t_max_end", self.t_max_end)):
            if value < self.t_min:
                raise ValueError(
                    f"{owner}: t_min {self.t_min} is above {field} {value}. Swap or widen them."
                )

    def t_max(self, progress: float) -> int:
        if self.shape == "jump":
            return self.t_max_start if progress <= self.share else self.t_max_end
        return int(
            annealed(self.t_max_start, self.t_max_end, min(progress / self.share, 1.0), self.shape)
        )

    def draw(
        self, count: int, progress: float, generator: torch.Generator, device: torch.device
    ) -> Tensor:
        """``count`` integer steps [count], both ends included."""
        high = self.t_max(progress) + 1
        return send(
            torch.randint(self.t_min, high, (count,), generator=generator, device=generator.device),
            device,
        )
