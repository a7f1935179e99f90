"""What every loss at a random timestep owes: it converges, resumes, scales with the guidance per
view, refuses.
"""

from dataclasses import replace

import pytest
import torch
from kit import around, seeded
from kit import normal64 as normal

from distill3d.kernels.losses.base import Views
from distill3d.kernels.losses.csd import CSD
from distill3d.kernels.losses.ism import ISM
from distill3d.kernels.losses.nfsd import NFSD
from distill3d.kernels.losses.rfds import RFDS
from distill3d.kernels.losses.sctd import SCTD
from distill3d.kernels.losses.sdi import SDI
from distill3d.kernels.losses.sds import SDS
from distill3d.kernels.losses.vsd import VSD
from distill3d.kernels.priors.mixture import GaussianMixturePrior
from distill3d.kernels.priors.noise_schedule import NoiseSchedule

SCHEDULE = NoiseSchedule(NoiseSchedule.scaled_linear().alphas_cumprod.double())
SHAPE = (1, 8, 8)
KINDS = (SDS, CSD, NFSD, ISM, SDI, SCTD, VSD, RFDS)


class GaussianLearner:
    """A learner that can be exact: the noise estimate of N(mean, variance) renders, mean and
    variance its weights.
    """

    def __init__(self, prior):
        self.prior = prior

    def initial(self, generator):
        return {"mean": torch.randn((), generator=generator), "log_variance": torch.zeros(())}

    def output(self, weights, z_t, t):
        a, s = (f(t).to(z_t) for f in (self.prior.schedule.alpha, self.prior.schedule.sigma))
        return s * (z_t - a * weights["mean"]) / (a**2 * weights["log_variance"].exp() + s**2)

    def predict(self, weights, z_t, t, text):
        return self.output(weights, z_t, t).detach()

    def error(self, weights, z0, noise, t, text):
        a, s = (f(t).to(z0) for f in (self.prior.schedule.alpha, self.prior.schedule.sigma))
        return self.output(weights, a * z0 + s * noise, t) - noise


class AdaptableMixture(GaussianMixturePrior):
    """The mixture with such a learner, and a count of the texts that were asked for."""

    asked = 0

    def adapter(self, rank):
        return GaussianLearner(self)

    def predict(self, z_t, t, conditionings):
        self.asked += len(conditionings)
        return super().predict(z_t, t, conditionings)


def gaussian_prior(variance=0.25, mean=2.0, other=2.0, other_variance=0.25):
    return AdaptableMixture(
        {"a": around(mean, variance, SHAPE), "": around(other, other_variance, SHAPE)}, SCHEDULE
    )


def views(prior, count=1, step=0, steps=100, factor=1.0):
    return Views(prior.embed(["a"] * count), prior.embed([""] * count), None, step, steps, factor)


def descend(loss, prior, lr, sign=1, steps=150):
    generator, latents = seeded(), 0.5 * normal(4, 1, *SHAPE).float()
    run = loss.start(prior, SHAPE, generator)
    for step in range(steps):
        latents = latents.detach().requires_grad_()
        value, _ = run(latents, views(prior, 1, step, steps), generator)
        latents = latents - sign * lr * torch.autograd.grad(value, latents)[0]
    return latents.detach()


@pytest.mark.parametrize(
    ("loss", "lr"),
    [
        (SDS(guidance=1, weighting="sigma/alpha"), 0.05),
        (CSD(guidance=2, weighting="sigma/alpha"), 0.1),
        (NFSD(guidance=0, t_low=1000, weighting="sigma/alpha"), 0.05),
        (ISM(guidance=1), 0.5),
        (SDI(guidance=1, inversion_guidance=1, stride=200), 0.05),
        (SCTD(guidance=1), 0.5),
        (VSD(guidance=1, weighting="sigma/alpha", lora_lr=2e-2), 0.05),
    ],
    ids=lambda value: getattr(value, "name", ""),
)
def test_descending_reaches_the_datas_mean_and_the_opposite_sign_moves_away(loss, lr):
    # CSD: away from the wide null text
    prior = gaussian_prior(other_variance=4.0 if loss.name == "CSD" else 0.25)
    start = 0.5 * normal(4, 1, *SHAPE).mean()
    assert abs(descend(loss, prior, lr).mean() - 2) < 0.1
    assert abs(descend(loss, prior, lr, sign=-1).mean() - 2) > abs(start - 2) + 1


def gradient(loss, prior, factor=1.0):
    latents = normal(1, 2, *SHAPE).requires_grad_()
    value, logs = loss.start(prior, SHAPE, seeded())(
        latents, views(prior, 2, 10, factor=factor), seeded(1)
    )
    assert all(log.shape == () and not log.requires_grad for log in logs.values())
    return torch.autograd.grad(value, latents)[0]


