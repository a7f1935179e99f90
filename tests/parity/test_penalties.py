"""Penalties, learning rates and pictures against the authors' own code."""

from types import SimpleNamespace

import pytest
import torch
from replay import DTYPES, Numbers, close

from distill3d.kernels.cameras.pinhole import focal_lengths, turntable
from distill3d.kernels.meshes.rasterize import edges_of
from distill3d.kernels.run.adam import clipped_norms
from distill3d.kernels.run.judged import draw_judging, judged
from distill3d.kernels.run.learning_rates import LearningRates
from distill3d.kernels.run.mesh_penalties import offset_sum, vertex_normal_consistency
from distill3d.kernels.run.penalties import Regularizers, disparity, penalties, total_variation
from distill3d.kernels.run.settings import RunSettings, draw_backgrounds


@pytest.mark.parametrize("dtype", DTYPES)
def test_squared_total_variation_is_luciddreamers(dtype):
    file = Numbers("total_variation", dtype)
    for name in ("color", "depth"):
        found = total_variation(file[name].permute(0, 2, 3, 1), "squared")
        close("total_variation", found, file[f"tv_{name}"])


@pytest.mark.parametrize("dtype", DTYPES)
def test_mesh_penalties_are_consistent3ds(dtype):
    file = Numbers("mesh_penalties", dtype)
    vertices, faces = file["vertices"].requires_grad_(), file["faces"]
    edges, _ = edges_of(faces)
    values = {
        "laplacian": offset_sum(vertices, edges),
        "normal_consistency": vertex_normal_consistency(vertices, faces, edges),
    }
    for name, value in values.items():
        (gradient,) = torch.autograd.grad(value, vertices)
        close(f"mesh_{name}", value.detach(), file[name])
        close(f"mesh_{name}", gradient, file[f"{name}.gradient"])


def test_learning_rates_are_luciddreamers():
    file = Numbers("learning_rates")
    ends = file.settings["ends"]
    own = {"means": "means", "scales": "log_scales", "quats": "quats", "colors": "sh"}
    rates = LearningRates(
        **{f"lr_{name}": first for name, (first, _) in ends.items()},
        **{f"final_{name}": last / first for name, (first, last) in ends.items()},
    )
    for k, iteration in enumerate(file["iteration"].tolist()):
        now = rates.at(iteration / file.settings["iterations"])
        for name in ends:
            found = torch.tensor(now[own[name]], dtype=torch.float64)
            close("learning_rates", found, file[name][k])


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("ball", [0, 1])
def test_the_depth_picture_is_luciddreamers(dtype, ball):
    file = Numbers("disparity", dtype)
    part = file.part(f"{ball}.")
    alpha = (1 - part["left"])[None, :, :, None]
    depth = (part["depth"] / (1 - part["left"]).clamp(min=1e-300))[None, :, :, None]
    found = disparity(depth.nan_to_num(0), alpha, file["focal"])
    close("disparity", found[0, :, :, 0], part["disparity"])


def sphere_of(radius, distance, size=32):
    """Depth and alpha of a ball seen from ``distance``, one view."""
    place = (torch.arange(size) + 0.5) / size - 0.5
    away = (place[:, None] ** 2 + place**2).sqrt()
    inside = away < radius
    depth = torch.where(inside, distance - (radius**2 - away**2).clamp(min=0).sqrt(), 0.0)
    return depth[None, :, :, None], inside.float()[None, :, :, None]


def test_disparity_is_one_at_the_nearest_pixel_and_zero_at_the_rim_and_outside():
    depth, alpha = sphere_of(0.4, 3.0)
    near = disparity(depth, alpha, 1.4)
    assert float(near.max()) == 1 and float(near[alpha == 0].max()) == 0
    assert int(near[0, :, :, 0].argmax()) in (15 * 32 + 15, 15 * 32 + 16, 16 * 32 + 15)
    nearer = near[0, 16, :16, 0]
    assert bool((nearer.diff() >= 0).all())


