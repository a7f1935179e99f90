"""What `auto` fills in: timesteps at the papers' noise, guidance in proportion, sizes, cameras."""

from types import SimpleNamespace

import pytest
import torch

from distill3d.kernels.cameras.orbit import OrbitSampler
from distill3d.kernels.losses.cds import CDS
from distill3d.kernels.losses.combine import Combined
from distill3d.kernels.losses.csd import CSD
from distill3d.kernels.losses.ism import ISM
from distill3d.kernels.losses.nfsd import NFSD
from distill3d.kernels.losses.picture import Picture
from distill3d.kernels.losses.reward import Reward
from distill3d.kernels.losses.rfds import RFDS
from distill3d.kernels.losses.sctd import SCTD
from distill3d.kernels.losses.sdi import SDI
from distill3d.kernels.losses.sds import SDS
from distill3d.kernels.losses.suited import (
    TIMESTEPS,
    VALUES,
    Auto,
    settled,
    suited_cameras,
    suited_loss,
    suited_size,
)
from distill3d.kernels.losses.trace import TraCe
from distill3d.kernels.losses.vdm import VDM
from distill3d.kernels.losses.vsd import VSD
from distill3d.kernels.priors.noise_schedule import NoiseSchedule

SD = NoiseSchedule.scaled_linear()
LOSSES = (SDS, CDS, VDM, Picture, CSD, NFSD, ISM, SDI, SCTD, VSD, TraCe, RFDS)
MARKS = {"from the authors", "from a paper", "measured here", "untried"}


def prior(kind, schedule=SD, channels=4, downscale=8, size=512, **more):
    return SimpleNamespace(
        kind=kind, name=kind or "folder", schedule=schedule, latent_channels=channels,
        downscale=downscale, image_size=size, **more,
    )  # fmt: skip


def z_image():
    return prior("ZImage", NoiseSchedule.flow(3.0), 16, size=1024)


@pytest.mark.parametrize("loss", LOSSES)
@pytest.mark.parametrize("made", [z_image, lambda: prior("SD15"), lambda: prior("Unheard")])
def test_every_loss_gets_values_that_it_takes_and_says_where_they_come_from(loss, made):
    found = suited_loss(loss(), made(), 512)
    found.settings.check()
    assert type(found.settings) is loss and any(mark in found.said for mark in MARKS)


def test_every_loss_is_listed_with_a_mark_that_is_known():
    assert set(VALUES["losses"]) == {loss.name for loss in LOSSES}
    assert {told["mark"] for told in VALUES["losses"].values()} <= MARKS
    assert {told["mark"] for told in VALUES["cameras"].values()} <= MARKS


@pytest.mark.parametrize("shift", [1.0, 3.0, 7.0])
def test_timesteps_have_the_papers_noise_after_a_flows_shift(shift):
    flow = NoiseSchedule.flow(shift)
    found = suited_loss(SDS(), prior("ZImage", flow, 16), 512).settings
    for name in ("t_min", "t_max_start", "t_max_end"):
        # a flow's time r has the noise level r / (1 - r), and r = shift e / (1 + (shift - 1) e)
        level = float(SD.ratio(torch.tensor([getattr(SDS(), name)])))
        r = level / (1 + level)
        even = r / (shift - (shift - 1) * r)
        assert getattr(found, name) + 1 == pytest.approx(1000 * even, abs=0.51)


def test_guidance_is_pushed_in_proportion_to_that_of_the_models_pictures():
    found = suited_loss(SDS(), z_image(), 512)
    # Stable Diffusion's pictures have a push of 6.5, Z-Image's of 3
    assert found.settings.guidance == pytest.approx(1 + 100 * 3 / 6.5, abs=0.06)
    assert "untried" in found.said and "guidance 47.2" in found.said