@pytest.mark.parametrize("kind", KINDS, ids=lambda kind: kind.name)
def test_guidance_is_multiplied_view_by_view(kind):
    prior, scales = gaussian_prior(other=-1.0), [{"guidance": 6.0}, {"guidance": 3.0}]
    if kind is SDI:
        scales = [{**scale, "inversion_guidance": -scale["guidance"]} for scale in scales]
    double, single = (gradient(kind(**scale), prior) for scale in scales)
    assert not torch.allclose(double, single)
    mixed = gradient(kind(**scales[1]), prior, torch.tensor([2.0, 1.0])[:, None, None, None])
    torch.testing.assert_close(mixed, torch.stack([double[0], single[1]]))


def advance(run, prior, generator, begin, end):
    for step in range(begin, end):
        latents = normal(20 + step, 2, *SHAPE).float().requires_grad_()
        value, _ = run(latents, views(prior, 2, step, 10), generator)
    return torch.autograd.grad(value, latents)[0]


@pytest.mark.parametrize("kind", KINDS, ids=lambda kind: kind.name)
def test_a_resumed_run_continues_bit_for_bit(kind):
    prior, generator, loss = gaussian_prior(other=-1.0), seeded(), kind()
    run = loss.start(prior, SHAPE, generator)
    advance(run, prior, generator, 0, 3)
    state, drawn = run.state(), generator.get_state()
    kept = {key: value.clone() for key, value in state.items()}
    expected = advance(run, prior, generator, 3, 6)
    # a saved state is not changed by going on
    assert all(torch.equal(state[key], kept[key]) for key in state)

    generator.set_state(drawn)
    resumed = loss.start(prior, SHAPE, generator, state)
    assert torch.equal(generator.get_state(), drawn)  # resuming draws nothing
    assert torch.equal(advance(resumed, prior, generator, 3, 6), expected)
    assert all(torch.equal(value, resumed.state()[key]) for key, value in run.state().items())


@pytest.mark.parametrize(
    ("kind", "early", "late"),
    [
        (SDS, 2, 2),
        (CSD, 2, 2),
        (NFSD, 3, 3),
        (ISM, 8, 6),
        (SDI, 22, 10),
        (SCTD, 5, 5),
        (RFDS, 3, 3),
        (VSD, 2, 2),
    ],
    ids=lambda value: getattr(value, "name", str(value)),
)
def test_evaluations_per_step_and_view_are_those_that_the_settings_tell(kind, early, late):
    prior = gaussian_prior()
    run = kind().start(prior, SHAPE, seeded())
    for step, expected in ((0, early), (100, late)):
        prior.asked = 0
        run(normal(1, 3, *SHAPE), views(prior, 3, step), seeded())
        assert prior.asked == expected


@pytest.mark.parametrize(
    ("loss", "message"),
    [
        (NFSD(t_low=-1), "NFSD Loss: t_low is -1; it must lie between 0 and 1000"),
        (ISM(gap=0), "ISM Loss: gap is 0; it must lie between 1 and 1000"),
        (ISM(stride=0), "ISM Loss: stride is 0"),
        (SDI(eta=1.5), "SDI Loss: eta is 1.5; it must lie between 0 and 1"),
        (SDI(stride=0), "SDI Loss: stride is 0"),
        (SDI(inversion_guidance=float("nan")), "inversion_guidance is nan"),
        (SCTD(segments=0), "SCTD Loss: segments is 0"),
        (
            SCTD(gap=20),
            "gap 20 leaves no step between margins of 10 and 10. Raise gap above 20, or lower them",
        ),
        (SCTD(segments=12), "gap 80 does not fit into a segment of 80 steps .12 between t_min 20"),
        (VSD(lora_rank=0), "VSD Loss: lora_rank is 0"),
        (VSD(lora_lr=2.0), "VSD Loss: lora_lr is 2"),
        (CSD(t_min=600), "CSD Loss: t_min 600 is above t_max_end 500. Swap or widen them"),
        (CSD(t_max_start=1000), "CSD Loss: t_max_start 1000 is beyond prior"),
        (CSD(weighting="x"), "CSD Loss: weighting is 'x'"),
    ],
)
def test_bad_settings_are_named_with_their_cure(loss, message):
    with pytest.raises(ValueError, match=message):
        loss.start(gaussian_prior(), SHAPE, seeded())


@pytest.mark.parametrize("kind", [SCTD, VSD], ids=lambda kind: kind.name)
def test_a_foreign_state_is_refused(kind):
    with pytest.raises(ValueError, match=f"{kind.name} Loss: the saved loss state's .* is missing"):
        kind().start(gaussian_prior(), SHAPE, seeded(), {"other": torch.zeros(())})


def test_weight_weighting_and_clip_are_applied():
    prior = gaussian_prior(other=-1.0)
    plain = CSD(t_min=400, t_max_start=400, t_max_end=400, weighting="one")
    t, base = torch.tensor([400]), gradient(plain, prior)
    torch.testing.assert_close(
        gradient(replace(plain, weighting="1-abar", weight=3.0), prior),
        3 * SCHEDULE.sigma(t) ** 2 * base,
    )
    assert (2 * gradient(replace(plain, clip=0.1), prior)).abs().max() <= 0.1 + 1e-12
