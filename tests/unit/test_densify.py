import math
from dataclasses import replace

import pytest
import torch
from kit import seeded

from distill3d.kernels.cameras.pinhole import orbit
from distill3d.kernels.gaussians.cloud import Gaussians
from distill3d.kernels.gaussians.densify import (
    Densify,
    densify_and_prune,
    fresh_statistics,
    gather,
    reset_opacities,
)
from distill3d.kernels.rasterizers.rasterize import render

SMALL, LARGE = math.log(0.01), math.log(0.05)  # below and above the default split_scale


def cloud_of(count=10, log_scale=SMALL, seed=0):
    g = torch.Generator().manual_seed(seed)
    return Gaussians(
        means=torch.rand(count, 3, generator=g) - 0.5,
        log_scales=torch.full((count, 3), log_scale),
        quats=torch.randn(count, 4, generator=g),
        opacity_logits=torch.rand(count, generator=g),
        sh=torch.randn(count, 4, 3, generator=g),
    )


def moments_of(cloud):
    """Moments whose values name their row: m = row + 1, v = 100 (row + 1)."""
    rows = torch.arange(1.0, len(cloud) + 1)
    spread = {
        key: rows.view(-1, *[1] * (value.dim() - 1)).expand_as(value)
        for key, value in cloud.tensors().items()
    }
    return {key: (value.clone(), 100 * value) for key, value in spread.items()}


def statistics_of(gradients):
    return {"gradient": torch.tensor(gradients), "views": torch.ones(len(gradients))}


KEEP_ALL = Densify(grow_share=1.0, count_min=1)


def test_without_gradients_nothing_changes():
    cloud = cloud_of()
    moments = moments_of(cloud)
    after, carried = densify_and_prune(KEEP_ALL, cloud, fresh_statistics(cloud), moments, seeded())
    for key, value in cloud.tensors().items():
        assert torch.equal(getattr(after, key), value)
        assert torch.equal(carried[key][0], moments[key][0]) and torch.equal(
            carried[key][1], moments[key][1]
        )


def test_rows_are_survivors_then_clones_then_first_and_second_parts():
    cloud = cloud_of(6)
    cloud.log_scales[[1, 4], 2] = LARGE  # to be split
    cloud.opacity_logits[2] = -9.0  # to be pruned
    before = {key: value.clone() for key, value in cloud.tensors().items()}
    moments = moments_of(cloud)
    after, carried = densify_and_prune(
        KEEP_ALL, cloud, statistics_of([1.0, 1, 1, 0, 1, 1]), moments, seeded()
    )

    source = [0, 3, 5, 0, 5, 1, 4, 1, 4]
    assert len(after) == len(source)
    assert torch.equal(after.sh, cloud.sh[source])
    assert torch.equal(after.quats, cloud.quats[source])
    assert torch.equal(after.means[:5], cloud.means[source[:5]])
    assert torch.equal(after.log_scales[:5], cloud.log_scales[source[:5]])
    torch.testing.assert_close(after.log_scales[5:], cloud.log_scales[source[5:]] - math.log(1.6))
    for key, value in cloud.tensors().items():
        assert torch.equal(value, before[key])  # the input stays as it was
        m, v = carried[key]
        assert m.shape == v.shape == getattr(after, key).shape
        assert torch.equal(m[:3], moments[key][0][[0, 3, 5]])
        assert torch.equal(v[:3], moments[key][1][[0, 3, 5]])
        assert not m[3:].any() and not v[3:].any()


def test_moments_of_any_name_and_shape_keep_their_rows():
    cloud = cloud_of(3)
    extra = {"other": (torch.arange(3.0), torch.arange(6.0).reshape(3, 2))}
    _, carried = densify_and_prune(KEEP_ALL, cloud, statistics_of([0.0, 0, 1]), extra, seeded())
    assert carried["other"][0].tolist() == [0, 1, 2, 0]
    assert carried["other"][1].tolist() == [[0, 1], [2, 3], [4, 5], [0, 0]]


def test_doubling_in_place_lets_as_much_light_through_as_before():
    cloud = cloud_of(4)
    after, _ = densify_and_prune(KEEP_ALL, cloud, statistics_of([1.0, 1, 0, 0]), {}, seeded())
    pair = 1 - (1 - after.opacities[[0, 1]]) * (1 - after.opacities[[4, 5]])
    torch.testing.assert_close(pair, cloud.opacities[:2])
    torch.testing.assert_close(after.opacities[[2, 3]], cloud.opacities[[2, 3]])


