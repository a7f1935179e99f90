"""The views of a step shared over devices, here the CPU several times: the numbers of one device,
the same bits every time, and one device where the others fail.
"""

import threading
import time
from dataclasses import replace

import mesh_balls
import pytest
import torch
from kit import normal
from optimize_runs import assert_same, ball_prior

from distill3d.kernels.cameras.orbit import OrbitSampler
from distill3d.kernels.devices.team import Team, alone
from distill3d.kernels.files.notes import note, notes
from distill3d.kernels.gaussians.densify import Densify
from distill3d.kernels.init.ball import random_ball
from distill3d.kernels.losses.cds import CDS
from distill3d.kernels.losses.combine import Combined
from distill3d.kernels.losses.csd import CSD
from distill3d.kernels.losses.ism import ISM
from distill3d.kernels.losses.nfsd import NFSD
from distill3d.kernels.losses.picture import Picture
from distill3d.kernels.losses.sctd import SCTD
from distill3d.kernels.losses.sdi import SDI
from distill3d.kernels.losses.sds import SDS
from distill3d.kernels.losses.vdm import VDM
from distill3d.kernels.losses.vsd import VSD
from distill3d.kernels.priors.diffusers.latent_prior import DiffusersPrior
from distill3d.kernels.priors.diffusers.loading import load_diffusers
from distill3d.kernels.priors.prompts import view_prompts
from distill3d.kernels.priors.replicas import Replicas
from distill3d.kernels.run.optimize import optimize
from distill3d.kernels.run.refine import refine_mesh
from distill3d.kernels.run.settings import OptimizeSettings, RefineSettings
from distill3d.kernels.run.shared_views import chosen, prepared_prior

CPU = torch.device("cpu")
LOSSES = [
    SDS(), SDS(clip=0.01, shared_t=True), CDS(noise_groups=3), VDM(), CSD(), NFSD(), ISM(), VSD(),
    SDI(), SCTD(), Picture(), Combined((SDS(), CDS()), (1.0, 0.5)),
]  # fmt: skip
# what reads the renders of all views, draws numbers for them, or looks at them together
ALL = {
    "sample_posterior": True,
    "flip_share": 0.5,
    "depth_share": 0.5,
    "clip_norm_start": 1.0,
    "clip_norm_end": 1.0,
    "lambda_tv_color": 3.0,
    "lambda_binary_alpha": 3.0,
    "lambda_tv_depth": 3.0,
    "background": "thirds",
}


@pytest.fixture
def prior(pipeline_folder):
    return load_diffusers(pipeline_folder)


def run(prior, devices, loss=None, steps=1, views=5, perp_neg=False, on_step=None, **changes):
    settings = {"views": views, "densify": None, "render_backend": "torch", "devices": devices}
    words = view_prompts(prior, "a mug", "a cup" if perp_neg else "", perp_neg=float(perp_neg))
    cloud = random_ball(60, scale=0.06, opacity_logit=-1.4)
    cloud = replace(cloud, log_scales=cloud.log_scales + normal(1, 60, 3) / 2)
    return optimize(
        cloud, loss or SDS(), prior, words, OrbitSampler(), steps,
        OptimizeSettings(**{**settings, **changes}), on_step,
    )  # fmt: skip


def assert_near(found, expected, share=1e-4):
    """First moments, a tenth of the gradient after one step, within so much of their norm."""
    assert found.keys() == expected.keys()
    for name, value in expected.items():
        assert float((found[name] - value).norm()) <= share * float(value.norm()) + 1e-12, name


def told(run):
    with notes() as heard:
        return run(), heard


@pytest.mark.parametrize("loss", LOSSES, ids=lambda loss: loss.name)
def test_gradients_are_those_of_one_device_and_the_same_bits_again(prior, loss):
    if isinstance(loss, VSD):
        pytest.importorskip("peft")
    one, two, again = (run(prior, devices, loss) for devices in ("one", "cpu,cpu", "cpu,cpu"))
    assert any(float(value.norm()) > 0 for value in one.training.first.values())
    assert_near(two.training.first, one.training.first)
    assert_same(two, again)
    assert two.training.made_with == one.training.made_with
    for name, stream in one.training.generators.items():
        assert torch.equal(two.training.generators[name], stream), name


