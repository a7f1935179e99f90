"""Pictures with cameras: what they ask of renders, what they spare of the prior's say, how cameras
are refined, what a run that goes on keeps of them, and what is refused.
"""

import math
from dataclasses import replace

import pytest
import torch
from optimize_runs import ORBIT, SIZE, haze, settings
from test_anchor import grey_prior, red_ball

from distill3d.kernels.cameras.pinhole import orbit
from distill3d.kernels.losses.sds import SDS
from distill3d.kernels.priors.prompts import view_prompts
from distill3d.kernels.rasterizers.rasterize import render
from distill3d.kernels.run.aligned import Bounds, moved, traced
from distill3d.kernels.run.checkpoint import load_training, save_training
from distill3d.kernels.run.guide import Guide, spared
from distill3d.kernels.run.optimize import optimize
from distill3d.kernels.run.outlines import plain_outlines
from distill3d.kernels.run.palette import palette_distance, palette_of
from distill3d.kernels.run.references import References

LOSS = SDS(guidance=1.0)


def pictures_of(cloud, azimuths=(0.0,), size=32, **values):
    cameras = orbit(torch.tensor(azimuths), 0.0, 2.0, 40.0, size)
    with torch.no_grad():
        seen = render(cloud, cameras, 0.0)
    colors = seen.color / seen.alpha.clamp_min(1e-3)
    return References(colors.clamp(0, 1), cameras, seen.alpha, **values)


def run(start, references, steps=6, **changes):
    prior = grey_prior()
    prompts = view_prompts(prior, "nothing", view_dependent=False)
    return optimize(
        start, LOSS, prior, prompts, ORBIT, steps, settings(**changes), references=references
    )


def errors(cloud, references):
    with torch.no_grad():
        seen = render(cloud, references.cameras, 0.0)
    target = references.images * references.masks
    return float((seen.color - target).square().mean())


def test_renders_come_to_the_pictures_where_the_prior_wants_nothing_there():
    """The prior draws everything to grey; the picture holds what it shows."""
    ball = red_ball()
    references = pictures_of(ball, color=3000.0, silhouette=3000.0)
    held, free = run(haze(60), references, 40), run(haze(60), None, 40)
    assert errors(held, references) < 0.5 * errors(free, references)


def test_terms_are_the_weighted_means_over_each_picture():
    cloud, backgrounds = red_ball(), torch.Generator()
    references = pictures_of(cloud, (0.0, 90.0), SIZE, color=2.0, silhouette=3.0, fade=0.5)
    other = replace(references, images=1 - references.images)
    guide = Guide(other, SIZE, torch.device("cpu"))
    subject = Renders(cloud)
    look = guide.look(subject, {}, guide.start({}), 0, 0.0, backgrounds.manual_seed(1))
    terms = look.terms()
    color = ((references.images - other.images) * references.masks).square().mean()
    assert float(terms["reference_color"]) == pytest.approx(float(2 * 2 * color), rel=0.02)
    assert float(terms["reference_silhouette"]) == pytest.approx(0, abs=1e-6)
    look.share = 1.0
    late = look.terms()
    assert float(late["reference_color"]) == pytest.approx(
        0.5 * float(terms["reference_color"]), rel=1e-5
    )


class Renders:
    """A subject that renders a cloud as it is."""

    def __init__(self, cloud):
        self.cloud = cloud

    def render(self, params, cameras, backgrounds, depth):
        return render(self.cloud, cameras, backgrounds, "reference", depth=depth)


def test_pictures_take_turns_and_weigh_as_if_all_were_seen():
    cloud = red_ball()
    references = pictures_of(cloud, (0.0, 90.0, 180.0), SIZE, views=2)
    guide = Guide(replace(references, images=1 - references.images), SIZE, torch.device("cpu"))
    assert [guide.chosen(step) for step in range(3)] == [[0, 1], [2, 0], [1, 2]]
    whole = Guide(replace(guide.own, views=3), SIZE, torch.device("cpu"))
    totals = {}
    for name, each, steps in (("turns", guide, 3), ("all", whole, 1)):
        generator = torch.Generator().manual_seed(0)
        looks = [
            each.look(Renders(cloud), {}, each.start({}), step, 0.0, generator)
            for step in range(steps)
        ]
        totals[name] = sum(float(look.terms()["reference_color"]) for look in looks) / steps
    assert totals["turns"] == pytest.approx(totals["all"], rel=0.1)


