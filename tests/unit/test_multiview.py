"""A multi-view prior: MVDream with random weights in its own files, held against the network
written down plainly.
"""

import copy
import json
import math
import shutil
from dataclasses import replace

import mvdream_reference as reference
import pytest
import tiny_mvdream
import tiny_prior
import torch

from distill3d.kernels.cameras.orbit import OrbitSampler
from distill3d.kernels.cameras.pinhole import orbit, turntable
from distill3d.kernels.cameras.scene import SceneSampler
from distill3d.kernels.evaluate.inspection import inspect
from distill3d.kernels.fast.unet import fast_unet
from distill3d.kernels.init.ball import random_ball
from distill3d.kernels.losses.base import Views
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
from distill3d.kernels.priors.diffusers import ldm
from distill3d.kernels.priors.diffusers.cuda_graphs import Accelerated
from distill3d.kernels.priors.diffusers.loading import load_diffusers
from distill3d.kernels.priors.diffusers.multiview import (
    MultiViewPrior,
    camera_rows,
    load_multiview_file,
)
from distill3d.kernels.priors.prompts import view_prompts
from distill3d.kernels.priors.seeing import told, views_together
from distill3d.kernels.run.optimize import optimize
from distill3d.kernels.run.refine import refine_mesh
from distill3d.kernels.run.settings import OptimizeSettings, RefineSettings

CONFIG = tiny_mvdream.FOLDER
ORBIT = OrbitSampler(elevation_min=0, elevation_max=30, overhead_share=0, target_jitter=0)


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    return tmp_path_factory.mktemp("mv") / "mvdream"


@pytest.fixture(scope="module")
def weights(folder):
    return tiny_mvdream.write_tiny_mvdream(folder)


@pytest.fixture(scope="module")
def prior(folder, weights):
    return load_diffusers(folder)


@pytest.fixture(scope="module")
def reader(tmp_path_factory):
    """A folder with the tokenizer, and the size of its vocabulary."""
    place = tmp_path_factory.mktemp("tokenizer")
    vocabulary = tiny_prior.write_tokenizer(place)
    vocabulary["!"], vocabulary["a"] = vocabulary["a"], vocabulary["!"]  # CLIP's begins with "!"
    (place / "vocab.json").write_text(json.dumps(vocabulary), encoding="utf-8")
    return place, len(vocabulary)


def seeded(seed=0):
    return torch.Generator().manual_seed(seed)


def normal(seed, *shape):
    return torch.randn(shape, generator=seeded(seed))


