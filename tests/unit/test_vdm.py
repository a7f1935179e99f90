"""VDM and DCA against the identities of their derivation; the degradation network and its
optimizer.
"""

from math import cos, pi

import pytest
import torch
from kit import around, seeded
from kit import normal64 as normal

from distill3d.kernels.devices.streams import SideStream
from distill3d.kernels.losses.base import Views, guided
from distill3d.kernels.losses.degradation import DESIGNS, AdamState, Degradation
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


@pytest.mark.parametrize("design", DESIGNS)
def test_every_design_starts_as_the_identity_and_learns_a_fixed_degradation(design):
    degradation, generator = Degradation(design, widths=(16, 16)), seeded()
    adam = AdamState.fresh(degradation.initial(4, generator, CPU))
    t, losses = torch.tensor([100, 600]), []
    for _ in range(60):
        clean = torch.randn(2, 4, 7, 9, generator=generator)  # odd sizes too
        parameters = {key: value.requires_grad_() for key, value in adam.parameters.items()}
        mapped = degradation.apply(parameters, clean, t, 1000, generator)
        if not losses:
            assert torch.equal(mapped, clean)
        loss = (mapped - (0.4 * clean + 1)).square().mean()
        gradients = torch.autograd.grad(loss, list(parameters.values()))
        adam = adam.step(dict(zip(parameters, gradients, strict=True)), 1e-2)
        adam = AdamState(
            {k: v.detach() for k, v in adam.parameters.items()},
            adam.means,
            adam.squares,
            adam.updates,
        )
        losses.append(loss.item())
    assert sum(losses[-5:]) / 5 < 0.3 * losses[0]


@pytest.mark.parametrize("design", DESIGNS)
def test_only_the_noisy_design_answers_anew_to_new_noise(design):
    degradation, generator = Degradation(design, widths=(16, 16)), seeded()
    parameters = degradation.initial(2, generator, CPU)
    parameters = {
        k: v + 0.1 * torch.randn(v.shape, generator=generator) for k, v in parameters.items()
    }
    clean, t = torch.randn(1, 2, 8, 8, generator=generator), torch.tensor([500])
    one, same, other = (degradation.apply(parameters, clean, t, 1000, seeded(k)) for k in (1, 1, 2))
    assert torch.equal(one, same)
    assert torch.equal(one, other) == (design != "nonlinear_noise")


@pytest.mark.parametrize("design", ["nonlinear", "linear"])
def test_the_map_depends_on_the_timestep(design):
    degradation = Degradation(design, widths=(16, 16))
    generator = seeded()
    parameters = degradation.initial(2, generator, CPU)
    parameters = {
        k: v + 0.1 * torch.randn(v.shape, generator=generator) for k, v in parameters.items()
    }
    clean = torch.randn(1, 2, 8, 8, generator=generator)
    low, high = (
        degradation.apply(parameters, clean, torch.tensor([t]), 1000, generator) for t in (0, 999)
    )
    assert (low - high).abs().max() > 1e-2


def test_adam_equals_torchs_and_ignores_values_that_are_not_finite():
    start, gradients = normal(7, 5), [normal(8 + k, 5) for k in range(4)]
    parameter = start.clone().requires_grad_()
    reference = torch.optim.Adam([parameter], lr=0.1, betas=(0.9, 0.99))
    state = AdamState.fresh({"p": start})
    for gradient in gradients:
        parameter.grad = gradient
        reference.step()
        state = state.step({"p": gradient}, 0.1)
    torch.testing.assert_close(state.parameters["p"], parameter.detach())
    spoiled = state.step({"p": torch.full((5,), float("nan")).double()}, 0.1)
    assert torch.isfinite(spoiled.parameters["p"]).all() and torch.equal(start, normal(7, 5))


@pytest.mark.parametrize("design", DESIGNS)
def test_a_resumed_run_continues_bit_for_bit(design):
    prior, loss = gaussian_prior(other=-1.0), VDM(degradation=Degradation(design, widths=(16, 16)))

    def advance(run, generator, begin, end):
        for step in range(begin, end):
            latents = normal(20 + step, 2, *SHAPE).float().requires_grad_()
            value, _ = run(latents, views(prior, 2, step, 10), generator)
        return torch.autograd.grad(value, latents)[0]

    generator = seeded()
    run = loss.start(prior, SHAPE, generator)
    advance(run, generator, 0, 3)
    state, drawn = run.state(), generator.get_state()
    kept = {key: value.clone() for key, value in state.items()}
    expected = advance(run, generator, 3, 6)
    # a saved state is not changed by going on
    assert all(torch.equal(state[key], kept[key]) for key in state)

    generator.set_state(drawn)
    resumed = loss.start(prior, SHAPE, generator, state)
    assert torch.equal(generator.get_state(), drawn)
    assert torch.equal(advance(resumed, generator, 3, 6), expected)
    assert all(torch.equal(value, resumed.state()[key]) for key, value in run.state().items())


