"""Small runs of `optimize` towards a ball, and what spoils them."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, ClassVar

import torch
from torch import Tensor

from distill3d.kernels.cameras.orbit import OrbitSampler
from distill3d.kernels.gaussians.cloud import Gaussians
from distill3d.kernels.losses.degradation import Degradation
from distill3d.kernels.losses.sds import SDS
from distill3d.kernels.losses.vdm import VDM
from distill3d.kernels.priors.mixture import GaussianMixturePrior, Mixture
from distill3d.kernels.priors.prompts import view_prompts
from distill3d.kernels.run.optimize import optimize
from distill3d.kernels.run.settings import OptimizeSettings

SIZE = 16

LOSS = SDS(guidance=1.0)

# trains a small network beside the cloud
LEARNING = VDM(guidance=1.0, degradation=Degradation(widths=(8, 16)))

ORBIT = OrbitSampler()


def ball_image() -> Tensor:
    """A red disc on grey, [3,H,W]: what a ball looks like from everywhere."""
    y, x = torch.meshgrid(torch.arange(SIZE) + 0.5, torch.arange(SIZE) + 0.5, indexing="ij")
    disc = ((x - SIZE / 2) ** 2 + (y - SIZE / 2) ** 2 < 25).float()
    return 0.5 + disc * (torch.tensor([0.9, 0.2, 0.1]).view(3, 1, 1) - 0.5)


def ball_prior() -> GaussianMixturePrior:
    image = ball_image()[None]
    prior = GaussianMixturePrior(
        {"a ball": Mixture(image, torch.full((1, 1, 1, 1), 0.01), torch.ones(1))}
    )
    prior.background = 0.5
    return prior


def haze(count: int = 50, seed: int = 1) -> Gaussians:
    """A faint grey cloud around the origin."""
    draw = torch.Generator().manual_seed(seed)
    return Gaussians(
        means=0.2 * torch.randn(count, 3, generator=draw),
        log_scales=torch.full((count, 3), -2.5),
        quats=torch.randn(count, 4, generator=draw),
        opacity_logits=torch.full((count,), -2.0),
        sh=torch.zeros(count, 1, 3),
    )


def settings(**changes: Any) -> OptimizeSettings:
    return OptimizeSettings(
        **{"views": 2, "densify": None, "check_every": 1, "render_backend": "reference", **changes}
    )


def run(
    cloud: Gaussians,
    steps: int,
    loss: Any = LOSS,
    prior: Any = None,
    on_step=None,
    on_partial=None,
    **changes: Any,
):
    prior = prior or ball_prior()
    prompts = view_prompts(prior, "a ball")
    return optimize(
        cloud, loss, prior, prompts, ORBIT, steps, settings(**changes), on_step, on_partial
    )


def assert_same(a: Gaussians, b: Gaussians) -> None:
    """Bit for bit, the training state included."""
    for name, value in a.tensors().items():
        assert torch.equal(value, getattr(b, name)), name
    left, right = a.training, b.training
    for group in ("first", "second", "generators", "loss", "statistics"):
        one, other = getattr(left, group), getattr(right, group)
        assert one.keys() == other.keys(), group
        for key, value in one.items():
            assert torch.equal(value, other[key]), f"{group} {key}"
    for name in ("step", "seed", "updates", "bad_steps", "bad_run", "loss_name", "latent_shape"):
        assert getattr(left, name) == getattr(right, name), name


@dataclass(frozen=True)
class Spoiled:
    """SDS whose value is multiplied by ``factor``, then raised by ``offset``, in the given
    steps.
    """

    steps: frozenset[int]
    factor: float = float("nan")
    offset: float = 0.0
    name: ClassVar[str] = "Spoiled"

    def check(self) -> None: ...

    def start(self, prior, latent_shape, generator, state=None):
        inner = LOSS.start(prior, latent_shape, generator, state)

        class Run:
            def __call__(_, latents, views, generator):
                value, logs = inner(latents, views, generator)
                return (
                    value * self.factor + self.offset if views.step in self.steps else value
                ), logs

            def state(_):
                return {}

        return Run()


class Interrupt(BaseException):
    """As ComfyUI's: not an Exception."""
