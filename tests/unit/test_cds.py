"""CDS against the closed forms of Gaussian data, and against the schedule of the official code."""

import pytest
import torch
from kit import around, seeded
from kit import normal64 as normal

from distill3d.kernels.cameras.pinhole import orbit, sectors
from distill3d.kernels.losses.base import Views, guided
from distill3d.kernels.losses.cds import CDS, cds
from distill3d.kernels.losses.schedule import annealed
from distill3d.kernels.priors.mixture import GaussianMixturePrior, Mixture
from distill3d.kernels.priors.noise_schedule import NoiseSchedule

SCHEDULE = NoiseSchedule(NoiseSchedule.scaled_linear().alphas_cumprod.double())
SHAPE = (1, 16, 16)


def gaussian_prior(variance=0.25, mean=2.0, other=None, **options):
    return GaussianMixturePrior(
        {
            "a": around(mean, variance, SHAPE),
            "": around(mean if other is None else other, variance, SHAPE),
        },
        SCHEDULE,
        **options,
    )


def views(prior, count=1, step=0, steps=3000):
    return Views(prior.embed(["a"] * count), prior.embed([""] * count), None, step, steps)


def pair(prior, t, t_next, count=2, guidance=1.0):
    """A direction together with the latents and the noise it was taken for."""
    latents, noise = normal(1, count, *SHAPE), normal(2, *SHAPE)
    steps = torch.full((count,), t), torch.full((count,), t_next)
    rows = views(prior, count)
    return latents, noise, cds(prior, latents, *steps, noise, rows.text, rows.negative, guidance)


def test_direction_is_the_closed_form_for_gaussian_data():
    v, mu = 0.25, 2.0
    latents, noise, direction = pair(gaussian_prior(v, mu), 500, 300)
    sigma, sigma_next = (SCHEDULE.ratio(torch.tensor([t])) for t in (500, 300))
    z = latents + sigma * noise
    expected = v * (sigma - sigma_next) * (z - mu) / ((v + sigma**2) * (v + sigma_next**2))
    torch.testing.assert_close(direction, expected)


def test_direction_is_the_difference_of_denoised_latents():
    means = normal(3, 3, *SHAPE)
    mixture = Mixture(
        means, torch.tensor([0.2, 0.5, 0.9])[:, None, None, None].double(), torch.ones(3)
    )
    prior = GaussianMixturePrior({"a": mixture}, SCHEDULE)
    guidance, rows = 7.5, views(prior, 2)
    latents, noise, direction = pair(prior, 600, 400, guidance=guidance)
    t, t_next = torch.full((2,), 600), torch.full((2,), 400)

    def denoised(z, step):
        e = guided(
            *prior.predict(SCHEDULE.alpha(step) * z, step, [rows.text, rows.negative]), guidance
        )
        return z - SCHEDULE.ratio(step) * e, e

    z = latents + SCHEDULE.ratio(t) * noise
    clean, e = denoised(z, t)
    clean_next, _ = denoised(z + (SCHEDULE.ratio(t_next) - SCHEDULE.ratio(t)) * e, t_next)
    torch.testing.assert_close(-direction, (clean - clean_next) / SCHEDULE.ratio(t_next))

    pulled = cds(prior, latents, t, t_next, noise, rows.text, rows.negative, guidance, pull=0.5)
    torch.testing.assert_close(pulled - direction, 0.5 * (latents - clean_next) / SCHEDULE.ratio(t))
    share = 1 - 0.5 * SCHEDULE.ratio(t_next) / SCHEDULE.ratio(t)
    torch.testing.assert_close(pulled, share * direction + 0.5 * (e - noise))  # e - noise: SDS


def test_the_pull_leads_to_the_picture_where_cds_leaves_all_as_it_is():
    prior = gaussian_prior(0.0, 2.0)  # knows one picture
    latents, noise, alone = pair(prior, 600, 400)
    rows = views(prior, 2)
    t, t_next = torch.full((2,), 600), torch.full((2,), 400)
    pulled = cds(prior, latents, t, t_next, noise, rows.text, rows.negative, 1.0, pull=0.5)
    assert alone.abs().max() < 1e-10
    torch.testing.assert_close(pulled, 0.5 * (latents - 2.0) / SCHEDULE.ratio(t))