def test_depths_total_variation_is_a_penalty_of_its_own():
    depth, alpha = sphere_of(0.4, 3.0)
    cloud = {"opacity_logits": torch.zeros(2), "log_scales": torch.zeros(2, 3)}
    cloud |= {"means": torch.zeros(2, 3), "sh": torch.zeros(2, 1, 3)}
    weights = Regularizers(lambda_tv_depth=2.0, tv_kind="squared", lambda_bounds=0)
    near = disparity(depth, alpha, 1.4)
    terms = penalties(weights, cloud, torch.zeros(1, 32, 32, 3), alpha, lambda: near)
    assert list(terms) == ["tv_depth"]
    assert float(terms["tv_depth"]) == pytest.approx(2 * float(total_variation(near, "squared")))


GROUNDS = torch.zeros(2, 3)


class Seen:
    """Two renders of a ramp."""

    color = torch.linspace(0, 1, 16).expand(2, 16, 16)[..., None].repeat(1, 1, 1, 3)
    alpha = torch.ones(2, 16, 16, 1)
    depth = torch.linspace(2, 3, 16).expand(2, 16, 16)[..., None].clone()


def shown(prior=None, **settings):
    generator = torch.Generator().manual_seed(0)
    cameras = turntable(2, size=16)
    runs = [
        judged(prior, draw_judging(RunSettings(**settings), generator), Seen, cameras, GROUNDS)
        for _ in range(200)
    ]
    return torch.stack(runs)


def test_half_of_the_steps_are_mirrored_and_a_fifth_show_depth():
    plain = Seen.color.permute(0, 3, 1, 2)
    assert torch.equal(shown()[0], plain)
    flipped = (shown(flip_share=0.5) == plain.flip(3)).flatten(1).all(1)
    assert 70 < int(flipped.sum()) < 130
    near = disparity(Seen.depth, Seen.alpha, focal_lengths(turntable(2, size=16)))
    as_depth = near.permute(0, 3, 1, 2).expand(-1, 3, -1, -1)
    deep = (shown(depth_share=0.2) == as_depth).flatten(1).all(1)
    assert 20 < int(deep.sum()) < 60


def test_a_prior_that_takes_alpha_is_given_it_mirrored_like_the_colours():
    class Fading(Seen):
        alpha = Seen.color[..., :1]
        color = Seen.color * alpha

    prior, generator = SimpleNamespace(takes_alpha=True), torch.Generator().manual_seed(0)
    settings = RunSettings(flip_share=0.5)
    runs = [
        judged(prior, draw_judging(settings, generator), Fading, turntable(2, size=16), GROUNDS)
        for _ in range(20)
    ]
    for run in runs:
        torch.testing.assert_close(run[:, 0] * run[:, 3], run[:, 3].square(), atol=1e-6, rtol=0)
    assert len({run[0, 3, 0, 0].item() for run in runs}) == 2


def test_small_renders_are_stretched_before_the_encoder():
    large = shown(judged_size=64)
    assert large.shape[-2:] == (64, 64)
    torch.testing.assert_close(large.mean(), Seen.color.mean(), atol=1e-4, rtol=0)


def test_backgrounds_come_in_thirds():
    drawn = draw_backgrounds("thirds", None, 3000, torch.Generator().manual_seed(0))
    white, black = (drawn == 1).all(1), (drawn == 0).all(1)
    assert float(white.float().mean()) == pytest.approx(0.34, abs=0.03)
    assert float(black.float().mean()) == pytest.approx(0.33, abs=0.03)
    others = drawn[~white & ~black]
    assert float(others.mean()) == pytest.approx(0.5, abs=0.03)


def test_gradients_are_shortened_to_a_norm_group_by_group():
    given = {"means": torch.full((4,), 3.0), "sh": torch.full((4,), 0.5)}
    found = clipped_norms(given, 2.0)
    assert float(found["means"].norm()) == pytest.approx(2, rel=1e-5)
    assert torch.equal(found["sh"], given["sh"])
