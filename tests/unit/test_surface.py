import importlib.util
import math
from dataclasses import replace

import pytest
import torch
import trimesh

from distill3d.kernels.cameras.pinhole import orbit, sphere
from distill3d.kernels.evaluate.metrics import psnr
from distill3d.kernels.init.ball import random_ball
from distill3d.kernels.init.points import from_points
from distill3d.kernels.init.surface import from_mesh
from distill3d.kernels.meshes import bake
from distill3d.kernels.meshes.bake import bake_colors
from distill3d.kernels.meshes.cleanup import decimate, largest_components, taubin
from distill3d.kernels.meshes.mesh import Mesh
from distill3d.kernels.meshes.rasterize import depth_of, render_mesh
from distill3d.kernels.meshes.surface import extract_surface
from distill3d.kernels.meshes.tsdf import FREE, blur, fuse
from distill3d.kernels.rasterizers.rasterize import render

pytestmark = pytest.mark.slow(reason="meshes from renders")

QUICK = {"resolution": 40, "views": 32, "image_size": 96}


def body(mesh, color=(0.5, 0.5, 0.5)):
    vertices = torch.tensor(mesh.vertices, dtype=torch.float32)
    return Mesh(vertices, torch.tensor(mesh.faces), torch.tensor(color).expand(len(vertices), 3))


def cloud_on(mesh, count=3000, color=(0.5, 0.5, 0.5), opacity_logit=2.0):
    generator = torch.Generator().manual_seed(0)
    return from_mesh(body(mesh, color), count, generator, size=None, opacity_logit=opacity_logit)


def joined(*clouds):
    tensors = {key: torch.cat([c.tensors()[key] for c in clouds]) for key in clouds[0].tensors()}
    return replace(clouds[0], **tensors)


def trimesh_of(mesh):
    return trimesh.Trimesh(mesh.vertices.numpy(), mesh.faces.numpy(), process=False)


def sphere_depth(cameras, radius):
    """Exact depth [V,H,W] of a sphere around the origin, FREE beside it."""
    rows, columns = torch.meshgrid(
        torch.arange(cameras.height) + 0.5, torch.arange(cameras.width) + 0.5, indexing="ij"
    )
    focal, middle = cameras.intrinsics[0, 0, 0], cameras.width / 2
    rays = torch.stack(
        [(columns - middle) / focal, (rows - middle) / focal, torch.ones_like(rows)], -1
    )
    # The centre lies on the axis at the distance D: |t ray - (0,0,D)| = radius.
    d, a = cameras.distances[0], (rays * rays).sum(-1)
    root = d * d - a * (d * d - radius * radius)
    depth = torch.where(root > 0, (d - root.clamp_min(0).sqrt()) / a, FREE)
    return depth.expand(len(cameras), -1, -1)


def test_fused_depth_of_a_sphere_is_its_signed_distance():
    cameras = sphere(64, 2.0, size=256)
    resolution, half = 33, 0.64
    voxel = 2 * half / (resolution - 1)
    truncation = 3 * voxel
    low = torch.full((3,), -half)
    grid = fuse(sphere_depth(cameras, 0.4), cameras, low, voxel, resolution, truncation)
    axis = torch.linspace(-half, half, resolution)
    radii = torch.cartesian_prod(axis, axis, axis).norm(dim=-1).reshape(grid.shape)
    assert (grid[radii > 0.4 + voxel] > 0).all()
    assert (grid[radii < 0.4 - 0.5 * voxel] < 0).all()
    assert (grid[radii < 0.2] == -1).all()  # no view sees in there
    assert (grid[radii > 0.75] > 0.9).all()


def test_a_point_outside_all_pictures_is_free_space():
    cameras = orbit(torch.tensor([0.0]), 0, 2.0, fov_y=20, size=32)
    grid = fuse(torch.full((1, 32, 32), 1.5), cameras, torch.full((3,), -1.0), 0.5, 5, 0.2)
    assert (grid[0] == 1).all() and (grid[-1] == 1).all()  # x = +-1 is beside the picture
    assert grid[2, 2, 4] > 0 and grid[2, 2, 0] == -1  # before and behind what is seen


def test_the_edge_of_a_picture_falls_where_it_is_seen():
    # Two units away at fov 90, 40 pixels span 4 units: 0.1 per pixel; the left half shows a wall at
    # z = 0.
    cameras = orbit(torch.tensor([0.0]), 0, 2.0, fov_y=90, size=40)
    depth = torch.full((1, 40, 40), FREE)
    depth[:, :, :20] = 2.0
    grid = fuse(depth, cameras, torch.tensor([-0.15, -0.15, 0.0]), 0.1, 4, 0.5)[:, :, 0]
    assert (grid[:2].abs() < 1e-5).all() and (grid[2:] == 1).all()
    grid = fuse(depth.transpose(1, 2), cameras, torch.tensor([-0.15, -0.15, 0.0]), 0.1, 4, 0.5)[
        :, :, 0
    ]
    # the upper rows show y > 0
    assert (grid[:, 2:].abs() < 1e-5).all() and (grid[:, :2] == 1).all()


