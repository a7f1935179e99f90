"""A multi-view prior: MVDream with random weights in its own files, held against the network
written down plainly.
"""

import copy
import json
import math
import shutil
from dataclasses import replace

import pytest
import tiny_mvdream
import torch
from kit import normal, seeded
from mvdream_priors import ORBIT, agree, answers, question

from distill3d.kernels.cameras.pinhole import orbit, turntable
from distill3d.kernels.cameras.scene import SceneSampler
from distill3d.kernels.evaluate.inspection import inspect
from distill3d.kernels.fast.unet import fast_unet
from distill3d.kernels.init.ball import random_ball
from distill3d.kernels.losses.cds import CDS
from distill3d.kernels.losses.csd import CSD
from distill3d.kernels.losses.ism import ISM
from distill3d.kernels.losses.nfsd import NFSD
from distill3d.kernels.losses.picture import Picture
from distill3d.kernels.losses.sctd import SCTD
from distill3d.kernels.losses.sdi import SDI
from distill3d.kernels.losses.sds import SDS
from distill3d.kernels.losses.vdm import VDM
from distill3d.kernels.losses.vsd import VSD
from distill3d.kernels.priors import perp_neg
from distill3d.kernels.priors.base import AdaptablePrior
from distill3d.kernels.priors.diffusers.cuda_graphs import Accelerated
from distill3d.kernels.priors.diffusers.loading import load_diffusers
from distill3d.kernels.priors.diffusers.multiview import (
    MultiViewPrior,
    camera_rows,
)
from distill3d.kernels.priors.prompts import view_prompts
from distill3d.kernels.priors.view_conditioning import condition_on_views, group_size
from distill3d.kernels.run.optimize import optimize
from distill3d.kernels.run.refine import refine_mesh
from distill3d.kernels.run.settings import OptimizeSettings, RefineSettings

CONFIG = tiny_mvdream.FOLDER


@pytest.fixture(scope="module")
def folder(mvdream):
    return mvdream[0]


@pytest.fixture(scope="module")
def weights(mvdream):
    return mvdream[1]


@pytest.fixture(scope="module")
def prior(mvdream):
    return load_diffusers(mvdream[0])


def test_folder_answers_as_the_network_written_down_plainly(prior, weights):
    z, t, texts = question(prior)
    found = prior.predict(z, t, texts)
    agree(found, answers(prior, weights, CONFIG, z, t, texts))
    assert (found[0] - found[1]).abs().max() > 0.01  # the text is read
    assert isinstance(prior, MultiViewPrior) and isinstance(prior, AdaptablePrior)
    assert (prior.image_size, prior.downscale, group_size(prior)) == (16, 2, 4)


def test_views_of_one_object_attend_to_each_other_and_to_no_other(prior):
    z, t, texts = question(prior)
    before = prior.predict(z, t, texts)[0]
    changed = z.clone()
    changed[5] += 1
    moved = (prior.predict(changed, t, texts)[0] - before).abs().amax((1, 2, 3))
    assert (moved[:4] == 0).all() and (moved[4:] > 1e-3).all()


def test_rows_of_another_order_are_another_object(prior):
    z, t, texts = question(prior)
    order = [0, 1, 2, 4, 3, 5, 6, 7]  # one view of each object taken for the other's
    mixed = prior.predict(z[order], t[order], [text.index(order) for text in texts])[0]
    assert (mixed[0] - prior.predict(z, t, texts)[0][0]).abs().max() > 1e-3
    # within a group the cameras say which is which, and nothing else does
    within = [1, 0, 3, 2, 4, 5, 6, 7]
    same = prior.predict(z[within], t[within], [text.index(within) for text in texts])[0]
    torch.testing.assert_close(same, prior.predict(z, t, texts)[0][within], atol=1e-5, rtol=1e-5)


def test_cameras_reach_the_network_by_row(prior, weights):
    z, t, texts = question(prior)
    turned = [replace(text, camera=text.camera.roll(1, 0)) for text in texts]
    other = prior.predict(z, t, turned)
    agree(other, answers(prior, weights, CONFIG, z, t, turned))
    assert (other[0] - prior.predict(z, t, texts)[0]).abs().max() > 1e-3


def test_cameras_are_those_of_the_models_published_look_at(prior):
    """Its recipe: on the unit sphere about OpenGL's y, turned to Blender's z; its azimuth 90 is its
    authors' front.
    """
    for azimuth, elevation in ((0.0, 15.0), (37.0, 5.0), (-120.0, 28.0)):
        e, a = math.radians(elevation), math.radians(azimuth + 90)
        place = torch.tensor([math.cos(e) * math.sin(a), math.sin(e), math.cos(e) * math.cos(a)])
        right = torch.nn.functional.normalize(
            torch.linalg.cross(-place, torch.tensor([0.0, 1.0, 0.0])), dim=0
        )
        matrix = torch.eye(4)
        matrix[:3] = torch.stack([right, torch.linalg.cross(right, -place), place, place], 1)
        to_blender = torch.tensor([[1.0, 0, 0, 0], [0, 0, -1, 0], [0, 1, 0, 0], [0, 0, 0, 1]])
        ours = camera_rows(orbit(azimuth, elevation, 1.3))[0]
        torch.testing.assert_close(ours, (to_blender @ matrix).flatten(), atol=1e-6, rtol=0)


