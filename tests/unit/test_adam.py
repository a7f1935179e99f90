"""The optimizer against torch's own, learning rates over a run, and the penalties' closed forms."""

from __future__ import annotations

import math

import pytest
import torch

from distill3d.kernels.gaussians.cloud import SH_C0
from distill3d.kernels.run.adam import adam, all_finite
from distill3d.kernels.run.learning_rates import LearningRates, sh_shares
from distill3d.kernels.run.penalties import (
    Regularizers,
    binarity,
    out_of_bounds,
    penalties,
    total_variation,
)

YES, NO = torch.tensor(True), torch.tensor(False)


def start(dtype: torch.dtype = torch.float64) -> tuple:
    draw = torch.Generator().manual_seed(0)
    params = {name: torch.randn(4, 3, generator=draw, dtype=dtype) for name in ("a", "b")}
    zeros = {name: torch.zeros_like(value) for name, value in params.items()}
    return params, zeros, zeros, torch.zeros((), dtype=torch.int64)


@pytest.mark.parametrize(("dtype", "tolerance"), [(torch.float64, 1e-12), (torch.float32, 2e-6)])
def test_adam_is_torchs_adam(dtype, tolerance):
    params, first, second, updates = start(dtype)
    mirror = {name: value.clone().requires_grad_() for name, value in params.items()}
    groups = [{"params": [mirror["a"]], "lr": 0.1}, {"params": [mirror["b"]], "lr": 0.02}]
    reference = torch.optim.Adam(groups, betas=(0.9, 0.999), eps=1e-15)  # as 3DGS has it
    draw = torch.Generator().manual_seed(1)
    for _ in range(30):
        gradients = {name: torch.randn(4, 3, generator=draw, dtype=dtype) ** 3 for name in params}
        for name, value in mirror.items():
            value.grad = gradients[name].clone()
        reference.step()
        params, first, second, updates = adam(
            params, gradients, first, second, updates, {"a": 0.1, "b": 0.02}, YES
        )
    assert int(updates) == 30
    for name, value in mirror.items():
        assert torch.allclose(params[name], value, rtol=0, atol=tolerance)


def test_a_tiny_gradient_moves_as_far_as_a_large_one():
    params, first, second, updates = start()
    tiny = {name: torch.full_like(value, 1e-9) for name, value in params.items()}
    moved, *_ = adam(params, tiny, first, second, updates, {"a": 0.1, "b": 0.1}, YES)
    torch.testing.assert_close(
        params["a"] - moved["a"], torch.full_like(moved["a"], 0.1), rtol=1e-4, atol=0
    )


def test_a_gradient_of_zero_moves_nothing():
    params, first, second, updates = start()
    zeros = {name: torch.zeros_like(value) for name, value in params.items()}
    moved, *_ = adam(params, zeros, first, second, updates, {"a": 1.0, "b": 1.0}, YES)
    assert all(torch.equal(moved[name], params[name]) for name in params)


def test_a_rejected_step_returns_everything_as_it_was():
    params, first, second, updates = start()
    ones = {name: torch.ones_like(value) for name, value in params.items()}
    state = adam(params, ones, first, second, updates, {"a": 0.1, "b": 0.1}, YES)
    nans = {name: torch.full_like(value, math.nan) for name, value in params.items()}
    after = adam(state[0], nans, state[1], state[2], state[3], {"a": 0.1, "b": 0.1}, NO)
    for group, other in zip(state[:3], after[:3], strict=True):
        assert all(torch.equal(group[name], other[name]) for name in group)
    assert torch.equal(state[3], after[3])


@pytest.mark.parametrize(
    ("bad", "expected"), [(0.0, True), (math.nan, False), (-math.inf, False), (1e25, False)]
)
def test_finite_means_finite_squares_too(bad, expected):
    tensors = [torch.ones(3), torch.tensor([[1.0, bad]]), torch.tensor(2.0)]
    assert bool(all_finite(tensors)) == expected


