"""SDS, the way gradients are injected, and weighted sums of losses."""

from dataclasses import replace

import pytest
import torch
from kit import around, seeded
from kit import normal64 as normal

from distill3d.kernels.losses.base import Views, cleaned, guided, inject
from distill3d.kernels.losses.cds import CDS, cds
from distill3d.kernels.losses.combine import Combined
from distill3d.kernels.losses.csd import CSD
from distill3d.kernels.losses.ism import ISM
from distill3d.kernels.losses.nfsd import NFSD
from distill3d.kernels.losses.picture import Picture
from distill3d.kernels.losses.schedule import TimestepRange, annealed
from distill3d.kernels.losses.sctd import SCTD
from distill3d.kernels.losses.sdi import SDI
from distill3d.kernels.losses.sds import SDS, sds
from distill3d.kernels.losses.vdm import VDM
from distill3d.kernels.priors.mixture import GaussianMixturePrior, LinearEncoder, Mixture
from distill3d.kernels.priors.noise_schedule import NoiseSchedule

SCHEDULE = NoiseSchedule(NoiseSchedule.scaled_linear().alphas_cumprod.double())
SHAPE = (3, 16, 16)


def gaussian_prior(kind=GaussianMixturePrior, variance=0.25, mean=2.0, other=2.0, **options):
    return kind(
        {"a": around(mean, variance, SHAPE), "": around(other, variance, SHAPE)},
        SCHEDULE,
        **options,
    )


def views(prior, count=1, step=0, steps=100):
    return Views(prior.embed(["a"] * count), prior.embed([""] * count), None, step, steps)


def test_direction_has_the_closed_forms_expectation():
    prior, t = gaussian_prior(), torch.tensor([50, 500, 900])
    latents, noise, rows = normal(1, 3, *SHAPE), normal(2, 3, *SHAPE), views(prior, 3)
    # linear in the noise for Gaussian data, so a pair of opposite noises has exactly the mean of
    # all of them
    mean = (
        sum(sds(prior, latents, t, n, rows.text, rows.negative, 1.0) for n in (noise, -noise)) / 2
    )
    a, s = SCHEDULE.alpha(t), SCHEDULE.sigma(t)
    torch.testing.assert_close(mean, s * a * (latents - 2) / (a**2 * 0.25 + s**2))


def test_a_prior_that_knows_the_render_asks_for_nothing():
    prior, t = gaussian_prior(variance=0.0), torch.tensor([50, 500, 900])
    latents, noise, rows = (
        torch.full((3, *SHAPE), 2.0).double(),
        normal(2, 3, *SHAPE),
        views(prior, 3),
    )
    assert sds(prior, latents, t, noise, rows.text, rows.negative, 1.0).abs().max() < 1e-9


def test_descending_seeks_the_mean_and_collapses_the_spread():
    prior, generator = gaussian_prior(), seeded()
    run = SDS(guidance=1, weighting="sigma/alpha").start(prior, SHAPE, generator)
    latents = normal(3, 1, *SHAPE)
    for step in range(400):
        latents = latents.detach().requires_grad_()
        value, _ = run(latents, views(prior, 1, step, 400), generator)
        latents = latents - 0.02 * torch.autograd.grad(value, latents)[0]
    assert abs(latents.mean() - 2) < 0.05
    assert latents.std() < 0.25  # the data's is 0.5


def test_guidance_has_the_standard_form():
    text, negative = normal(4, 2), normal(5, 2)
    torch.testing.assert_close(guided(text, negative, 1.0), text)
    torch.testing.assert_close(guided(text, negative, 0.0), negative)
    torch.testing.assert_close(guided(text, negative, 3.0), text + 2 * (text - negative))


def test_injected_gradient_reaches_the_image_as_the_encoders_transpose():
    encoder = LinearEncoder(normal(6, 4, 3), downscale=2)
    images, gradient = (
        normal(7, 2, 3, 8, 8).requires_grad_(),
        normal(8, 2, 4, 4, 4).requires_grad_(),
    )
    latents = encoder.forward(images)
    value = inject(latents, gradient)
    value.backward()
    torch.testing.assert_close(images.grad, encoder.adjoint(gradient.detach()) / 2)
    torch.testing.assert_close(value, 0.5 * gradient.square().sum() / 2)
    assert gradient.grad is None


class RecordingPrior(GaussianMixturePrior):
    """Keeps what it is asked about as the loss hands it over, before the prior itself goes without
    gradients.
    """

    def __init__(self, *args, **options):
        super().__init__(*args, **options)
        self.inputs = []

    def predict(self, z_t, t, conditionings):
        self.inputs.append(z_t)
        return super().predict(z_t, t, conditionings)


OTHERS = [CSD(), NFSD(), ISM(), SDI(), SCTD()]
LOSSES = {loss.name: loss for loss in (SDS(), CDS(), VDM(), Picture(), *OTHERS)}


