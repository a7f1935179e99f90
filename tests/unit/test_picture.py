"""Picture Loss against flows in closed form, and losses that follow one another."""

from dataclasses import replace

import pytest
import torch

from distill3d.kernels.losses.base import Views, identity
from distill3d.kernels.losses.cds import CDS
from distill3d.kernels.losses.combine import Combined, Scheduled
from distill3d.kernels.losses.degradation import Degradation
from distill3d.kernels.losses.picture import Picture, pictured
from distill3d.kernels.losses.sds import SDS
from distill3d.kernels.losses.vdm import VDM
from distill3d.kernels.priors.mixture import GaussianMixturePrior, Mixture
from distill3d.kernels.priors.noise_schedule import NoiseSchedule, clean_from_noise

SCHEDULE = NoiseSchedule(NoiseSchedule.scaled_linear().alphas_cumprod.double())
SHAPE = (1, 16, 16)
LEARNING = VDM(degradation=Degradation("linear"))


def seeded(seed=0):
    return torch.Generator().manual_seed(seed)


def normal(seed, *shape):
    return torch.randn(shape, generator=seeded(seed), dtype=torch.float64)


def gaussian_prior(other=2.0):
    def around(value):
        means = torch.full((1, *SHAPE), value).double()
        return Mixture(means, torch.full((1, 1, 1, 1), 0.25).double(), torch.ones(1))

    return GaussianMixturePrior({"a": around(2.0), "": around(other)}, SCHEDULE)


def views(prior, count=1, step=0, steps=100):
    return Views(prior.embed(["a"] * count), prior.embed([""] * count), None, step, steps)


def two(first, second, switch=0.5, spans=("whole run", "own share")):
    return Scheduled((first, second), (0.0, switch), spans)


def gradient(run, prior, step, steps=100, seed=1):
    latents = normal(8, 2, *SHAPE).float().requires_grad_()
    value, logs = run(latents, views(prior, 2, step, steps), seeded(seed))
    return torch.autograd.grad(value, latents)[0], logs


def test_the_picture_of_one_step_is_the_estimate_and_many_steps_follow_the_flow():
    prior, t = gaussian_prior(), torch.tensor([600, 600])
    a, s = SCHEDULE.alpha(t), SCHEDULE.sigma(t)
    z_t, text = a * 2.0 + s * normal(7, 2, *SHAPE), prior.embed(["a", "a"])
    (noise,) = prior.predict(z_t, t, [text])
    estimate = clean_from_noise(z_t, noise, a, s)
    torch.testing.assert_close(pictured(prior, z_t, t, 1, text, text, 3.0), estimate)
    # the flow of a Gaussian in closed form: (x - mu) / sqrt(v + sigma^2) stays, in the form z /
    # alpha = x + sigma eps
    ratio = s / a
    exact = 2.0 + (z_t / a - 2.0) * (0.25 / (0.25 + ratio**2)).sqrt()
    errors = [
        (pictured(prior, z_t, t, k, text, text, 1.0) - exact).abs().mean().item()
        for k in (1, 3, 100)
    ]
    assert errors[0] > 2 * errors[1] > 8 * errors[2]
    one = (estimate - 2.0).std()
    assert one < 0.6 * (exact - 2.0).std()  # the mean is soft, the flow's end has the data's spread


def test_a_guidance_per_view_takes_no_shortcut_at_one():
    prior, t, z_t = gaussian_prior(other=-1.0), torch.tensor([600, 600]), normal(7, 2, *SHAPE)
    texts = prior.embed(["a", "a"]), prior.embed(["", ""])
    mixed = pictured(prior, z_t, t, 3, *texts, torch.tensor([1.0, 3.0])[:, None, None, None])
    torch.testing.assert_close(mixed[:1], pictured(prior, z_t, t, 3, *texts, 1.0)[:1])
    torch.testing.assert_close(mixed[1:], pictured(prior, z_t, t, 3, *texts, 3.0)[1:])