@pytest.mark.parametrize("other", [2.0, -1.0])
def test_direction_is_zero_for_point_masses_even_under_guidance(other):
    _, _, direction = pair(gaussian_prior(0.0, 2.0, other), 600, 400, guidance=20.0)
    assert direction.abs().max() < 1e-10


def descend(sign, settings, steps, lr):
    prior = gaussian_prior()
    run = settings.start(prior, SHAPE, seeded())
    generator = seeded(1)
    latents = 0.5 * normal(4, 1, *SHAPE)
    for step in range(steps):
        latents = latents.detach().requires_grad_()
        value, _ = run(latents, views(prior, 1, step, steps), generator)
        (gradient,) = torch.autograd.grad(value, latents)
        latents = latents - sign * lr * gradient
    return latents.detach(), run


def test_descending_reaches_the_datas_mean_and_the_opposite_sign_diverges():
    settings = CDS(guidance_start=1, guidance_end=1, clip_start=0, clip_end=0)
    reached, _ = descend(1, settings, 600, 0.25)
    diverged, _ = descend(-1, settings, 600, 0.25)
    assert abs(reached.mean() - 2) < 0.05
    assert abs(diverged.mean() - 2) > 50


def test_stopping_at_a_high_level_leaves_the_fixed_noise_in_the_result():
    settings = CDS(t_start=300, t_end=300, perturb=1, guidance_start=1, guidance_end=1)
    reached, run = descend(1, settings, 300, 1.0)
    sigma = SCHEDULE.ratio(torch.tensor([400]))
    torch.testing.assert_close(
        reached, 2 - sigma * run.state()["noise"].double(), atol=1e-4, rtol=0
    )


@pytest.mark.parametrize(
    ("settings", "steps", "levels"),
    [
        (CDS.coarse(), 3000, {0: 700, 30: 640, 120: 580, 300: 510, 750: 400, 1500: 275, 3000: 100}),
        (CDS.refine(), 3000, {0: 300, 30: 272, 120: 244, 300: 211, 750: 160, 1500: 102, 3000: 20}),
        (
            CDS.texture(),
            5000,
            {0: 500, 50: 452, 200: 404, 500: 348, 1250: 260, 2500: 160, 5000: 20},
        ),
    ],
)
def test_lower_level_follows_the_official_schedule(settings, steps, levels):
    assert {k: settings.t_next(k / steps) for k in levels} == levels


def test_lower_level_comes_down_no_further_than_its_floor():
    settings = CDS(t_start=700, t_end=20, t_min=200)
    assert [settings.t_next(progress) for progress in (0, 0.25, 0.64, 1)] == [700, 360, 200, 200]


@pytest.mark.parametrize(
    ("settings", "guidance", "window", "weighting"),
    [
        (CDS.coarse(), {0: 101, 0.5: 76, 1: 51}, (100, 980, 200), "uniform"),
        (CDS.refine(), {0: 101, 0.5: 66, 1: 31}, (20, 500, 100), "1-abar"),
        (CDS.texture(), {0: 51, 0.5: 51, 1: 51}, (20, 980, 100), "1-abar"),
    ],
)
def test_stages_have_the_official_guidance_clip_window_and_weighting(
    settings, guidance, window, weighting
):
    for progress, s in guidance.items():  # s = w + 1
        assert annealed(settings.guidance_start, settings.guidance_end, progress) == s
        assert annealed(settings.clip_start, settings.clip_end, progress) == 2 + 6 * progress
    assert (settings.t_min, settings.t_max, settings.perturb, settings.gap) == (*window, 100)
    assert settings.weighting == weighting


def test_batch_shares_the_lower_level_and_spreads_the_upper_one_over_its_window():
    generator = seeded()
    t, t_next = CDS.coarse().timesteps(4000, 0.25, generator, torch.device("cpu"))
    assert t_next.unique().tolist() == [400]
    assert (t - t_next).unique().tolist() == list(range(100, 300))
    t, t_next = CDS(t_start=900, perturb=200).timesteps(4000, 0.0, generator, torch.device("cpu"))
    assert t_next.unique().tolist() == [880] and t.unique().tolist() == [980]


def gradient_of(settings, prior, step=0, steps=3000, seed=0, scale=1.0):
    latents = (scale * normal(5, 3, *SHAPE)).requires_grad_()
    run = settings.start(prior, SHAPE, seeded(seed))
    value, logs = run(latents, views(prior, 3, step, steps), seeded(seed + 1))
    (gradient,) = torch.autograd.grad(value, latents)
    return gradient, logs


