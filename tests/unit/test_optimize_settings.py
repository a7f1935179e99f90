"""What the loop does with its settings: backgrounds, and wrong values named before any work."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import pytest
import torch
from torch import Tensor

from distill3d.kernels.cameras.orbit import OrbitSampler
from distill3d.kernels.gaussians.cloud import Gaussians
from distill3d.kernels.gaussians.densify import Densify
from distill3d.kernels.init.ball import random_ball
from distill3d.kernels.losses.sds import SDS
from distill3d.kernels.priors.mixture import GaussianMixturePrior, Mixture
from distill3d.kernels.priors.prompts import view_prompts
from distill3d.kernels.rasterizers.rasterize import render
from distill3d.kernels.run.optimize import optimize
from distill3d.kernels.run.settings import OptimizeSettings

LOSS = SDS(guidance=1.0)


def ball_prior() -> GaussianMixturePrior:
    """Expects 16 x 16 pixels of grey, whatever the view."""
    grey = torch.full((1, 3, 16, 16), 0.5)
    return GaussianMixturePrior({"a ball": Mixture(grey, torch.ones(1, 1, 1, 1), torch.ones(1))})


def haze(count: int = 50) -> Gaussians:
    return random_ball(count, generator=torch.Generator().manual_seed(0))


def settings(**changes: Any) -> OptimizeSettings:
    return OptimizeSettings(**{"densify": None, "render_backend": "reference", **changes})


def run(
    cloud: Gaussians, steps: int, loss: Any = LOSS, prior: Any = None, **changes: Any
) -> Gaussians:
    prior = prior or ball_prior()
    return optimize(
        cloud,
        loss,
        prior,
        view_prompts(prior, "a ball"),
        OrbitSampler(),
        steps,
        settings(**changes),
    )


@pytest.mark.parametrize(
    ("kind", "trained", "low", "high", "gray"),
    [
        ("auto", None, 0.0, 1.0, False),
        ("auto", 0.4, 0.4, 0.4, True),
        ("auto", {"background": 0.5, "background_range": (0.25, 0.75)}, 0.25, 0.75, True),
        ("random", 0.4, 0.0, 1.0, False),
        ("random gray", None, 0.3, 0.7, True),
        ("random gray", {"background": 0.15, "background_range": (0.1, 0.2)}, 0.1, 0.2, True),
        ("gray", None, 0.5, 0.5, True),
        ("white", None, 1.0, 1.0, True),
        ("black", None, 0.0, 0.0, True),
    ],
)
def test_backgrounds_follow_the_setting_and_the_prior(kind, trained, low, high, gray, monkeypatch):
    colors: list[Tensor] = []
    monkeypatch.setattr(
        "distill3d.kernels.run.optimize.render",
        lambda *a, **k: colors.append(a[2]) or render(*a, **k),
    )
    prior = ball_prior()
    for name, value in (trained if isinstance(trained, dict) else {"background": trained}).items():
        setattr(prior, name, value)
    run(haze(4), 2, prior=prior, views=16, background=kind)
    seen = torch.cat(colors)
    assert seen.shape == (32, 3) and low - 1e-6 <= seen.min() and seen.max() <= high + 1e-6
    assert bool((seen == seen[:, :1]).all()) == gray
    if high > low:  # one draw per view, over the whole range
        assert len(seen[:, 0].unique()) == 32 and seen.max() - seen.min() > 0.7 * (high - low)


def test_a_prior_with_an_impossible_background_is_named():
    prior = ball_prior()
    prior.background = 128
    with pytest.raises(
        ValueError, match=r"'gaussian mixture' has background 128; expected greys within 0\.\.1"
    ):
        run(haze(), 1, prior=prior)


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"views": 0}, "views is 0; give a whole number of 1 or more"),
        ({"views": 1.5}, "views is 1.5"),
        ({"image_size": 24}, "image_size 24 does not fit prior"),
        ({"image_size": 0}, "image_size is 0"),
        (
            {"schedule_steps": 2},
            "schedule_steps is 2, but 0 steps are done and 3 more are asked for. Give 3 or more",
        ),
        ({"seed": -1}, "seed is -1"),
        ({"seed": 2**64}, "seed is 18446744073709551616; give a whole number within"),
        ({"background": "sky"}, "background is 'sky'; choose one of auto, random"),
        ({"max_gaussians": 49}, "max_gaussians is 49, but the cloud already holds 50"),
        ({"preview_every": -1}, "preview_every is -1"),
        ({"max_bad_steps": -1}, "max_bad_steps is -1"),
        ({"check_every": 0}, "check_every is 0"),
        ({"render_backend": "cuda"}, "backend 'cuda' is unknown"),
        ({"lr_means": -1.0}, "lr_means is -1.0; give a finite learning rate"),
        ({"lr_colors": float("nan")}, "lr_colors is nan"),
        ({"final_means": 0.0}, "final_means is 0.0"),
        ({"lambda_opacity": -0.1}, "lambda_opacity is -0.1"),
        ({"lambda_scale": float("inf")}, "lambda_scale is inf"),
        ({"bounds_radius": 0.0}, "bounds_radius is 0"),
        ({"densify": Densify(every=-1)}, "every is -1"),
    ],
    ids=lambda value: next(iter(value)) if isinstance(value, dict) else "",
)
def test_wrong_settings_are_named_before_any_work(changes, message):
    prior = ball_prior()
    with pytest.raises(ValueError) as caught:
        run(haze(), 3, prior=prior, **changes)
    assert message in str(caught.value) and prior.calls == 0


@pytest.mark.parametrize("steps", [0, -3, 2.0, True])
def test_steps_must_be_a_whole_number_above_zero(steps):
    with pytest.raises(ValueError, match=r"steps is .* 1 or more"):
        run(haze(), steps)


def test_wrong_inputs_are_named_before_any_work():
    cloud = haze()
    broken = replace(cloud, means=torch.full_like(cloud.means, float("nan")))
    with pytest.raises(ValueError, match=r"gaussians\.means holds 150 values that are NaN"):
        run(broken, 1)
    with pytest.raises(ValueError, match="guidance"):
        run(cloud, 1, loss=SDS(guidance=-1.0))
    prior = ball_prior()
    with pytest.raises(ValueError, match="elevation_min"):
        optimize(
            cloud,
            LOSS,
            prior,
            view_prompts(prior, "a ball"),
            OrbitSampler(elevation_min=80),
            1,
            settings(),
        )
    trained = run(cloud, 1)
    with pytest.raises(ValueError, match="it was edited after its training"):
        run(replace(haze(40), training=trained.training), 1)
    with pytest.raises(ValueError, match="expected a TrainingState"):
        run(replace(cloud, training={"step": 3}), 1)
    with pytest.raises(ValueError, match="5 steps are done and 2 more"):
        run(run(cloud, 5), 2, schedule_steps=6)