def test_blurring_keeps_planes_and_levels():
    ramp = torch.linspace(-1, 1, 9)[:, None, None].expand(9, 7, 8)
    torch.testing.assert_close(blur(ramp)[1:-1], ramp[1:-1])
    assert (blur(torch.ones(4, 5, 6)) == 1).all()


def test_a_sphere_of_gaussians_gives_a_closed_sphere():
    cloud = cloud_on(trimesh.creation.icosphere(3, radius=0.4))
    mesh = extract_surface(cloud, **QUICK)
    solid = trimesh_of(mesh)
    assert solid.is_watertight and solid.euler_number == 2
    radii = mesh.vertices.norm(dim=-1)
    # The silhouette lies about one standard deviation of the Gaussians (0.018) outside of their
    # centres.
    assert radii.mean().item() == pytest.approx(0.41, abs=0.015)
    assert radii.std() < 0.01
    assert mesh.volume == pytest.approx(4 / 3 * math.pi * radii.mean().item() ** 3, rel=0.03)


def test_the_mesh_follows_the_place_and_size_of_the_cloud():
    small = cloud_on(trimesh.creation.box((0.6, 0.8, 0.4)), 2000)
    shift = torch.tensor([30.0, -20.0, 10.0])
    large = replace(
        small, means=10 * small.means + shift, log_scales=small.log_scales + math.log(10)
    )
    one, two = extract_surface(small, **QUICK), extract_surface(large, **QUICK)
    torch.testing.assert_close(
        one.vertices.amax(0), torch.tensor([0.3, 0.4, 0.2]), atol=0.03, rtol=0
    )
    assert ((two.vertices.amax(0) - shift) / 10 - one.vertices.amax(0)).abs().max() < 5e-3
    assert two.volume == pytest.approx(1000 * one.volume, rel=0.02)


def test_a_thin_ring_keeps_its_hole():
    """The handle of a mug: 4 cm thick if the object is 80 cm wide."""
    mesh = extract_surface(
        cloud_on(trimesh.creation.torus(0.4, 0.02), 1500), resolution=64, views=40, image_size=128
    )
    solid = trimesh_of(mesh)
    assert solid.is_watertight and solid.euler_number == 0
    ring = torch.stack([mesh.vertices[:, :2].norm(dim=-1) - 0.4, mesh.vertices[:, 2]], -1).norm(
        dim=-1
    )
    assert ring.max() < 0.05


def test_a_cup_stays_hollow():
    cup = trimesh.creation.annulus(r_min=0.22, r_max=0.3, height=0.6)
    floor = trimesh.creation.cylinder(0.3, 0.08)
    floor.apply_translation((0, 0, -0.3))
    mesh = extract_surface(joined(cloud_on(cup, 3000), cloud_on(floor, 800)), **QUICK)
    solid = trimesh_of(mesh)
    inside = solid.contains([[0, 0, 0.1], [0, 0, -0.1], [0.26, 0, 0.1], [0, 0, -0.3]])
    assert inside.tolist() == [False, False, True, True]


def test_colours_are_those_of_the_side_one_looks_at():
    left = trimesh.creation.icosphere(3, radius=0.4)
    cloud = cloud_on(left)
    # Red where x > 0, blue where x < 0; the surfaces hide each other, so the colours must not mix.
    red = (cloud.means[:, :1] > 0).float()
    cloud = replace(cloud, sh=from_points(cloud.means, torch.cat([red, 0 * red, 1 - red], 1)).sh)
    mesh = extract_surface(cloud, **QUICK)
    x = mesh.vertices[:, 0]
    expected = torch.tensor([[0.0, 0, 1], [1, 0, 0]])
    assert (mesh.colors[x > 0.1] - expected[1]).abs().mean() < 0.04
    assert (mesh.colors[x < -0.1] - expected[0]).abs().mean() < 0.04
    assert mesh.colors.min() >= 0 and mesh.colors.max() <= 1


def test_two_bodies_stay_and_specks_and_strays_go():
    ball = trimesh.creation.icosphere(3, radius=0.15)
    two = joined(*(cloud_on(ball.copy().apply_translation((x, 0, 0)), 800) for x in (-0.3, 0.3)))
    strays = from_points(
        torch.tensor([[0.0, 0.4, 0], [50.0, 0, 0]]), scale=0.012, opacity_logit=4.0
    )
    mesh = extract_surface(joined(two, strays), **QUICK)
    assert trimesh_of(mesh).body_count == 2
    torch.testing.assert_close(
        mesh.vertices.amax(0), torch.tensor([0.46, 0.16, 0.16]), atol=0.02, rtol=0
    )


