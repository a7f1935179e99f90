"""The renderer against closed forms, and what it does with inputs and backends it cannot use."""

import math
from dataclasses import replace

import pytest
import torch
from gaussian_blobs import blobs, facing_cameras

from distill3d.kernels.rasterizers.projection import ALPHA_MAX, BLUR, project
from distill3d.kernels.rasterizers.rasterize import (
    available,
    home,
    render,
)

CPU_BACKENDS = [name for name in ("reference", "torch", "numba") if available(name)]

if available("triton") and home("triton") == "cpu":  # in Triton's interpreter
    CPU_BACKENDS.append("triton")

every_backend = pytest.mark.parametrize("backend", CPU_BACKENDS)


@every_backend
def test_one_round_gaussian_has_the_profile_of_its_formula(backend):
    # Straight ahead the screen covariance is (f sigma / z)^2 plus the blur, and the centre pixel
    # sits on the mean.
    picture = render(blobs([[0.0, 0, 0]]), facing_cameras(), background=0.0, backend=backend)
    variance = (40 * 0.1 / 2) ** 2 + BLUR
    dx = torch.arange(-4, 5)
    expected = 0.8 * torch.exp(-(dx**2) / (2 * variance))
    torch.testing.assert_close(picture.alpha[0, 16, 12:21, 0], expected, atol=1e-5, rtol=1e-5)
    torch.testing.assert_close(picture.alpha[0, 12:21, 16, 0], expected, atol=1e-5, rtol=1e-5)
    torch.testing.assert_close(
        picture.color[0, 16, 16], 0.8 * torch.tensor([1.0, 0.5, 0.25]), atol=1e-5, rtol=1e-5
    )
    torch.testing.assert_close(picture.means2d[0, 0], torch.tensor([16.5, 16.5]))


@every_backend
def test_x_points_right_and_y_points_up_in_the_picture(backend):
    picture = render(blobs([[0.4, 0.2, 0.0]], sigma=0.02), facing_cameras(), backend=backend)
    row, column = divmod(int(picture.alpha[0, ..., 0].argmax()), 33)
    assert (column, row) == (16 + 8, 16 - 4)


@every_backend
def test_nearer_gaussians_cover_farther_ones_whatever_their_order(backend):
    for z in ([0.5, -0.5], [-0.5, 0.5]):
        cloud = blobs([[0, 0, z[0]], [0, 0, z[1]]], opacity=0.6, colors=((1.0, 0, 0), (0, 1.0, 0)))
        picture = render(cloud, facing_cameras(), background=0.5, backend=backend)
        # larger z is nearer to a camera on +Z
        red, green = (0.6, 0.24) if z[0] > z[1] else (0.24, 0.6)
        expected = torch.tensor([red + 0.5 * 0.16, green + 0.5 * 0.16, 0.5 * 0.16])
        torch.testing.assert_close(picture.color[0, 16, 16], expected, atol=1e-5, rtol=1e-5)
        depth = (0.6 * 1.5 + 0.24 * 2.5) / 0.84
        assert picture.depth[0, 16, 16, 0].item() == pytest.approx(depth, rel=1e-4)


@every_backend
def test_alpha_is_clamped_below_one(backend):
    picture = render(
        blobs([[0.0, 0, 0]], opacity=0.9999), facing_cameras(), background=0.0, backend=backend
    )
    assert picture.alpha.max().item() == pytest.approx(ALPHA_MAX, abs=1e-6)


@every_backend
def test_each_camera_gets_its_own_background_where_nothing_is_drawn(backend):
    backgrounds = torch.tensor([[0.1, 0.2, 0.3], [0.7, 0.8, 0.9]])
    picture = render(
        blobs([[0.0, 0, 0]], sigma=0.02), facing_cameras(2), background=backgrounds, backend=backend
    )
    torch.testing.assert_close(picture.color[:, 0, 0], backgrounds)
    assert (picture.depth[:, 0, 0] == 0).all()
    torch.testing.assert_close(
        picture.color[1] - picture.color[0], 0.6 * (1 - picture.alpha[0]).expand(-1, -1, 3)
    )