def test_without_masks_the_renders_own_outline_stands_in_and_holds_no_silhouette():
    cloud = red_ball()
    references = replace(pictures_of(cloud, (0.0,), SIZE), masks=None)
    room = replace(references, images=references.images * 0 + torch.tensor([0.0, 1.0, 0.0]))
    look = Guide(room, SIZE, torch.device("cpu")).look(
        Renders(cloud), {}, {"offsets": torch.zeros(1, 4)}, 0, 0.0, torch.Generator()
    )
    assert set(look.terms()) == {"reference_color"}
    empty = look.seen.alpha < 1e-3
    assert float(((look.color - look._target()).abs() * empty).max()) < 1e-3


def test_other_sides_are_held_to_the_pictures_colours_in_any_shade():
    palette = palette_of(
        torch.tensor([[0.8, 0.1, 0.1], [0.1, 0.1, 0.8]]).repeat(1, 8, 8, 1), torch.ones(1, 8, 16, 1)
    )
    assert sorted(palette.round(decimals=4).tolist()) == [
        pytest.approx([0.1, 0.1, 0.8]), pytest.approx([0.8, 0.1, 0.1])
    ]  # fmt: skip
    backgrounds = torch.tensor([[0.0, 1.0, 0.0]])
    alpha = torch.tensor([1.0, 1.0, 1.0, 0.0]).view(1, 2, 2, 1)
    color = torch.tensor([[0.64, 0.08, 0.08], [0.1, 0.1, 0.9], [0.1, 0.8, 0.1], [0.0, 1.0, 0.0]])
    color = color.view(1, 2, 2, 3).requires_grad_()
    away = palette_distance(color, alpha, backgrounds, palette)
    (pull,) = torch.autograd.grad(away, color)
    # a darker red and a brighter blue are shades of what is shown, green is not, empty is nothing
    assert float(pull[0, 0, 0].abs().max()) < 1e-6 and float(pull[0, 0, 1].abs().max()) < 0.01
    assert float(pull[0, 1, 0, 1]) > 0.1 and float(pull[0, 1, 1].abs().max()) == 0


def test_a_palette_repaints_what_the_prior_would_leave_grey():
    ball = red_ball()
    plain = pictures_of(ball, color=300.0, silhouette=300.0, spare=0.0, palette=0.0)
    start = replace(ball, sh=ball.sh * 0)
    back = orbit(torch.tensor([180.0]), 0.0, 2.0, 40.0, SIZE)

    def redness(references):
        seen = render(run(start, references, 40), back, 0.0)
        return float((seen.color[..., 0] - seen.color[..., 1]).sum() / seen.alpha.sum())

    assert redness(replace(plain, palette=20_000.0)) > redness(plain) + 0.2


def test_what_a_picture_sees_is_the_near_side_that_faces_it():
    """Of a ball seen from the front its front, less towards the rim, and nothing of its back."""
    ball = ball_of(4000)
    references = pictures_of(ball, (0.0,), 64)
    guide = Guide(references, 64, torch.device("cpu"))
    look = guide.look(Renders(ball), {}, guide.start({}), 0, 0.0, torch.Generator())
    share, height = look.sees(ball.means), ball.means[:, 2]
    assert float(share[height > 0.3].mean()) > 0.8
    rim = share[(height > 0.1) & (height < 0.2)].mean()
    assert 0.1 < float(rim) < 0.7
    assert float(share[height < -0.1].max()) == 0
    # what is not in the outline is not seen, wherever it is
    assert float(look.sees(torch.tensor([[0.9, 0.0, 0.0], [0.0, 0.8, 0.3]])).max()) == 0


def ball_of(count):
    points = torch.nn.functional.normalize(
        torch.randn(count, 3, generator=torch.Generator().manual_seed(0)), dim=-1
    )
    return replace(
        red_ball(count),
        means=0.35 * points,
        log_scales=torch.full((count, 3), math.log(0.02)),
        opacity_logits=torch.full((count,), 3.0),
    )


def test_spared_values_keep_their_value_and_lose_that_share_of_their_gradient():
    value = torch.rand(3, 2, requires_grad=True)
    share = torch.tensor([[0.0], [0.25], [1.0]])
    out = spared(value, share)
    assert torch.allclose(out, value)
    (gradient,) = torch.autograd.grad(out.sum(), value)
    assert torch.allclose(gradient, (1 - share).expand(3, 2))


