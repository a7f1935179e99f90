"""VDM and Picture Loss after it, under the names of the settings that committed rows were measured
with.

They were one loss then, and rows are known by its text. What runs is `Scheduled`, whose results and
training states were compared with those of the one loss on the CPU and are the same bit for bit.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field, fields
from typing import ClassVar

import torch
from torch import Tensor

from distill3d.kernels.losses import vdm
from distill3d.kernels.losses.base import Loss, LossRun
from distill3d.kernels.losses.combine import Scheduled
from distill3d.kernels.losses.degradation import Degradation
from distill3d.kernels.losses.picture import Picture
from distill3d.kernels.priors.base import Prior


@dataclass(frozen=True)
class VDM:
    """`vdm.VDM` over the whole run's schedule, and from the share ``refine_from`` on `Picture` in
    its place; 1: never.
    """

    guidance: float = 7.5
    dca: str = "linear"
    eta_clean: float = 1.0
    eta_noisy: float = 0.5
    t_min: int = 300
    t_max_start: int = 980
    t_max_end: int = 600
    t_anneal: str = "linear"
    t_anneal_share: float = 1.0
    shared_t: bool = True
    weighting: str = "sigma/alpha"
    degradation: Degradation = field(default_factory=Degradation)
    psi_lr: float = 3e-3
    psi_lr_end: float = 1e-4
    psi_updates: int = 2
    x0_clip: float = 0.0
    x0_rescale: float = 0.0
    refine_from: float = 0.4
    refine_steps: int = 3
    refine_guidance: float = 4.0
    refine_t_min: int = 300
    refine_t_max: int = 800
    clip: float = 0.0
    weight: float = 1.0

    name: ClassVar[str] = "VDM"

    @property
    def loss(self) -> Loss:
        """What runs."""
        known = {part.name for part in fields(self)}
        own = {
            part.name: getattr(self, part.name) for part in fields(vdm.VDM) if part.name in known
        }
        # the clip came after the weight then
        own["clip"] = self.clip / self.weight if self.weight else 0.0
        first = vdm.VDM(**own)
        if self.refine_from >= 1:
            return first
        shared = {name: own[name] for name in ("shared_t", "clip", "weight")}
        refine = {
            name: getattr(self, f"refine_{name}")
            for name in ("steps", "guidance", "t_min", "t_max")
        }
        losses = (first, Picture(**shared, **refine))
        return Scheduled(losses, (0.0, self.refine_from), ("whole run", "own share"))

    def check(self) -> None:
        self.loss.check()

    def start(
        self,
        prior: Prior,
        latent_shape: tuple[int, int, int],
        generator: torch.Generator,
        state: Mapping[str, Tensor] | None = None,
    ) -> LossRun:
        return self.loss.start(prior, latent_shape, generator, state)

    def below(self, top: int) -> Loss:
        return self.loss.below(top)

    def near(self, t: int) -> Loss:
        return self.loss.near(t)

    def guidance_at(self, progress: float) -> float:
        return self.loss.guidance_at(progress)