def test_the_parts_of_a_split_follow_the_shape_of_the_gaussian():
    count = 4000
    cloud = cloud_of(count, LARGE)
    cloud = replace(cloud, log_scales=torch.tensor([0.2, 0.05, 0.01]).log().expand(count, 3))
    # x to y
    cloud = replace(
        cloud, quats=torch.tensor([math.sqrt(0.5), 0, 0, math.sqrt(0.5)]).expand(count, 4)
    )
    after, _ = densify_and_prune(KEEP_ALL, cloud, statistics_of([1.0] * count), {}, seeded())
    offsets = after.means - cloud.means.repeat(2, 1)
    assert len(after) == 2 * count
    torch.testing.assert_close(offsets.std(0), torch.tensor([0.05, 0.2, 0.01]), rtol=0.05, atol=0)
    assert (offsets.mean(0).abs() < 0.01).all()


@pytest.mark.parametrize(
    ("key", "value"),
    [
        ("opacity_logits", -6.0),
        ("log_scales", math.log(0.3)),
        ("means", 0.8),
        ("means", torch.nan),
        ("sh", torch.inf),
        ("quats", torch.nan),
    ],
)
def test_faint_huge_stray_and_broken_gaussians_go(key, value):
    cloud = cloud_of(5)
    getattr(cloud, key)[3] = value
    after, carried = densify_and_prune(
        KEEP_ALL, cloud, fresh_statistics(cloud), moments_of(cloud), seeded()
    )
    assert torch.equal(after.sh, cloud.sh[[0, 1, 2, 4]])
    assert carried["means"][0][:, 0].tolist() == [1, 2, 3, 5]


def test_removal_stops_at_the_least_count_and_keeps_the_most_opaque():
    cloud = cloud_of(50)
    cloud = replace(cloud, opacity_logits=torch.linspace(-9, -6, 50))
    after, _ = densify_and_prune(
        Densify(count_min=10), cloud, fresh_statistics(cloud), {}, seeded()
    )
    assert torch.equal(after.opacity_logits, cloud.opacity_logits[40:])


def test_a_cloud_of_nothing_but_nans_is_an_error():
    cloud = cloud_of(5)
    cloud.means[:] = torch.nan
    with pytest.raises(ValueError, match="not one Gaussian is finite"):
        densify_and_prune(Densify(), cloud, fresh_statistics(cloud), {}, seeded())


def test_growth_takes_the_largest_gradients_and_keeps_to_its_share():
    cloud = cloud_of(100)
    gradients = torch.rand(100, generator=seeded(3))
    statistics = {"gradient": gradients * 7, "views": torch.full((100,), 7.0)}
    after, _ = densify_and_prune(replace(KEEP_ALL, grow_share=0.1), cloud, statistics, {}, seeded())
    expected = torch.sort(torch.topk(gradients, 10).indices).values
    assert torch.equal(after.sh[100:], cloud.sh[expected])


def test_the_threshold_is_on_the_mean_per_view():
    cloud = cloud_of(3)
    statistics = {"gradient": torch.tensor([4.0, 4.0, 0.0]), "views": torch.tensor([2.0, 8.0, 0.0])}
    after, _ = densify_and_prune(
        replace(KEEP_ALL, gradient_threshold=1.0), cloud, statistics, {}, seeded()
    )
    assert torch.equal(after.sh, cloud.sh[[0, 1, 2, 0]])


@pytest.mark.parametrize("log_scale", [SMALL, LARGE])
@pytest.mark.parametrize("cap", [3, 10, 13, 20, 100])
def test_the_cap_is_never_exceeded(log_scale, cap):
    cloud = cloud_of(10, log_scale)
    strategy = replace(KEEP_ALL, count_max=40)
    after, _ = densify_and_prune(
        strategy, cloud, statistics_of([1.0] * 10), {}, seeded(), count_max=cap
    )
    assert len(after) == min(cap, 20)
    after, _ = densify_and_prune(
        replace(strategy, count_max=cap), cloud, statistics_of([1.0] * 10), {}, seeded()
    )
    assert len(after) == min(cap, 20)


