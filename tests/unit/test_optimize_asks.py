"""What a step asks of the device, the prior and the loss, and what these are told."""

from __future__ import annotations

import itertools
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import pytest
import torch
from optimize_runs import (
    LEARNING,
    LOSS,
    ORBIT,
    SIZE,
    Interrupt,
    Spoiled,
    ball_prior,
    haze,
    run,
    settings,
)
from torch import Tensor
from torch.utils._python_dispatch import TorchDispatchMode

from distill3d.kernels.gaussians.densify import Densify
from distill3d.kernels.losses.cds import CDS
from distill3d.kernels.losses.sds import SDS
from distill3d.kernels.priors.mixture import GaussianMixturePrior
from distill3d.kernels.priors.prompts import view_prompts
from distill3d.kernels.rasterizers.rasterize import render
from distill3d.kernels.run.optimize import optimize
from distill3d.kernels.run.step import Progress


class Watch(TorchDispatchMode):
    """Counts operations whose result the host has to wait for: values read, shapes that depend on
    values.
    """

    def __init__(self) -> None:
        super().__init__()
        self.syncs: list[str] = []

    def __torch_dispatch__(self, func, types, args=(), kwargs=None):
        name = func.overloadpacket.__name__
        masks = name in ("index", "index_put", "index_put_") and any(
            isinstance(i, Tensor) and i.dtype == torch.bool for i in args[1]
        )
        if masks or name in (
            "_local_scalar_dense",
            "nonzero",
            "masked_select",
            "equal",
            "is_nonzero",
            "_unique2",
        ):
            self.syncs.append(name)
        return func(*args, **(kwargs or {}))


@pytest.mark.parametrize("loss", [LOSS, CDS(), LEARNING], ids=lambda loss: loss.name)
def test_a_step_never_waits_for_the_device_but_where_bad_steps_are_counted(loss):
    seen: list[int] = []
    with Watch() as watch:
        penalties = {
            f"lambda_{name}": 0.1
            for name in ("opacity", "scale", "binary_alpha", "tv_color", "bounds")
        }
        run(
            haze(),
            9,
            loss=loss,
            check_every=4,
            background="random",
            densify=Densify(every=100),
            **penalties,
            on_step=lambda _: seen.append(len(watch.syncs)),
        )
    reads = [b - a for a, b in itertools.pairwise(seen)]
    assert reads == [0, 0, 1, 0, 0, 0, 1, 1], watch.syncs  # after steps 4, 8 and the last


def test_losses_are_told_what_perp_neg_and_guidance_by_view_ask_for():
    prior, seen = ball_prior(), []
    prompts = view_prompts(prior, "a ball", perp_neg=1.0, back_guidance=0.5)

    @dataclass(frozen=True)
    class Listening(SDS):
        def start(self, *args):
            inner = super().start(*args)

            class Run:
                def __call__(_, latents, views, generator):
                    seen.append(views)
                    return inner(latents, views, generator)

                state = inner.state

            return Run()

    optimize(haze(), Listening(), prior, prompts, ORBIT, 2, settings(views=3))
    for views in seen:
        angles = views.cameras.azimuths, views.cameras.elevations
        assert torch.equal(views.guidance_factor, prompts.guidance_factor(*angles))
        expected = prompts.at(*angles).against.branches
        assert [weights for _, weights in views.text.against.branches] == [
            weights for _, weights in expected
        ]
    assert len(seen) == 2 and prior.calls == 2


def test_one_render_one_encode_and_one_network_call_per_step(monkeypatch):
    calls: list[int] = []
    monkeypatch.setattr(
        "distill3d.kernels.run.optimize.render",
        lambda *a, **k: calls.append(len(a[1])) or render(*a, **k),
    )
    prior = ball_prior()
    encode, sizes = prior.encode, []
    monkeypatch.setattr(
        prior,
        "encode",
        lambda images, g=None: sizes.append(tuple(images.shape)) or encode(images, g),
    )
    run(haze(), 3, prior=prior, views=4)
    assert calls == [4] * 3 and sizes == [(4, 3, SIZE, SIZE)] * 3 and prior.calls == 3


def test_the_loss_is_told_the_step_over_all_calls_and_the_schedules_length():
    seen: list[tuple[int, int]] = []

    class Spy(Spoiled):
        def start(self, *arguments):
            inner = super().start(*arguments)

            class Run:
                def __call__(_, latents, views, generator):
                    seen.append((views.step, views.steps))
                    return inner(latents, views, generator)

                state = inner.state

            return Run()

    run(run(haze(), 2, loss=Spy(frozenset())), 2, loss=Spy(frozenset()))
    assert seen == [(0, 2), (1, 2), (2, 4), (3, 4)]


class Tunable(GaussianMixturePrior):
    """Notes how it is told to run, and for how long."""

    def __init__(self, like: GaussianMixturePrior) -> None:
        self.__dict__.update(like.__dict__)
        self.told: list[Any] = []

    @contextmanager
    def running(self, accelerate: bool, micro_batch: int) -> Iterator[None]:
        self.told.append((accelerate, micro_batch))
        try:
            yield
        finally:
            self.told.append("over")


def test_a_prior_is_told_how_to_run_until_the_run_ends_even_in_an_error():
    prior = Tunable(ball_prior())
    during = []
    run(
        haze(),
        1,
        prior=prior,
        micro_batch=1,
        on_step=lambda progress: during.append(list(prior.told)) or None,
    )
    assert during == [[(False, 1)]] and prior.told == [(False, 1), "over"]

    def fail(progress: Progress) -> None:
        raise Interrupt

    with pytest.raises(Interrupt):
        run(haze(), 1, prior=prior, accelerate=True, on_step=fail)
    assert prior.told[2:] == [(True, 0), "over"]


def test_long_runs_prepare_fast_networks_unless_told_not_to():
    prior = Tunable(ball_prior())
    for accelerate, steps in [(None, 39), (None, 40), (False, 40)]:
        run(haze(), steps, prior=prior, accelerate=accelerate, on_step=lambda _: True)
    assert prior.told[::2] == [(False, 0), (True, 0), (False, 0)]


def test_a_prior_that_takes_all_pictures_at_once_says_so_when_asked_for_fewer():
    with pytest.raises(
        ValueError, match=r"micro_batch is 2, but prior .* takes all pictures .* Set it to 0"
    ):
        run(haze(), 1, micro_batch=2)
    with pytest.raises(ValueError, match="micro_batch is -1; give a whole number of 0 or more"):
        settings(micro_batch=-1).check()
