"""VDM and DCA against the identities of their derivation; the degradation network and its
optimizer.
"""

from math import cos, pi

import pytest
import torch
from kit import around, seeded
from kit import normal64 as normal

from distill3d.kernels.losses.base import Views, guided
from distill3d.kernels.losses.degradation import Degradation
from distill3d.kernels.losses.vdm import VDM, dca, vdm
from distill3d.kernels.priors.mixture import GaussianMixturePrior
from distill3d.kernels.priors.noise_schedule import NoiseSchedule, clean_from_noise

SCHEDULE = NoiseSchedule(NoiseSchedule.scaled_linear().alphas_cumprod.double())
SHAPE = (1, 16, 16)
CPU = torch.device("cpu")


def gaussian_prior(variance=0.25, mean=2.0, other=2.0):
    return GaussianMixturePrior(
        {"a": around(mean, variance, SHAPE), "": around(other, variance, SHAPE)}, SCHEDULE
    )


def views(prior, count=1, step=0, steps=100):
    return Views(prior.embed(["a"] * count), prior.embed([""] * count), None, step, steps)


class Estimates:
    """One noised batch, with the network's estimates in both forms."""

    def __init__(self, t=400):
        prior = gaussian_prior(other=-1.0)
        self.z0, self.noise, self.t = (
            normal(1, 2, *SHAPE),
            normal(2, 2, *SHAPE),
            torch.full((2,), t),
        )
        self.alpha, self.sigma = SCHEDULE.alpha(self.t), SCHEDULE.sigma(self.t)
        self.z_t = self.alpha * self.z0 + self.sigma * self.noise
        rows = views(prior, 2)
        self.e_c, self.e_u = prior.predict(self.z_t, self.t, [rows.text, rows.negative])
        self.x0_c, self.x0_u = (
            clean_from_noise(self.z_t, e, self.alpha, self.sigma) for e in (self.e_c, self.e_u)
        )
        self.ratio = self.sigma / self.alpha


def test_an_identity_map_leaves_the_classifier_direction_whatever_eta():
    n = Estimates()
    csd = n.ratio * 6.5 * (n.e_c - n.e_u)
    for eta in (0.0, 0.3, 1.0):
        torch.testing.assert_close(vdm(n.x0_c, n.x0_u, n.x0_c, eta, 7.5), csd)
    torch.testing.assert_close(vdm(n.x0_c, n.x0_u, normal(3, 2, *SHAPE), 0.0, 7.5), csd)


def test_a_perfect_map_turns_vdm_into_sds():
    n = Estimates()
    sds = n.ratio * (guided(n.e_c, n.e_u, 7.5) - n.noise)
    torch.testing.assert_close(vdm(n.x0_c, n.x0_u, n.z0, 1.0, 7.5), sds)


def test_direction_is_linear_in_eta():
    n, degraded = Estimates(), normal(3, 2, *SHAPE)
    none, some, full = (vdm(n.x0_c, n.x0_u, degraded, eta, 7.5) for eta in (0.0, 0.3, 1.0))
    torch.testing.assert_close(some - none, 0.3 * (full - none))


def test_the_best_affine_map_of_gaussian_renders_gives_their_true_score():
    v, mu, v_q, m_q = 0.25, 2.0, 0.6, -0.5  # data and renders
    prior, t = gaussian_prior(v, mu), torch.tensor([300, 700])
    a, s = SCHEDULE.alpha(t), SCHEDULE.sigma(t)
    z_t = normal(4, 2, *SHAPE)
    (e_c,) = prior.predict(z_t, t, [prior.embed(["a", "a"])])
    x0 = clean_from_noise(z_t, e_c, a, s)
    slope = v_q * (a**2 * v + s**2) / (v * (a**2 * v_q + s**2))
    # a least-squares line passes through the means: x0's, at the renders' mean noised, and the
    # renders' own
    x0_mean = mu + a**2 * v / (a**2 * v + s**2) * (m_q - mu)
    e_psi = (z_t - a * (m_q + slope * (x0 - x0_mean))) / s
    torch.testing.assert_close(e_psi, s * (z_t - a * m_q) / (a**2 * v_q + s**2))


def test_the_linear_design_learns_that_map():
    prior, m_q, v_q, t = gaussian_prior(1.0, 0.0, 0.0), -0.5, 0.6, 500
    settings = VDM(
        t_min=t,
        t_max_start=t,
        t_max_end=t,
        degradation=Degradation("linear"),
        psi_lr=5e-2,
        psi_lr_end=1e-3,
        guidance=1,
    )
    generator = seeded()
    run = settings.start(prior, SHAPE, generator)
    for step in range(500):
        renders = m_q + v_q**0.5 * torch.randn(8, *SHAPE, generator=generator)
        run(renders, views(prior, 8, step, 500), generator)
    a, s = SCHEDULE.alpha(torch.tensor([t])), SCHEDULE.sigma(torch.tensor([t]))
    slope = (v_q * (a**2 + s**2) / (a**2 * v_q + s**2)).item()
    learned = run.state()["psi.matrix"][10, 0, 0].item()  # bin 10 of 20 holds step 500
    assert 1 + learned == pytest.approx(slope, rel=0.05)