def test_renders_are_drawn_to_the_pictures_made_of_them():
    prior = gaussian_prior()
    run = Picture(steps=4, t_min=400, t_max=400, guidance=1, weight=2.0).start(
        prior, SHAPE, seeded()
    )
    latents = normal(8, 2, *SHAPE).float().requires_grad_()
    value, logs = run(latents, views(prior, 2), generator := seeded(1))
    t, drawn = torch.tensor([400, 400]), seeded(1)
    torch.randint(400, 401, (1,), generator=drawn)
    noise = torch.randn(2, *SHAPE, generator=drawn)
    assert torch.equal(generator.get_state(), drawn.get_state())
    z_t = SCHEDULE.alpha(t) * latents.detach() + SCHEDULE.sigma(t) * noise
    rows = prior.embed(["a", "a"])
    wanted = 2.0 * (latents.detach() - pictured(prior, z_t.float(), t, 4, rows, rows, 1.0))
    torch.testing.assert_close(
        2 * torch.autograd.grad(value, latents)[0], wanted.float(), rtol=1e-4, atol=1e-4
    )
    assert logs["t"] == 400 and run.state() == {}


# 130: beyond the schedule
@pytest.mark.parametrize(("step", "highest"), [(0, 800), (50, 650), (99, 503), (130, 500)])
def test_its_noise_levels_come_down_to_200_above_the_lowest(step, highest):
    prior = gaussian_prior()
    run = Picture(steps=1, t_min=300, t_max=800, shared_t=False).start(prior, SHAPE, seeded())
    _, logs = run(torch.zeros(400, *SHAPE), views(prior, 400, step), seeded(1))
    assert logs["t"].item() == pytest.approx((300 + highest) / 2, abs=20)


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"steps": 0}, "Picture Loss: steps is 0"),
        ({"guidance": float("nan")}, "guidance is nan"),
        ({"t_min": 900}, "t_min 900 does not lie between 0 and t_max 800"),
        ({"t_max": 1000}, "t_max 1000 is beyond prior"),
    ],
)
def test_pictures_that_cannot_be_made_are_refused(changes, message):
    with pytest.raises(ValueError, match=message):
        Picture(**changes).start(gaussian_prior(), SHAPE, seeded())


def test_each_loss_of_a_schedule_has_its_turn_and_only_that():
    prior = gaussian_prior(other=-1.0)
    run = two(SDS(), CDS()).start(prior, SHAPE, seeded())
    alone = SDS().start(prior, SHAPE, seeded())
    found, logs = gradient(run, prior, 49)
    assert torch.equal(found, gradient(alone, prior, 49)[0])
    assert set(logs) == {f"0.SDS.{name}" for name in ("t", "gradient", "nonfinite")}
    _, logs = gradient(run, prior, 50)
    assert all(name.startswith("1.CDS.") for name in logs)


@pytest.mark.parametrize("step", [50, 75, 99, 130])
def test_a_loss_anneals_over_its_own_share_or_over_the_whole_run(step):
    prior, second = gaussian_prior(other=-1.0), CDS()
    own = two(SDS(), second).start(prior, SHAPE, seeded())
    whole = two(SDS(), second, spans=("own share", "whole run")).start(prior, SHAPE, seeded())
    alone = second.start(prior, SHAPE, seeded())
    assert torch.equal(gradient(whole, prior, step)[0], gradient(alone, prior, step)[0])
    later = min(2 * (step - 50), 100)
    assert torch.equal(gradient(own, prior, step)[0], gradient(alone, prior, later)[0])


def test_the_first_loss_ends_with_its_own_share():
    prior, first = gaussian_prior(other=-1.0), CDS()
    own = two(first, SDS(), 0.8, ("own share", "own share")).start(prior, SHAPE, seeded())
    alone = first.start(prior, SHAPE, seeded())
    assert torch.equal(gradient(own, prior, 40)[0], gradient(alone, prior, 50)[0])


