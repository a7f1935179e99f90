"""No loss, and no prior below it, asks the device for a value during a step: every such question
waits for all that was asked of it before.
"""

from __future__ import annotations

from collections import Counter
from dataclasses import dataclass
from typing import Any

import pytest
import torch
from test_text_cache import LOSSES
from torch.utils._python_dispatch import TorchDispatchMode

from distill3d.kernels.cameras.orbit import OrbitSampler
from distill3d.kernels.cameras.pinhole import orbit
from distill3d.kernels.init.ball import random_ball
from distill3d.kernels.losses.combine import Combined, Scheduled
from distill3d.kernels.losses.sds import SDS
from distill3d.kernels.priors.control import ControlledPrior, ControlSettings
from distill3d.kernels.priors.diffusers.loading import load_diffusers
from distill3d.kernels.priors.prompts import view_prompts
from distill3d.kernels.run.aligned import Bounds
from distill3d.kernels.run.optimize import optimize
from distill3d.kernels.run.references import References
from distill3d.kernels.run.settings import OptimizeSettings

# what gives Python a value of a tensor: item, bool and float; torch.equal; an index of unknown size
ASKING = ("aten::_local_scalar_dense", "aten::equal", "aten::nonzero", "aten::masked_select")


class Waits(TorchDispatchMode):
    """Counts questions inside."""

    def __init__(self) -> None:
        super().__init__()
        self.seen: Counter[str] = Counter()

    def __torch_dispatch__(self, func, types, args=(), kwargs=None):
        name = func._schema.name
        if name in ASKING:
            self.seen[name] += 1
        return func(*args, **(kwargs or {}))


@dataclass(frozen=True)
class Counted:
    """A loss whose steps are watched, each from the second one on."""

    loss: Any
    waits: Waits

    def __getattr__(self, name: str) -> Any:
        return getattr(self.loss, name)

    def start(self, *given: Any) -> Any:
        run, waits, steps = self.loss.start(*given), self.waits, []

        class Run:
            state = run.state

            def __call__(self, *arguments: Any) -> Any:
                steps.append(1)
                if len(steps) == 1:  # what is prepared once may wait
                    return run(*arguments)
                with waits:
                    return run(*arguments)

        return Run()


def waits_of(loss, prior, **prompting):
    counted = Counted(loss, Waits())
    optimize(
        random_ball(60, scale=0.08, opacity_logit=2.0),
        counted, prior, view_prompts(prior, "a mug", "ugly", **prompting), OrbitSampler(), 3,
        OptimizeSettings(views=2),
    )  # fmt: skip
    return counted.waits.seen


@pytest.fixture(scope="module")
def prior(pipeline_folder):
    return load_diffusers(pipeline_folder)


MIXED = [
    Combined((SDS(), LOSSES[4]), (1.0, 0.5)),
    Scheduled((LOSSES[0], LOSSES[5]), (0.0, 0.4), ("whole run", "whole run")),
]


@pytest.mark.parametrize("loss", [*LOSSES, *MIXED], ids=lambda loss: loss.name)
@pytest.mark.parametrize("way", [{}, {"interpolate": True, "perp_neg": 1.0}], ids=["plain", "bent"])
def test_no_step_of_any_loss_waits_for_the_device(prior, loss, way):
    if loss.name == "VSD":
        pytest.importorskip("peft")
    assert not waits_of(loss, prior, **way)


def test_a_prior_that_is_shown_the_shape_does_not_wait_either(prior):
    from diffusers import ControlNetModel

    with torch.random.fork_rng():
        torch.manual_seed(3)
        net = ControlNetModel.from_unet(prior.unet, conditioning_embedding_out_channels=(8, 16))
    assert not waits_of(SDS(), ControlledPrior(prior, net, ControlSettings()))


def test_no_step_with_pictures_waits_either(prior):
    """Nor does what a step holds beside the loss: pictures, their palette, cameras that move."""
    ball = random_ball(60, scale=0.08, opacity_logit=2.0)
    pictures = References(
        torch.rand(2, 16, 16, 3), orbit(torch.tensor([0.0, 90.0]), 0.0, 2.0, 40.0, 16),
        torch.eye(16)[..., None].repeat(2, 1, 1, 1), bounds=Bounds(10.0, 0.1, 0.1),
    )  # fmt: skip
    told = []
    with Waits() as waits:
        optimize(
            ball, SDS(), prior, view_prompts(prior, "a mug"), OrbitSampler(), 4,
            OptimizeSettings(views=2, preview_every=0),
            on_step=lambda _: told.append(sum(waits.seen.values())), references=pictures,
        )  # fmt: skip
    assert told[1] == told[2]  # the last one reads the count of bad steps


def test_a_question_would_be_counted(prior):
    @dataclass(frozen=True)
    class Asking(SDS):
        def direction(self, prior, latents, t, *rest):
            assert bool((t > 0).all()) and float(latents.mean()) == float(latents.mean())
            return super().direction(prior, latents, t, *rest)

    assert waits_of(Asking(), prior)["aten::_local_scalar_dense"] == 2 * 3