def test_a_large_haze_does_not_take_the_resolution():
    ball = cloud_on(trimesh.creation.icosphere(3, radius=0.4))
    haze = from_points(torch.zeros(1, 3), scale=5.0, opacity_logit=-3.0)
    clear, hazy = extract_surface(ball, **QUICK), extract_surface(joined(ball, haze), **QUICK)
    assert len(hazy.faces) > 0.8 * len(clear.faces)
    assert hazy.volume == pytest.approx(clear.volume, rel=0.05)


def test_one_gaussian_is_enough():
    mesh = extract_surface(from_points(torch.zeros(1, 3), scale=0.1, opacity_logit=5.0), **QUICK)
    # The depth puts the surface at 0.75 standard deviations, the silhouette, where 0.99 falls to a
    # half, at 1.17.
    assert 0.075 < mesh.vertices.norm(dim=-1).mean() < 0.117
    assert mesh.volume > 0


def test_the_cloud_stays_as_it_was_and_may_require_gradients():
    cloud = cloud_on(trimesh.creation.icosphere(2, radius=0.4), 500).map(
        lambda v: v.requires_grad_()
    )
    before = cloud.means.detach().clone()
    mesh = extract_surface(cloud, resolution=24, views=16, image_size=48)
    assert torch.equal(cloud.means, before) and cloud.means.grad is None
    assert not mesh.vertices.requires_grad and not mesh.colors.requires_grad


def test_a_cloud_fainter_than_the_threshold_gives_its_denser_half():
    ball = random_ball()
    with torch.no_grad():
        densest = float(render(ball, sphere(4, 2.0, 40.0, 64), 0.0).alpha.max())
    assert densest < 0.95
    radii = extract_surface(ball, resolution=32, alpha_min=0.95).vertices.norm(dim=-1)
    assert 0.2 < float(radii.mean()) < 0.65


def test_a_cloud_too_faint_to_see_says_what_to_do():
    faint = cloud_on(trimesh.creation.icosphere(2, radius=0.4), 500, opacity_logit=-9.0)
    with pytest.raises(ValueError, match=r"shows no surface.*at most 0\.\d\d opaque.*more steps"):
        extract_surface(faint, **QUICK)


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"resolution": 8}, "resolution is 8; choose a value within 16..512"),
        ({"views": 2}, "views is 2"),
        ({"alpha_min": math.nan}, "alpha_min is nan"),
        ({"component_share": 2}, "component_share is 2"),
    ],
)
def test_bad_settings_are_named(settings, message):
    with pytest.raises(ValueError, match=message):
        extract_surface(from_points(torch.zeros(1, 3)), **settings)


def nested(*radii):
    """Concentric spheres; a negative radius faces inward."""
    parts = []
    for radius in radii:
        part = trimesh.creation.icosphere(2, radius=abs(radius))
        if radius < 0:
            part.invert()
        parts.append(part)
    return trimesh.util.concatenate(parts)


@pytest.mark.parametrize(
    ("radii", "kept"), [((1.0, -0.5), 1), ((1.0, 0.05), 1), ((1.0, 0.5), 2), ((-1.0,), 0)]
)
def test_cavities_are_filled_and_specks_dropped(radii, kept):
    mesh = nested(*radii)
    vertices, faces = largest_components(
        torch.tensor(mesh.vertices), torch.tensor(mesh.faces), 0.02
    )
    assert len(faces) == kept * 320
    assert len(vertices) == kept * 162
    assert kept == 0 or faces.max() == len(vertices) - 1


def test_smoothing_removes_noise_and_keeps_the_volume():
    ball = body(trimesh.creation.icosphere(4))
    noise = 0.01 * torch.randn(ball.vertices.shape, generator=torch.Generator().manual_seed(0))
    noisy = replace(ball, vertices=ball.vertices + noise)
    smooth = replace(ball, vertices=taubin(noisy.vertices, ball.faces, 5))
    assert smooth.vertices.norm(dim=-1).std() < 0.5 * noisy.vertices.norm(dim=-1).std()
    assert smooth.volume == pytest.approx(ball.volume, rel=0.01)


def test_decimation_keeps_the_shape():
    pytest.importorskip("fast_simplification")
    ball = body(trimesh.creation.icosphere(4))
    vertices, faces = decimate(ball.vertices, ball.faces, 1000)
    assert 900 <= len(faces) <= 1100
    fewer = Mesh(vertices, faces, torch.zeros_like(vertices)).check()
    assert fewer.volume == pytest.approx(ball.volume, rel=0.02)
    same = decimate(ball.vertices, ball.faces, 100_000)
    assert torch.equal(same[0], ball.vertices)