def test_a_camera_that_is_moved_is_the_one_at_those_angles():
    cameras = orbit(torch.tensor([30.0, -100.0]), torch.tensor([20.0, -10.0]), 2.0, 40.0, 32)
    offsets = torch.tensor([[math.radians(10), math.radians(-5), math.log(1.2), math.log(1.1)]])
    got = moved(cameras, offsets.expand(2, 4))
    want = orbit(torch.tensor([40.0, -90.0]), torch.tensor([15.0, -15.0]), 2.4, 40.0, 32)
    assert torch.allclose(got.viewmats, want.viewmats, atol=1e-5)
    assert torch.allclose(got.intrinsics[:, 0, 0], 1.1 * want.intrinsics[:, 0, 0])
    assert torch.allclose(got.azimuths, want.azimuths) and torch.allclose(
        got.distances, want.distances
    )


def test_gradient_of_a_camera_is_that_of_finite_differences():
    ball = ball_of(1500)
    draw = torch.Generator().manual_seed(3)
    ball = replace(
        ball,
        means=ball.means * torch.tensor([1.0, 0.7, 0.5]),
        sh=torch.randn(1500, 1, 3, generator=draw) * 0.2 + 2.0 * ball.means[:, None],
    )
    cameras = orbit(torch.tensor([20.0]), 10.0, 2.0, 40.0, 64)
    target = render(ball, orbit(torch.tensor([24.0]), 7.0, 2.1, 40.0, 64), 0.5).color

    def loss(offsets):
        return (render(ball, moved(cameras, offsets), 0.5).color - target).square().mean()

    offsets = torch.zeros(1, 4, requires_grad=True)
    seen = render(ball, cameras, 0.5)
    color = traced(seen.color.detach(), seen.alpha, seen.depth, cameras, offsets)
    assert torch.allclose(color, seen.color)
    (gradient,) = torch.autograd.grad((color - target).square().mean(), offsets)
    step = 2e-3
    with torch.no_grad():
        differences = torch.stack(
            [
                (loss(step * row[None]) - loss(-step * row[None])) / (2 * step)
                for row in torch.eye(4)
            ]
        )
    assert torch.allclose(
        gradient[0], differences, rtol=0.35, atol=0.1 * float(differences.abs().max())
    )
    assert float(torch.nn.functional.cosine_similarity(gradient[0], differences, 0)) > 0.97


def test_cameras_are_refined_within_their_bounds_and_stay_where_none_are_given():
    """A true ball whose picture came from elsewhere: the camera goes there."""
    ball = ball_of(1500)
    ball = replace(ball, means=ball.means * torch.tensor([1.0, 0.7, 0.5]))
    ball = replace(ball, sh=ball.sh * 0.5 + 3.0 * ball.means[:, None])
    taken = orbit(torch.tensor([10.0]), 0.0, 1.7, 40.0, 48)
    seen = render(ball, taken, 0.0)
    claimed = orbit(torch.tensor([0.0]), 0.0, 2.0, 40.0, 48)
    bounds = Bounds(angle=15.0, distance=0.25)
    references = References(
        (seen.color / seen.alpha.clamp_min(1e-3)).clamp(0, 1), claimed, seen.alpha, bounds=bounds
    )
    frozen = dict.fromkeys(("lr_means", "lr_scales", "lr_colors", "lr_opacities", "lr_quats"), 0.0)
    result = run(
        ball,
        references,
        120,
        image_size=48,
        judged_size=SIZE,
        render_backend="auto",
        **frozen,
    )
    offsets = bounds.offsets(result.training.references["offsets"])[0]
    assert math.degrees(offsets[0]) == pytest.approx(10, abs=1.5)
    assert float(offsets[2].exp()) == pytest.approx(0.85, abs=0.03)
    still = run(
        ball,
        replace(references, bounds=Bounds()),
        3,
        image_size=48,
        judged_size=SIZE,
        **frozen,
    )
    assert not still.training.references["offsets"].any()


def test_a_run_in_two_parts_with_a_file_between_is_one_run_bit_for_bit(tmp_path):
    references = pictures_of(red_ball(), (0.0, 90.0, 180.0), views=2, bounds=Bounds(10.0, 0.2, 0.1))
    whole = run(haze(40), references, 6)
    half = run(haze(40), references, 3, schedule_steps=6)
    save_training(half, tmp_path / "half.safetensors")
    rest = run(load_training(tmp_path / "half.safetensors"), references, 3, schedule_steps=6)
    for name, value in whole.tensors().items():
        assert torch.equal(value, getattr(rest, name)), name
    for name, value in whole.training.references.items():
        assert torch.equal(value, rest.training.references[name]), name
    assert whole.training.references["offsets"].any()