@pytest.mark.parametrize("devices", ["cpu,cpu", "cpu,cpu,cpu", ",".join(["cpu"] * 8)])
def test_all_that_looks_at_the_views_together_sees_those_of_all_devices(prior, devices):
    one, several = (run(prior, chosen, seed=3, **ALL) for chosen in ("one", devices))
    assert_near(several.training.first, one.training.first)
    assert_near(*(run(prior, each, perp_neg=True).training.first for each in (devices, "one")))


def test_densification_hears_of_the_views_of_all_devices(prior):
    rounds = Densify(every=2, start=0.0, stop=1.0)
    one, two = (run(prior, each, steps=1, densify=rounds) for each in ("one", "cpu,cpu"))
    assert float(one.training.statistics["gradient"].sum()) > 0
    assert_near(two.training.statistics, one.training.statistics)
    grown = [run(prior, each, steps=3, densify=rounds) for each in ("one", "cpu,cpu")]
    assert len(grown[0]) == len(grown[1]) > 60


def test_each_device_judges_its_own_views(prior, monkeypatch):
    rows, plain = [], DiffusersPrior._output

    def output(self, z, *rest):
        rows.append((id(self.unet), len(z)))
        return plain(self, z, *rest)

    monkeypatch.setattr(DiffusersPrior, "_output", output)
    run(prior, "cpu,cpu")
    assert [count for _, count in rows] == [4, 6]
    assert rows[0][0] == id(prior.unet) != rows[1][0]
    assert prior.replicas is None


@pytest.mark.parametrize("loss", [CDS(), VDM()], ids=lambda loss: loss.name)
def test_threads_side_by_side_give_the_bits_of_one_after_the_other(prior, loss, monkeypatch):
    expected = run(prior, "cpu,cpu,cpu", loss, steps=6, **ALL)
    busy, plain = [], Replicas.__init__

    def apart(self, priors):
        plain(self, priors)
        self.team = Team([torch.device("cpu", place) for place in range(3)])

    def output(self, *given):
        busy.append(threading.get_ident())
        return network(self, *given)

    network = DiffusersPrior._output
    monkeypatch.setattr(DiffusersPrior, "_output", output)
    monkeypatch.setattr(Replicas, "__init__", apart)
    assert_same(run(prior, "cpu,cpu,cpu", loss, steps=6, **ALL), expected)
    assert len(set(busy)) == 3


def test_views_that_are_judged_together_stay_together(mvdream):
    folder, _ = mvdream
    prior = load_diffusers(folder)
    assert_near(*(run(prior, each, views=8).training.first for each in ("cpu,cpu,cpu", "one")))


def test_a_mesh_is_refined_on_all_devices_too(prior):
    mesh, words = mesh_balls.ball(rounds=1), view_prompts(prior, "a mug")
    one, two, again = (
        refine_mesh(
            mesh, SDS(), prior, words, OrbitSampler(), 1,
            RefineSettings(views=3, sample_posterior=True, devices=devices),
        )
        for devices in ("one", "cpu,cpu", "cpu,cpu")
    )  # fmt: skip
    assert_near(two.training.first, one.training.first)
    for name, value in two.training.first.items():
        assert torch.equal(value, again.training.first[name])


@pytest.mark.parametrize("loss", [SDS(), VDM()], ids=lambda loss: loss.name)
def test_a_device_that_is_lost_costs_nothing_but_its_help(prior, loss, monkeypatch):
    calls, plain = [], DiffusersPrior._output

    def output(self, *given):
        calls.append(self.unet is prior.unet)
        if not calls[-1] and calls.count(False) == 2:
            raise RuntimeError("CUDA error: device is lost\nmore of it")
        return plain(self, *given)

    frozen = {f"lr_{name}": 0.0 for name in ("means", "scales", "quats", "opacities", "colors")}
    expected = run(prior, "one", loss, steps=4, **frozen)
    monkeypatch.setattr(DiffusersPrior, "_output", output)
    found, heard = told(lambda: run(prior, "cpu,cpu", loss, steps=4, **frozen))
    assert len(heard) == 1 and "device is lost" in heard[0] and "cpu alone" in heard[0]
    assert calls.count(False) == 2
    assert found.training.step == 4 and int(found.training.bad_steps) == 0
    for name, stream in expected.training.generators.items():
        assert torch.equal(found.training.generators[name], stream), name
    assert_near(found.training.first, expected.training.first)