@every_backend
def test_gaussians_behind_the_camera_or_too_faint_change_nothing(backend):
    seen = blobs([[0.0, 0, 0], [0.1, 0.1, 0.2]])
    more = blobs([[0.0, 0, 0], [0.1, 0.1, 0.2], [0.0, 0, 3.0], [0, 0, 2.0], [0, 0, 0.5]])
    more.opacity_logits[4] = -8.0
    more = more.map(lambda t: t.requires_grad_())
    one, two = (
        render(seen, facing_cameras(), backend=backend),
        render(more, facing_cameras(), backend=backend),
    )
    torch.testing.assert_close(one.color, two.color)
    assert two.visible[0].tolist() == [True, True, False, False, False]
    (two.color.sum() + two.depth.sum()).backward()
    for tensor in more.tensors().values():
        assert (tensor.grad[2:] == 0).all() and tensor.grad.isfinite().all()


@every_backend
def test_quaternions_count_by_direction_only(backend):
    cloud = replace(blobs([[0.0, 0, 0]]), log_scales=torch.log(torch.tensor([[0.3, 0.05, 0.1]])))
    q = torch.tensor([[0.9, 0.1, -0.2, 0.4]])
    pictures = [
        render(replace(cloud, quats=k * q), facing_cameras(), backend=backend).color
        for k in (1.0, 7.0, -0.3)
    ]
    torch.testing.assert_close(pictures[0], pictures[1])
    torch.testing.assert_close(pictures[0], pictures[2])


@every_backend
def test_a_rotated_long_gaussian_lies_along_its_axis(backend):
    # Long axis x, turned 45 degrees about z: in the picture it runs from bottom left to top right.
    angle = math.radians(45) / 2
    cloud = replace(
        blobs([[0.0, 0, 0]]),
        log_scales=torch.log(torch.tensor([[0.3, 0.03, 0.03]])),
        quats=torch.tensor([[math.cos(angle), 0, 0, math.sin(angle)]]),
    )
    alpha = render(cloud, facing_cameras(), backend=backend).alpha[0, ..., 0]
    assert alpha[16 - 5, 16 + 5] > 0.3 and alpha[16 + 5, 16 - 5] > 0.3
    assert alpha[16 - 5, 16 - 5] == 0 and alpha[16 + 5, 16 + 5] == 0


@every_backend
def test_harmonics_colour_by_the_direction_from_the_camera(backend):
    # Y_2 = 0.4886 z, and the view direction of a camera on +Z is -z.
    cloud = blobs([[0.0, 0, 0]])
    sh = torch.zeros(1, 4, 3)
    sh[0, 2] = torch.tensor([0.4, -0.4, 2.0])
    picture = render(replace(cloud, sh=sh), facing_cameras(), background=0.0, backend=backend)
    c = 0.4886025119029199 * 0.4
    # the last would be negative and is clamped
    expected = 0.8 * torch.tensor([0.5 - c, 0.5 + c, 0.0])
    torch.testing.assert_close(picture.color[0, 16, 16], expected, atol=1e-5, rtol=1e-5)


@every_backend
def test_antialiasing_keeps_the_light_of_a_small_gaussian(backend):
    sigma = 0.5 * 2 / 40  # half a pixel
    cloud = blobs([[0.0, 0, 0]], sigma=sigma, opacity=0.9)
    sharp = render(cloud, facing_cameras(), backend=backend, antialiased=True).alpha.sum().item()
    blurred = render(cloud, facing_cameras(), backend=backend).alpha.sum().item()
    assert sharp == pytest.approx(0.9 * 2 * math.pi * 0.25, rel=0.03)
    assert blurred == pytest.approx(0.9 * 2 * math.pi * (0.25 + BLUR), rel=0.03)


