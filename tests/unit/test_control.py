"""A ControlNet with random weights beside the embedded prior: what is predicted is what diffusers
itself gives.
"""

import json
import shutil
from pathlib import Path

import pytest
import torch
import trimesh
from kit import normal

import distill3d
from distill3d.kernels.cameras.orbit import OrbitSampler
from distill3d.kernels.cameras.pinhole import orbit
from distill3d.kernels.init.ball import random_ball
from distill3d.kernels.losses.cds import CDS
from distill3d.kernels.losses.csd import CSD
from distill3d.kernels.losses.ism import ISM
from distill3d.kernels.losses.nfsd import NFSD
from distill3d.kernels.losses.rfds import RFDS
from distill3d.kernels.losses.sctd import SCTD
from distill3d.kernels.losses.sdi import SDI
from distill3d.kernels.losses.sds import SDS
from distill3d.kernels.losses.vdm import VDM
from distill3d.kernels.losses.vsd import VSD
from distill3d.kernels.meshes.mesh import Mesh
from distill3d.kernels.priors.control import ControlledPrior, ControlSettings, load_control
from distill3d.kernels.priors.diffusers.loading import load_diffusers
from distill3d.kernels.priors.hints import hint
from distill3d.kernels.priors.prompts import view_prompts
from distill3d.kernels.priors.view_conditioning import (
    ViewConditionedPrior,
    condition_on_views,
    needs_depth,
)
from distill3d.kernels.rasterizers.rasterize import render
from distill3d.kernels.run.optimize import optimize
from distill3d.kernels.run.refine import refine_mesh
from distill3d.kernels.run.settings import OptimizeSettings, RefineSettings

TOYBOX = Path(distill3d.__file__).parent / "models" / "toybox"
SIZE = 64


def picture(seed, rows, size=SIZE):
    return torch.rand(rows, 3, size, size, generator=torch.Generator().manual_seed(seed))


@pytest.fixture(scope="module")
def plain():
    return load_diffusers(TOYBOX)


@pytest.fixture(scope="module")
def folder(plain, tmp_path_factory):
    """A ControlNet of the toybox's U-Net as diffusers saves it, its zero convolutions filled with
    random numbers.
    """
    from diffusers import ControlNetModel

    with torch.random.fork_rng():
        torch.manual_seed(0)
        control = ControlNetModel.from_unet(
            plain.unet, conditioning_embedding_out_channels=(8, 16, 32)
        )
        for zero in (*control.controlnet_down_blocks, control.controlnet_mid_block):
            torch.nn.init.normal_(zero.weight, std=0.05)
        torch.nn.init.normal_(control.controlnet_cond_embedding.conv_out.weight, std=1.0)
    folder = tmp_path_factory.mktemp("controlnet") / "tiny"
    control.save_pretrained(folder)
    return folder


@pytest.fixture(scope="module")
def control(plain, folder):
    return load_control(folder, plain)


def controlled(plain, control, **sight):
    return ControlledPrior(plain, control, ControlSettings(**sight))


def solid():
    return random_ball(
        300, radius=0.4, scale=0.08, opacity_logit=2.0, generator=torch.Generator().manual_seed(0)
    )


def asked(prior, rows=2):
    """Latents, steps and two texts of as many rows that have seen a hint."""
    texts = [
        prior.embed([text] * rows).with_views(None, picture(3, rows)) for text in ("a red mug", "")
    ]
    return normal(1, rows, 4, 16, 16), torch.tensor([40, 900][:rows]), texts


def test_prediction_is_diffusers_own_with_the_networks_features(plain, control):
    prior = controlled(plain, control, strength=0.7)
    z_t, t, texts = asked(prior)
    for found, text in zip(prior.predict(z_t, t, texts), texts, strict=True):
        with torch.no_grad():
            down, middle = control(
                z_t,
                t,
                text.embeddings,
                controlnet_cond=text.hint,
                conditioning_scale=0.7,
                return_dict=False,
            )
            direct = plain.unet(
                z_t,
                t,
                text.embeddings,
                down_block_additional_residuals=down,
                mid_block_additional_residual=middle,
            ).sample
        alpha, sigma = plain.schedule.alpha(t), plain.schedule.sigma(t)
        assert plain.prediction == "v_prediction"
        torch.testing.assert_close(found, sigma * z_t + alpha * direct, rtol=1e-5, atol=1e-5)