def test_an_error_of_one_device_alone_is_raised_as_ever(prior, monkeypatch):
    def output(self, *given):
        raise RuntimeError("not a number of rows")

    monkeypatch.setattr(DiffusersPrior, "_output", output)
    with pytest.raises(RuntimeError, match="not a number of rows"):
        run(prior, "cpu,cpu")
    assert prior.replicas is None


def test_a_device_without_room_takes_no_part(prior, monkeypatch):
    def replica(self, device):
        raise torch.cuda.OutOfMemoryError("CUDA out of memory. Tried to allocate")

    monkeypatch.setattr(DiffusersPrior, "replica", replica)
    found, heard = told(lambda: run(prior, "cpu,cpu"))
    assert len(heard) == 1 and "takes no part: CUDA out of memory" in heard[0]
    assert_same(found, run(prior, "one"))


def test_a_prior_that_cannot_be_copied_says_so_and_works_alone():
    settings = OptimizeSettings(devices="cpu,cpu")
    with notes() as heard, prepared_prior(ball_prior(), 1, settings, "Optimize"):
        pass
    assert len(heard) == 1 and "one device only" in heard[0]


def test_what_names_no_devices_is_refused_and_what_is_missing_left_out():
    assert chosen("one", CPU) == chosen("auto", CPU) == chosen("cpu", CPU) == [CPU]
    assert chosen(" cpu , cpu", CPU) == [CPU, CPU]
    for text, problem in (
        ("gpu0", "devices is 'gpu0'"),
        ("cpu,", "devices is 'cpu,'"),
        ("meta", "the prior is on cpu"),
        ("cpu,meta", "of one kind"),
    ):
        with pytest.raises(ValueError, match=problem):
            chosen(text, CPU)
    found, heard = told(lambda: chosen("cuda:96,cuda:97", CPU))
    assert found == [CPU] and "cuda:96, cuda:97 not found" in heard[0]


def test_a_gpu_is_named_once_and_one_that_is_gone_is_left_out(monkeypatch):
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 2)
    first, second = torch.device("cuda", 0), torch.device("cuda", 1)
    assert chosen("cuda:1,cuda:0", first) == [first, second]
    for text in ("cuda:0,cuda:1,cuda:1", "cuda:0,cuda:0"):
        with pytest.raises(ValueError, match="each device once"):
            chosen(text, first)
    found, heard = told(lambda: chosen("cuda:0,cuda:2", first))
    assert found == [first] and "cuda:2 not found" in heard[0]


def test_auto_takes_the_gpus_of_the_priors_model_for_long_runs(monkeypatch):
    names = ["H200", "H200", "small one", "H200"]
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 4)
    monkeypatch.setattr(torch.cuda, "get_device_name", lambda device: names[device.index])
    own = torch.device("cuda", 1)
    assert [device.index for device in chosen("auto", own)] == [1, 0, 3]
    assert chosen("auto", own, steps=99) == [own]


def test_a_team_works_side_by_side_unless_one_asks_to_be_alone():
    team = Team([CPU, torch.device("cpu", 1), torch.device("cpu", 2)])
    team._calls = 100
    meeting, seen, inside = threading.Barrier(3, timeout=20), [], []

    def work(place):
        note(f"at {place}")
        meeting.wait()
        with alone(), alone():
            inside.append(place)
            time.sleep(0.02)
            seen.append(len(inside))
            inside.remove(place)
        return place, torch.is_grad_enabled(), threading.get_ident()

    with torch.no_grad(), notes() as heard:
        found = team.each(work, 3)
    assert seen == [1, 1, 1]
    assert [place for place, _, _ in found] == [0, 1, 2] and not any(grad for _, grad, _ in found)
    again = team.each(lambda place: (place, threading.get_ident()), 3)
    assert [thread for _, thread in again] == [thread for _, _, thread in found]
    assert found[0][2] == threading.get_ident() and len({thread for _, _, thread in found}) == 3
    assert sorted(heard) == ["at 0", "at 1", "at 2"]

    def fail(place):
        if place:
            raise ValueError(f"device {place}")
        return place

    with pytest.raises(ValueError, match="device 1"):
        team.each(fail, 3)
    assert team.each(lambda place: place, 2) == [0, 1]
