"""ISM and SDI, and the inversion they share, against the closed forms of Gaussian data."""

import pytest
import torch
from kit import around, seeded
from kit import normal64 as normal

from distill3d.kernels.losses.base import Views, guided
from distill3d.kernels.losses.ism import ISM, ism
from distill3d.kernels.losses.ode import estimates, even_levels, inverted, ode_step
from distill3d.kernels.losses.sdi import SDI, pfd, sdi
from distill3d.kernels.priors.mixture import GaussianMixturePrior, Mixture
from distill3d.kernels.priors.noise_schedule import NoiseSchedule, clean_from_noise

SCHEDULE = NoiseSchedule(NoiseSchedule.scaled_linear().alphas_cumprod.double())
SHAPE = (1, 8, 8)


def gaussian_prior(variance=0.25, mean=2.0, other=2.0, other_variance=None):
    null = around(other, variance if other_variance is None else other_variance, SHAPE)
    return GaussianMixturePrior({"a": around(mean, variance, SHAPE), "": null}, SCHEDULE)


def gradient(loss, prior, latents, step=0, seed=1):
    latents = latents.detach().requires_grad_()
    rows = [prior.embed([text] * len(latents)) for text in ("a", "")]
    value, logs = loss.start(prior, SHAPE, seeded())(
        latents, Views(*rows, None, step, 100), seeded(seed)
    )
    return len(latents) * torch.autograd.grad(value, latents)[0], logs


def test_a_step_of_the_ode_is_ddim():
    prior, t, to = gaussian_prior(), torch.tensor([300, 700]), torch.tensor([500, 20])
    z_t, noise = normal(1, 2, *SHAPE), normal(2, 2, *SHAPE)
    x0 = clean_from_noise(z_t, noise, SCHEDULE.alpha(t), SCHEDULE.sigma(t))
    ddim = SCHEDULE.alpha(to) * x0 + SCHEDULE.sigma(to) * noise
    moved = ode_step(prior.schedule, z_t / SCHEDULE.alpha(t), noise, t, to)
    torch.testing.assert_close(SCHEDULE.alpha(to) * moved, ddim)


def test_fine_inversion_follows_the_gaussians_flow_and_rows_stop_where_they_should():
    prior, to, z0 = gaussian_prior(), torch.tensor([0, 37, 600]), normal(3, 3, *SHAPE)
    text = prior.embed([""] * 3)
    z = inverted(
        SCHEDULE, z0, even_levels(to, 1, 600), lambda z, t: estimates(prior, z, t, [text])[0]
    )
    low, high = SCHEDULE.ratio(torch.zeros_like(to)), SCHEDULE.ratio(to)
    exact = 2.0 + (z0 - 2.0) * ((0.25 + high**2) / (0.25 + low**2)).sqrt()
    torch.testing.assert_close(z, exact, rtol=1e-2, atol=1e-2)
    assert torch.equal(z[0], z0[0])


def test_inversion_visits_the_strides_and_stops_short_at_the_end():
    visited = []

    def estimate(z, t):
        visited.append(t.tolist())
        return torch.zeros_like(z)

    levels = even_levels(torch.tensor([450, 100]), 200, 3)
    inverted(SCHEDULE, normal(3, 2, *SHAPE), levels, estimate)
    assert visited == [[0, 0], [200, 100], [400, 100]]


def test_ism_is_the_closed_form_for_gaussian_data():
    v, mu = 0.25, 2.0
    prior, s, t, z_s = (
        gaussian_prior(v, mu),
        torch.tensor([220, 620]),
        torch.tensor([300, 700]),
        normal(4, 2, *SHAPE),
    )
    text = prior.embed(["a", "a"])
    low, high = SCHEDULE.ratio(s), SCHEDULE.ratio(t)
    expected = v * (high - low) * (z_s - mu) / ((v + low**2) * (v + high**2))
    torch.testing.assert_close(ism(prior, z_s, s, t, text, text, text, 7.5), expected)


def test_ism_is_zero_for_a_point_mass_and_one_text():
    direction, _ = gradient(ISM(), gaussian_prior(variance=0.0), normal(5, 2, *SHAPE))
    assert direction.abs().max() < 1e-9


