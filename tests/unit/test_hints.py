"""Hint pictures of shapes whose depth and normals are known in closed form."""

import math

import pytest
import torch

from distill3d.kernels.cameras.pinhole import orbit
from distill3d.kernels.priors.hints import FARTHEST, depth_picture, hint, normal_picture, normals

RADIUS, DISTANCE, SIZE = 0.5, 2.0, 96


def camera(size=SIZE):
    return orbit(30.0, 20.0, DISTANCE, 40.0, size)


def rays(cameras):
    """Directions [H,W,3] of the pixels' centres with z 1, camera space."""
    focal, centre = cameras.intrinsics[0, 0, 0], cameras.intrinsics[0, :2, 2]
    v, u = torch.meshgrid(
        torch.arange(cameras.height) + 0.5, torch.arange(cameras.width) + 0.5, indexing="ij"
    )
    return torch.stack([(u - centre[0]) / focal, (v - centre[1]) / focal, torch.ones_like(u)], -1)


def sphere():
    """Camera, alpha, depth and normals (x right, y up, z to the camera) of a sphere at the orbit's
    centre.
    """
    cameras = camera()
    direction, centre = rays(cameras), torch.tensor([0.0, 0.0, DISTANCE])
    a, b, c = direction.square().sum(-1), (direction * centre).sum(-1), DISTANCE**2 - RADIUS**2
    root = b.square() - a * c
    z = torch.where(root > 0, (b - root.clamp_min(0).sqrt()) / a, 0.0)
    outward = (direction * z[..., None] - centre) / RADIUS * torch.tensor([1.0, -1.0, -1.0])
    return cameras, (root > 0).float()[None, ..., None], z[None, ..., None], outward[None]


def plane(towards):
    """Camera, alpha and depth of a plane through the orbit's centre; towards: its normal, x right,
    y up, z out.
    """
    cameras = camera()
    normal = torch.tensor(towards) * torch.tensor([1.0, -1.0, -1.0])
    z = normal[2] * DISTANCE / (rays(cameras) * normal).sum(-1)
    return cameras, torch.ones(1, SIZE, SIZE, 1), z[None, ..., None]


def tilted(degrees, axis):
    angle = math.radians(degrees)
    return (
        [math.sin(angle), 0.0, math.cos(angle)]
        if axis == "x"
        else [0.0, math.sin(angle), math.cos(angle)]
    )


@pytest.mark.parametrize(
    "towards", [[0.0, 0.0, 1.0], tilted(40, "x"), tilted(-40, "x"), tilted(60, "y")]
)
def test_a_planes_normal_is_its_own_everywhere(towards):
    found = normals(*plane(towards))
    torch.testing.assert_close(found, torch.tensor(towards).expand_as(found), atol=1e-3, rtol=0)


def test_a_spheres_normals_point_out_of_it():
    cameras, alpha, depth, outward = sphere()
    found = normals(cameras, alpha, depth)
    inner = (alpha > 0) & (outward[..., 2:] > 0.4)
    angle = torch.rad2deg((found * outward).sum(-1, keepdim=True).clamp(-1, 1).acos())[inner]
    assert inner.sum() > 1000 and angle.mean() < 0.3 and angle.max() < 8
    assert torch.equal(
        found[alpha[..., 0] == 0], torch.tensor([0.0, 0, 1]).expand(int((alpha == 0).sum()), 3)
    )


def test_normal_colours_are_red_left_green_up_and_blue_towards_the_camera():
    cameras, alpha, depth, _ = sphere()
    picture, half = normal_picture(cameras, alpha, depth)[0], SIZE // 2
    shown = alpha[0, half, :, 0].nonzero().flatten()
    left, right = int(shown[4]), int(shown[-5])
    assert picture.shape == (3, SIZE, SIZE) and picture.min() >= 0 and picture.max() <= 1
    assert picture[0, half, left] > 0.8 and picture[0, half, right] < 0.2
    assert picture[1, left, half] > 0.8 and picture[1, right, half] < 0.2
    torch.testing.assert_close(
        picture[:, half, half], torch.tensor([0.5, 0.5, 1.0]), atol=0.03, rtol=0
    )
    torch.testing.assert_close(picture[:, 0, 0], torch.tensor([0.5, 0.5, 1.0]))  # the background


def test_a_step_in_depth_does_not_bend_the_normals_beside_it():
    cameras, alpha, depth = plane([0.0, 0.0, 1.0])
    depth[:, :, : SIZE // 2] -= 0.4  # a slab in front of another one, both facing the camera
    found = normals(cameras, alpha, depth)
    assert found[..., 2].min() > 0.99


def test_depth_is_linear_in_the_inverse_near_white_far_dark_and_black_behind():
    depth = torch.tensor([[[2.0, 4.0], [8.0, 0.0]], [[1.0, 1.0], [1.0, 5.0]]])[..., None]
    alpha = torch.tensor([[[1.0, 0.9], [0.6, 0.0]], [[1.0, 1.0], [1.0, 0.4]]])[..., None]
    picture = depth_picture(alpha, depth)
    middle = FARTHEST + (1 - FARTHEST) * (1 / 4 - 1 / 8) / (1 / 2 - 1 / 8)
    expected = torch.tensor([[[1.0, middle], [FARTHEST, 0.0]], [[1.0, 1.0], [1.0, 0.0]]])
    torch.testing.assert_close(picture, expected[:, None].expand(2, 3, 2, 2))


def test_a_pixel_beside_a_smoothed_silhouette_counts_as_background():
    cameras, alpha, depth, _ = sphere()
    spilt = alpha.clone()
    beside = (alpha == 0) & (alpha.roll(1, 2) == 1)
    spilt[beside] = 0.9
    assert beside.sum() > 20
    for shape in ("depth", "normal"):
        assert torch.equal(hint(shape, cameras, spilt, depth), hint(shape, cameras, alpha, depth))


@pytest.mark.parametrize("shape", ["depth", "normal"])
def test_an_empty_view_is_all_background(shape):
    picture = hint(shape, camera(8), torch.zeros(1, 8, 8, 1), torch.zeros(1, 8, 8, 1))
    background = torch.tensor([0.0, 0, 0] if shape == "depth" else [0.5, 0.5, 1])
    torch.testing.assert_close(picture, background.view(1, 3, 1, 1).expand(1, 3, 8, 8))


def test_an_unknown_shape_is_named():
    with pytest.raises(ValueError, match=r"shape is 'canny'; .*'depth', 'normal'"):
        hint("canny", camera(8), torch.ones(1, 8, 8, 1), torch.ones(1, 8, 8, 1))
