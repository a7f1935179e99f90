"""CSD and NFSD against the losses they are parts of, and NFSD's two branches."""

import pytest
import torch
from kit import around, seeded
from kit import normal64 as normal

from distill3d.kernels.losses.base import Views
from distill3d.kernels.losses.csd import CSD, csd
from distill3d.kernels.losses.nfsd import NFSD, nfsd
from distill3d.kernels.losses.sds import SDS
from distill3d.kernels.losses.vdm import VDM
from distill3d.kernels.priors.mixture import GaussianMixturePrior
from distill3d.kernels.priors.noise_schedule import NoiseSchedule

SHAPE = (1, 8, 8)
FIXED = {"t_min": 400, "t_max_start": 400, "t_max_end": 400, "weighting": "sigma/alpha"}


def gaussian_prior():
    schedule = NoiseSchedule(NoiseSchedule.scaled_linear().alphas_cumprod.double())
    return GaussianMixturePrior(
        {
            "a": around(2.0, 0.25, SHAPE),
            "": around(-1.0, 0.5, SHAPE),
            "bad": around(0.5, 1.0, SHAPE),
        },
        schedule,
    )


def gradient(loss, negative=""):
    prior, latents = gaussian_prior(), normal(1, 2, *SHAPE).requires_grad_()
    run = loss.start(prior, SHAPE, seeded())
    value, _ = run(
        latents, Views(prior.embed(["a"] * 2), prior.embed([negative] * 2), None, 0, 100), seeded(1)
    )
    return 2 * torch.autograd.grad(value, latents)[0]


def test_csd_is_what_guidance_adds_to_sds():
    difference = gradient(SDS(guidance=7.5, **FIXED)) - gradient(SDS(guidance=1.0, **FIXED))
    torch.testing.assert_close(gradient(CSD(guidance=7.5, **FIXED)), difference)


def test_csd_is_vdm_whose_map_is_the_identity():
    frozen = VDM(guidance=7.5, psi_lr=0.0, psi_lr_end=0.0, shared_t=False, **FIXED)
    prior, latents = gaussian_prior(), normal(1, 2, *SHAPE)
    views = Views(prior.embed(["a"] * 2), prior.embed([""] * 2), None, 0, 100)
    gradients = []
    for loss in (CSD(guidance=7.5, **FIXED), frozen):
        leaf = latents.float().requires_grad_()
        value, _ = loss.start(prior, SHAPE, seeded())(leaf, views, seeded(1))
        gradients.append(torch.autograd.grad(value, leaf)[0])
    torch.testing.assert_close(*gradients, rtol=1e-4, atol=1e-5)


def test_csd_is_blind_without_guidance_and_takes_it_per_view():
    e_c, e_u = normal(2, 2, *SHAPE), normal(3, 2, *SHAPE)
    assert csd(e_c, e_u, 1.0).abs().max() == 0
    both = csd(e_c, e_u, torch.tensor([3.0, 5.0])[:, None, None, None])
    torch.testing.assert_close(both, torch.stack([2 * (e_c - e_u)[0], 4 * (e_c - e_u)[1]]))


def test_nfsd_takes_the_null_estimate_whole_below_its_step_and_less_the_negative_one_above():
    e_c, e_u, e_neg = (normal(seed, 3, *SHAPE) for seed in (2, 3, 4))
    direction = nfsd(e_c, e_u, e_neg, torch.tensor([199, 200, 900]), 200, 7.5)
    torch.testing.assert_close(direction[0], (e_u + 7.5 * (e_c - e_u))[0])
    torch.testing.assert_close(direction[1:], (e_u - e_neg + 7.5 * (e_c - e_u))[1:])


def test_nfsd_at_low_steps_is_sds_less_its_noise():
    low = FIXED | {"t_min": 100, "t_max_start": 100, "t_max_end": 100, "weighting": "one"}
    noise = torch.randn(2, *SHAPE, generator=after_the_steps(seeded(1), 2)).double()
    torch.testing.assert_close(gradient(NFSD(**low)), gradient(SDS(guidance=7.5, **low)) + noise)


def after_the_steps(generator, count):
    torch.randint(100, 101, (count,), generator=generator)
    return generator


def test_nfsd_uses_the_null_text_even_beside_a_negative_prompt():
    with_prompt, without = gradient(NFSD(**FIXED), "bad"), gradient(NFSD(**FIXED))
    prior, t = gaussian_prior(), torch.tensor([400, 400])
    noise = torch.randn(2, *SHAPE, generator=after_the_steps(seeded(1), 2)).double()
    z_t = prior.schedule.alpha(t) * normal(1, 2, *SHAPE) + prior.schedule.sigma(t) * noise
    e_u, e_neg = prior.predict(z_t, t, [prior.embed([text] * 2) for text in ("", "bad")])
    torch.testing.assert_close(with_prompt - without, prior.schedule.ratio(t) * (e_u - e_neg))


def test_nfsd_without_a_negative_prompt_is_csd_above_its_step():
    torch.testing.assert_close(
        gradient(NFSD(guidance=6.5, **FIXED)), gradient(CSD(guidance=7.5, **FIXED))
    )


@pytest.mark.parametrize("loss", [CSD(), NFSD()])
def test_a_prior_without_a_negative_branch_is_refused_for_there_is_nothing_else(loss):
    prior = gaussian_prior()
    loss.start(prior, SHAPE, seeded())
    prior.negative_branch = False
    with pytest.raises(ValueError, match="has no negative branch"):
        loss.start(prior, SHAPE, seeded())
    SDS().start(prior, SHAPE, seeded())