def descend(settings, steps=500, lr=0.02):
    prior, generator = gaussian_prior(), seeded()
    run = settings.start(prior, SHAPE, generator)
    latents = 2 + 0.5 * normal(5, 1, *SHAPE).float()
    for step in range(steps):
        latents = latents.detach().requires_grad_()
        value, _ = run(latents, views(prior, 1, step, steps), generator)
        latents = latents - lr * torch.autograd.grad(value, latents)[0]
    return latents.detach()


def test_vdm_without_guidance_keeps_the_spread_that_sds_collapses():
    linear = Degradation("linear")
    kept = descend(
        VDM(
            guidance=1,
            dca="constant",
            degradation=linear,
            psi_lr=2e-2,
            psi_lr_end=2e-2,
        )
    )
    assert abs(kept.mean() - 2) < 0.2
    assert 0.3 < kept.std() < 0.8  # the data's is 0.5; SDS ends below 0.25 (test_sds)


def test_dca_runs_between_its_ends_in_every_shape():
    t = torch.tensor([0, 250, 500, 1000])
    shapes = {
        "constant": [1, 1, 1, 1],
        "linear": [1, 0.75, 0.5, 0],
        "sqrt": [1, 0.5, 1 - 0.5**0.5, 0],
    }
    shapes["cosine"] = [1, 0.5 + 0.5**1.5, 0.5, 0]
    for shape, values in shapes.items():
        expected = torch.tensor(values).float()
        torch.testing.assert_close(dca(t, 1000, 1.0, 0.0, shape).flatten(), expected)
        increasing = dca(t, 1000, 0.2, 0.8, shape).flatten()
        torch.testing.assert_close(increasing, 0.2 + 0.6 * (1 - expected))


def test_the_loss_applies_eta_guidance_weight_and_weighting_to_the_direction():
    fixed = {"t_min": 400, "t_max_start": 400, "t_max_end": 400, "psi_lr": 0.0, "eta_noisy": 0.0}
    prior = gaussian_prior(other=-1.0)

    def gradient(**changes):
        latents = normal(6, 2, *SHAPE).float().requires_grad_()
        run = VDM(**fixed, **changes).start(prior, SHAPE, seeded())
        value, logs = run(latents, views(prior, 2), seeded(1))
        assert changes.get("dca") or logs["eta"].item() == pytest.approx(0.6)
        return torch.autograd.grad(value, latents)[0]

    ratio, sigma = (
        SCHEDULE.ratio(torch.tensor([400])).float(),
        SCHEDULE.sigma(torch.tensor([400])).float(),
    )
    plain = gradient()
    # M is the identity, so only the classifier part is there, and between equal Gaussians it is the
    # same everywhere
    alpha = SCHEDULE.alpha(torch.tensor([400])).float()
    part = ratio * 6.5 * sigma * alpha * (-1.0 - 2.0) / (alpha**2 * 0.25 + sigma**2)
    torch.testing.assert_close(2 * plain, part.expand_as(plain), rtol=1e-4, atol=1e-4)
    torch.testing.assert_close(gradient(guidance=14.0), 2 * plain)
    torch.testing.assert_close(gradient(weighting="one", weight=3.0), 3 * plain / ratio)
    torch.testing.assert_close(gradient(weighting="1-abar"), sigma**2 * plain / ratio)
    assert (2 * gradient(clip=0.01)).abs().max() <= 0.01 + 1e-6


@pytest.mark.parametrize(
    ("shape", "eta"),
    [
        ("constant", 0.9),
        ("linear", 0.62),
        ("sqrt", 0.9 - 0.7 * 0.4**0.5),
        ("cosine", 0.9 - 0.35 * (1 - cos(0.4 * pi))),
    ],
)
def test_the_loss_weighs_by_eta_of_the_chosen_shape(shape, eta):
    fixed = {"t_min": 400, "t_max_start": 400, "t_max_end": 400, "guidance": 1.0, "psi_lr": 0.0}
    prior = gaussian_prior()
    run = VDM(dca=shape, eta_clean=0.9, eta_noisy=0.2, **fixed).start(prior, SHAPE, seeded())
    # M_psi off the identity by 2, so that with a guidance of 1 the direction is twice eta
    run._degrade = lambda x0, *_: (x0 + 2, torch.zeros(()))
    latents = normal(6, 2, *SHAPE).float().requires_grad_()
    value, logs = run(latents, views(prior, 2), seeded(1))
    direction = 2 * torch.autograd.grad(value, latents)[0]
    assert logs["eta"].item() == pytest.approx(eta, abs=1e-5)
    torch.testing.assert_close(direction, torch.full_like(direction, 2 * eta), rtol=1e-4, atol=1e-4)
