"""The embedded prior as a flow, as a flow backwards and with a VAE of four channels: the same
scores, the same latents."""

import importlib
import sys
from pathlib import Path

import pytest
import torch
from kit import normal

from distill3d.kernels.losses.sds import SDS, sds
from distill3d.kernels.priors.diffusers.loading import load_diffusers
from distill3d.kernels.priors.mixture import GaussianMixturePrior, Mixture
from distill3d.kernels.priors.noise_schedule import NoiseSchedule, flow_input, noise_from_output

ROOT = Path(__file__).resolve().parents[2]
STEPS = torch.tensor([60, 350, 700])
TEXTS = ["a red mug, side view", "a blue chair", ""]


@pytest.fixture(scope="module")
def forms():
    sys.path.insert(0, str(ROOT / "tests" / "benchmarks"))
    yield importlib.import_module("prior_forms")
    sys.path.remove(str(ROOT / "tests" / "benchmarks"))


@pytest.fixture(scope="module")
def toybox():
    return load_diffusers(ROOT / "models" / "toybox")


def noised(schedule, t, clean, noise):
    return schedule.alpha(t) * clean + schedule.sigma(t) * noise


@pytest.mark.parametrize("form", ["flow", "reversed flow"])
def test_a_flow_of_the_embedded_prior_sees_the_same_noise_at_the_same_level(forms, toybox, form):
    flow = forms.formed(form, toybox)
    clean, noise = normal(1, 3, 4, 32, 32), normal(2, 3, 4, 32, 32)
    text = toybox.embed(TEXTS)
    # the network's own timesteps, as times of the flow
    flow.schedule = NoiseSchedule.from_ratios(toybox.schedule.ratio(torch.arange(1000)).flatten())
    (own,) = toybox.predict(noised(toybox.schedule, STEPS, clean, noise), STEPS, [text])
    (found,) = flow.predict(noised(flow.schedule, STEPS, clean, noise), STEPS, [text])
    assert float(own.std()) > 0.1
    torch.testing.assert_close(found, own, rtol=1e-3, atol=2e-4)


def test_a_flows_velocity_is_noise_less_clean_latent_and_backwards_the_reverse(forms, toybox):
    flow, back = (forms.formed(form, toybox) for form in ("flow", "reversed flow"))
    x, text = normal(3, 1, 4, 32, 32), toybox.embed(TEXTS[:1])
    for time in (0.1, 0.6, 0.9):
        u = flow.velocity(x, torch.tensor([time]), text)
        torch.testing.assert_close(
            back.velocity(x, torch.tensor([1 - time]), text), -u, atol=1e-3, rtol=1e-3
        )


def test_times_between_two_timesteps_are_asked_between_them(forms, toybox):
    flow = forms.formed("flow", toybox)
    ratio = toybox.schedule.ratio(torch.arange(1000)).flatten()
    torch.testing.assert_close(flow.home_time(ratio), torch.arange(1000.0), atol=0.02, rtol=1e-5)
    between = (ratio[300] * ratio[301]).sqrt()[None]
    assert float(flow.home_time(between)) == pytest.approx(300.5, abs=0.02)
    assert float(flow.home_time(torch.tensor([1e4]))) == 999


@pytest.mark.parametrize("backwards", [False, True])
def test_a_closed_form_flow_in_either_direction_of_time_gives_the_score_itself(backwards):
    schedule, t = NoiseSchedule.flow(3.0), torch.tensor([50, 400, 900])
    texts = {
        text: Mixture(normal(seed, 2, 3, 4, 4), 0.2 + normal(seed + 9, 2, 1, 1, 1).abs(),
        torch.tensor([1.0, 2]))
        for seed, text in enumerate(("a", ""))
    }  # fmt: skip
    prior = GaussianMixturePrior(texts, schedule)
    alpha, sigma = schedule.alpha(t), schedule.sigma(t)
    z_t = normal(5, 3, 3, 4, 4)

    def network(x, time):
        """A flow's: told 1 - r it answers z0 - eps."""
        r = (1 - time if backwards else time)[:, None, None, None]
        a, s = (1 - r) / (r**2 + (1 - r) ** 2).sqrt(), r / (r**2 + (1 - r) ** 2).sqrt()
        eps = prior.noise(x * a / (1 - r), a, s, prior.embed(["a"] * 3))
        u = eps - (x - r * eps) / (1 - r)
        return -u if backwards else u

    x, r = flow_input(z_t, alpha, sigma)
    r = r.flatten()
    answer = network(x, 1 - r if backwards else r)
    found = noise_from_output(-answer if backwards else answer, z_t, alpha, sigma, "flow")
    (exact,) = prior.predict(z_t, t, [prior.embed(["a"] * 3)])
    torch.testing.assert_close(found, exact, rtol=1e-4, atol=1e-4)


def test_opaque_pictures_become_the_same_latents_with_alpha_and_without(forms, toybox):
    rgba = forms.formed("rgba", toybox)
    images = normal(4, 2, 3, 128, 128).mul(0.2).add(0.5).clamp(0, 1)
    opaque = torch.cat([images, torch.ones(2, 1, 128, 128)], 1)
    plain = toybox.encode(images)
    assert torch.equal(rgba.encode(opaque), plain) and torch.equal(rgba.encode(images), plain)
    clear = torch.cat([images, torch.zeros(2, 1, 128, 128)], 1).requires_grad_()
    latents = rgba.encode(clear)
    low, high = toybox.background_range
    greys = torch.tensor([0.75 * low + 0.25 * high, 0.25 * low + 0.75 * high])
    grounds = greys[:, None, None, None].expand(2, 3, 128, 128)
    torch.testing.assert_close(latents, toybox.encode(grounds))
    (gradient,) = torch.autograd.grad(latents.square().sum(), clear)
    assert gradient[:, 3].abs().max() > 0 and gradient[:, :3].abs().max() == 0


def test_a_loss_is_moved_to_the_same_noise(forms, toybox):
    flow = forms.formed("flow", toybox)
    moved = forms.at_same_noise(SDS(t_min=100), toybox.schedule, flow.schedule)
    for name in ("t_min", "t_max_start", "t_max_end"):
        before, after = (
            float(prior.schedule.ratio(torch.tensor([getattr(loss, name)])))
            for prior, loss in ((toybox, SDS(t_min=100)), (flow, moved))
        )
        assert after == pytest.approx(before, rel=0.02)


def test_sds_of_the_flow_is_sds_of_the_prior_at_the_same_noise(forms, toybox):
    flow = forms.formed("flow", toybox)
    t_flow = torch.tensor([forms.same_noise(500, toybox.schedule, flow.schedule)])
    level = float(flow.schedule.ratio(t_flow))
    latents, noise = normal(6, 1, 4, 32, 32), normal(7, 1, 4, 32, 32)
    rows = toybox.embed(TEXTS[:1]), toybox.embed([""])
    found = sds(flow, latents, t_flow, noise, *rows, 4.0)
    own = sds(toybox, latents, torch.tensor([500]), noise, *rows, 4.0)
    assert level == pytest.approx(float(toybox.schedule.ratio(torch.tensor([500]))), rel=2e-3)
    assert float((found - own).norm() / own.norm()) < 0.02