@pytest.mark.parametrize(("step", "lr"), [(0, 0.03), (5, 0.02), (10, 0.01)])
def test_the_maps_learning_rate_anneals_over_the_run(step, lr):
    prior = gaussian_prior()
    settings = VDM(
        degradation=Degradation("linear"),
        psi_lr=0.03,
        psi_lr_end=0.01,
        psi_updates=1,
    )
    run = settings.start(prior, SHAPE, seeded())
    run(normal(9, 2, *SHAPE).float(), views(prior, 2, step, 10), seeded(1))
    # Adam's first step is as long as the learning rate, and the map begins at zero
    assert run.state()["psi.shift"].abs().max().item() == pytest.approx(lr, rel=1e-3)


@pytest.mark.parametrize("share", [0.0, 0.5, 1.0])
def test_rescaling_brings_what_is_imagined_to_the_spread_of_the_render(share):
    prior, t = gaussian_prior(variance=4.0, other=-1.0), torch.tensor([400, 400])
    fixed = {"t_min": 400, "t_max_start": 400, "t_max_end": 400, "psi_lr": 0.0}
    latents = (0.1 * normal(6, 2, *SHAPE)).float().requires_grad_()
    run = VDM(guidance=2, x0_rescale=share, **fixed).start(prior, SHAPE, seeded())
    value, _ = run(latents, views(prior, 2), seeded(1))

    z0, alpha, sigma = latents.detach(), SCHEDULE.alpha(t), SCHEDULE.sigma(t)
    z_t = alpha * z0 + sigma * torch.randn(2, *SHAPE, generator=after_one_draw(seeded(1)))
    rows = views(prior, 2)
    x0_c, x0_u = (
        x0 * (1 - share + share * z0.std((1, 2, 3), keepdim=True) / x0.std((1, 2, 3), keepdim=True))
        for x0 in (
            clean_from_noise(z_t, e, alpha, sigma)
            for e in prior.predict(z_t, t, [rows.text, rows.negative])
        )
    )
    # the map is the identity, so only the classifier part is there
    wanted = (x0_u - x0_c).float()
    torch.testing.assert_close(
        2 * torch.autograd.grad(value, latents)[0], wanted, rtol=1e-3, atol=1e-4
    )


def test_starting_under_inference_mode_leaves_the_network_trainable():
    prior = gaussian_prior()
    with torch.inference_mode():
        run = VDM().start(prior, SHAPE, seeded())
        resumed = VDM().start(
            prior, SHAPE, seeded(), {k: v.clone() for k, v in run.state().items()}
        )
    for each in (run, resumed):
        value, logs = each(normal(9, 1, *SHAPE).float().requires_grad_(), views(prior), seeded())
        value.backward()
        assert torch.isfinite(logs["psi_loss"])


@pytest.mark.parametrize("design", DESIGNS)
def test_a_step_in_inference_mode_learns_as_any_other(design):
    """ComfyUI runs nodes in it."""
    settings = VDM(degradation=Degradation(design, widths=(16, 16)))
    states, latents = [], normal(9, 2, *SHAPE).float()
    for inference in (False, True):
        with torch.inference_mode(inference):
            prior = gaussian_prior(other=-1.0)
            run, generator = settings.start(prior, SHAPE, seeded()), seeded(1)
            fresh = run.state()
            for step in range(2):
                run(latents.clone(), views(prior, 2, step), generator)
            states.append(run.state())
    assert not any(value.is_inference() for value in run.psi.parameters.values())
    assert any(
        not torch.equal(value, fresh[key])
        for key, value in states[1].items()
        if key.startswith("psi.")
    )
    torch.testing.assert_close(states[1], states[0])