def test_same_seed_gives_bit_equal_gradients_and_another_seed_does_not():
    prior = gaussian_prior()
    assert torch.equal(gradient_of(CDS(), prior)[0], gradient_of(CDS(), prior)[0])
    assert not torch.equal(gradient_of(CDS(), prior)[0], gradient_of(CDS(), prior, seed=3)[0])


def test_gradient_is_the_mean_over_views_and_clamped_by_the_annealed_clip():
    settings = CDS(clip_start=0.01, clip_end=0.03)
    for step, limit in ((0, 0.01), (1500, 0.02)):
        gradient, _ = gradient_of(settings, gaussian_prior(other=-1.0), step)
        torch.testing.assert_close(3 * gradient.abs().max(), torch.tensor(limit).double())


def test_guidance_anneals_linearly():
    annealing, halfway = (
        CDS(guidance_start=30, guidance_end=10),
        CDS(guidance_start=20, guidance_end=20),
    )
    prior = gaussian_prior(other=-1.0)
    torch.testing.assert_close(
        gradient_of(annealing, prior, 1500)[0], gradient_of(halfway, prior, 1500)[0]
    )


def test_weighting_and_weight_scale_the_gradient():
    prior = gaussian_prior()
    unclamped = {"clip_start": 0, "clip_end": 0, "perturb": 1}
    plain, logs = gradient_of(CDS(**unclamped), prior)
    weighted, _ = gradient_of(CDS(weighting="1-abar", weight=3, **unclamped), prior)
    torch.testing.assert_close(weighted, 3 * SCHEDULE.sigma(logs["t"].long()[None]) ** 2 * plain)


@pytest.mark.parametrize("prediction", ["v_prediction", "flow"])
def test_every_prediction_gives_the_same_gradient(prediction):
    results = [
        gradient_of(CDS(), gaussian_prior(other=-1.0, prediction=p))[0]
        for p in ("epsilon", prediction)
    ]
    torch.testing.assert_close(*results)


def test_a_resumed_run_continues_bit_for_bit():
    prior, generator = gaussian_prior(), seeded()
    run = CDS().start(prior, SHAPE, generator)
    before = generator.get_state()
    resumed = CDS().start(prior, SHAPE, generator, run.state())
    assert torch.equal(generator.get_state(), before)  # resuming draws nothing
    latents = normal(6, 2, *SHAPE).requires_grad_()
    values = [r(latents, views(prior, 2, 10), seeded(7))[0] for r in (run, resumed)]
    assert torch.equal(*values)


def test_a_state_of_another_latent_size_is_refused():
    prior = gaussian_prior()
    state = CDS().start(prior, (1, 8, 8), seeded()).state()
    with pytest.raises(
        ValueError, match=r"'noise' is of shape \(1, 8, 8\), expected \(1, 16, 16\)"
    ):
        CDS().start(prior, SHAPE, seeded(), state)
    with pytest.raises(ValueError, match="'noise' is missing"):
        CDS().start(prior, SHAPE, seeded(), {})


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        (
            {"t_start": 300, "t_end": 700},
            "CDS Loss: t_end 700 is above t_start 300; the schedule anneals downward",
        ),
        ({"t_end": -1}, "t_end is -1; timesteps begin at 0"),
        ({"gap": 0}, "gap is 0; it must be at least 1"),
        ({"perturb": 0}, "perturb is 0"),
        ({"t_min": 900}, "t_min 900 . gap 100 is above t_max 980"),
        ({"t_max": 1000}, "t_max 1000 is beyond prior 'gaussian mixture', whose last step is 999"),
        ({"weighting": "snr"}, "weighting is 'snr'; choose one of uniform, 1-abar"),
        ({"guidance_end": float("nan")}, "guidance_end is nan"),
        ({"clip_start": 0}, "clip_start 0 and clip_end 8"),
        ({"weight": -1}, "weight is -1"),
        ({"noise_groups": 0}, "noise_groups is 0; it must lie between 1 and 360"),
    ],
)
def test_bad_settings_are_named_with_their_cure(changes, message):
    with pytest.raises(ValueError, match=message):
        CDS(**changes).start(gaussian_prior(), SHAPE, seeded())