def test_the_hint_matters_and_the_first_prior_stays_as_it_was(plain, control):
    z_t, t, texts = asked(plain)
    before = plain.predict(z_t, t, texts)
    prior = controlled(plain, control)
    one = prior.predict(z_t, t, texts)
    other = prior.predict(z_t, t, [text.with_views(None, 1 - text.hint) for text in texts])
    assert (one[0] - before[0]).abs().max() > 0.01 and (one[0] - other[0]).abs().max() > 0.001
    for now, then in zip(plain.predict(z_t, t, texts), before, strict=True):
        assert torch.equal(now, then)
    assert (
        not isinstance(plain, ViewConditionedPrior)
        and isinstance(prior, ViewConditionedPrior)
        and needs_depth(prior)
    )
    assert prior.unet is plain.unet and prior.vae is plain.vae


def test_strength_0_is_the_prior_without(plain, control):
    z_t, t, texts = asked(plain)
    found = controlled(plain, control, strength=0.0).predict(z_t, t, texts)
    for now, then in zip(found, plain.predict(z_t, t, texts), strict=True):
        torch.testing.assert_close(now, then, rtol=0, atol=1e-6)


@pytest.mark.parametrize(
    ("start", "end", "counts"),
    [(0.0, 0.5, [False, True]), (0.5, 1.0, [True, False]), (0.2, 0.3, [False, False])],
)
def test_start_and_end_are_shares_of_the_schedule_row_by_row(plain, control, start, end, counts):
    z_t, t, texts = asked(plain)  # steps 40 and 900 of 999: shares 0.96 and 0.10 from pure noise
    found = controlled(plain, control, start=start, end=end).predict(z_t, t, texts)[0]
    without, whole = (p.predict(z_t, t, texts)[0] for p in (plain, controlled(plain, control)))
    expected = torch.where(torch.tensor(counts)[:, None, None, None], whole, without)
    torch.testing.assert_close(found, expected, rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize("background", [[0.0, 0, 0], [0.5, 0.5, 1]])
def test_a_view_that_shows_nothing_solid_is_judged_without(plain, control, background):
    prior = controlled(plain, control)
    z_t, t, texts = asked(prior)
    empty = torch.stack(
        [texts[0].hint[0], torch.tensor(background).view(3, 1, 1).expand(3, SIZE, SIZE)]
    )
    found = prior.predict(z_t, t, [text.with_views(None, empty) for text in texts])[0]
    torch.testing.assert_close(found[:1], prior.predict(z_t, t, texts)[0][:1], rtol=1e-5, atol=1e-5)
    torch.testing.assert_close(found[1:], plain.predict(z_t, t, texts)[0][1:], rtol=1e-5, atol=1e-5)


def test_a_view_judged_without_is_safe_from_what_the_network_makes_of_it(plain, control):
    prior = controlled(plain, control)
    prior.control = lambda z, *args, **options: tuple(
        [layer / layer.new_tensor([1.0, 0.0]).view(2, 1, 1, 1) for layer in layers] if isinstance(layers, list | tuple)
        else layers
        for layers in control(z, *args, **options)
    )  # fmt: skip
    z_t, t, texts = asked(prior)
    text = texts[0].with_views(None, texts[0].hint * torch.tensor([1.0, 0.0]).view(2, 1, 1, 1))
    (found,) = prior.predict(z_t, t, [text])
    assert found.isfinite().all()


def test_the_networks_are_called_once_for_all_texts_and_in_parts_if_asked(
    plain, control, monkeypatch
):
    prior, sizes, forward = controlled(plain, control), [], control.forward
    monkeypatch.setattr(
        control, "forward", lambda z, *a, **k: sizes.append(len(z)) or forward(z, *a, **k)
    )
    z_t, t, texts = asked(prior)
    together = prior.predict(z_t, t, texts)
    with prior.running(micro_batch=1):
        parts = prior.predict(z_t, t, texts)
    assert sizes == [4, 2, 2]
    for one, other in zip(together, parts, strict=True):
        torch.testing.assert_close(one, other, rtol=1e-4, atol=1e-5)


def test_of_the_fused_networks_only_the_encoder_is_used(plain, control):
    class Fused:
        def moments(self, pictures):
            return torch.full((len(pictures), 8, 16, 16), 0.5)

    prior = controlled(plain, control)
    z_t, t, texts = asked(prior)
    expected = prior.predict(z_t, t, texts)
    prior._fast = Fused()
    assert torch.equal(prior.predict(z_t, t, texts)[0], expected[0])
    assert torch.equal(prior.encode(picture(1, 2)), torch.full((2, 4, 16, 16), 0.5 * plain.scaling))
    assert plain._fast is None


@pytest.mark.parametrize("shape", ["depth", "normal"])
def test_what_it_is_told_of_a_view_is_the_hint_picture_of_its_render(plain, control, shape):
    prior, cameras = (
        controlled(plain, control, shape=shape),
        orbit(torch.tensor([0.0, 90.0]), 15.0, 2.0, 40.0, SIZE),
    )
    rendering = render(solid(), cameras, 0.5)
    text, null = (prior.embed([words] * 2) for words in ("a red mug", ""))
    seen = condition_on_views(prior, (text, null), cameras, rendering.alpha, rendering.depth)
    assert all(each.camera is None for each in seen)
    assert all(
        torch.equal(each.hint, hint(shape, cameras, rendering.alpha, rendering.depth))
        for each in seen
    )
    with pytest.raises(
        ValueError, match=f"is shown the renders' {shape}, but they came without depth"
    ):
        condition_on_views(prior, (text,), cameras, rendering.alpha, None)
    with pytest.raises(ValueError, match="the texts come without"):
        prior.predict(normal(1, 2, 4, 16, 16), torch.tensor([40, 900]), [text])


class Spy:
    """A control network that keeps the hints it is shown."""

    def __init__(self, network):
        self.network, self.hints, self.rows = network, [], []

    def __call__(self, z, *args, controlnet_cond, **options):
        self.hints.append(controlnet_cond)
        self.rows.append(len(z))
        return self.network(z, *args, controlnet_cond=controlnet_cond, **options)


LOSSES = [SDS(), CDS(), VDM(), ISM(), CSD(), NFSD(), SCTD(), SDI(), VSD(), RFDS()]


@pytest.mark.parametrize("loss", LOSSES, ids=lambda loss: loss.name)
def test_every_loss_shows_every_text_the_shape_of_its_view(plain, control, loss):
    prior = controlled(plain, control)
    prior.control = spy = Spy(control)
    prompts = view_prompts(prior, "a red mug", perp_neg=1.0, interpolate=True)
    cloud = solid()
    settings = OptimizeSettings(views=2, image_size=SIZE, densify=None, seed=1)
    with torch.inference_mode():  # as in a node of ComfyUI
        result = optimize(cloud, loss, prior, prompts, OrbitSampler(), 1, settings)
        again = optimize(cloud, loss, prior, prompts, OrbitSampler(), 1, settings)
    assert torch.equal(result.means, again.means) and not torch.equal(result.means, cloud.means)
    assert all(torch.isfinite(value).all() for value in result.tensors().values())
    shown = torch.cat(spy.hints)
    # two views, each its own
    assert len(shown) == sum(spy.rows) >= 4 and len(shown.unique(dim=0)) == 2
    assert ((shown > 0).any() & (shown <= 1).all()).item()


def test_a_mesh_is_shown_too(plain, control):
    prior = controlled(plain, control, shape="normal")
    prior.control = spy = Spy(control)
    box = trimesh.creation.box((0.6, 0.6, 0.6))
    mesh = Mesh(
        torch.tensor(box.vertices, dtype=torch.float32),
        torch.tensor(box.faces).long(),
        torch.full((8, 3), 0.5),
    )
    settings = RefineSettings(views=2, image_size=SIZE)
    refined = refine_mesh(
        mesh, SDS(), prior, view_prompts(prior, "a red mug"), OrbitSampler(), 1, settings
    )
    assert torch.isfinite(refined.vertices).all() and not torch.equal(
        refined.vertices, mesh.vertices
    )
    assert len(torch.cat(spy.hints).unique(dim=0)) == 2


def test_vsds_adapted_network_is_shown_the_same(plain, control):
    prior = controlled(plain, control)
    z_t, t, (text, _) = asked(prior)
    adapter = prior.adapter(2)
    found = adapter.predict(adapter.initial(torch.Generator().manual_seed(0)), z_t, t, text)
    torch.testing.assert_close(found, prior.predict(z_t, t, [text])[0], rtol=1e-5, atol=1e-5)


def test_half_precision_is_the_priors(folder):
    half = load_diffusers(TOYBOX, dtype=torch.bfloat16)
    control = load_control(folder, half)
    assert control.dtype == torch.bfloat16
    prior = controlled(half, control)
    z_t, t, texts = asked(prior)
    assert all(
        noise.dtype == torch.float32 and noise.isfinite().all()
        for noise in prior.predict(z_t, t, texts)
    )


def test_moving_takes_the_control_network_along(plain, folder):
    prior = controlled(plain, load_control(folder, plain))
    with torch.inference_mode():
        prior.control.to(torch.float64).to(torch.float32)
    prior.to("cpu", ("unet", "vae", "control"))
    assert not any(value.is_inference() for value in prior.control.parameters())


def edit(path, **changes):
    path.write_text(
        json.dumps({**json.loads(path.read_text(encoding="utf-8")), **changes}), encoding="utf-8"
    )


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        (
            {"cross_attention_dim": 768},
            r"its cross_attention_dim is 768, but that of prior 'toybox' is 128",
        ),
        ({"in_channels": 9}, r"its in_channels is 9, but that of prior 'toybox' is 4"),
        (
            {"block_out_channels": [320, 640]},
            r"its block_out_channels is \[320, 640\], but .* is \[64, 128, 192\]",
        ),
        ({"layers_per_block": 1}, r"its layers_per_block is 1, but .* is 2"),
        (
            {"conditioning_channels": 6},
            r"takes 6 channels in a hint, but hints are RGB pictures and have 3",
        ),
        (
            {"conditioning_embedding_out_channels": [1, 2, 3, 4]},
            r"takes 8 pixels .*, but prior 'toybox' has 4",
        ),
        ({"_class_name": "T2IAdapter"}, r"holds a T2IAdapter; a ControlNetModel"),
    ],
)
def test_a_network_of_another_kind_is_refused_before_its_weights_are_read(
    plain, folder, tmp_path, changes, message
):
    copy = shutil.copytree(folder, tmp_path / "other")
    edit(copy / "config.json", **changes)
    (copy / "diffusion_pytorch_model.safetensors").write_bytes(b"never read")
    with pytest.raises(ValueError, match=f"control network folder .*other.*{message}"):
        load_control(copy, plain)


def test_missing_files_are_named(plain, folder, tmp_path):
    copy = shutil.copytree(folder, tmp_path / "other")
    (copy / "diffusion_pytorch_model.safetensors").rename(copy / "diffusion_pytorch_model.bin")
    with pytest.raises(
        ValueError,
        match=r"control network folder .*other lacks .*diffusion_pytorch_model.safetensors",
    ):
        load_control(copy, plain)
    with pytest.raises(ValueError, match=r"control network folder .*nowhere does not exist"):
        load_control(tmp_path / "nowhere", plain)


@pytest.mark.parametrize(
    ("sight", "message"),
    [
        ({"shape": "canny"}, "shape is 'canny'; choose one of 'depth', 'normal'"),
        ({"strength": -1.0}, r"strength is -1.0; choose a value within 0..10"),
        ({"start": 0.6, "end": 0.5}, r"start is 0.6 and end 0.5; .*start not above end"),
    ],
)
def test_bad_settings_are_named(plain, control, sight, message):
    with pytest.raises(ValueError, match=message):
        controlled(plain, control, **sight)


def test_a_second_network_is_refused(plain, control):
    with pytest.raises(ValueError, match="prior 'toybox' is told of the views already"):
        controlled(controlled(plain, control), control)