def test_the_conic_is_the_inverse_of_the_projected_covariance():
    generator = torch.Generator().manual_seed(3)
    n = 6
    cloud = replace(
        blobs(
            torch.randn(n, 3, generator=generator, dtype=torch.float64).mul(0.2).tolist(),
            dtype=torch.float64,
        ),
        log_scales=torch.randn(n, 3, generator=generator, dtype=torch.float64) * 0.5 - 2.5,
        quats=torch.randn(n, 4, generator=generator, dtype=torch.float64),
    )
    cameras = facing_cameras(dtype=torch.float64)
    viewmat, k = cameras.viewmats[0], cameras.intrinsics[0]

    def to_pixels(point):
        p = k @ (viewmat[:3, :3] @ point + viewmat[:3, 3])
        return p[:2] / p[2]

    projection = project(cloud, cameras)
    for i in range(n):
        w, x, y, z = torch.nn.functional.normalize(cloud.quats[i], dim=0)
        spin = torch.stack(
            (torch.stack((w, -z, y)), torch.stack((z, w, -x)), torch.stack((-y, x, w)))
        )
        v = torch.stack((x, y, z))
        r = torch.outer(v, v) + spin @ spin  # the rotation matrix
        covariance = r @ torch.diag(cloud.scales[i] ** 2) @ r.T
        jacobian = torch.autograd.functional.jacobian(to_pixels, cloud.means[i])
        screen = jacobian @ covariance @ jacobian.T + BLUR * torch.eye(2, dtype=torch.float64)
        a, b, c = projection.conics[0, i]
        torch.testing.assert_close(
            torch.stack((torch.stack((a, b)), torch.stack((b, c)))), screen.inverse()
        )
        torch.testing.assert_close(projection.means2d[0, i], to_pixels(cloud.means[i]))


@every_backend
def test_means2d_collects_the_gradient_of_a_shift_of_the_picture(backend):
    cloud = blobs([[0.0, 0, 0], [0.2, -0.1, 0.3], [-0.1, 0.1, -0.2]]).map(
        lambda t: t.requires_grad_()
    )
    weight = torch.linspace(0, 1, 33)[None, None, :, None]

    def loss(picture):
        return (picture.color * weight).sum()

    picture = render(cloud, facing_cameras(), backend=backend)
    picture.means2d.retain_grad()
    loss(picture).backward()
    step, shifted = 1e-2, []
    for sign in (1, -1):
        cameras = facing_cameras()
        cameras.intrinsics[:, 0, 2] += sign * step
        shifted.append(loss(render(cloud, cameras, backend="reference")).item())
    slope = (shifted[0] - shifted[1]) / (2 * step)
    assert picture.means2d.grad[0, :, 0].sum().item() == pytest.approx(slope, rel=2e-2)


@every_backend
def test_nothing_in_view_renders_the_background_with_zero_gradients(backend):
    cloud = blobs([[0.0, 0, 5.0]]).map(lambda t: t.requires_grad_())
    picture = render(cloud, facing_cameras(2, 9, 5), background=0.3, backend=backend)
    assert (
        (picture.color == 0.3).all() and (picture.alpha == 0).all() and (picture.depth == 0).all()
    )
    assert not picture.visible.any()
    (picture.color.sum() + picture.alpha.sum() + picture.depth.sum()).backward()
    assert all((tensor.grad == 0).all() for tensor in cloud.tensors().values())


@pytest.mark.parametrize(
    ("change", "complaint"),
    [
        (lambda g, c: (g.map(lambda t: t[:0]), c), "0 Gaussians"),
        (lambda g, c: (g.map(lambda t: t.half()), c), "float16"),
        (lambda g, c: (replace(g, quats=g.quats[:, :3]), c), "quats has shape"),
        (lambda g, c: (replace(g, sh=g.sh.double()), c), r"gaussians\.sh is torch\.float64"),
        (lambda g, c: (replace(g, sh=g.sh.expand(-1, 5, 3)), c), "sh has shape"),
        (lambda g, c: (g, replace(c, viewmats=c.viewmats[0])), "viewmats has shape"),
        (lambda g, c: (g, replace(c, intrinsics=c.intrinsics[:1])), "intrinsics has shape"),
        (lambda g, c: (g, replace(c, width=0)), "0 x 33 pixels"),
        (lambda g, c: (g, replace(c, viewmats=c.viewmats.to("meta"))), "cameras are on meta"),
    ],
)
def test_inputs_that_do_not_fit_are_named(change, complaint):
    cloud, cameras = change(blobs([[0.0, 0, 0]]), facing_cameras(2))
    with pytest.raises(ValueError, match=complaint):
        render(cloud, cameras)


@pytest.mark.parametrize("background", [torch.zeros(2), torch.zeros(3, 3), torch.zeros(2, 3, 1)])
def test_a_background_of_the_wrong_shape_is_named(background):
    with pytest.raises(ValueError, match="background has shape"):
        render(blobs([[0.0, 0, 0]]), facing_cameras(2), background=background)
