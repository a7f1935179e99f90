"""Refining: the anchor's penalties, what they hold a run to, and the ceiling that a strength puts
on every loss.
"""

from dataclasses import fields, replace

import pytest
import torch

from distill3d.kernels.cameras.orbit import OrbitSampler
from distill3d.kernels.cameras.pinhole import turntable
from distill3d.kernels.gaussians.cloud import SH_C0, Gaussians
from distill3d.kernels.losses.cds import CDS
from distill3d.kernels.losses.combine import Combined
from distill3d.kernels.losses.csd import CSD
from distill3d.kernels.losses.ism import ISM
from distill3d.kernels.losses.nfsd import NFSD
from distill3d.kernels.losses.rfds import RFDS
from distill3d.kernels.losses.sctd import SCTD
from distill3d.kernels.losses.sdi import SDI
from distill3d.kernels.losses.sds import SDS
from distill3d.kernels.losses.vdm import VDM
from distill3d.kernels.losses.vsd import VSD
from distill3d.kernels.priors.mixture import GaussianMixturePrior, Mixture
from distill3d.kernels.priors.prompts import view_prompts
from distill3d.kernels.rasterizers.rasterize import render
from distill3d.kernels.run.anchor import HIGHEST, LOWEST, Anchor, ceiling, gentle
from distill3d.kernels.run.optimize import optimize
from distill3d.kernels.run.settings import OptimizeSettings

SIZE = 16
LOSSES = (SDS(), CDS(), CDS.texture(), VDM(), CSD(), NFSD(), ISM(), VSD(), SDI(), SCTD(), RFDS())


def red_ball(count=60):
    draw = torch.Generator().manual_seed(1)
    sh = torch.zeros(count, 1, 3)
    sh[:, 0] = (torch.tensor([0.9, 0.1, 0.1]) - 0.5) / SH_C0
    return Gaussians(
        means=0.2 * torch.randn(count, 3, generator=draw),
        log_scales=torch.full((count, 3), -2.2),
        quats=torch.randn(count, 4, generator=draw),
        opacity_logits=torch.full((count,), 2.0),
        sh=sh,
    )


def grey_prior():
    """Wants a picture that is grey everywhere: nothing red, and nothing to be seen."""
    image = torch.full((1, 3, SIZE, SIZE), 0.5)
    prior = GaussianMixturePrior(
        {"nothing": Mixture(image, torch.full((1, 1, 1, 1), 0.01), torch.ones(1))}
    )
    prior.background = 0.5
    return prior


def refined(anchor=None, start=None, steps=30, **settings):
    prior = grey_prior()
    settings = OptimizeSettings(
        densify=None, views=2, preview_every=0, background="white", **settings
    )
    prompts = view_prompts(prior, "nothing", view_dependent=False)
    loss = SDS(guidance=1.0, weight=3.0)
    return optimize(
        start or red_ball(), loss, prior, prompts, OrbitSampler(), steps, settings, anchor=anchor
    )


def difference(a, b):
    cameras = turntable(4, SIZE)
    one, two = (render(cloud, cameras, 1.0) for cloud in (a, b))
    return float((one.color - two.color).square().mean()), float(
        (one.alpha - two.alpha).square().mean()
    )


def test_penalties_are_the_mean_squares_of_renders_from_the_same_cameras_on_the_same_backgrounds():
    cameras, backgrounds = turntable(2, SIZE), torch.tensor([[0.2, 0.4, 0.6], [1.0, 0.0, 0.5]])
    kept, other = red_ball(), red_ball().map(lambda value: value * 0.9)
    seen = render(other, cameras, backgrounds)
    expected = render(kept, cameras, backgrounds)
    found = Anchor(kept, color=3.0, alpha=5.0).penalties(seen, cameras, backgrounds)
    torch.testing.assert_close(
        found["anchor_color"], 3 * (seen.color - expected.color).square().mean()
    )
    torch.testing.assert_close(
        found["anchor_alpha"], 5 * (seen.alpha - expected.alpha).square().mean()
    )
    assert set(Anchor(kept, alpha=1.0).penalties(seen, cameras, backgrounds)) == {"anchor_alpha"}
    assert Anchor(kept).penalties(seen, cameras, backgrounds) == {}