def test_more_updates_follow_the_step_and_leave_its_gradient_alone():
    prior, fixed = gaussian_prior(other=-1.0), {"t_min": 500, "t_max_start": 500, "t_max_end": 500}
    latents = normal(9, 2, *SHAPE).float().requires_grad_()
    seen = {}
    for updates in (1, 4):
        settings = VDM(
            degradation=Degradation(widths=(16, 16)), psi_updates=updates, psi_lr=1e-2, **fixed
        )
        run = settings.start(prior, SHAPE, seeded())
        value, first = run(latents, views(prior, 2), seeded(1))
        # the same draws: what was learned shows
        _, second = run(latents, views(prior, 2), seeded(1))
        gradient = torch.autograd.grad(value, latents)[0]
        seen[updates] = gradient, first["psi_loss"], second["psi_loss"], run.state()["updates"]
    assert torch.equal(seen[1][0], seen[4][0]) and seen[1][1] == seen[4][1]
    assert seen[4][2] < seen[1][2] < seen[1][1]
    assert (seen[1][3], seen[4][3]) == (2, 8)


def test_a_runs_map_can_be_asked_without_moving_it():
    run = VDM(degradation=Degradation(widths=(16, 16))).start(gaussian_prior(), SHAPE, seeded())
    before, x0 = run.state(), normal(9, 2, *SHAPE).float()
    assert torch.equal(run.degraded(x0, torch.tensor([300, 300]), seeded()), x0)
    assert all(torch.equal(value, before[key]) for key, value in run.state().items())


def test_a_state_of_another_network_is_refused():
    prior = gaussian_prior()
    state = VDM(degradation=Degradation(widths=(16, 16))).start(prior, SHAPE, seeded()).state()
    with pytest.raises(
        ValueError, match=r"VDM Loss: the saved loss state's 'psi\.in\.weight' is of shape"
    ):
        VDM().start(prior, SHAPE, seeded(), state)


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        (
            {"dca": "quadratic"},
            "VDM Loss: dca is 'quadratic'; choose one of constant, linear, sqrt, cosine",
        ),
        ({"eta_noisy": -0.1}, "eta_noisy is -0.1; it must lie between 0 and 10"),
        ({"psi_lr": 2.0}, "psi_lr is 2"),
        ({"psi_updates": 0}, "psi_updates is 0; it must lie between 1 and 100"),
        ({"x0_rescale": 1.5}, "x0_rescale is 1.5"),
        (
            {"degradation": Degradation("cubic")},
            "design is 'cubic'; choose one of linear, nonlinear_noise, nonlinear",
        ),
        ({"degradation": Degradation(widths=(12,))}, "multiples of 8"),
        ({"degradation": Degradation(bins=0)}, "bins is 0"),
        ({"t_min": 700, "t_max_end": 500}, "t_min 700 is above t_max_end 500"),
        ({"t_max_end": 1500}, "t_max_end 1500 is beyond prior"),
    ],
)
def test_bad_settings_are_named_with_their_cure(changes, message):
    with pytest.raises(ValueError, match=message):
        VDM(**changes).start(gaussian_prior(), SHAPE, seeded())


def after_one_draw(generator):
    torch.randint(400, 401, (1,), generator=generator)
    return generator


@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a CUDA device")
def test_the_map_learns_the_same_beside_other_work(monkeypatch):
    """To the last bit, once cuDNN keeps to algorithms that sum in a fixed order: its usual ones
    differ by 1e-5 from one call to the next, beside other work or not."""
    monkeypatch.setattr(torch.backends.cudnn, "deterministic", True)
    prior = gaussian_prior()
    prior.schedule = prior.schedule.to("cuda")
    found = []
    for device in ("cpu", "cuda"):
        run = VDM().start(prior, (2, 16, 16), seeded())
        run.prior, run.side_stream = prior, SideStream(torch.device(device))
        run.psi = AdamState.fresh({k: v.cuda() for k, v in run.psi.parameters.items()})
        generator, busy = seeded(1), torch.randn(2048, 2048, device="cuda")
        for _ in range(5):
            x0, z0 = (torch.randn(3, 2, 16, 16, generator=generator).cuda() for _ in range(2))
            run._degrade(x0, z0, torch.full((3,), 400, device="cuda"), 1e-3, generator)
            for _ in range(20):
                busy = (busy @ busy).clamp(-1, 1)
        found.append(run.state())
    torch.testing.assert_close(found[0], found[1], rtol=0, atol=0)
