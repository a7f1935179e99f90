"""What a loss's settings and its three texts (prompt, negative, none) do inside a run, by closed
forms.
"""

from dataclasses import replace

import pytest
import torch
from kit import normal64 as normal
from kit import seeded

from distill3d.kernels.losses.base import Views, guided
from distill3d.kernels.losses.cds import CDS, cds
from distill3d.kernels.losses.degradation import Degradation
from distill3d.kernels.losses.ism import ISM
from distill3d.kernels.losses.nfsd import NFSD
from distill3d.kernels.losses.picture import Picture
from distill3d.kernels.losses.sctd import SCTD
from distill3d.kernels.losses.sdi import SDI
from distill3d.kernels.losses.sds import SDS
from distill3d.kernels.losses.vdm import VDM
from distill3d.kernels.losses.vsd import VSD
from distill3d.kernels.priors.mixture import GaussianMixturePrior, Mixture
from distill3d.kernels.priors.noise_schedule import NoiseSchedule, clean_from_noise

SCHEDULE = NoiseSchedule(NoiseSchedule.scaled_linear().alphas_cumprod.double())
SHAPE, VARIANCE = (1, 16, 16), 0.25
MEANS = {"a": 2.0, "ugly": -1.0, "": 0.5}  # prompt, negative prompt, null text


def gaussian_prior(means=MEANS):
    def around(value):
        return Mixture(
            torch.full((1, *SHAPE), value).double(),
            torch.tensor(VARIANCE).view(1, 1, 1, 1),
            torch.ones(1),
        )

    return GaussianMixturePrior({text: around(value) for text, value in means.items()}, SCHEDULE)


def views(prior, count=2, step=0, steps=100):
    return Views(prior.embed(["a"] * count), prior.embed(["ugly"] * count), None, step, steps)


def noise_of(text, z, t):
    """The exact noise estimate at z, variance-exploding, of step t [B]."""
    sigma = SCHEDULE.ratio(t)
    return sigma * (z - MEANS[text]) / (VARIANCE + sigma**2)


def moved(z, noise, t, to):
    return z + (SCHEDULE.ratio(to) - SCHEDULE.ratio(t)) * noise


def gradient(settings, prior, latents, rows, seed=1):
    """d loss / d latents of each view, the mean over views undone; and the logs."""
    run = settings.start(prior, SHAPE, seeded())
    latents = latents.clone().requires_grad_()
    value, logs = run(latents, rows, seeded(seed))
    return len(latents) * torch.autograd.grad(value, latents)[0], logs, run


@pytest.mark.parametrize(("pull", "shared"), [(0.0, False), (0.7, False), (0.0, True), (0.7, True)])
def test_cds_runs_with_the_pull_and_the_sharing_it_is_told(pull, shared):
    prior, latents = gaussian_prior(), normal(5, 2, *SHAPE)
    settings = CDS(perturb=1, clip_start=0, clip_end=0, pull=pull, shared_unconditional=shared)
    rows = views(prior)
    found, _, run = gradient(settings, prior, latents, rows)
    steps, noise = (torch.full((2,), 800), torch.full((2,), 700)), run.state()["noise"].double()
    torch.testing.assert_close(
        found,
        cds(
            prior,
            latents,
            *steps,
            noise,
            rows.text,
            rows.negative,
            settings.guidance_start,
            shared,
            pull,
        ),
    )


@pytest.mark.parametrize(
    ("step", "steps", "done"),
    [(0, 100, 0), (25, 100, 0.25), (100, 100, 1), (130, 100, 1), (3, 0, 1)],
)
def test_progress_ends_with_the_schedule(step, steps, done):
    assert views(gaussian_prior(), 1, step, steps).progress == done


@pytest.mark.parametrize("loss", [CDS(), SDS(), VDM(degradation=Degradation("linear")), Picture()])
def test_past_the_schedule_a_loss_stays_as_it_was_at_the_end(loss):
    """Guidance, clamp and timesteps anneal no further."""
    prior, latents = gaussian_prior(), normal(5, 2, *SHAPE)
    at_end, _, _ = gradient(loss, prior, latents, views(prior, 2, 100))
    beyond, _, _ = gradient(loss, prior, latents, views(prior, 2, 130))
    torch.testing.assert_close(beyond, at_end, rtol=0, atol=0)


def test_guidance_is_the_papers_by_default():
    """In the standard form: a paper's w is w + 1."""
    stages = [CDS.coarse(), CDS.refine(), CDS.texture()]
    assert [(stage.guidance_start, stage.guidance_end) for stage in stages] == [
        (101, 51),
        (101, 31),
        (51, 51),
    ]
    assert SDS().guidance == 100 + 1  # DreamFusion
    assert (SDI().guidance, SDI().inversion_guidance) == (7.5 + 1, -7.5 + 1)  # threestudio
    for loss in (ISM(), NFSD(), SCTD(), VSD()):
        assert loss.guidance == 7.5, loss.name


def test_dca_weighs_the_distribution_less_at_high_noise_by_default():
    """From plain VDM, 1, downward: see the derivation."""
    settings = VDM()
    assert (
        settings.eta_clean == 1
        and 0 <= settings.eta_noisy < settings.eta_clean
        and settings.dca != "constant"
    )