def test_schedules_nest():
    """The inner one's shares are of the outer one's share."""
    inner = two(SDS(), last := CDS.texture(), 0.5, ("own share", "own share"))
    prior = gaussian_prior(other=-1.0)
    run = two(Picture(), inner, 0.5).start(prior, SHAPE, seeded())
    kinds = [sorted(gradient(run, prior, step)[1])[0] for step in (0, 49, 50, 74, 75, 99)]
    assert [kind.rpartition(".")[0] for kind in kinds] == (
        2 * ["0.Picture"] + 2 * ["1.Scheduled.0.SDS"] + 2 * ["1.Scheduled.1.CDS"]
    )
    alone = last.start(prior, SHAPE, seeded())
    assert torch.equal(gradient(run, prior, 80)[0], gradient(alone, prior, 20)[0])


@pytest.mark.parametrize(
    ("switch", "steps", "turn"), [(0.0, (0, 50, 99), 1), (1.0, (0, 99, 100, 130), 0)]
)
def test_a_loss_without_a_share_never_has_a_turn(switch, steps, turn):
    prior = gaussian_prior()
    run = two(LEARNING, Picture(), switch).start(prior, SHAPE, seeded())
    before = run.state()
    for step in steps:
        _, logs = gradient(run, prior, step)
        assert all(name.startswith(f"{turn}.") for name in logs)
    same = all(torch.equal(value, before[key]) for key, value in run.state().items())
    assert same is (switch == 0)  # M_psi learns only in its turn


def test_all_losses_begin_with_the_run_and_draw_in_their_order():
    one, other = seeded(3), seeded(3)
    prior = gaussian_prior()
    state = two(CDS(), CDS.texture()).start(prior, SHAPE, one).state()
    wanted = [CDS().start(prior, SHAPE, other).state()["noise"] for _ in range(2)]
    assert [*map(torch.equal, (state["0.CDS.noise"], state["1.CDS.noise"]), wanted)] == [True] * 2
    assert torch.equal(one.get_state(), other.get_state())


def test_a_schedule_that_is_continued_draws_nothing_and_goes_on():
    prior = gaussian_prior()
    loss = two(LEARNING, CDS(), 0.5)
    run = loss.start(prior, SHAPE, seeded())
    for step in (0, 1):
        gradient(run, prior, step)
    again = loss.start(prior, SHAPE, generator := seeded(9), run.state())
    assert torch.equal(generator.get_state(), seeded(9).get_state())
    for step in (2, 60):
        assert torch.equal(gradient(run, prior, step)[0], gradient(again, prior, step)[0])
    assert identity(loss) == "Scheduled(VDM, CDS)"
    with pytest.raises(ValueError, match="saved loss state's 'noise' is missing"):
        loss.start(prior, SHAPE, seeded(), {k: v for k, v in run.state().items() if "VDM" in k})


def test_a_schedule_is_a_loss_in_sums_and_under_a_strength():
    loss = two(SDS(), Picture())
    gentle = loss.below(400)
    assert gentle.losses == [SDS().below(400), Picture().below(400)]
    assert gentle.starts == loss.starts and gentle.losses[1].t_max == 400
    assert loss.near(450).losses == [SDS().near(450), Picture().near(450)]
    prior = gaussian_prior(other=-1.0)
    run = Combined((loss, SDS()), (1.0, 0.5)).start(prior, SHAPE, seeded())
    assert {"0.Scheduled.0.SDS.t", "1.SDS.t"} <= gradient(run, prior, 0)[1].keys()


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"losses": ()}, "0 losses with 2 starts and 2 spans"),
        ({"starts": (0.0,)}, "2 losses with 1 starts"),
        ({"starts": (0.0, 1.5)}, "start 2 is 1.5; it must lie between 0 and 1"),
        ({"starts": (0.1, 0.5)}, "the first must be 0"),
        ({"spans": ("own share", "all")}, "span 2 is 'all'; choose one of own share, whole run"),
        ({"losses": (SDS(), Picture(steps=0))}, "Picture Loss: steps is 0"),
    ],
)
def test_a_schedule_that_cannot_be_is_refused(changes, message):
    loss = replace(two(SDS(), CDS()), **changes)
    with pytest.raises(ValueError, match=message):
        loss.check()
    with pytest.raises(ValueError, match=message):
        loss.start(gaussian_prior(), SHAPE, seeded())
