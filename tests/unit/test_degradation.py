"""The degradation network, which learns what a render lacks, and its optimizer."""

import pytest
import torch
from kit import normal64 as normal
from kit import seeded
from test_vdm import CPU, SCHEDULE, SHAPE, gaussian_prior, views

from distill3d.kernels.devices.streams import SideStream
from distill3d.kernels.losses.degradation import DESIGNS, AdamState, Degradation
from distill3d.kernels.losses.vdm import VDM
from distill3d.kernels.priors.noise_schedule import clean_from_noise


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