def test_an_anchor_holds_a_run_to_its_renders_and_its_silhouette_alone_leaves_the_colours_free():
    start = red_ball()
    free = difference(refined(), start)
    held = difference(refined(Anchor(start, color=1e5, alpha=1e5)), start)
    shaped = difference(refined(Anchor(start, alpha=1e5)), start)
    assert held[0] < 0.1 * free[0] and held[1] < 0.1 * free[1]
    assert shaped[1] < 0.1 * free[1] and shaped[0] > 3 * held[0]


def test_an_anchor_is_not_the_start_and_is_left_as_it_is():
    start, aim = red_ball(), red_ball().map(lambda value: value.clone())
    aim = replace(aim, opacity_logits=aim.opacity_logits - 3)
    before = {name: value.clone() for name, value in aim.tensors().items()}
    result = refined(Anchor(aim, color=1e5, alpha=1e5), start)
    assert difference(result, aim)[1] < 0.5 * difference(start, aim)[1]
    assert all(torch.equal(value, before[name]) for name, value in aim.tensors().items())


def test_a_run_in_two_parts_with_an_anchor_is_the_run_in_one():
    anchor = Anchor(red_ball(), color=1e3, alpha=1e3)
    whole = refined(anchor, steps=6, schedule_steps=6)
    half = refined(anchor, steps=3, schedule_steps=6)
    again = refined(anchor, start=half, steps=3, schedule_steps=6)
    assert all(torch.equal(value, again.tensors()[name]) for name, value in whole.tensors().items())


@pytest.mark.parametrize("loss", LOSSES, ids=lambda loss: loss.name)
@pytest.mark.parametrize("strength", [0.0, 0.3, 0.95])
def test_a_strength_puts_a_ceiling_on_every_losss_timesteps(loss, strength):
    top, softened = ceiling(strength), gentle(loss, strength)
    softened.check()
    changed = {f.name for f in fields(loss) if getattr(loss, f.name) != getattr(softened, f.name)}
    bounds = {
        "t_min",
        "t_max",
        "t_max_start",
        "t_max_end",
        "t_start",
        "t_end",
    }
    assert changed <= bounds | {"gap", "margin", "segments"}
    generator = torch.Generator().manual_seed(2)
    for progress in (0.0, 0.5, 1.0):
        if isinstance(loss, CDS):
            t, _ = softened.timesteps(64, progress, generator, torch.device("cpu"))
        else:
            t = softened.timesteps.draw(64, progress, generator, torch.device("cpu"))
        assert int(t.max()) <= top


def test_full_strength_changes_no_loss_and_a_sum_is_softened_in_every_part():
    assert all(gentle(loss, 1.0) is loss for loss in LOSSES)
    both = gentle(Combined([SDS(), VDM()], [1.0, 2.0]), 0.2)
    assert list(both.losses) == [gentle(SDS(), 0.2), gentle(VDM(), 0.2)] and both.weights == [
        1.0,
        2.0,
    ]
    assert (ceiling(0.0), ceiling(1.0)) == (LOWEST, HIGHEST)


def test_bad_strengths_and_weights_are_refused():
    for strength in (-0.1, 1.1, float("nan")):
        with pytest.raises(ValueError, match="strength is"):
            gentle(SDS(), strength)
    with pytest.raises(ValueError, match="lambda_anchor_color is -1"):
        refined(Anchor(red_ball(), color=-1.0), steps=1)


def test_the_ceiling_goes_from_step_40_to_980():
    assert [ceiling(strength) for strength in (0, 0.5, 1)] == [40, 510, 980]


def test_a_lower_bound_above_the_new_top_comes_down_to_half_of_it():
    loss = SDS(t_min=300, t_max_start=980, t_max_end=700).below(100)
    assert (loss.t_min, loss.t_max_start, loss.t_max_end) == (50, 100, 100)
    loss = SDS(t_min=20, t_max_start=980, t_max_end=60).below(100)
    assert (loss.t_min, loss.t_max_start, loss.t_max_end) == (20, 100, 60)
