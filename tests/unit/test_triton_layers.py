"""The Triton kernels against plain torch: on a CUDA device as they are, elsewhere through Triton's
interpreter.
"""

import os

import pytest
import torch

pytest.importorskip("triton", reason="needs the package triton")
DEVICE = "cuda" if torch.cuda.is_available() else "cpu"
if DEVICE == "cpu" and os.environ.get("TRITON_INTERPRET") != "1":
    pytest.skip("needs a CUDA device or TRITON_INTERPRET=1", allow_module_level=True)

from distill3d.kernels.fast import ops, reference, triton_layers, triton_norm  # noqa: E402
from distill3d.kernels.fast.encoder import Encoder  # noqa: E402
from distill3d.kernels.fast.reference import Norm  # noqa: E402

pytestmark = pytest.mark.slow(reason="Triton's interpreter")

SHAPES = {  # batch, channels, groups, height, width
    "whole tiles": (1, 64, 8, 8, 8),
    "odd picture, channels that no power of two divides": (2, 40, 4, 5, 7),
    "fewer channels than a tile": (2, 24, 8, 3, 4),
    "one pixel": (3, 32, 8, 1, 1),
}


@pytest.fixture(autouse=True)
def several_slabs(monkeypatch):
    """Small pictures would otherwise be one slab each, with nothing to join."""
    monkeypatch.setattr(triton_norm, "PROGRAMS", 4)


def picture(*shape, offset=0.0):
    return (torch.randn(shape, device=DEVICE) + offset).to(memory_format=torch.channels_last)


def norm(channels, groups, silu=True):
    return Norm(
        torch.randn(channels, device=DEVICE),
        torch.randn(channels, device=DEVICE),
        groups,
        1e-5,
        silu,
    )


@pytest.mark.parametrize("silu", [True, False])
@pytest.mark.parametrize("rows", [0, 1, 2], ids=["no shift", "one shift", "a shift per picture"])
@pytest.mark.parametrize("shape", SHAPES.values(), ids=SHAPES.keys())
def test_normalisation_and_its_gradient_are_torchs(shape, rows, silu):
    torch.manual_seed(0)
    n, channels, groups, height, width = shape
    x = picture(n, channels, height, width, offset=3.0).requires_grad_()
    shift = [None, torch.randn(channels, device=DEVICE), torch.randn(n, channels, device=DEVICE)][
        rows
    ]
    how = norm(channels, groups, silu)
    expected = reference.norm_act(x, how, shift)
    upstream = torch.randn_like(expected)
    (slope,) = torch.autograd.grad(expected, x, upstream)
    total, y, mean, rstd = triton_norm.forward(x.detach(), None, shift, how)
    torch.testing.assert_close(y, expected, atol=2e-5, rtol=1e-4)
    assert total.data_ptr() == x.data_ptr()  # nothing was added, so nothing is written
    back = triton_norm.backward(total, shift, upstream, None, how, mean, rstd)
    torch.testing.assert_close(back, slope, atol=2e-5, rtol=1e-4)


@pytest.mark.parametrize("shape", SHAPES.values(), ids=SHAPES.keys())
def test_the_sum_before_a_normalisation_and_what_comes_back_through_both(shape):
    torch.manual_seed(1)
    n, channels, groups, height, width = shape
    x, residual = (
        picture(n, channels, height, width).requires_grad_(),
        picture(n, channels, height, width),
    )
    shift, how = torch.randn(channels, device=DEVICE), norm(channels, groups)
    expected = reference.add_norm_act(x, residual, how, shift)
    upstream = [torch.randn_like(value) for value in expected]
    (slope,) = torch.autograd.grad(expected, x, upstream)
    total, y, mean, rstd = triton_norm.forward(x.detach(), residual, shift, how)
    torch.testing.assert_close((total, y), expected, atol=2e-5, rtol=1e-4)
    back = triton_norm.backward(total, None, upstream[1], upstream[0], how, mean, rstd)
    torch.testing.assert_close(back, slope, atol=2e-5, rtol=1e-4)


def test_a_spread_far_from_zero_is_not_lost_in_rounding():
    torch.manual_seed(2)
    x, how = picture(1, 32, 16, 16, offset=1000.0), norm(32, 4)
    y = triton_norm.forward(x, None, None, how)[1]
    exact = Norm(how.weight.double(), how.bias.double(), how.groups, how.eps, True)
    torch.testing.assert_close(
        y.double(), reference.norm_act(x.double(), exact), atol=2e-3, rtol=2e-3
    )


def test_sums_layer_norms_and_gates_are_torchs():
    torch.manual_seed(3)
    x, residual, shift = picture(2, 40, 3, 5), picture(2, 40, 3, 5), torch.randn(40, device=DEVICE)
    torch.testing.assert_close(
        triton_layers.add(x, residual, shift), reference.add(x, residual, shift)
    )
    rows, (weight, bias) = torch.randn(37, 40, device=DEVICE), torch.randn(2, 40, device=DEVICE)
    given = (rows, shift, weight, bias, 1e-5)
    torch.testing.assert_close(
        triton_layers.layer_norm(*given), reference.layer_norm(*given), atol=1e-5, rtol=1e-4
    )
    torch.testing.assert_close(
        triton_layers.geglu(rows), reference.geglu(rows), atol=1e-6, rtol=1e-5
    )


def test_an_encoder_of_fused_kernels_has_the_gradient_of_one_of_plain_layers(monkeypatch):
    from diffusers import AutoencoderKL

    # its rounding is no matter of these kernels
    monkeypatch.setattr(torch.backends.cudnn, "allow_tf32", False)
    torch.manual_seed(4)
    blocks = ("DownEncoderBlock2D",) * 2, ("UpDecoderBlock2D",) * 2
    vae = (
        AutoencoderKL(3, 3, *blocks, (8, 16), latent_channels=2, norm_num_groups=4)
        .to(DEVICE)
        .requires_grad_(False)
    )
    x = torch.randn(1, 3, 8, 8, device=DEVICE, requires_grad=True)
    expected = vae.encode(x).latent_dist.parameters
    upstream = torch.randn_like(expected)
    (slope,) = torch.autograd.grad(expected, x, upstream)
    calls = []
    monkeypatch.setattr(ops, "fused", lambda value: calls.append(1) or True)
    found = Encoder(vae)(x)
    (back,) = torch.autograd.grad(found, x, upstream)
    torch.testing.assert_close(found, expected, atol=1e-4, rtol=1e-3)
    torch.testing.assert_close(back, slope, atol=1e-4, rtol=1e-3)
    assert len(calls) > 8


def test_the_check_at_first_use_finds_nothing_wrong_and_names_what_is(monkeypatch):
    assert ops.mismatched_kernels(DEVICE) == []
    monkeypatch.setattr(triton_layers, "geglu", lambda x: 1.01 * reference.geglu(x))
    assert ops.mismatched_kernels(DEVICE) == ["GEGLU"]