@pytest.mark.parametrize("loss", LOSSES.values(), ids=LOSSES)
def test_no_gradient_passes_the_denoiser(loss):
    prior = gaussian_prior(RecordingPrior, other=0.0)
    latents = normal(9, 2, *SHAPE).requires_grad_()
    value, logs = loss.start(prior, SHAPE, seeded())(latents.float(), views(prior, 2), seeded())
    value.backward()
    assert prior.inputs and not any(z.requires_grad for z in prior.inputs)
    assert latents.grad.abs().sum() > 0
    assert all(log.shape == () and not log.requires_grad for log in logs.values())


def test_the_bare_directions_take_latents_that_want_a_gradient_and_pass_none_on():
    prior, t = gaussian_prior(RecordingPrior, other=0.0), torch.tensor([600, 600])
    latents, noise, rows = (
        normal(9, 2, *SHAPE).requires_grad_(),
        normal(2, 2, *SHAPE),
        views(prior, 2),
    )
    texts = rows.text, rows.negative, 7.5
    directions = [
        sds(prior, latents, t, noise, *texts),
        cds(prior, latents, t, t - 100, noise, *texts),
        cds(prior, latents, t, t - 100, noise, *texts, pull=0.5),
    ]
    assert len(prior.inputs) == 5 and not any(z.requires_grad for z in [*prior.inputs, *directions])


@pytest.mark.parametrize(
    "loss",
    [SDS(guidance=20), CDS(clip_start=0, clip_end=0), VDM(), Picture()],
    ids=lambda loss: loss.name,
)
def test_guidance_is_multiplied_view_by_view(loss):
    prior = gaussian_prior(other=-1.0)

    def gradient(factor):
        latents = normal(13, 2, *SHAPE).requires_grad_()
        rows = replace(views(prior, 2, 10), guidance_factor=factor)
        value, _ = loss.start(prior, SHAPE, seeded())(latents, rows, seeded(1))
        return torch.autograd.grad(value, latents)[0]

    both = gradient(torch.tensor([1.0, 0.25])[:, None, None, None])
    torch.testing.assert_close(both[0], gradient(1.0)[0])
    torch.testing.assert_close(both[1], gradient(0.25)[1])
    assert (both[1] - gradient(1.0)[1]).abs().max() > 1e-3
    scaled = {name: 0.25 * getattr(loss, name) for name in vars(loss) if "guidance" in name}
    loss = replace(loss, **scaled)
    torch.testing.assert_close(gradient(1.0)[1], both[1])


ALL = [
    SDS(),
    CDS(weighting="1-abar"),
    VDM(clip=1.0, x0_clip=5.0, x0_rescale=0.5),
    Combined([SDS(), VDM()], [1.0, 0.5]),
]


@pytest.mark.parametrize("loss", [*ALL, *OTHERS], ids=lambda loss: loss.name)
def test_a_step_never_waits_for_the_device_and_takes_a_cpu_generator(loss):
    """On the meta device there are no values, so reading one back (a host sync) raises."""
    means = torch.zeros(1, *SHAPE, device="meta")
    mixture = Mixture(means, torch.ones(1, 1, 1, 1, device="meta"), torch.ones(1, device="meta"))
    prior = GaussianMixturePrior({"a": mixture, "": mixture})
    latents = torch.zeros(2, *SHAPE, device="meta", requires_grad=True)
    run = loss.start(prior, SHAPE, seeded())
    for step in range(2):
        value, _ = run(latents, views(prior, 2, step), seeded())
        value.backward()
    assert latents.grad.device.type == "meta"


@pytest.mark.parametrize(
    "loss", [SDS(), VDM(), VDM(x0_rescale=1.0, x0_clip=5.0), *OTHERS], ids=lambda loss: loss.name
)
@pytest.mark.parametrize("prediction", ["v_prediction", "flow"])
def test_every_prediction_gives_the_same_gradient(loss, prediction):
    gradients = []
    for kind in ("epsilon", prediction):
        prior = gaussian_prior(other=-1.0, prediction=kind)
        latents = normal(10, 2, *SHAPE).float().requires_grad_()
        run = loss.start(prior, SHAPE, seeded())
        for step in range(3):  # VDM's network moves after its first step
            value, _ = run(latents, views(prior, 2, step), seeded(step))
        gradients.append(torch.autograd.grad(value, latents)[0])
    torch.testing.assert_close(*gradients, rtol=1e-3, atol=1e-4)


def test_weight_and_weighting_scale_the_gradient():
    prior = gaussian_prior()
    fixed = {"t_min": 400, "t_max_start": 400, "t_max_end": 400}

    def gradient(**changes):
        latents = normal(11, 2, *SHAPE).requires_grad_()
        value, _ = SDS(**fixed, **changes).start(prior, SHAPE, seeded())(
            latents, views(prior, 2), seeded()
        )
        return torch.autograd.grad(value, latents)[0]

    t, plain = torch.tensor([400]), gradient(weighting="one")
    torch.testing.assert_close(gradient(), SCHEDULE.sigma(t) ** 2 * plain)
    torch.testing.assert_close(
        gradient(weighting="sigma/alpha", weight=3.0), 3 * SCHEDULE.ratio(t) * plain
    )
    assert (2 * gradient(clip=0.1)).abs().max() <= 0.1 + 1e-12