@pytest.mark.parametrize(
    "loss",
    [
        CDS(clip_start=0.01, clip_end=0.01, weight=5.0),
        VDM(clip=0.01, weight=5.0),
        Picture(clip=0.01, weight=5.0),
        SDS(clip=0.01, weight=5.0),
    ],
    ids=lambda loss: loss.name,
)
def test_weight_and_reduction_act_on_what_is_clamped_already(loss):
    prior = gaussian_prior()
    latents = normal(5, 2, *SHAPE)
    found, _, _ = gradient(loss, prior, latents, views(prior))
    assert found.abs().max().item() == pytest.approx(0.05)
    for reduction, factor in (("sum", 2.0), ("elements", 1 / latents[0].numel())):
        other, _, _ = gradient(replace(loss, reduction=reduction), prior, latents, views(prior))
        torch.testing.assert_close(other, factor * found)
    with pytest.raises(ValueError, match="reduction is 'median'; choose one of mean, sum"):
        replace(loss, reduction="median").check()


@pytest.mark.parametrize(
    ("shape", "share", "highest"),
    [
        ("linear", 1.0, {0: 900, 50: 700, 100: 500}),
        ("linear", 0.3, {0: 900, 15: 700, 30: 500, 80: 500}),
        ("sqrt", 1.0, {25: 700, 100: 500}),
        ("constant", 1.0, {100: 900}),
    ],
)
def test_vdm_lowers_its_highest_step_as_it_is_told(shape, share, highest):
    prior = gaussian_prior()
    settings = VDM(
        t_min=100, t_max_start=900, t_max_end=500, t_anneal=shape, t_anneal_share=share, shared_t=False,
        degradation=Degradation("linear"),
    )  # fmt: skip
    for step, high in highest.items():
        _, logs, _ = gradient(settings, prior, torch.zeros(600, *SHAPE), views(prior, 600, step))
        assert logs["t"].item() == pytest.approx((100 + high) / 2, abs=30)


@pytest.mark.parametrize("clip", [0.0, 0.4])
def test_vdm_clamps_what_the_prior_imagines_on_both_sides(clip):
    prior, latents = gaussian_prior(), normal(5, 2, *SHAPE)
    fixed = {"t_min": 400, "t_max_start": 400, "t_max_end": 400, "psi_lr": 0.0}
    found, _, _ = gradient(VDM(guidance=2.0, x0_clip=clip, **fixed), prior, latents, views(prior))
    t, generator = torch.tensor([400, 400]), seeded(1)
    torch.randint(400, 401, (1,), generator=generator)
    alpha, sigma = SCHEDULE.alpha(t), SCHEDULE.sigma(t)
    z_t = alpha * latents + sigma * torch.randn(2, *SHAPE, generator=generator)
    clean = [
        clean_from_noise(z_t, noise_of(text, z_t / alpha, t), alpha, sigma)
        for text in ("a", "ugly")
    ]
    if clip:
        assert all((x0.abs() > clip).any() for x0 in clean) and clean[1].min() < -clip
        clean = [x0.clamp(-clip, clip) for x0 in clean]
    # M_psi is the identity: the classifier part alone
    torch.testing.assert_close(found, clean[1] - clean[0])


def test_the_way_to_a_picture_is_clamped_too():
    prior = gaussian_prior()
    settings = Picture(clip=0.01)
    found, _, _ = gradient(settings, prior, normal(5, 2, *SHAPE), views(prior))
    assert found.abs().max().item() == pytest.approx(0.01)


def test_ism_inverts_by_the_null_text_and_guides_away_from_the_negative_prompt():
    prior, latents, guidance = gaussian_prior(), normal(5, 2, *SHAPE), 3.0
    settings = ISM(
        guidance=guidance,
        t_min=400,
        t_max_start=400,
        t_max_end=400,
        gap=100,
        stride=1000,
        weighting="one",
    )
    found, _, _ = gradient(settings, prior, latents, views(prior))
    zero, s, t = (torch.full((2,), step) for step in (0, 300, 400))
    z_s = moved(latents, noise_of("", latents, zero), zero, s)
    e_s = noise_of("", z_s, s)
    z_t = moved(z_s, e_s, s, t)
    torch.testing.assert_close(
        found, guided(noise_of("a", z_t, t), noise_of("ugly", z_t, t), guidance) - e_s
    )


def test_sctd_follows_the_null_text_between_its_guided_steps():
    prior, latents, guidance = gaussian_prior(), normal(5, 2, *SHAPE), 3.0
    settings = SCTD(
        guidance=guidance, t_min=200, t_max_start=600, t_max_end=600, segments=2, weighting="one"
    )
    found, _, run = gradient(settings, prior, latents, views(prior))
    generator = seeded(1)
    t = settings.drawn(2, 0.0, generator, torch.device("cpu"))
    e = settings.edge_below(t)
    s = settings.between(e, t, generator)
    z_e = latents + SCHEDULE.ratio(e) * run.state()["noise"].double()
    z_s = moved(z_e, noise_of("", z_e, e), e, s)
    z_t = moved(z_s, noise_of("", z_s, s), s, t)
    e_t = guided(noise_of("a", z_t, t), noise_of("ugly", z_t, t), guidance)
    back_s = moved(z_t, e_t, t, s)
    back_e = moved(back_s, noise_of("", back_s, s), s, e)
    consistency, pull = back_e - z_e, z_e - moved(z_t, e_t, t, e)
    torch.testing.assert_close(found, SCHEDULE.alpha(e) * (consistency + (guidance + 1) * pull))
