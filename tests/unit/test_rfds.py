"""RFDS against the flow's own velocity and against SDS, and its reversal on a Gaussian."""

import pytest
import torch
from kit import around, seeded
from kit import normal64 as normal

from distill3d.kernels.losses.base import Views
from distill3d.kernels.losses.rfds import RFDS, rfds
from distill3d.kernels.losses.sds import SDS
from distill3d.kernels.priors.mixture import GaussianMixturePrior
from distill3d.kernels.priors.noise_schedule import NoiseSchedule

SHAPE = (1, 8, 8)
MEAN, VARIANCE = 2.0, 0.25


def flow_prior():
    texts = {"a": around(MEAN, VARIANCE, SHAPE), "": around(-1.0, 0.5, SHAPE)}
    return GaussianMixturePrior(texts, NoiseSchedule.flow(3.0), prediction="flow")


def gradient(loss, prior, latents, guided=True):
    """d loss / d latents, summed over the batch's two views."""
    leaf = latents.clone().requires_grad_()
    texts = prior.embed(["a"] * 2), prior.embed(["" if guided else "a"] * 2)
    value, _ = loss.start(prior, SHAPE, seeded())(leaf, Views(*texts, None, 0, 100), seeded(1))
    return 2 * torch.autograd.grad(value, leaf)[0]


def at(t, **settings):
    return {"t_min": t, "t_max_start": t, "t_max_end": t, "weighting": "one"} | settings


def test_the_direction_is_the_velocitys_error():
    schedule, t = NoiseSchedule.flow(3.0), torch.tensor([100, 500, 900])
    z0, noise, estimate = (normal(seed, 3, *SHAPE) for seed in (1, 2, 3))
    r = (schedule.sigma(t) / (schedule.alpha(t) + schedule.sigma(t))).double()
    x = (1 - r) * z0 + r * noise
    clean = (x - r * estimate) / (1 - r)
    velocity = estimate - clean
    expected = velocity - (noise - z0)
    torch.testing.assert_close(rfds(schedule, t, estimate, noise), expected, rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("t", [100, 500, 900])
def test_rfds_is_sds_under_another_weight(t):
    prior, latents = flow_prior(), normal(1, 2, *SHAPE)
    plain = gradient(RFDS(guidance=7.5, reverse=False, **at(t)), prior, latents)
    sds = gradient(SDS(guidance=7.5, **at(t)), prior, latents)
    factor = 1 + float(prior.schedule.ratio(torch.tensor([t])))
    torch.testing.assert_close(plain, factor * sds)


def test_reversed_noise_is_what_the_prior_sees():
    """On one Gaussian, unguided: the estimate at the noised render is known, twice over."""
    t = 400
    prior, latents = flow_prior(), normal(1, 2, *SHAPE)
    alpha, sigma = (
        float(f(torch.tensor([t]))) for f in (prior.schedule.alpha, prior.schedule.sigma)
    )

    def estimate(noise):
        spread = alpha**2 * VARIANCE + sigma**2
        return sigma * (alpha * latents + sigma * noise - alpha * MEAN) / spread

    plain = gradient(RFDS(guidance=1.0, reverse=False, **at(t)), prior, latents, guided=False)
    # plain = (1 + ratio) (estimate(noise) - noise), solved for the noise drawn
    spread = alpha**2 * VARIANCE + sigma**2
    wanted = plain / (1 + sigma / alpha)
    noise = (wanted - sigma * alpha * (latents - MEAN) / spread) / (sigma**2 / spread - 1)
    seen = estimate(noise)
    expected = (1 + sigma / alpha) * (estimate(seen) - seen)
    found = gradient(RFDS(guidance=1.0, **at(t)), prior, latents, guided=False)
    torch.testing.assert_close(found, expected, rtol=1e-3, atol=1e-4)


def test_the_reversal_quiets_the_gradient():
    """On one Gaussian the drawn noise counts by sigma^2 / (alpha^2 v + sigma^2) of what it did, and
    the mean gradient is that much smaller, too."""
    prior, latents = flow_prior(), torch.zeros(2, *SHAPE, dtype=torch.float64)
    schedule, t = prior.schedule, torch.tensor([60])
    alpha, sigma = float(schedule.alpha(t)), float(schedule.sigma(t))
    views = Views(prior.embed(["a"] * 2), prior.embed(["a"] * 2), None, 0, 100)
    found = {}
    for reverse in (False, True):
        run = RFDS(guidance=1.0, reverse=reverse, **at(int(t))).start(prior, SHAPE, seeded())
        draws, generator = [], seeded(5)
        for _ in range(20):
            leaf = latents.clone().requires_grad_()
            draws.append(torch.autograd.grad(run(leaf, views, generator)[0], leaf)[0])
        found[reverse] = torch.stack(draws)
    share = sigma**2 / (alpha**2 * VARIANCE + sigma**2)
    assert share < 0.6
    torch.testing.assert_close(found[True], share * found[False], rtol=1e-3, atol=1e-5)
    assert found[True].mean() < 0  # descent raises zero towards the text's 2


def test_the_reversal_asks_the_text_and_not_the_negative_one():
    prior, latents = flow_prior(), normal(1, 2, *SHAPE)
    both = [
        gradient(RFDS(guidance=1.0, **at(400)), prior, latents, guided=g) for g in (True, False)
    ]
    torch.testing.assert_close(*both)
