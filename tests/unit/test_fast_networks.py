"""The rearranged encoder and U-Net against diffusers' own, on random weights, in double
precision.
"""

import sys

import pytest
import torch

from distill3d.kernels import fast
from distill3d.kernels.fast import ops
from distill3d.kernels.fast.encoder import Encoder, attend, unsupported_reason
from distill3d.kernels.fast.unet import fast_unet, transformer, without_hooks
from distill3d.kernels.priors.diffusers.latent_prior import DiffusersPrior
from distill3d.kernels.priors.noise_schedule import NoiseSchedule


def lively(net):
    """Random biases and scales too: diffusers starts them at 0 and 1, where mistakes do not
    show.
    """
    for value in net.parameters():
        value.data += 0.1 * torch.randn_like(value)
    return net.eval().requires_grad_(False).double()


def autoencoder(**options):
    from diffusers import AutoencoderKL

    torch.manual_seed(0)
    levels = 3
    blocks = ("DownEncoderBlock2D",) * levels, ("UpDecoderBlock2D",) * levels
    return lively(
        AutoencoderKL(3, 3, *blocks, (8, 8, 16), 2, latent_channels=2, norm_num_groups=4, **options)
    )


def network(**options):
    from diffusers import UNet2DConditionModel

    torch.manual_seed(0)
    usual = {
        "down_block_types": ("CrossAttnDownBlock2D", "DownBlock2D"),
        "up_block_types": ("UpBlock2D", "CrossAttnUpBlock2D"),
        "block_out_channels": (16, 32),
        "layers_per_block": 1,
        "cross_attention_dim": 12,
        "attention_head_dim": (2, 4),
        "norm_num_groups": 8,
    }
    return lively(UNet2DConditionModel(**{**usual, **options}))


OPTIONS = {
    "as Stable Diffusion's": {},
    "bare": {"mid_block_add_attention": False, "use_quant_conv": False},
}


@pytest.mark.parametrize("options", OPTIONS.values(), ids=OPTIONS.keys())
def test_the_encoder_and_its_gradient_are_diffusers(options):
    vae = autoencoder(**options)
    pictures = torch.randn(2, 3, 16, 24, dtype=torch.float64, requires_grad=True)
    expected = vae.encode(pictures).latent_dist.parameters
    upstream = torch.randn_like(expected)
    found = Encoder(vae)(pictures)
    torch.testing.assert_close(found, expected)
    slopes = [torch.autograd.grad(value, pictures, upstream)[0] for value in (found, expected)]
    torch.testing.assert_close(*slopes)


def test_attention_written_out_for_wide_heads_is_the_usual_one():
    torch.manual_seed(0)
    queries, keys, values = torch.randn(3, 2, 1, 9, 300, dtype=torch.float64)
    expected = torch.nn.functional.scaled_dot_product_attention(queries, keys, values)
    torch.testing.assert_close(attend(queries, keys, values), expected)


def test_an_autoencoder_of_another_build_is_refused_with_the_reason():
    vae = autoencoder()
    assert unsupported_reason(vae) is None
    vae.encoder.down_blocks[1].resnets[0].output_scale_factor = 2.0
    assert "residual block" in unsupported_reason(vae)
    with pytest.raises(ValueError, match="fast encoder: a residual block is not of the plain kind"):
        Encoder(vae)


@pytest.mark.parametrize("linear", [True, False], ids=["2.x", "1.x"])
def test_the_unet_answers_as_before_with_every_block_exchanged(linear):
    unet = network(use_linear_projection=linear, transformer_layers_per_block=2 if linear else 1)
    assert sum(transformer(module) for module in unet.modules()) == 4
    before = {name: value.clone() for name, value in unet.state_dict().items()}
    fast = fast_unet(unet)
    kinds = {type(module).__name__ for module in fast.modules()}
    assert not kinds & {"ResnetBlock2D", "Transformer2DModel", "GroupNorm"}
    z, t, text = (
        torch.randn(3, 4, 8, 8).double(),
        torch.tensor([1, 500, 999]),
        torch.randn(3, 7, 12).double(),
    )
    with torch.no_grad():
        expected = unet(z, t, encoder_hidden_states=text).sample
        for _ in range(2):  # it works in place on its own numbers only
            torch.testing.assert_close(fast(z, t, encoder_hidden_states=text).sample, expected)
    assert all(torch.equal(value, before[name]) for name, value in unet.state_dict().items())
    assert fast.conv_in.weight is unet.conv_in.weight


def test_blocks_of_another_build_stay_as_they_are():
    unet = network(resnet_time_scale_shift="scale_shift")
    fast = fast_unet(unet)
    assert any(type(module).__name__ == "ResnetBlock2D" for module in fast.modules())
    z, t, text = torch.randn(1, 4, 8, 8).double(), torch.tensor([7]), torch.randn(1, 7, 12).double()
    with torch.no_grad():
        outputs = [net(z, t, encoder_hidden_states=text).sample for net in (fast, unet)]
    torch.testing.assert_close(*outputs)