def test_a_run_without_pictures_is_as_before_and_other_pictures_are_told(capsys, caplog):
    references = pictures_of(red_ball())
    one = run(haze(40), references, 2, schedule_steps=6)
    assert "references" in one.training.made_with
    other = run(one, replace(references, color=1.0), 2, schedule_steps=6)
    assert one.training.made_with["references"] != other.training.made_with["references"]
    assert run(haze(40), None, 2).training.references == {}


def test_pictures_that_are_not_square_keep_their_cameras():
    cameras = orbit(torch.tensor([0.0]), 0.0, 2.0, 40.0, (64, 32))
    references = References(torch.rand(1, 32, 64, 3), cameras, torch.ones(1, 32, 64, 1))
    square = references.square(32)
    assert square.images.shape == (1, 32, 32, 3)
    # a point seen at the upper edge of the picture is seen at a quarter of the square's height
    k = square.cameras.intrinsics[0]
    assert k[1, 1] == pytest.approx(0.5 * float(cameras.intrinsics[0, 1, 1]))
    assert (float(k[0, 2]), float(k[1, 2])) == (16.0, 16.0)
    assert float(square.masks[0, :7].max()) == 0 and float(square.masks[0, 9:23].min()) > 0.99


def test_a_plain_background_leaves_the_object_and_its_holes():
    y, x = torch.meshgrid(torch.arange(64) - 31.5, torch.arange(64) - 31.5, indexing="ij")
    ring = ((x**2 + y**2 < 24**2) & (x**2 + y**2 > 10**2))[..., None].float()
    noise = 0.01 * torch.randn(64, 64, 3, generator=torch.Generator().manual_seed(0))
    image = 0.8 + ring * (torch.tensor([0.2, 0.4, 0.9]) - 0.8) + noise
    mask = plain_outlines(image[None])[0]
    assert float(((mask > 0.5) == (ring > 0.5)).float().mean()) > 0.99
    busy = torch.rand(1, 64, 64, 3, generator=torch.Generator().manual_seed(0))
    with pytest.raises(ValueError, match=r"Picture 2 has no plain background.*busy"):
        plain_outlines(torch.cat([image[None], busy]))


GOOD = pictures_of(red_ball(), (0.0, 90.0))


@pytest.mark.parametrize(
    ("change", "told"),
    [
        ({"cameras": orbit(torch.tensor([5.0, 5.2]), 0.0, 2.0, 40.0, 32)},
         "Pictures 1 and 2 claim one camera, azimuth 5"),
        ({"cameras": orbit(torch.tensor([0.0]), 0.0, 2.0, 40.0, 32)}, "2 pictures and 1 cameras"),
        ({"masks": GOOD.masks * torch.tensor([1.0, 0.0]).view(2, 1, 1, 1)},
         "Picture 2 has no object in its mask"),
        ({"masks": torch.ones_like(GOOD.masks)}, "Picture 1 is all object"),
        ({"masks": torch.ones(2, 16, 16, 1)}, "masks are 16 x 16 pixels.*32 x 32"),
        ({"images": GOOD.images * float("nan")}, "Picture 1 holds numbers that are NaN"),
        ({"images": GOOD.images[..., :2]}, r"expected \(R, H, W, 3\)"),
        ({"color": -1.0}, "lambda_color is -1.0"),
        ({"color": 0.0, "silhouette": 0.0}, "all 0"),
        ({"fade": 1.5}, "fade is 1.5"),
        ({"palette": -1.0}, "lambda_palette is -1.0"),
        ({"views": 0}, "views is 0"),
        ({"bounds": Bounds(angle=60.0)}, "refine_angle is 60.0"),
    ],
)  # fmt: skip
def test_what_is_wrong_is_told_with_the_picture_before_any_work(change, told):
    with pytest.raises(ValueError, match=told):
        run(haze(20), replace(GOOD, **change), 1)


def test_structure_is_a_librarys_and_its_absence_is_told(monkeypatch):
    import sys

    pytest.importorskip("pytorch_msssim")
    references = pictures_of(ball_of(500), (0.0,), 32, structure=1000.0)
    guide = Guide(replace(references, images=1 - references.images), 32, torch.device("cpu"))
    look = guide.look(Renders(ball_of(500)), {}, guide.start({}), 0, 0.0, torch.Generator())
    assert 0 < float(look.terms()["reference_structure"]) < 2000
    monkeypatch.setitem(sys.modules, "pytorch_msssim", None)
    with pytest.raises(ValueError, match="pip install pytorch-msssim"):
        references.check()
