"""SCTD: its two parts on data where both are known, its segments and its one noise."""

import pytest
import torch
from kit import around, seeded
from kit import normal64 as normal

from distill3d.kernels.losses.base import Views
from distill3d.kernels.losses.ode import estimates
from distill3d.kernels.losses.sctd import SCTD, sctd
from distill3d.kernels.priors.mixture import GaussianMixturePrior
from distill3d.kernels.priors.noise_schedule import NoiseSchedule

SCHEDULE = NoiseSchedule(NoiseSchedule.scaled_linear().alphas_cumprod.double())
SHAPE = (1, 8, 8)
LEVELS = [torch.tensor([20, 500]), torch.tensor([100, 600]), torch.tensor([240, 700])]  # e, s, t


def gaussian_prior(variance=0.25, mean=2.0, other=2.0):
    return GaussianMixturePrior(
        {"a": around(mean, variance, SHAPE), "": around(other, variance, SHAPE)}, SCHEDULE
    )


def parts(prior, guidance=7.5):
    text, null = prior.embed(["a", "a"]), prior.embed(["", ""])
    z_e = normal(1, 2, *SHAPE)
    return z_e, *sctd(prior, z_e, *LEVELS, text, null, null, guidance)


def test_both_parts_are_zero_for_a_point_mass_and_one_text():
    _, consistency, pull = parts(gaussian_prior(variance=0.0))
    assert consistency.abs().max() < 1e-9 and pull.abs().max() < 1e-9


def test_the_guidance_part_is_the_guided_estimate_less_the_null_ones_over_the_segment():
    prior = gaussian_prior(other=-1.0)
    z_e, _, pull = parts(prior)
    text, null = prior.embed(["a", "a"]), prior.embed(["", ""])
    e, s, t = (SCHEDULE.ratio(level) for level in LEVELS)
    (e_e,) = estimates(prior, z_e, LEVELS[0], [null])
    z_s = z_e + (s - e) * e_e
    (e_s,) = estimates(prior, z_s, LEVELS[1], [null])
    e_c, e_u = estimates(prior, z_s + (t - s) * e_s, LEVELS[2], [text, null])
    guided = e_u + 7.5 * (e_c - e_u)
    expected = (s - e) * (guided - e_e) + (t - s) * (guided - e_s)
    torch.testing.assert_close(pull, SCHEDULE.alpha(LEVELS[0]) * expected)


def test_the_consistency_part_is_the_closed_forms_round_trip_for_gaussian_data():
    v, mu = 0.25, 2.0
    z_e, consistency, _ = parts(gaussian_prior(v, mu))
    e, s, t = (SCHEDULE.ratio(level) for level in LEVELS)

    # share of z - mu that one Euler step from level to level leaves, as e = at (z - mu) / (v +
    # at^2)
    def kept(at, to):
        return 1 + (to - at) * at / (v + at**2)

    back = (z_e - mu) * kept(e, s) * kept(s, t) * kept(t, s) * kept(s, e)
    torch.testing.assert_close(consistency, SCHEDULE.alpha(LEVELS[0]) * (back - (z_e - mu)))


def test_the_way_back_is_guided_from_t_and_the_null_texts_from_s():
    prior = gaussian_prior(other=-1.0)
    z_e, consistency, _ = parts(prior)
    text, null = prior.embed(["a", "a"]), prior.embed(["", ""])
    (e, s, t), (low, middle, high) = LEVELS, (SCHEDULE.ratio(level) for level in LEVELS)
    z = z_e + (middle - low) * estimates(prior, z_e, e, [null])[0]
    z = z + (high - middle) * estimates(prior, z, s, [null])[0]
    e_c, e_u = estimates(prior, z, t, [text, null])
    z = z + (middle - high) * (e_u + 7.5 * (e_c - e_u))
    z = z + (low - middle) * estimates(prior, z, s, [null])[0]
    torch.testing.assert_close(consistency, SCHEDULE.alpha(e) * (z - z_e))


def test_consistency_contracts_to_the_mean_when_descended():
    """Both parts of one network point away from the mean where z_e lies above it, so descending
    them leads there.
    """
    prior = gaussian_prior()
    z_e = 2.0 + normal(1, 2, *SHAPE).abs()
    text = prior.embed(["a", "a"])
    consistency, pull = sctd(prior, z_e, *LEVELS, text, text, text, 1.0)
    assert (consistency + 2 * pull > 0).all()


def test_a_round_trip_by_the_same_network_comes_back_as_the_steps_get_small():
    prior, text = gaussian_prior(), gaussian_prior().embed(["a", "a"])
    z_e, errors = normal(1, 2, *SHAPE), []
    for width in (160, 40):
        e = torch.tensor([300, 600])
        consistency, _ = sctd(prior, z_e, e, e + width // 2, e + width, text, text, text, 1.0)
        errors.append(consistency.abs().mean().item())
    assert errors[1] < errors[0] / 8  # second order in the step


def run_of(settings, prior, state=None, seed=0):
    return settings.start(prior, SHAPE, seeded(seed), state)


def test_direction_adds_the_guidance_part_s_plus_one_times():
    prior, settings = gaussian_prior(other=-1.0), SCTD(guidance=4.0, weighting="one")
    run, generator = run_of(settings, prior), seeded(1)
    latents = normal(2, 2, *SHAPE).requires_grad_()
    text, null = prior.embed(["a", "a"]), prior.embed(["", ""])
    value, _ = run(latents, Views(text, null, None, 0, 100), generator)

    again = seeded(1)
    t = settings.drawn(2, 0.0, again, torch.device("cpu"))
    e = settings.edge_below(t)
    s = settings.between(e, t, again)
    z_e = latents.detach() + SCHEDULE.ratio(e) * run.state()["noise"].double()
    consistency, pull = sctd(prior, z_e, e, s, t, text, null, null, 4.0)
    torch.testing.assert_close(2 * torch.autograd.grad(value, latents)[0], consistency + 5 * pull)


@pytest.mark.parametrize(
    "settings", [SCTD(), SCTD(segments=7, t_min=13), SCTD(t_max_end=60), SCTD(segments=1)]
)
def test_levels_lie_in_one_segment_in_order(settings):
    generator = seeded()
    for progress in (0.0, 0.7, 1.0):
        t = settings.drawn(3000, progress, generator, torch.device("cpu"))
        e = settings.edge_below(t)
        s = settings.between(e, t, generator)
        assert (t - e >= settings.gap).all() and (t - e <= settings.length + 1).all()
        assert (s - e >= settings.margin).all() and (t - s >= settings.margin).all()
        assert e.min() >= settings.t_min and t.max() <= 980
        edges = {int(settings.t_min + k * settings.length) for k in range(settings.segments)}
        assert set(e.tolist()) <= edges


def test_both_ends_of_s_are_drawn():
    e, t = torch.full((3000,), 100), torch.full((3000,), 123)
    assert SCTD().between(e, t, seeded()).unique().tolist() == [110, 111, 112, 113]


def test_the_noise_is_drawn_once_and_kept():
    prior = gaussian_prior()
    run = run_of(SCTD(), prior)
    before = run.state()["noise"].clone()
    text = prior.embed(["a", "a"])
    run(normal(2, 2, *SHAPE), Views(text, text, None, 0, 100), seeded(5))
    assert torch.equal(run.state()["noise"], before)
    assert not torch.equal(run_of(SCTD(), prior, seed=3).state()["noise"], before)
    with pytest.raises(ValueError, match=r"SCTD Loss: the saved loss state's 'noise' is of shape"):
        run_of(SCTD(), prior, {"noise": torch.zeros(1, 4, 4)})