@pytest.mark.parametrize("count", [600, 300])
def test_decimation_goes_on_where_one_call_stops_early(count):
    pytest.importorskip("fast_simplification")
    cup = trimesh.creation.annulus(0.3, 0.5, 0.6).subdivide().subdivide().subdivide().subdivide()
    rough = body(cup)
    noise = torch.randn(rough.vertices.shape, generator=torch.Generator().manual_seed(0))
    vertices, faces = decimate(rough.vertices + 0.002 * noise, rough.faces, count)
    assert len(faces) <= 1.05 * count
    assert trimesh.Trimesh(vertices.numpy(), faces.numpy(), process=False).is_watertight


def test_decimation_without_its_package_says_how_to_get_it(monkeypatch):
    monkeypatch.setattr(importlib.util, "find_spec", lambda name: None)
    ball = body(trimesh.creation.icosphere(2))
    with pytest.raises(ValueError, match="pip install fast-simplification"):
        decimate(ball.vertices, ball.faces, 100)


def test_of_millions_of_points_every_few_stand_for_their_neighbours(monkeypatch):
    monkeypatch.setattr(bake, "NEIGHBOURS", 100)
    points = torch.rand(5000, 3, generator=torch.Generator().manual_seed(0))
    # every other point is seen, in the colour of its place
    weights = (torch.arange(5000) % 2 == 0).float()[:, None]
    colors = bake.fill(points, points * weights, weights)
    assert torch.equal(colors[::2], points[::2])
    # that of 100 places, not of 2,500
    assert 0.05 < (colors[1::2] - points[1::2]).norm(dim=-1).mean() < 0.25


def test_hidden_vertices_take_the_nearest_colour_seen():
    # The picture is green on the left and red on the right; the third vertex lies behind the red,
    # nearer to the green.
    vertices = torch.tensor([[-0.1, 0, 0.1], [0.3, 0, 0.1], [0.05, 0, -0.3]])
    normals = torch.tensor([[0.0, 0, 1]]).expand(3, 3)
    cameras = orbit(torch.tensor([0.0]), 0, 2.0, size=64)
    color = torch.zeros(1, 64, 64, 3)
    color[:, :, :32, 1] = 0.8
    color[:, :, 32:, 0] = 0.8
    alpha, depth = torch.full((1, 64, 64), 0.8), torch.full((1, 64, 64), 1.9)
    colors = bake_colors(vertices, normals, cameras, color, alpha, depth, tolerance=0.05)
    expected = torch.tensor([[0.0, 1, 0], [1, 0, 0], [0, 1, 0]])  # un-premultiplied
    torch.testing.assert_close(colors, expected)
    away = bake_colors(vertices, -normals, cameras, color, alpha, depth, tolerance=0.05)
    torch.testing.assert_close(away, torch.full((3, 3), 0.5))


def test_a_soft_clouds_mesh_has_its_colours_although_its_depth_is_vague():
    """Faint Gaussians throughout a body, as distillation leaves them: what is fused lies voxels off
    single depths.
    """
    generator = torch.Generator().manual_seed(0)
    directions = torch.nn.functional.normalize(torch.randn(4000, 3, generator=generator), dim=-1)
    lengths = torch.rand(4000, 1, generator=generator) ** (1 / 3)
    places = 0.4 * lengths * directions * torch.tensor([1, 0.6, 0.8])
    striped = torch.where(
        (places[:, :1] * 8).floor() % 2 == 0, *torch.tensor([[0.9, 0.1, 0.1], [0.1, 0.2, 0.9]])
    )
    cloud = from_points(places, striped, scale=0.028, opacity_logit=-4.0)
    mesh = extract_surface(cloud, resolution=64, views=32)
    cameras = orbit(torch.tensor([20.0, 110.0, 200.0, 290.0]), 15.0, 2.0, 40.0, 96)
    with torch.no_grad():
        assert psnr(render_mesh(mesh, cameras).color, render(cloud, cameras, 0.5).color) > 25


def test_the_depth_of_a_mesh_is_that_of_its_surface():
    cameras = sphere(8, 2.0, size=64)
    ball = trimesh.creation.icosphere(5, 0.4)
    depth = depth_of(torch.tensor(ball.vertices).float(), torch.tensor(ball.faces), cameras)
    exact = sphere_depth(cameras, 0.4)
    both = torch.isfinite(depth) & (exact < FREE)
    assert (torch.isfinite(depth) != (exact < FREE)).float().mean() < 0.005
    assert (depth - exact)[both].abs().max() < 0.01
    assert (depth - exact)[both].abs().mean() < 5e-4