def question(prior, views=8, texts=("a red mug", ""), seed=1):
    """Noisy latents, one t per group, and what was asked of them, told of the cameras."""
    cameras = ORBIT.sample(views, 16, seeded(seed), together=4)
    rows = tuple(prior.embed([text] * views) for text in texts)
    t = torch.tensor([700, 40, 333])[: views // 4].repeat_interleave(4)
    return (
        normal(seed, views, 4, 8, 8),
        t,
        told(prior, rows, cameras, torch.ones(views, 16, 16, 1), None),
    )


def answers(prior, weights, config, z, t, texts):
    """What the plain network says, text by text."""
    with torch.no_grad():
        return [
            reference.unet(weights, config, z, t, text.embeddings, text.camera, 4) for text in texts
        ]


def agree(found, expected):
    for ours, theirs in zip(found, expected, strict=True):
        assert theirs.std() > 0.05
        torch.testing.assert_close(ours, theirs, atol=1e-5, rtol=1e-5)


def test_folder_answers_as_the_network_written_down_plainly(prior, weights):
    z, t, texts = question(prior)
    found = prior.predict(z, t, texts)
    agree(found, answers(prior, weights, CONFIG, z, t, texts))
    assert (found[0] - found[1]).abs().max() > 0.01  # the text is read
    assert isinstance(prior, MultiViewPrior) and isinstance(prior, AdaptablePrior)
    assert (prior.image_size, prior.downscale, views_together(prior)) == (16, 2, 4)


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


@pytest.mark.parametrize("kind", tiny_mvdream.FILES)
def test_file_answers_as_the_networks_written_down_plainly(tmp_path, reader, kind):
    tokenizer, vocabulary = reader
    file = tmp_path / f"mvdream-{kind}.safetensors"
    whole = tiny_mvdream.write_checkpoint(file, kind, vocabulary)
    assert ldm.holds_multiview(file)
    prior = load_multiview_file(file, tokenizer)

    def part(prefix):
        return {
            name.removeprefix(prefix): v for name, v in whole.items() if name.startswith(prefix)
        }

    z, t, texts = question(prior)
    expected = answers(prior, part("model.diffusion_model."), tiny_mvdream.FILES[kind], z, t, texts)
    agree(prior.predict(z, t, texts), expected)
    pictures = torch.rand(2, 3, 16, 16, generator=seeded())
    mean = reference.encoder(part("first_stage_model."), pictures * 2 - 1)
    agree([prior.encode(pictures)], [0.18215 * mean])
    torch.testing.assert_close(
        prior.schedule.alphas_cumprod, whole["alphas_cumprod"], atol=1e-6, rtol=1e-5
    )
    if kind == "sd2":
        tokens = prior.tokenizer("a red mug", padding="max_length", max_length=77)["input_ids"]
        assert tokens[-1] == 0 and len(tokens) == 77  # filled up as OpenCLIP does
        agree(
            prior.embed(["a red mug"]).embeddings,
            [reference.openclip(part("cond_stage_model.model."), tokens, 64)],
        )
    else:
        assert prior.tokenizer.pad_token == "<|endoftext|>"
    assert prior.decode(prior.encode(pictures)).shape == (2, 3, 16, 16)


def test_half_precision_weights_and_their_variant_load(folder, weights, tmp_path):
    place = shutil.copytree(folder, tmp_path / "half")
    unet = place / "unet" / "diffusion_pytorch_model.safetensors"
    unet.rename(unet.with_name("diffusion_pytorch_model.fp16.safetensors"))
    half = load_diffusers(place, dtype=torch.float16)
    assert half.dtype == torch.float16 and half.unet.conv_in.weight.dtype == torch.float16
    assert torch.equal(half.unet.conv_in.weight, weights["input_blocks.0.0.weight"].half())


def test_weights_in_several_files_load(folder, weights, tmp_path):
    from safetensors.torch import save_file

    place = shutil.copytree(folder, tmp_path / "parts")
    whole = place / "unet" / "diffusion_pytorch_model.safetensors"
    whole.unlink()
    index = {}
    for number, names in enumerate((list(weights)[::2], list(weights)[1::2])):
        part = whole.with_name(f"diffusion_pytorch_model-{number}.safetensors")
        save_file({name: weights[name] for name in names}, part)
        index |= dict.fromkeys(names, part.name)
    whole.with_suffix(".safetensors.index.json").write_text(
        json.dumps({"weight_map": index}), encoding="utf-8"
    )
    found = load_diffusers(place).unet.state_dict()
    assert torch.equal(found["class_embedding.linear_2.bias"], weights["camera_embed.2.bias"])


@pytest.mark.parametrize(
    ("heads", "linear", "text", "count"),
    [
        ({"num_head_channels": 64}, True, 1024, 865_910_724),
        ({"num_heads": 8}, False, 768, 859_520_964),
    ],
)
def test_the_true_shapes_are_those_of_stable_diffusion_and_a_camera(
    monkeypatch, heads, linear, text, count
):
    """sd-v2.1-base-4view and sd-v1.5-4view as their codebase builds them, without their numbers."""
    config = {
        "in_channels": 4,
        "out_channels": 4,
        "model_channels": 320,
        "attention_resolutions": [4, 2, 1],
    }
    config |= {
        "num_res_blocks": 2,
        "channel_mult": [1, 2, 4, 4],
        "context_dim": text,
        "camera_dim": 16,
        **heads,
    }

    def add(self, name, *shape, **_):
        self[name] = torch.empty(shape, device="meta")

    monkeypatch.setattr(tiny_mvdream._Weights, "add", add)
    weights = {
        ldm.UNET + name: value for name, value in tiny_mvdream.unet_weights(config, linear).items()
    }
    unet = ldm.make_unet(weights, ldm.described(weights), torch.float32, "checkpoint")
    assert unet.num_parameters() == count + (16 + 1) * 1280 + (1280 + 1) * 1280
    assert unet.config.attention_head_dim == ([5, 10, 20, 20] if linear else 8)
    assert unet.config.use_linear_projection == linear and unet.config.sample_size == 32


# Each row: our azimuth and elevation, and the columns right, up, backward in MVDream's axes
# (Blender's, front at +x).
@pytest.mark.parametrize(
    ("azimuth", "elevation", "right", "up", "backward"),
    [
        (0, 0, (0, 1, 0), (0, 0, 1), (1, 0, 0)),
        (90, 0, (-1, 0, 0), (0, 0, 1), (0, 1, 0)),
        (180, 0, (0, -1, 0), (0, 0, 1), (-1, 0, 0)),
        (-90, 0, (1, 0, 0), (0, 0, 1), (0, -1, 0)),
        (0, 30, (0, 1, 0), (-0.5, 0, math.sqrt(0.75)), (math.sqrt(0.75), 0, 0.5)),
    ],
)
def test_cameras_are_told_in_the_models_own_axes(azimuth, elevation, right, up, backward):
    row = camera_rows(orbit(float(azimuth), float(elevation), 3.7))[0].view(4, 4)
    expected = torch.eye(4)
    # it stands on the unit sphere
    for column, values in enumerate((right, up, backward, backward)):
        expected[:3, column] = torch.tensor(values)
    torch.testing.assert_close(row, expected, atol=1e-6, rtol=0)


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


def test_a_rigs_shift_is_not_told():
    still, shifted = (
        camera_rows(orbit(20.0, 10.0, 2.0, target=torch.tensor(at)))
        for at in ([0.0] * 3, [0.3, 0, -0.2])
    )
    torch.testing.assert_close(still, shifted)


def test_orbits_come_in_rigs_of_four():
    sampler = OrbitSampler(fov_y_min=30, fov_y_max=50, target_jitter=0.1)
    cameras = sampler.sample(12, 16, seeded(3), together=4)
    for rig in (cameras[first : first + 4] for first in (0, 4, 8)):
        steps = torch.remainder(rig.azimuths.roll(-1) - rig.azimuths, 360)
        torch.testing.assert_close(steps, torch.full((4,), 90.0), atol=1e-3, rtol=0)
        assert all(
            len(value.unique(dim=0)) == 1
            for value in (rig.elevations, rig.distances, rig.intrinsics)
        )
        middle = rig.positions.mean(0) - torch.tensor([0, 1, 0]) * float(
            rig.elevations[0].deg2rad().sin() * rig.distances[0]
        )
        for view in range(4):  # all look at the one, shifted target
            seen = rig.viewmats[view, :3, :3] @ middle + rig.viewmats[view, :3, 3]
            torch.testing.assert_close(seen[:2], torch.zeros(2), atol=1e-5, rtol=0)
    first = torch.remainder(cameras.azimuths[::4], 90)
    apart = torch.remainder(first[:, None] - first[None], 90)[~torch.eye(3, dtype=torch.bool)]
    assert cameras.elevations.unique().numel() == 3 and (apart > 1).all()


def test_rigs_are_spread_over_a_quarter_turn():
    for seed in range(20):
        phases = (
            torch.remainder(
                OrbitSampler().sample(16, 16, seeded(seed), together=4).azimuths[::4], 90
            )
            .sort()
            .values
        )
        gaps = torch.cat([phases[1:], phases[:1] + 90]) - phases
        assert gaps.max() < 2 * 90 / 4


def test_single_views_are_drawn_as_before():
    draws = torch.rand(6, 8, generator=seeded(5))
    azimuths = 360.0 * (draws[0, 0] + (torch.arange(5) + draws[1:, 0]) / 5)
    found = OrbitSampler().sample(5, 16, seeded(5), together=1)
    assert torch.equal(found.azimuths, torch.remainder(azimuths + 180, 360) - 180)


def test_turntable_orders_its_views_by_rigs():
    assert turntable(8, together=4).azimuths.tolist() == [0, 90, -180, -90, 45, 135, -135, -45]
    assert turntable(4, together=4).azimuths.tolist() == turntable(4).azimuths.tolist()


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


def test_lora_begins_as_the_prior_and_learns_from_views_together(prior):
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


def test_pictures_at_once_parts_no_group(prior):
    z, t, texts = question(prior, views=12)
    whole = prior.predict(z, t, texts)
    sizes = []
    handle = prior.unet.register_forward_hook(
        lambda module, given, output: sizes.append(len(given[0]))
    )
    for at_once in (1, 3, 5):
        with prior.running(pictures_at_once=at_once):
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
    cameras = turntable(8, 15.0, 2.0, size=16, together=4)
    texts = told(
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
        SceneSampler().sample(4, 16, seeded(), together=4)
    with pytest.raises(ValueError, match="count is 6; 4 views come together"):
        ORBIT.sample(6, 16, seeded(), together=4)
    with pytest.raises(ValueError, match="views is 2; prior 'mvdream'"):
        inspect(cloud, turntable(2, size=16), prior, prompts, SDS(), None)


def test_the_prior_itself_refuses_what_it_cannot_judge(prior):
    z, t, texts = question(prior)
    with pytest.raises(ValueError, match="must be told their cameras"):
        prior.predict(z, t, [replace(text, camera=None) for text in texts])
    with pytest.raises(ValueError, match="got 6 latents"):
        prior.predict(z[:6], t[:6], [text.index(slice(0, 6)) for text in texts])
    with pytest.raises(ValueError, match="4 views of a scene came"):
        prior.facts(SceneSampler().sample(4, 16, seeded()), torch.ones(4, 16, 16, 1), None)


def test_inspection_and_mesh_refinement_tell_it_the_cameras(prior):
    from distill3d.kernels.meshes.mesh import Mesh

    prompts = view_prompts(prior, "a red mug")
    found = inspect(random_ball(30), turntable(8, size=16, together=4), prior, prompts, SDS(), 400)
    assert torch.isfinite(found.gradient).all() and found.gradient.abs().max() > 0.1
    corners = torch.tensor([[0.5, 0, 0], [-0.5, 0, 0.4], [0, 0.5, 0], [0, -0.4, -0.5]])
    faces = torch.tensor([[0, 2, 1], [0, 1, 3], [0, 3, 2], [1, 2, 3]])
    mesh = Mesh(corners, faces, torch.full((4, 3), 0.5))
    refined = refine_mesh(mesh, SDS(), prior, prompts, ORBIT, 2, RefineSettings(views=4))
    assert torch.isfinite(refined.colors).all() and not torch.equal(refined.colors, mesh.colors)
    with pytest.raises(ValueError, match="views is 3; prior 'mvdream'"):
        refine_mesh(mesh, SDS(), prior, prompts, ORBIT, 1, RefineSettings(views=3))


def test_views_of_a_group_share_what_is_drawn():
    values = torch.arange(8)
    assert Views(None, None, None, 0, 1, together=4).alike(values).tolist() == [0] * 4 + [4] * 4
    assert Views(None, None, None, 0, 1).alike(values) is values


def test_wrong_models_are_refused_with_the_reason(folder, weights, reader, tmp_path):
    from safetensors.torch import save_file

    for name, changes, message in (
        ("imagedream", {"ip_dim": 16}, "is an ImageDream model: it wants a reference picture"),
        ("odd", {"resblock_updown": True}, "resblock_updown"),
        ("uneven", {"num_res_blocks": [1, 2, 1]}, "num_res_blocks"),
        ("narrow", {"context_dim": 32}, "32 values per token, but its text_encoder makes 64"),
        ("inpainting", {"in_channels": 9}, "9 channels per latent"),
        ("deeper", {"channel_mult": [1, 2, 2, 2]}, "do not make a UNet2DConditionModel"),
    ):
        tiny_mvdream.write_tiny_mvdream(tmp_path / name, **changes)
        with pytest.raises(ValueError, match=message):
            load_diffusers(tmp_path / name)
    tokenizer, vocabulary = reader
    whole = tiny_mvdream.write_checkpoint(tmp_path / "whole.safetensors", "sd2", vocabulary)
    unet = "model.diffusion_model."
    for name, content, message in (
        (
            "no-text",
            {k: v for k, v in whole.items() if not k.startswith("cond_stage")},
            "holds no text encoder",
        ),
        (
            "no-vae",
            {k: v for k, v in whole.items() if not k.startswith("first_stage")},
            "holds no VAE",
        ),
        (
            "imagedream",
            whole | {f"{unet}image_embed.latents": torch.zeros(1, 4)},
            "is an ImageDream model",
        ),
        (
            "imagedream-too",  # whose autoencoder has another name
            {k.replace("first_stage_model.", "vae_model."): v for k, v in whole.items()}
            | {
                f"{unet}middle_block.1.transformer_blocks.0.attn2.to_k_ip.weight": torch.zeros(4, 4)
            },
            "is an ImageDream model",
        ),
    ):
        save_file(content, tmp_path / f"{name}.safetensors")
        with pytest.raises(ValueError, match=f"checkpoint '{name}.safetensors' {message}"):
            load_multiview_file(tmp_path / f"{name}.safetensors", tokenizer)
    plain = {k: v for k, v in whole.items() if "camera_embed" not in k}
    save_file(plain, tmp_path / "plain.safetensors")
    assert not ldm.holds_multiview(tmp_path / "plain.safetensors")
    (tmp_path / "cut.safetensors").write_bytes((tmp_path / "whole.safetensors").read_bytes()[:1000])
    assert not ldm.holds_multiview(tmp_path / "cut.safetensors")
