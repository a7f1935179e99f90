import math
from dataclasses import replace

import pytest
import torch
from torch.nn.functional import one_hot

from distill3d.kernels.evaluate import judge as evaluate
from distill3d.kernels.evaluate import metrics
from distill3d.kernels.gaussians.cloud import SH_C0, Gaussians
from distill3d.kernels.rasterizers.rasterize import Rendering
from distill3d.kernels.toybox.captions import (
    CATEGORIES,
    COLORS,
    FINISHES,
    SYMMETRIC,
    VIEWS,
    Caption,
)
from distill3d.kernels.toybox.meshes import mesh, mesh_colors
from distill3d.kernels.toybox.models import HEADS
from distill3d.kernels.toybox.render import Truth


def test_iou_is_the_shared_part_of_all_that_is_covered():
    a, b = torch.zeros(1, 4, 4, 1), torch.zeros(1, 4, 4, 1)
    a[:, :2], b[:, 1:3] = 1.0, 0.6
    assert metrics.iou(a, b) == pytest.approx(1 / 3)
    assert metrics.iou(a, a) == 1 and metrics.iou(a, 1 - a) == 0
    # more than half is covered, of the result as of the truth
    edge = torch.tensor([0.45, 0.55, 0.9, 0.1])
    solid = torch.tensor([0.0, 1.0, 1.0, 0.0])
    assert metrics.iou(edge, solid) == metrics.iou(solid, edge) == 1
    assert metrics.iou(torch.zeros(2), torch.zeros(2)) == 0


def test_psnr_is_twenty_decibels_for_an_error_of_a_tenth():
    picture = torch.full((2, 3, 3, 3), 0.5)
    assert metrics.psnr(picture, picture + 0.1) == pytest.approx(20, abs=1e-3)
    # what is out of range is clipped
    assert metrics.psnr(picture + 1, torch.ones(2, 3, 3, 3)) == pytest.approx(100)


def test_saturation_and_contrast_are_those_inside_the_mask():
    picture = torch.zeros(1, 2, 2, 3)
    picture[0, 0] = torch.tensor([[1.0, 0.0, 0.0], [0.8, 0.4, 0.6]])  # HSV saturation 1 and 0.5
    picture[0, 1] = torch.tensor([[0.5, 0.5, 0.5], [9.0, -1.0, 0.0]])
    inside = torch.tensor([[[[True], [True]], [[False], [False]]]])
    assert metrics.saturation(picture, inside) == pytest.approx(0.75)
    grays = torch.tensor([0.2, 0.6])[None, :, None, None].expand(1, 2, 1, 3)
    assert metrics.contrast(grays, torch.ones(1, 2, 1, 1, dtype=torch.bool)) == pytest.approx(0.2)
    # green counts
    assert (
        metrics.contrast(torch.eye(3)[None, :, None], torch.ones(1, 3, 1, 1, dtype=torch.bool))
        > 0.2
    )
    assert (
        metrics.saturation(picture, ~inside & inside)
        == metrics.contrast(picture, ~inside & inside)
        == 0
    )


def pictured(color):
    """A Rendering and a Truth of a square in that colour on the background."""
    alpha = torch.zeros(1, 8, 8, 1)
    alpha[:, 2:6, 2:6] = 1
    shade = torch.linspace(0.6, 1, 8)[:, None, None]
    picture = alpha * shade * torch.tensor(color) + (1 - alpha) * metrics.BACKGROUND
    empty = torch.zeros(1, 8, 8, 1)
    return Rendering(picture, alpha, empty, torch.zeros(1, 1, 2), torch.zeros(1, 1)), Truth(
        picture, alpha, empty, empty
    )


def test_ratios_compare_the_result_with_the_truth():
    (seen, truth), (_, pale), (_, white) = (
        pictured([0.9, 0.1, 0.1]),
        pictured([0.9, 0.5, 0.5]),
        pictured([0.9] * 3),
    )
    assert metrics.score(seen, truth).saturation == metrics.score(seen, truth).contrast == 1
    # twice as saturated
    assert metrics.score(seen, pale).saturation == pytest.approx((8 / 9) / (4 / 9), rel=1e-4)
    assert math.isnan(metrics.score(seen, white).saturation)
    uncolored = metrics.score(seen, truth, colored=False)
    assert uncolored.iou == 1 and all(
        math.isnan(v) for v in (uncolored.psnr, uncolored.saturation, uncolored.contrast)
    )


def test_edge_energy_is_the_slope_inside_and_not_the_silhouettes():
    ramp = torch.zeros(1, 12, 12, 3)
    ramp[:] = (0.3 * torch.arange(12) / 10)[:, None] + 0.4 * torch.arange(12)[:, None, None] / 10
    inside = torch.zeros(1, 12, 12, 1, dtype=torch.bool)
    inside[:, 3:9, 3:9] = True
    outlined = torch.where(inside, ramp, 1.0)  # a jump to white
    assert metrics.edge_energy(ramp, inside) == pytest.approx(0.05, rel=1e-4)  # 0.03 and 0.04
    assert metrics.edge_energy(outlined, inside) == pytest.approx(0.05, rel=1e-4)
    assert metrics.edge_energy(ramp, torch.zeros_like(inside)) == 0