def test_the_same_generator_gives_the_same_cloud():
    cloud = cloud_of(10, LARGE)
    one, two, other = (
        densify_and_prune(KEEP_ALL, cloud, statistics_of([1.0] * 10), {}, seeded(seed))[0]
        for seed in (1, 1, 2)
    )
    assert torch.equal(one.means, two.means)
    assert not torch.equal(one.means, other.means)


def test_gathering_counts_visible_views_and_skips_rejected_steps():
    gradient = torch.zeros(2, 3, 2)
    gradient[0, 0] = torch.tensor([3.0, 0])
    gradient[1, 0] = torch.tensor([0, 1.0])
    gradient[0, 1] = torch.tensor([1.0, 0])
    gradient[1, 2] = torch.nan
    visible = torch.tensor([[True, False, True], [True, True, True]])
    once = gather(fresh_statistics(cloud_of(3)), gradient, visible, (20, 40))
    # Two views undo the mean over the batch; half pictures are 10 and 20 pixels.
    assert once["gradient"].tolist() == [2 * (3 * 10 + 1 * 20), 0, 0]
    assert once["views"].tolist() == [2, 1, 1]
    twice = gather(once, gradient, visible, (20, 40), accept=torch.tensor(True))
    assert twice["gradient"][0] == 200
    rejected = gather(once, gradient, visible, (20, 40), accept=torch.tensor(False))
    assert all(torch.equal(rejected[key], once[key]) for key in once)


def test_gathered_gradients_do_not_depend_on_the_size_of_the_picture():
    cloud = Gaussians(
        means=torch.tensor([[0.1, 0.05, 0.0]]),
        log_scales=torch.full((1, 3), math.log(0.1)),
        quats=torch.tensor([[1.0, 0, 0, 0]]),
        opacity_logits=torch.tensor([2.0]),
        sh=torch.ones(1, 1, 3),
    )
    norms = []
    for size in (32, 128):
        cameras = orbit(torch.tensor([0.0, 40.0]), 0, 2.0, size=size)
        rendering = render(replace(cloud, means=cloud.means.clone().requires_grad_()), cameras, 0.0)
        ramp = torch.linspace(0, 1, size)[None, None, :, None]
        loss = (rendering.color * ramp).mean()
        (gradient,) = torch.autograd.grad(loss, rendering.means2d)
        statistics = gather(fresh_statistics(cloud), gradient, rendering.visible, (size, size))
        norms.append(statistics["gradient"].item())
    assert norms[0] == pytest.approx(norms[1], rel=0.1)


def test_a_reset_lowers_opacities_and_forgets_only_their_moments():
    cloud = cloud_of(3)
    cloud.opacity_logits[1] = -8.0
    after, moments = reset_opacities(Densify(), cloud, moments_of(cloud))
    assert after.opacities.tolist() == pytest.approx(
        [0.01, torch.sigmoid(torch.tensor(-8.0)).item(), 0.01]
    )
    assert not moments["opacity_logits"][0].any() and not moments["opacity_logits"][1].any()
    assert moments["means"][0].any()
    assert torch.equal(after.means, cloud.means)


def test_rounds_take_place_in_the_middle_of_the_schedule():
    strategy = Densify(every=10, start=0.1, stop=0.5, reset_every=20)
    assert [k for k in range(101) if strategy.due(k, 100)] == [10, 20, 30, 40, 50]
    assert [k for k in range(101) if strategy.reset_due(k, 100)] == [20, 40]
    assert not any(Densify(every=0).due(k, 100) for k in range(101))


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"grow_share": 2}, "grow_share is 2"),
        ({"prune_opacity": math.nan}, "prune_opacity is nan"),
        ({"start": 0.7}, "start 0.7 is above stop 0.6. Swap"),
        ({"count_max": 10}, "count_min 100 is above count_max 10"),
        (
            {"reset_every": 9, "prune_opacity": 0.02},
            "reset_opacity 0.01 is not above prune_opacity 0.02",
        ),
    ],
)
def test_bad_settings_are_named(settings, message):
    with pytest.raises(ValueError, match=message):
        Densify(**settings).check()
    Densify().check()


def test_rows_that_do_not_match_are_named():
    cloud = cloud_of(5)
    with pytest.raises(ValueError, match=r"means has \(4,\) rows, but the cloud has 5"):
        short = {"means": (torch.zeros(4, 3), torch.zeros(4, 3))}
        densify_and_prune(Densify(), cloud, fresh_statistics(cloud), short, seeded())