def test_rates_decay_exponentially_to_their_share():
    rates = LearningRates(lr_means=4e-3, final_means=0.01, lr_quats=0.0, final_colors=1.0)
    assert rates.at(0.0)["means"] == 4e-3
    assert math.isclose(rates.at(0.5)["means"], 4e-4)
    assert math.isclose(rates.at(1.0)["means"], 4e-5)
    assert rates.at(0.7)["quats"] == 0.0 and rates.at(0.7)["sh"] == rates.lr_colors


def test_each_group_has_its_own_rate_and_its_own_share_of_it_left():
    groups = ("means", "scales", "quats", "opacities", "colors")
    own = {f"lr_{group}": 0.1 * (k + 1) for k, group in enumerate(groups)}
    own |= {f"final_{group}": 0.1 * (k + 2) for k, group in enumerate(groups)}
    names = ("means", "log_scales", "quats", "opacity_logits", "sh")
    last = LearningRates(**own).at(1.0)
    assert last == pytest.approx({n: 0.01 * (k + 1) * (k + 2) for k, n in enumerate(names)})


def test_view_dependent_colour_learns_slower():
    shares = sh_shares(torch.zeros(7, 9, 3))
    assert (
        shares.shape == (9, 1) and shares[0] == 1 and torch.allclose(shares[1:], torch.tensor(0.05))
    )


def test_total_variation_of_a_ramp_is_its_slope():
    ramp = torch.arange(6.0).view(1, 1, 6, 1).expand(2, 5, 6, 3)
    assert total_variation(0.25 * ramp) == 0.25
    # downwards, too, and from row to row
    assert total_variation(-0.25 * ramp) == total_variation(-0.25 * ramp.transpose(1, 2)) == 0.25
    assert total_variation(0.25 * ramp + 0.5 * ramp.new_tensor(range(5)).view(1, 5, 1, 1)) == 0.75


def test_binarity_is_one_at_half_and_zero_at_the_ends():
    assert binarity(torch.tensor([0.0, 1.0])) == 0 and binarity(torch.full((3,), 0.5)) == 1


def test_only_what_is_out_of_bounds_is_pulled_back():
    means = torch.tensor([[0.0, 0.0, 0.0], [0.3, 0.0, 0.4], [0.0, 3.0, 4.0]], requires_grad=True)
    penalty = out_of_bounds(means, 1.0)
    assert math.isclose(penalty.item(), 16.0, rel_tol=1e-6)  # (5 - 1)^2
    (gradient,) = torch.autograd.grad(penalty, means)
    assert torch.equal(gradient[:2], torch.zeros(2, 3))
    # 2 (5 - 1), along the radius
    assert torch.allclose(gradient[2], torch.tensor([0.0, 0.6, 0.8]) * 8)


def test_penalties_are_weighted_and_absent_at_weight_zero():
    cloud = {
        "means": torch.zeros(2, 3),
        "log_scales": torch.tensor([0.1, 0.3]).log()[:, None].expand(2, 3),
        "opacity_logits": torch.tensor([0.2, 0.6]).logit(),
        "sh": torch.tensor([[1.3, 0.5, 0.5], [0.2, -0.1, 0.9]])[:, None].sub(0.5) / SH_C0,
    }
    color, alpha = torch.rand(1, 4, 4, 3), torch.full((1, 4, 4, 1), 0.25)
    off = penalties(Regularizers(lambda_bounds=0.0), cloud, color, alpha)
    assert off == {}
    weights = Regularizers(
        lambda_opacity=2.0,
        lambda_binary_opacity=1.0,
        lambda_scale=3.0,
        lambda_binary_alpha=4.0,
        lambda_tv_color=0.5,
        lambda_tv_alpha=1.0,
        lambda_gamut=5.0,
        lambda_bounds=1.0,
    )
    on = penalties(weights, cloud, color, alpha)
    expected = {
        "opacity": 2 * 0.4,
        "binary_opacity": (4 * 0.16 + 4 * 0.24) / 2,
        "scale": 3 * 0.2,
        "binary_alpha": 4 * 4 * 0.25 * 0.75,
        "tv_color": 0.5 * float(total_variation(color)),
        "tv_alpha": 0.0,
        "gamut": 5 * (0.3**2 + 0.1**2),
        "bounds": 0.0,
    }
    assert {name: float(value) for name, value in on.items()} == pytest.approx(expected, rel=1e-5)