def test_a_latent_counts_the_same_in_all_whatever_its_form():
    small = suited_loss(SDS(), prior("Unheard", channels=16), 512).settings
    pixels = suited_loss(SDS(), prior("Unheard", channels=3, downscale=1), 512).settings
    assert small.weight == pytest.approx(1 / 4)
    assert pixels.weight == pytest.approx(4 * 64**2 / (3 * 512**2), rel=1e-2)


def test_stable_diffusion_gets_the_papers_own_values_whatever_the_node_says():
    found = suited_loss(SDS(guidance=3.0, t_min=333, clip=0.5), prior("SD20"), 512)
    assert found.settings == SDS(clip=0.5)
    assert "guidance 101" in found.said and "from a paper (DreamFusion)" in found.said
    folder = suited_loss(CDS(guidance_start=3.0), prior(""), 512)
    assert folder.settings == CDS() and "from the authors (Consistent3D)" in folder.said


def test_the_embedded_prior_gets_what_was_measured():
    embedded = prior("", size=128, vocabulary=frozenset(("a", "mug")))
    found = suited_loss(CDS(), embedded, 128)
    assert found.settings.pull == 3.0 and found.settings.guidance_start == 3.0
    assert "measured here" in found.said
    assert suited_size(embedded) == (128, "the prior's own")
    assert suited_cameras(OrbitSampler(distance_min=1.0), embedded).settings == OrbitSampler()


def test_rfds_keeps_its_timesteps_on_the_model_that_it_was_made_with_and_on_its_likes():
    on_sd3 = suited_loss(RFDS(t_min=333), prior("SD3", NoiseSchedule.flow(3.0), 16), 512)
    assert on_sd3.settings == RFDS() and "from the authors" in on_sd3.said
    alike = suited_loss(RFDS(), prior("Unheard", NoiseSchedule.flow(3.0), 16), 512)
    assert {n: getattr(alike.settings, n) for n in TIMESTEPS if hasattr(RFDS, n)} == {
        n: getattr(RFDS(), n) for n in TIMESTEPS if hasattr(RFDS, n)
    } and "untried" in alike.said  # fmt: skip


def test_large_models_are_shown_smaller_renders_but_for_those_that_know_one_size():
    assert suited_size(z_image())[0] == 512
    assert suited_size(prior("SDXL", size=1024)) == (1024, "the prior's own")
    assert suited_size(prior("SD15")) == (512, "the prior's own")
    assert suited_size(prior("SD20", size=768))[0] == 768
    assert suited_size(prior("Unheard", size=1024))[1].startswith("untried")


def test_cameras_of_open_models_are_consistent3ds():
    found = suited_cameras(OrbitSampler(elevation_min=-80.0), prior("SD15"))
    assert (found.settings.distance_min, found.settings.fov_y_max) == (1.5, 70.0)
    assert found.settings.elevation_min == -10.0 and "from the authors" in found.said
    assert "untried" in suited_cameras(OrbitSampler(), z_image()).said
    many = suited_cameras(OrbitSampler(), prior("", views_per_group=4)).settings
    assert many.overhead_share == 0 and many.elevation_max == 30
    many.check(4)


def test_values_are_filled_in_wherever_they_are_asked_for_and_told_to_that_node():
    told = []
    parts = [Auto(SDS(guidance=3.0), "6"), CDS(guidance_start=2.0), Auto(VDM(), "7")]
    reward = Reward(Auto(SDS(), "8"), len)
    found = settled(
        Combined([*parts, reward], [1.0] * 4), prior("SD20"), 512, lambda *each: told.append(each)
    )
    assert found.losses[0] == SDS() and found.losses[1] == CDS(guidance_start=2.0)
    assert found.losses[2].t_min == 21 and found.losses[3].loss == SDS()
    assert [node for _, node in told] == ["6", "7", "8"]
    assert told[0][0].startswith("auto, from a paper (DreamFusion): guidance 101")
    cameras = settled(Auto(OrbitSampler(), "9"), prior("SD20"), 512, lambda *each: None)
    assert cameras.distance_min == 1.5
    assert settled(OrbitSampler(), prior("SD20"), 512, None) == OrbitSampler()