def turned(prior, azimuths, step=0, steps=3000):
    rows = views(prior, len(azimuths), step, steps)
    return Views(
        rows.text, rows.negative, orbit(torch.tensor(azimuths), 15.0, 2.0, size=16), step, steps
    )


def test_sectors_are_centred_at_the_front_and_close_behind_it():
    azimuths = torch.tensor([0.0, 44, -44, 46, -46, 136, -134, 180, -180, 361])
    assert sectors(azimuths, 4).tolist() == [0, 0, 0, 1, 3, 2, 3, 2, 2, 0]
    assert sectors(azimuths, 1).tolist() == [0] * 10


def test_each_group_of_views_has_its_own_fixed_noise():
    prior = gaussian_prior(other=-1.0)
    settings = CDS(noise_groups=4, perturb=1, clip_start=0, clip_end=0)
    run = settings.start(prior, SHAPE, seeded())
    noise, rows = run.state()["noise"].double(), turned(prior, [10.0, -10, 90, 180])
    assert noise.shape == (4, *SHAPE) and len(noise.flatten(1).unique(dim=0)) == 4
    latents = normal(8, 4, *SHAPE).requires_grad_()
    (gradient,) = torch.autograd.grad(run(latents, rows, seeded(1))[0], latents)
    t, t_next = torch.full((4,), 800), torch.full((4,), 700)
    texts = rows.text, rows.negative
    expected = cds(prior, latents, t, t_next, noise[[0, 0, 1, 2]], *texts, settings.guidance_start)
    torch.testing.assert_close(4 * gradient, expected)


def test_a_run_of_noise_groups_resumes_bit_for_bit_and_old_states_still_load():
    prior, generator = gaussian_prior(other=-1.0), seeded()
    latents, rows = normal(9, 3, *SHAPE).requires_grad_(), turned(prior, [0.0, 120, -120], 10)
    run = CDS(noise_groups=3).start(prior, SHAPE, generator)
    before = generator.get_state()
    resumed = CDS(noise_groups=3).start(prior, SHAPE, generator, run.state())
    assert torch.equal(generator.get_state(), before)
    values = [r(latents, rows, seeded(7))[0] for r in (run, resumed)]
    assert torch.equal(*values)

    old = {"noise": normal(2, *SHAPE).float()}
    assert torch.equal(CDS().start(prior, SHAPE, seeded(), old).state()["noise"], old["noise"])
    with pytest.raises(ValueError, match="noise_groups is 3, but the run to go on from has 1"):
        CDS(noise_groups=3).start(prior, SHAPE, seeded(), old)
    with pytest.raises(ValueError, match="noise_groups is 1, but the run to go on from has 3"):
        CDS().start(prior, SHAPE, seeded(), run.state())


def test_sharing_the_unconditional_estimate_leaves_its_change_out_and_saves_a_quarter(monkeypatch):
    prior, guidance, t = gaussian_prior(0.25, 2.0, -1.0), 7.5, 500
    rows, latents, noise = views(prior, 2), normal(1, 2, *SHAPE), normal(2, *SHAPE)
    counts, network = [], prior._network
    monkeypatch.setattr(
        prior, "_network", lambda z, *rest: counts.append(len(z)) or network(z, *rest)
    )
    errors = []
    for gap in (100, 10, 1):
        levels = torch.full((2,), t), torch.full((2,), t - gap)
        counts.clear()
        exact, shared = (
            cds(
                prior,
                latents,
                *levels,
                noise,
                rows.text,
                rows.negative,
                guidance,
                shared_unconditional=share,
            )
            for share in (False, True)
        )
        assert counts == [4, 4, 4, 2]
        # e(z, sigma) = sigma (z - mu) / (v + sigma^2) for Gaussian data, at both ends of the guided
        # Euler step
        sigma, sigma_next = (SCHEDULE.ratio(level) for level in levels)
        z = latents + sigma * noise
        e_c, e_u = (sigma * (z - mean) / (0.25 + sigma**2) for mean in (2.0, -1.0))
        z_next = z + (sigma_next - sigma) * guided(e_c, e_u, guidance)
        e_u_next = sigma_next * (z_next + 1.0) / (0.25 + sigma_next**2)
        torch.testing.assert_close(shared - exact, (guidance - 1) * (e_u - e_u_next))
        errors.append(((shared - exact).abs().max() / (sigma - sigma_next).max()).item())
    assert max(errors) < 2 * min(errors)  # of the order of the gap, so it vanishes with it
