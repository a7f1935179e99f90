"""Densification against LucidDreamer's 3DGS, and resampling against gsplat's MCMC."""

import pytest
import torch
from replay import DTYPES, Numbers, close

from distill3d.kernels.cameras.pinhole import orbit
from distill3d.kernels.gaussians.cloud import Gaussians
from distill3d.kernels.gaussians.densify import (
    Densify,
    densify_and_prune,
    gather,
    reset_opacities,
)
from distill3d.kernels.gaussians.mcmc import MCMC, perturbed, resampled, shared
from distill3d.kernels.rasterizers.rasterize import render

NAMES = ("means", "log_scales", "quats", "opacity_logits")


def moments_of(cloud):
    ones = {key: torch.ones_like(value) for key, value in cloud.tensors().items()}
    return {key: (value, value) for key, value in ones.items()}


@pytest.mark.parametrize("dtype", DTYPES)
def test_a_round_of_densification_and_a_reset_are_luciddreamers(monkeypatch, dtype):
    file = Numbers("densify_luciddreamer", dtype)
    settings = file.settings
    strategy = Densify(
        grow_share=1.0,
        gradient_threshold=settings["threshold"],
        split_scale=settings["percent_dense"] * settings["extent"],
        prune_opacity=0.005,
        prune_scale=0.1 * settings["extent"],
        bounds=1000.0,
        count_min=1,
        split_opacity="kept",
        grow_first=True,
    )
    values = {key: file[key] for key in (*NAMES, "sh")}
    values["opacity_logits"] = values["opacity_logits"][:, 0]
    cloud = Gaussians(**values)
    monkeypatch.setattr(torch, "randn", lambda *_, **__: file["draws"])
    grown, moments = densify_and_prune(
        strategy,
        cloud,
        {key: file[key] for key in ("gradient", "views")},
        moments_of(cloud),
        torch.Generator().manual_seed(0),
    )
    assert len(grown) == len(file["after.means"]) > 20
    for key, value in grown.tensors().items():
        close("densify", value, file[f"after.{key}"].reshape(value.shape))
    lowered, _ = reset_opacities(strategy, grown, moments)
    official = file["reset.opacity_logits"].reshape(len(grown))
    close("densify", lowered.opacity_logits, official)


def test_statistics_of_a_summed_loss_are_those_of_a_mean():
    gradient = torch.randn(4, 5, 2, generator=torch.Generator().manual_seed(0))
    visible, blank = torch.ones(4, 5, dtype=torch.bool), {"gradient": torch.zeros(5)}
    blank["views"] = torch.zeros(5)
    mean = gather(blank, gradient / 4, visible, (16, 16))
    total = gather(blank, gradient, visible, (16, 16), summed_views=True)
    torch.testing.assert_close(mean, total)


@pytest.mark.parametrize("dtype", DTYPES)
def test_sharing_a_place_is_gsplats_relocation(dtype):
    file = Numbers("relocation", dtype)
    found = shared(file["opacities"], file["scales"], file["sharers"], file.settings["min_opacity"])
    close("relocation", found[0], file["new_opacities"])
    close("relocation", found[1], file["new_scales"])


@pytest.mark.parametrize("dtype", DTYPES)
def test_a_round_of_mcmc_and_its_noise_are_gsplats(monkeypatch, dtype):
    file = Numbers("mcmc", dtype)
    count = len(file["means"])
    cloud = Gaussians(**{key: file[key] for key in NAMES}, sh=torch.zeros(count, 1, 3).to(dtype))
    # theirs draws among the living, ours among all, of whom the dead have no chance
    waiting = [file["alive"][file["dead_drawn"]], file["new_drawn"]]
    monkeypatch.setattr(torch, "multinomial", lambda *_, **__: waiting.pop(0))
    strategy = MCMC(min_opacity=file.settings["min_opacity"], growth=1 + 4.2 / count, noise=1.0)
    grown, moments = resampled(strategy, cloud, moments_of(cloud), torch.Generator().manual_seed(0))
    assert len(grown) == count + file.settings["new"]
    for key in NAMES:
        close("mcmc", getattr(grown, key), file[f"grown.{key}"])
        close("mcmc", getattr(grown, key)[:1], file[f"grown.{key}"][:1])
    touched = torch.cat([file["alive"][file["dead_drawn"]], file["new_drawn"]]).unique()
    assert float(moments["means"][0][touched].abs().max()) == 0
    assert float(moments["means"][0][count:].abs().max()) == 0
    monkeypatch.setattr(torch, "randn", lambda *_, **__: file["noise"])
    means = perturbed(strategy, grown.tensors(), file.settings["noise_scale"], torch.Generator())
    close("mcmc", means, file["perturbed"])


def test_those_that_share_a_place_leave_the_picture_as_it_was():
    """Equation 9 keeps the alpha of a Gaussian at its centre, and what it adds up to in all."""
    for count in (2, 5):
        one = Gaussians(
            means=torch.zeros(1, 3),
            log_scales=torch.full((1, 3), -2.0),
            quats=torch.tensor([[1.0, 0, 0, 0]]),
            opacity_logits=torch.tensor([1.0]),
            sh=torch.ones(1, 1, 3),
        )
        opacity, scale = shared(
            one.opacity_logits.sigmoid(), one.log_scales.exp(), torch.tensor([count]), 0.0
        )
        many = Gaussians(
            means=one.means.expand(count, -1),
            log_scales=scale.log().expand(count, -1),
            quats=one.quats.expand(count, -1),
            opacity_logits=opacity.logit().expand(count),
            sh=one.sh.expand(count, -1, -1),
        )
        camera = orbit(0.0, 0.0, 3.0, size=64)
        before, after = (render(cloud, camera, 0.0).alpha for cloud in (one, many))
        assert float((before - after).abs().max()) < 0.04
        assert float(after.sum()) == pytest.approx(float(before.sum()), rel=0.06)


def test_anchored_gaussians_stay_and_share_with_nobody_and_the_cap_holds():
    generator = torch.Generator().manual_seed(0)
    cloud = Gaussians(
        means=torch.randn(20, 3, generator=generator),
        log_scales=torch.full((20, 3), -3.0),
        quats=torch.randn(20, 4, generator=generator),
        opacity_logits=torch.where(torch.arange(20) % 2 == 0, 2.0, -9.0),
        sh=torch.zeros(20, 1, 3),
        anchored=torch.arange(20) < 6,
    )
    cloud.means[8] = torch.nan  # as good as dead
    after, _ = resampled(MCMC(growth=1.5), cloud, moments_of(cloud), generator, count_max=23)
    assert len(after) == 23 and int(after.anchored.sum()) == 6
    for key, value in cloud.tensors().items():
        assert torch.equal(getattr(after, key)[:6], value[:6])
    assert bool(after.means.isfinite().all())
    assert float(after.opacity_logits[6:].sigmoid().min()) > MCMC().min_opacity


def test_a_cloud_without_life_is_told():
    cloud = Gaussians(
        means=torch.zeros(3, 3),
        log_scales=torch.zeros(3, 3),
        quats=torch.ones(3, 4),
        opacity_logits=torch.full((3,), -9.0),
        sh=torch.zeros(3, 1, 3),
    )
    with pytest.raises(ValueError, match="no Gaussian is finite and more opaque than min_opacity"):
        resampled(MCMC(), cloud, moments_of(cloud), torch.Generator())
    with pytest.raises(ValueError, match=r"MCMC: growth is 0\.5"):
        MCMC(growth=0.5).check()
