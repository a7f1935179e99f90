"""Rectified flow in the common form: its times as a schedule, its network's scores, and the losses
over flow time.
"""

import pytest
import torch
from kit import normal

from distill3d.kernels.losses.base import Views
from distill3d.kernels.losses.cds import CDS
from distill3d.kernels.losses.csd import CSD
from distill3d.kernels.losses.ism import ISM
from distill3d.kernels.losses.nfsd import NFSD
from distill3d.kernels.losses.rfds import RFDS
from distill3d.kernels.losses.sctd import SCTD
from distill3d.kernels.losses.sdi import SDI
from distill3d.kernels.losses.sds import SDS
from distill3d.kernels.losses.vdm import VDM
from distill3d.kernels.priors.mixture import GaussianMixturePrior, Mixture
from distill3d.kernels.priors.noise_schedule import NoiseSchedule, flow_input

STEPS = torch.arange(1000)
LOSSES = (SDS(), CDS(), VDM(), CSD(), NFSD(), ISM(), SDI(), SCTD(), RFDS())


def times(shift):
    even = (STEPS.double() + 1) / 1000
    return shift * even / (1 + (shift - 1) * even)


def prior(prediction, shift=3.0):
    """Two texts of two Gaussians each, in float32, over a flow's times."""
    texts = {text: Mixture(normal(seed, 2, 3, 4, 4), 0.2 + normal(seed + 9, 2, 1, 1, 1).abs(), torch.tensor([1.0, 2]))
             for seed, text in enumerate(("a", ""))}  # fmt: skip
    return GaussianMixturePrior(texts, NoiseSchedule.flow(shift), prediction=prediction)


@pytest.mark.parametrize("shift", [1.0, 3.0, 3.158])
def test_a_flows_times_come_back_from_the_schedule(shift):
    schedule = NoiseSchedule.flow(shift)
    alpha, sigma = schedule.alpha(STEPS), schedule.sigma(STEPS)
    clean, noise = normal(1, 1000, 1, 2, 2), normal(2, 1000, 1, 2, 2)
    z, r = flow_input(alpha * clean + sigma * noise, alpha, sigma)
    expected = times(shift).float()
    torch.testing.assert_close(r.flatten()[:-5], expected[:-5], rtol=1e-5, atol=1e-6)
    # where a flow has no clean latent left, the schedule keeps a little
    assert r.flatten()[-1] > 0.998
    r = expected[:-5, None, None, None]
    torch.testing.assert_close(z[:-5], (1 - r) * clean[:-5] + r * noise[:-5], rtol=1e-5, atol=1e-5)


def test_shift_moves_every_step_towards_the_noise_and_leaves_the_ends():
    plain, shifted = (NoiseSchedule.flow(shift).ratio(STEPS).flatten() for shift in (1.0, 3.0))
    # r / (1 - r) is what shift scales
    torch.testing.assert_close(shifted[:-5], 3 * plain[:-5], rtol=1e-4, atol=1e-6)
    assert torch.all(torch.diff(shifted) >= 0) and torch.isfinite(shifted).all()


@pytest.mark.parametrize("prediction", ["v_prediction", "flow", "edm"])
@pytest.mark.parametrize("shift", [1.0, 3.0])
def test_scores_are_the_same_through_every_form_of_network(prediction, shift):
    reference, other = prior("epsilon", shift), prior(prediction, shift)
    t = torch.tensor([20, 100, 300, 500, 700, 900, 980])
    z_t, text = normal(3, len(t), 3, 4, 4).double(), reference.embed(["a"] * len(t))
    (expected,), (found,) = reference.predict(z_t, t, [text]), other.predict(z_t, t, [text])
    torch.testing.assert_close(found, expected, rtol=1e-5, atol=1e-5)


def test_the_score_over_flow_time_is_the_mixtures_own():
    """-sigma grad log p of the flow's own latent (1 - r) z0 + r eps, by autograd, in float64."""
    flow, t = prior("flow"), torch.tensor([50, 400, 900])
    r = times(3.0)[t][:, None, None, None]
    x = normal(4, 3, 3, 4, 4).double().requires_grad_()
    weights = flow.embed(["a"]).embeddings[0, 0].double()
    means, variances = flow.means.double(), flow.variances.double()
    spread = (1 - r[:, None]) ** 2 * variances + r[:, None] ** 2
    offset = x[:, None] - (1 - r[:, None]) * means
    log_p = torch.logsumexp(
        weights.log() - 0.5 * (offset**2 / spread + spread.log()).flatten(2).sum(2), 1
    )
    (score,) = torch.autograd.grad(log_p.sum(), x)
    alpha, sigma = flow.schedule.alpha(t), flow.schedule.sigma(t)
    z_t = (x.detach() * (alpha + sigma)).float()
    (noise,) = flow.predict(z_t, t, [flow.embed(["a"] * 3)])
    torch.testing.assert_close(noise, (-r * score).float(), rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize("loss", LOSSES, ids=lambda loss: loss.name)
def test_every_loss_has_the_same_gradient_over_flow_time_whatever_the_network_puts_out(loss):
    gradients = []
    for prediction in ("epsilon", "flow"):
        model = prior(prediction)
        latents = normal(5, 2, 3, 4, 4).requires_grad_()
        views = Views(model.embed(["a"] * 2), model.embed([""] * 2), None, 3, 10)
        generator = torch.Generator().manual_seed(6)
        value, _ = loss.start(model, (3, 4, 4), generator)(latents, views, generator)
        gradients.append(torch.autograd.grad(value, latents)[0])
    assert gradients[0].abs().sum() > 0
    torch.testing.assert_close(
        gradients[1], gradients[0], rtol=1e-3, atol=1e-4 * float(gradients[0].abs().max())
    )