SHORT = {
    "SDS": SDS(),
    "CSD": CSD(),
    "NFSD": NFSD(),
    "ISM": ISM(),
    "SDI": SDI(),
    "SCTD": SCTD(),
    "CDS": CDS(),
    "CDS four noises": CDS(noise_groups=4, shared_unconditional=True, pull=0.1),
    "VDM": VDM(),
    "VDM own t": VDM(shared_t=False),
    "Picture": Picture(),
    "Picture own t": Picture(shared_t=False),
    "VSD": VSD(),
}


@pytest.mark.parametrize("name", SHORT)
def test_every_loss_asks_in_whole_groups_at_one_noise_level_and_runs(prior, name):
    if name == "VSD":
        pytest.importorskip("peft")
    asked = []
    twin = copy.copy(prior)

    def predict(z, t, texts):
        assert len(z) == 8 and torch.equal(t.view(-1, 4), t[::4, None].expand(-1, 4))
        assert all(torch.equal(text.camera, texts[0].camera) for text in texts)
        asked.append(t)
        return prior.predict(z, t, texts)

    twin.predict = predict
    cloud, prompts = random_ball(30), view_prompts(prior, "a red mug")
    settings = OptimizeSettings(views=8, densify=None)
    result = optimize(cloud, SHORT[name], twin, prompts, ORBIT, 3, settings)
    assert len(asked) >= 3 and int(result.training.bad_steps) == 0
    assert torch.isfinite(result.means).all() and not torch.equal(result.means, cloud.means)


def test_lora_begins_as_the_prior_and_learns_from_group_size(prior):
    pytest.importorskip("peft")
    z, t, texts = question(prior)
    adapter = prior.adapter(2)
    weights = {name: value.requires_grad_() for name, value in adapter.initial(seeded()).items()}
    torch.testing.assert_close(
        adapter.predict(weights, z, t, texts[0]), prior.predict(z, t, texts)[0]
    )
    error = adapter.error(weights, z, normal(4, *z.shape), t, texts[0])
    gradients = torch.autograd.grad(error.square().sum(), list(weights.values()))
    assert sum(gradient.abs().max() > 0 for gradient in gradients) >= len(gradients) / 2


def test_micro_batch_parts_no_group(prior):
    z, t, texts = question(prior, views=12)
    whole = prior.predict(z, t, texts)
    sizes = []
    handle = prior.unet.register_forward_hook(
        lambda module, given, output: sizes.append(len(given[0]))
    )
    for at_once in (1, 3, 5):
        with prior.running(micro_batch=at_once):
            agree(prior.predict(z, t, texts), whole)
    handle.remove()
    assert sizes == [4] * 6 + [8] * 3 + [12] * 2


def test_fused_blocks_judge_views_together_too(prior):
    z, t, texts = question(prior)
    fused = fast_unet(prior.unet)
    with torch.no_grad():
        found = fused(
            z, t, encoder_hidden_states=texts[0].embeddings, class_labels=texts[0].camera
        ).sample
    torch.testing.assert_close(found, prior.predict(z, t, texts)[0], atol=1e-4, rtol=1e-4)


def test_accelerated_networks_are_told_the_cameras(prior, monkeypatch):
    """All of the accelerated way but the recording of graphs, which needs a GPU."""
    z, t, texts = question(prior)
    plain = prior.predict(z, t, texts)
    fast = Accelerated.__new__(Accelerated)
    fast.watched, fast.fused_unet = prior.unet, True
    fast.denoiser = fast._graphed(fast_unet(prior.unet)).function
    monkeypatch.setattr(prior, "_fast", fast)
    for found, expected in zip(prior.predict(z, t, texts), plain, strict=True):
        torch.testing.assert_close(found, expected, atol=1e-4, rtol=1e-4)


@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a CUDA device")
def test_graphs_answer_as_plain_layers_do(folder, weights):
    prior = load_diffusers(folder, device="cuda")
    asked = {views: [question(prior, views, seed=seed) for seed in range(4)] for views in (4, 8)}
    before = {
        views: [prior.predict(z.cuda(), t.cuda(), texts) for z, t, texts in asked[views]]
        for views in asked
    }
    prior.accelerate()
    # direct, recorded, replayed
    for place, views in ((place, views) for place in range(4) for views in asked):
        z, t, texts = asked[views][place]
        for found, expected in zip(
            prior.predict(z.cuda(), t.cuda(), texts), before[views][place], strict=True
        ):
            torch.testing.assert_close(found, expected, atol=1e-2, rtol=1e-2)  # TF32