def test_a_softened_picture_has_weaker_edges_than_the_truth_and_a_noisy_one_stronger():
    seen, truth = pictured([0.9, 0.1, 0.1])
    soft = torch.where(seen.alpha > 0, 0.3 + 0.5 * seen.color, seen.color)
    noise = 0.05 * torch.randn(seen.color.shape, generator=torch.Generator().manual_seed(0))
    assert metrics.score(seen, truth).edges == 1
    assert metrics.score(replace(seen, color=soft), truth).edges == pytest.approx(0.5, rel=1e-5)
    assert metrics.score(replace(seen, color=seen.color + noise), truth).edges > 1.1
    assert math.isnan(
        metrics.score(seen, replace(truth, color=torch.full((1, 8, 8, 3), 0.5))).edges
    )


def test_the_ring_goes_all_around_at_three_heights():
    cameras = metrics.ring_of_views(24, 16)
    assert len(cameras) == 24 and cameras.azimuths[1] - cameras.azimuths[0] == 15
    assert cameras.elevations[:4].tolist() == [0, 20, 40, 0]


def dressed(caption):
    """A cloud of small opaque balls on the toy's surface, in its colours under no particular
    light.
    """
    vertices, _ = mesh(caption.category, 56)
    count = len(vertices)
    return Gaussians(
        means=vertices,
        log_scales=torch.full((count, 3), math.log(0.007)),
        quats=torch.tensor([1.0, 0, 0, 0]).repeat(count, 1),
        opacity_logits=torch.full((count,), 4.0),
        sh=((mesh_colors(caption, vertices) - 0.5) / SH_C0)[:, None],
    )


def test_a_cloud_on_the_right_toy_scores_high_and_on_another_low():
    right, other = Caption("car", "red"), Caption("duck", "green")
    cloud = dressed(right)
    good, bad = (metrics.compare(cloud, c, views=3, size=80) for c in (right, other))
    assert good.iou > 0.8 > 0.7 > bad.iou
    assert good.psnr > bad.psnr + 3
    assert good.false_alpha < 0.03 < bad.false_alpha
    assert math.isnan(metrics.compare(cloud, Caption("car", None), views=1, size=24).psnr)


class Oracle:
    """Answers what the pictures say in their first pixels."""

    def __call__(self, pictures):
        answers = pictures[:, 0, 0, : len(HEADS)].long()
        return {
            name: one_hot(answers[:, i], size).float()
            for i, (name, size) in enumerate(HEADS.items())
        }


def told(captions):
    """Pictures [4 x captions,3,1,5] that tell the oracle the truth."""
    rows = []
    for c in captions:
        second = list(COLORS).index(c.second) if c.second else 0
        said = [
            CATEGORIES.index(c.category),
            list(COLORS).index(c.color),
            FINISHES.index(c.finish),
            second,
        ]
        rows += [[*said, view] for view in range(len(VIEWS))]
    return torch.tensor(rows)[:, None, None].expand(-1, 3, 1, -1).float()


def test_samples_that_show_their_captions_score_one_and_each_fault_counts_where_it_is():
    captions = [
        Caption("mug", "red"),
        Caption("car", "blue", "dotted", "pink"),
        Caption("sphere", "green"),
    ]
    right = told(captions)
    assert set(evaluate.score_samples(Oracle(), captions, right).values()) == {1.0}
    wrong = right.clone()
    # the mug's front seen as its back: one of eight views of toys that have sides
    wrong[0, :, 0, 4] = 2
    wrong[9, :, 0, 4] = 0  # a sphere has none
    wrong[4, :, 0, 3] = 0  # the car's dots in red: one of twelve pictures
    wrong[0, :, 0, 3] = 5  # a plain mug has no second colour
    wrong[8:, :, 0, 0] = CATEGORIES.index("cube")
    score = evaluate.score_samples(Oracle(), captions, wrong)
    assert score["view"] == pytest.approx(7 / 8) and score["color"] == pytest.approx(11 / 12)
    assert score["category"] == pytest.approx(2 / 3) and score["finish"] == 1
    assert "sphere" in SYMMETRIC and "mug" not in SYMMETRIC


def test_the_two_colours_of_stripes_and_checks_may_be_named_in_either_order():
    captions = [Caption("mug", "red", "striped", "pink"), Caption("mug", "red", "dotted", "pink")]
    swapped = told(captions)
    swapped[..., 1], swapped[..., 3] = swapped[..., 3].clone(), swapped[..., 1].clone()
    # order counts for dots
    assert evaluate.score_samples(Oracle(), captions, swapped)["color"] == 0.5


def test_a_sheet_lays_pictures_out_row_by_row(tmp_path):
    from PIL import Image

    pictures = torch.arange(6).div(10).view(6, 1, 1, 1).expand(6, 3, 2, 2)
    evaluate.save_sheet(pictures, 3, tmp_path / "sheet.png")
    sheet = Image.open(tmp_path / "sheet.png")
    assert sheet.size == (6, 4)
    assert [sheet.getpixel((x, y))[0] for y in (0, 2) for x in (0, 2, 4)] == [
        int(25.5 * i) for i in range(6)
    ]