def test_a_twin_is_not_watched_but_its_original_still_is():
    unet, seen = network(), []
    unet.register_forward_hook(lambda *_: seen.append(1))
    z, t, text = torch.randn(1, 4, 8, 8).double(), torch.tensor([7]), torch.randn(1, 7, 12).double()
    with torch.no_grad():
        without_hooks(unet)(z, t, encoder_hidden_states=text)
        assert not seen
        unet(z, t, encoder_hidden_states=text)
    assert seen


def test_a_few_pictures_at_a_time_give_the_numbers_and_gradients_of_all_at_once():
    schedule = NoiseSchedule.scaled_linear()
    nets = network(in_channels=2, out_channels=2), autoencoder(), torch.nn.Linear(1, 1)
    prior = DiffusersPrior("tiny", *nets, None, schedule, card={"image_size": 16})
    rows, sizes = [], []
    prior.unet.register_forward_hook(lambda module, given, output: sizes.append(len(given[0])))
    for at_once in (0, 2):
        prior.micro_batch = at_once
        pictures = torch.rand(
            3, 3, 16, 16, dtype=torch.float64, generator=torch.Generator().manual_seed(1)
        )
        latents = prior.encode(pictures.requires_grad_(), torch.Generator().manual_seed(2))
        (slope,) = torch.autograd.grad(latents.square().sum(), pictures)
        texts = [prior_text(3, seed) for seed in (3, 4)]
        rows.append(
            (latents, slope, *prior.predict(latents.detach(), torch.tensor([1, 500, 900]), texts))
        )
    torch.testing.assert_close(rows[0], rows[1])
    assert sizes == [6, 4, 2]


def prior_text(count, seed):
    from distill3d.kernels.priors.conditioning import Conditioning

    return Conditioning(torch.randn(count, 7, 12, generator=torch.Generator().manual_seed(seed)))


def test_settings_of_a_run_end_with_it():
    nets = network(in_channels=2, out_channels=2), autoencoder(), torch.nn.Linear(1, 1)
    prior = DiffusersPrior(
        "tiny", *nets, None, NoiseSchedule.scaled_linear(), card={"image_size": 16}
    )
    # on the CPU there is nothing to accelerate with
    with prior.running(accelerate=True, micro_batch=2):
        assert prior.micro_batch == 2
    assert prior.micro_batch == 0


@pytest.mark.parametrize("size", [1.0, 1e-7, 1e-12])
def test_an_encoder_in_float16_loses_no_small_gradients(size):
    nets = network(in_channels=2, out_channels=2), autoencoder().half(), torch.nn.Linear(1, 1)
    prior = DiffusersPrior(
        "tiny", *nets, None, NoiseSchedule.scaled_linear(), card={"image_size": 16}
    )
    pictures = torch.rand(2, 3, 16, 16, generator=torch.Generator().manual_seed(1)).requires_grad_()
    upstream = size * torch.randn(2, 2, 4, 4, generator=torch.Generator().manual_seed(2))
    (slope,) = torch.autograd.grad(prior.encode(pictures), pictures, upstream)
    prior.vae.float()
    (exact,) = torch.autograd.grad(prior.encode(pictures), pictures, upstream)
    assert (slope - exact).norm() < 0.01 * exact.norm()


@pytest.mark.parametrize("value", [float("nan"), float("inf")])
def test_a_gradient_that_is_not_finite_stays_so_through_an_encoder_in_float16(value):
    nets = network(in_channels=2, out_channels=2), autoencoder().half(), torch.nn.Linear(1, 1)
    prior = DiffusersPrior(
        "tiny", *nets, None, NoiseSchedule.scaled_linear(), card={"image_size": 16}
    )
    pictures = torch.rand(1, 3, 16, 16).requires_grad_()
    latents = prior.encode(pictures)
    upstream = torch.zeros_like(latents)
    upstream[0, 0, 0, 0] = value
    (slope,) = torch.autograd.grad(latents, pictures, upstream)
    assert not slope.isfinite().all()


@pytest.fixture
def device_to_ask(monkeypatch):
    """As if there were a CUDA device, whose Triton nobody has asked about yet."""
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    ops.triton_works.cache_clear()
    yield
    ops.triton_works.cache_clear()


def test_without_triton_the_layers_are_torchs_and_the_log_says_why(
    device_to_ask, monkeypatch, caplog
):
    monkeypatch.setitem(sys.modules, "triton", None)
    for name in ("triton_layers", "triton_norm"):
        monkeypatch.delitem(sys.modules, f"distill3d.kernels.fast.{name}", raising=False)
        monkeypatch.delattr(fast, name, raising=False)
    assert not ops.triton_works()
    (record,) = caplog.records
    assert "triton" in str(record.args) and "going on without fused kernels" in record.message


def test_kernels_that_give_wrong_numbers_are_left_out_by_name(device_to_ask, monkeypatch, caplog):
    monkeypatch.setattr(ops, "mismatched_kernels", lambda device: ["GEGLU", "add"])
    assert not ops.triton_works()
    assert "wrong numbers here (GEGLU, add)" in caplog.text
    monkeypatch.setattr(ops, "mismatched_kernels", lambda device: [])
    ops.triton_works.cache_clear()
    assert ops.triton_works()