def test_perp_neg_asks_of_whole_groups(prior):
    """A branch that is wanted for one view alone is evaluated with the views it is judged with."""
    worded = copy.copy(prior)
    worded.around_words, worded.overhead_words = ("front", "side", "back", "side"), ("overhead",)
    prompts = view_prompts(worded, "a red mug", perp_neg=1.0)
    cameras = turntable(8, 15.0, 2.0, size=16, views_per_group=4)
    texts = condition_on_views(
        prior,
        (prompts.at(cameras.azimuths, cameras.elevations), prompts.negative_rows(8)),
        cameras,
        torch.ones(8, 16, 16, 1),
        None,
    )
    z, t = normal(7, 8, 4, 8, 8), torch.full((8,), 400)
    against = texts[0].against
    bent = prior.predict(z, t, texts)[0]
    parts = [replace(texts[0], against=None), against.null, *(text for text, _ in against.branches)]
    e, e_null, *branches = (prior.predict(z, t, [part])[0] for part in parts)
    expected = e.clone()
    for estimate, (_, row_weights) in zip(branches, against.branches, strict=True):
        across = perp_neg.perpendicular(estimate - e_null, e - e_null)
        expected += torch.tensor(row_weights)[:, None, None, None] * across
    assert any(0 in row_weights for _, row_weights in against.branches)
    torch.testing.assert_close(bent, expected, atol=1e-5, rtol=1e-5)
    assert (bent - e).abs().max() > 1e-3


def test_prompts_have_no_view_words_but_those_of_a_card(prior, folder, weights, tmp_path):
    prompts = view_prompts(prior, "a red mug")
    assert (
        torch.equal(prompts.around.embeddings, prompts.base.embeddings)
        and prompts.overhead is prompts.base
    )
    with pytest.raises(ValueError, match="multi-view prior has none"):
        view_prompts(prior, "a red mug", perp_neg=1.0)
    place = shutil.copytree(folder, tmp_path / "worded")
    (place / "distill3d.json").write_text(
        json.dumps({"around": ["front", "side", "back", "side"]}), encoding="utf-8"
    )
    assert len(view_prompts(load_diffusers(place), "a red mug").around) == 4


def test_views_that_make_no_whole_groups_are_refused_before_any_work(prior, monkeypatch):
    cloud, prompts = random_ball(20), view_prompts(prior, "a red mug")
    monkeypatch.setattr(prior, "encode", None)
    for views, shown in ((6, "views is 6"), (1, "views is 1")):
        with pytest.raises(
            ValueError,
            match=f"{shown}; prior 'mvdream' judges 4 views of one object together: use 4, 8",
        ):
            optimize(
                cloud, SDS(), prior, prompts, ORBIT, 1, OptimizeSettings(views=views, densify=None)
            )
    with pytest.raises(ValueError, match="Scene cameras: the prior judges 4 views"):
        optimize(
            cloud, SDS(), prior, prompts, SceneSampler(), 1, OptimizeSettings(views=4, densify=None)
        )
    with pytest.raises(ValueError, match="Scene cameras"):
        SceneSampler().sample(4, 16, seeded(), views_per_group=4)
    with pytest.raises(ValueError, match="count is 6; 4 views come together"):
        ORBIT.sample(6, 16, seeded(), views_per_group=4)
    with pytest.raises(ValueError, match="views is 2; prior 'mvdream'"):
        inspect(cloud, turntable(2, size=16), prior, prompts, SDS(), None)


def test_the_prior_itself_refuses_what_it_cannot_judge(prior):
    z, t, texts = question(prior)
    with pytest.raises(ValueError, match="must be told their cameras"):
        prior.predict(z, t, [replace(text, camera=None) for text in texts])
    with pytest.raises(ValueError, match="got 6 latents"):
        prior.predict(z[:6], t[:6], [text.index(slice(0, 6)) for text in texts])
    with pytest.raises(ValueError, match="4 views of a scene came"):
        prior.encode_views(SceneSampler().sample(4, 16, seeded()), torch.ones(4, 16, 16, 1), None)


def test_inspection_and_mesh_refinement_tell_it_the_cameras(prior):
    from distill3d.kernels.meshes.mesh import Mesh

    prompts = view_prompts(prior, "a red mug")
    found = inspect(
        random_ball(30), turntable(8, size=16, views_per_group=4), prior, prompts, SDS(), 400
    )
    assert torch.isfinite(found.gradient).all() and found.gradient.abs().max() > 0.1
    corners = torch.tensor([[0.5, 0, 0], [-0.5, 0, 0.4], [0, 0.5, 0], [0, -0.4, -0.5]])
    faces = torch.tensor([[0, 2, 1], [0, 1, 3], [0, 3, 2], [1, 2, 3]])
    mesh = Mesh(corners, faces, torch.full((4, 3), 0.5))
    refined = refine_mesh(mesh, SDS(), prior, prompts, ORBIT, 2, RefineSettings(views=4))
    assert torch.isfinite(refined.colors).all() and not torch.equal(refined.colors, mesh.colors)
    with pytest.raises(ValueError, match="views is 3; prior 'mvdream'"):
        refine_mesh(mesh, SDS(), prior, prompts, ORBIT, 1, RefineSettings(views=3))