def test_ism_leaves_the_guidance_when_there_is_no_interval():
    prior, t, z = gaussian_prior(other=-1.0), torch.tensor([300, 700]), normal(4, 2, *SHAPE)
    text, null = prior.embed(["a", "a"]), prior.embed(["", ""])
    e_c, e_u = estimates(prior, z, t, [text, null])
    torch.testing.assert_close(ism(prior, z, t, t, text, null, null, 7.5), 7.5 * (e_c - e_u))


def test_ism_below_its_gap_begins_at_the_render():
    prior, z0 = gaussian_prior(other=-1.0), normal(6, 2, *SHAPE)
    direction, _ = gradient(ISM(t_min=40, t_max_start=40, t_max_end=40, weighting="one"), prior, z0)
    start, t = torch.tensor([0, 0]), torch.tensor([40, 40])
    text, null = prior.embed(["a", "a"]), prior.embed(["", ""])
    torch.testing.assert_close(direction, ism(prior, z0, start, t, text, null, null, 7.5))


def test_ism_inverts_the_render_with_the_null_text():
    prior, z0 = gaussian_prior(other=-1.0), normal(6, 2, *SHAPE)
    direction, _ = gradient(
        ISM(t_min=480, t_max_start=480, t_max_end=480, weighting="one"), prior, z0
    )
    s, t = torch.tensor([400, 400]), torch.tensor([480, 480])
    text, null = prior.embed(["a", "a"]), prior.embed(["", ""])
    z_s = inverted(
        SCHEDULE, z0, even_levels(s, 200, 2), lambda z, at: estimates(prior, z, at, [null])[0]
    )
    torch.testing.assert_close(direction, ism(prior, z_s, s, t, text, null, null, 7.5))


def test_ism_draws_nothing_but_its_steps():
    prior, z0 = gaussian_prior(other=-1.0), normal(6, 2, *SHAPE)
    fixed = ISM(t_min=400, t_max_start=400, t_max_end=400)
    assert torch.equal(gradient(fixed, prior, z0, seed=1)[0], gradient(fixed, prior, z0, seed=2)[0])


def test_sdi_is_the_render_less_the_guided_clean_estimate():
    prior, t, z0, kappa = (
        gaussian_prior(other=-1.0),
        torch.tensor([300, 700]),
        normal(7, 2, *SHAPE),
        normal(8, 2, *SHAPE),
    )
    text, null = prior.embed(["a", "a"]), prior.embed(["", ""])
    z_t = SCHEDULE.alpha(t) * z0 + SCHEDULE.sigma(t) * kappa
    noise = guided(*prior.predict(z_t, t, [text, null]), 8.5)
    x0 = clean_from_noise(z_t, noise, SCHEDULE.alpha(t), SCHEDULE.sigma(t))
    torch.testing.assert_close(
        SCHEDULE.ratio(t) * sdi(prior, z0, kappa, t, text, null, 8.5), z0 - x0
    )


def test_pfd_goes_where_the_flow_leads_and_in_one_step_is_sdi():
    """From a noised render to the clean latent of its flow, known for a Gaussian."""
    prior, t = gaussian_prior(), torch.tensor([300, 700])
    z0, kappa = normal(7, 2, *SHAPE), normal(8, 2, *SHAPE)
    rows = [prior.embed([text] * 2) for text in ("a", "")]
    ratio = SCHEDULE.ratio(t)
    clean = 2.0 + (z0 + ratio * kappa - 2.0) * (0.25 / (0.25 + ratio**2)).sqrt()
    off = [
        (ratio * pfd(prior, z0, kappa, t, *rows, 7.5, steps) - (z0 - clean)).norm()
        for steps in (1, 4, 32, 300)
    ]
    assert off[0] > 2 * off[1] > 4 * off[2] and off[3] < 0.02 * off[0]
    torch.testing.assert_close(
        pfd(prior, z0, kappa, t, *rows, 7.5, 1), sdi(prior, z0, kappa, t, *rows, 7.5)
    )


def test_reverse_steps_cost_two_evaluations_each(monkeypatch):
    prior, calls = gaussian_prior(other=-1.0), []
    predict = prior.predict
    monkeypatch.setattr(prior, "predict", lambda *given: calls.append(1) or predict(*given))
    counts = []
    for steps in (1, 3):
        calls.clear()
        gradient(SDI(eta=0.0, reverse_steps=steps), prior, normal(7, 2, *SHAPE))
        counts.append(len(calls))
    assert counts[1] == counts[0] + 2