def test_single_overflows_are_dropped_and_a_broken_gradient_is_kept_broken():
    values = torch.tensor([1.0, float("nan"), float("inf"), -3.0])
    assert cleaned(values, 2.0).tolist() == [1.0, 0.0, 2.0, -2.0]
    assert cleaned(values).tolist() == [1.0, 0.0, 0.0, -3.0]
    assert cleaned(torch.full((3,), float("nan")), 2.0).isnan().all()
    assert cleaned(torch.full((3,), float("inf")), 2.0).isinf().all()


def test_upper_timestep_anneals_and_both_ends_are_drawn():
    steps = TimestepRange(20, 980, 500, "linear", 0.5)
    assert [steps.t_max(p) for p in (0, 0.25, 0.5, 1)] == [980, 740, 500, 500]
    assert TimestepRange(20, 980, 500, "constant").t_max(1.0) == 980
    jump = TimestepRange(20, 980, 500, "jump", 0.2)
    assert [jump.t_max(p) for p in (0, 0.2, 0.2001, 1)] == [980, 980, 500, 500]
    drawn = TimestepRange(5, 8, 6).draw(500, 1.0, seeded(), torch.device("cpu"))
    assert drawn.unique().tolist() == [5, 6]
    assert [annealed(0, 8, p, "sqrt") for p in (0, 0.25, 1)] == [0, 4, 8]
    assert annealed(0, 8, 0.5, "cosine") == pytest.approx(4)
    assert annealed(0, 8, 0.25, "cosine") < 2 < annealed(0, 8, 0.25, "sqrt")


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"t_min": 600}, "SDS Loss: t_min 600 is above t_max_end 500. Swap or widen them"),
        ({"t_min": -1}, "t_min is -1; timesteps begin at 0"),
        ({"t_max_start": 1000}, "t_max_start 1000 is beyond prior"),
        ({"t_anneal": "fast"}, "t_anneal is 'fast'; choose one of constant, linear, sqrt, cosine"),
        ({"t_anneal_share": 0.0}, "t_anneal_share is 0"),
        ({"weighting": "x"}, "weighting is 'x'"),
        ({"guidance": -1}, "guidance is -1; it must lie between 0 and 1000"),
    ],
)
def test_bad_settings_are_named_with_their_cure(changes, message):
    with pytest.raises(ValueError, match=message):
        SDS(**changes).start(gaussian_prior(), SHAPE, seeded())


def gradient_and_run(loss, prior, state=None, seed=1):
    latents = normal(12, 2, *SHAPE).float().requires_grad_()
    run = loss.start(prior, SHAPE, seeded(), state)
    value, logs = run(latents, views(prior, 2), seeded(seed))
    return torch.autograd.grad(value, latents)[0], run, logs


def test_a_sum_of_losses_has_the_weighted_sum_of_gradients():
    prior, parts = gaussian_prior(other=0.0), (SDS(guidance=7.5), CDS())
    single = []
    generator, stepping = seeded(), seeded(1)
    latents = normal(12, 2, *SHAPE).float().requires_grad_()
    for loss in parts:  # one generator passes through the losses in their order
        run = loss.start(prior, SHAPE, generator)
        single.append(run)
    single = [
        torch.autograd.grad(run(latents, views(prior, 2), stepping)[0], latents)[0]
        for run in single
    ]
    total, _, logs = gradient_and_run(Combined(parts, (0.5, 2.0)), prior)
    torch.testing.assert_close(total, 0.5 * single[0] + 2 * single[1])
    assert {"0.SDS.t", "1.CDS.t_next"} <= set(logs)


def test_a_sum_resumes_each_of_its_losses_even_two_of_a_kind():
    prior = gaussian_prior(other=0.0)
    loss = Combined([CDS(), CDS.texture(), Combined([VDM()], [1.0])], [1.0, 1.0, 1.0])
    _, run, _ = gradient_and_run(loss, prior)
    state = run.state()
    assert not torch.equal(state["0.CDS.noise"], state["1.CDS.noise"])
    first, _, _ = gradient_and_run(loss, prior, state)
    again = run(normal(12, 2, *SHAPE).float().requires_grad_(), views(prior, 2), seeded(1))[0]
    latents = normal(12, 2, *SHAPE).float().requires_grad_()
    resumed = loss.start(prior, SHAPE, seeded(), state)(latents, views(prior, 2), seeded(1))[0]
    assert torch.equal(again, resumed) and torch.isfinite(first).all()


@pytest.mark.parametrize(
    ("losses", "weights", "message"),
    [
        ([], [], "0 losses with 0 weights"),
        ([SDS()], [1.0, 2.0], "1 losses with 2 weights"),
        ([SDS()], [0.0], "every weight is 0"),
        ([SDS(), SDS()], [1.0, -1.0], "weight 2 is -1"),
        ([SDS(t_min=600)], [1.0], "t_min 600 is above"),
    ],
)
def test_bad_sums_are_refused(losses, weights, message):
    with pytest.raises(ValueError, match=message):
        Combined(losses, weights).check()