def test_sdi_uses_at_its_step_the_noise_found_a_part_of_a_stride_above():
    prior, z0, t = gaussian_prior(other=-1.0), normal(7, 2, *SHAPE), torch.tensor([500, 500])
    direction, _ = gradient(
        SDI(eta=0.0, t_max_start=500, t_max_end=500, weighting="one"), prior, z0
    )
    to = t + torch.randint(0, 100, (2,), generator=seeded(1))
    assert (to > t).all()
    text, null = prior.embed(["a", "a"]), prior.embed(["", ""])
    z = inverted(
        SCHEDULE,
        z0,
        even_levels(to, 100, 6),
        lambda z, at: guided(*estimates(prior, z, at, [text, null]), -6.5),
    )
    kappa = (z - z0) / SCHEDULE.ratio(to)
    torch.testing.assert_close(direction, sdi(prior, z0, kappa, t, text, null, 8.5))


def test_sdi_asks_nothing_of_a_render_that_is_the_priors_mean():
    direction, _ = gradient(SDI(eta=0.0), gaussian_prior(), torch.full((2, *SHAPE), 2.0).double())
    assert direction.abs().max() < 1e-9


def test_sdi_inverts_away_from_the_prompt():
    """Guidance towards the prompt would put the way there into kappa, and leave none for the way
    back.
    """
    prior, z0 = gaussian_prior(other=-1.0), torch.full((2, *SHAPE), -1.0).double()
    fixed = {"eta": 0.0, "t_max_start": 500, "t_max_end": 500}
    away, none, towards = (
        gradient(SDI(inversion_guidance=s, **fixed), prior, z0)[0].mean() for s in (-6.5, 0.0, 8.5)
    )
    assert away < none < towards and none < 0


def test_sdi_anneals_its_step_without_chance_unless_told_to_draw():
    prior, z0 = gaussian_prior(), normal(9, 2, *SHAPE)
    assert [int(gradient(SDI(), prior, z0, step)[1]["t"]) for step in (0, 50, 100)] == [
        980,
        615,
        250,
    ]
    drawn = SDI(t_random=True).drawn(200, 0.0, seeded(), torch.device("cpu"))
    assert drawn.min() < 100 and drawn.max() > 900


class Silent(GaussianMixturePrior):
    """Estimates no noise at all, and keeps what it was asked about."""

    def predict(self, z_t, t, conditionings):
        self.seen = z_t / self.schedule.alpha(t)
        return [torch.zeros_like(z_t) for _ in conditionings]


@pytest.mark.parametrize("eta", [0.0, 0.5, 1.0])
def test_the_inversions_random_part_has_ddims_variance(eta):
    means = torch.zeros(1, *SHAPE).double()
    mixture = Mixture(means, torch.ones(1, 1, 1, 1).double(), torch.ones(1))
    prior = Silent({"a": mixture, "": mixture}, SCHEDULE)
    one_stride = SDI(eta=eta, stride=1, t_min=0, t_max_start=1, t_max_end=1)
    gradient(one_stride, prior, torch.zeros(200, *SHAPE).double())
    low, high = SCHEDULE.alphas_cumprod[0], SCHEDULE.alphas_cumprod[1]
    expected = eta * ((1 - low) / (1 - high) * (1 - high / low) / high).sqrt()
    assert prior.seen.std().item() == pytest.approx(expected.item(), rel=0.03)


@pytest.mark.parametrize(("t_max", "evaluations"), [(980, 8), (500, 6)])
def test_ism_inverts_all_the_way_and_asks_no_more_than_it_says(monkeypatch, t_max, evaluations):
    prior, asked = gaussian_prior(), []
    predict = prior.predict

    def counted(z_t, t, conditionings):
        asked.extend(float(t.max()) for _ in conditionings)
        return predict(z_t, t, conditionings)

    monkeypatch.setattr(prior, "predict", counted)
    loss = ISM(t_min=t_max, t_max_start=t_max, t_max_end=t_max)
    gradient(loss, prior, normal(1, 1, *SHAPE))
    assert len(asked) == evaluations
    assert asked[-3:] == [t_max - loss.gap, t_max, t_max]
    assert asked[:-3] == [step * loss.stride for step in range(evaluations - 3)]
