import math

import pytest
import torch
import trimesh
from kit import seeded

from distill3d.kernels.files.glb import save_glb
from distill3d.kernels.files.mesh import load_mesh
from distill3d.kernels.gaussians.rotations import rotations
from distill3d.kernels.init.ball import random_ball
from distill3d.kernels.init.points import from_points
from distill3d.kernels.init.surface import from_mesh
from distill3d.kernels.meshes.mesh import Mesh


def sphere(subdivisions=3):
    mesh = trimesh.creation.icosphere(subdivisions)
    vertices = torch.tensor(mesh.vertices, dtype=torch.float32)
    return Mesh(vertices, torch.tensor(mesh.faces), (vertices + 1) / 2)


def test_the_ball_is_filled_evenly():
    cloud = random_ball(20_000, radius=0.6, generator=seeded())
    radii = cloud.means.norm(dim=-1)
    assert radii.max() <= 0.6
    # Uniform in volume: the cube of the radius is uniform, so its quantiles are a straight line.
    quantiles = torch.quantile((radii / 0.6) ** 3, torch.tensor([0.25, 0.5, 0.75]))
    torch.testing.assert_close(quantiles, torch.tensor([0.25, 0.5, 0.75]), atol=0.02, rtol=0)
    assert cloud.means.mean(0).norm() < 0.01


def test_the_ball_has_the_asked_scale_opacity_and_grey():
    cloud = random_ball(5000, scale=0.03, opacity_logit=-1.0, generator=seeded(), sh_degree=2)
    torch.testing.assert_close(cloud.scales, torch.full((5000, 3), 0.03))
    torch.testing.assert_close(cloud.opacities, torch.full((5000,), 1 / (1 + math.e)))
    assert cloud.colors.mean().item() == pytest.approx(0.5, abs=0.01)
    assert cloud.colors.std().item() == pytest.approx(0.1, abs=0.01)
    assert cloud.sh_degree == 2 and not cloud.sh[:, 1:].any()


def test_the_seed_decides():
    assert torch.equal(
        random_ball(10, generator=seeded(1)).means, random_ball(10, generator=seeded(1)).means
    )
    assert not torch.equal(random_ball(10, generator=seeded(1)).means, random_ball(10).means)


def test_points_keep_place_and_colour_and_take_their_spacing_as_scale():
    axis = torch.arange(5) * 0.02
    points = torch.cartesian_prod(axis, axis, axis)
    colors = torch.rand(125, 3, generator=seeded())
    cloud = from_points(points, colors)
    assert torch.equal(cloud.means, points)
    torch.testing.assert_close(cloud.colors, colors)
    torch.testing.assert_close(cloud.scales, torch.full((125, 3), 0.02))


def test_one_point_and_coinciding_points_have_finite_scales():
    assert from_points(torch.zeros(1, 3)).scales.max() <= 0.1001
    assert from_points(torch.zeros(5, 3)).scales.min() >= 0.99e-4


def test_points_with_normals_lie_flat():
    normals = torch.nn.functional.normalize(torch.randn(50, 3, generator=seeded()), dim=-1)
    normals[:2] = torch.tensor([[0, 0, 1.0], [0, 0, -1]])
    cloud = from_points(torch.rand(50, 3, generator=seeded()), normals=normals)
    thinnest = rotations(cloud.quats)[torch.arange(50), :, cloud.log_scales.argmin(-1)]
    torch.testing.assert_close((thinnest * normals).sum(-1), torch.ones(50), atol=1e-4, rtol=0)


def test_a_mesh_is_covered_evenly_in_its_colours():
    cloud = from_mesh(sphere(), 3000, seeded(), size=None)
    torch.testing.assert_close(cloud.means.norm(dim=-1), torch.ones(3000), atol=0.01, rtol=0)
    torch.testing.assert_close(cloud.colors, (cloud.means + 1) / 2, atol=0.01, rtol=0)
    # Uniform on the sphere: every coordinate is uniform in -1..1 (Archimedes).
    quantiles = torch.quantile(cloud.means[:, 1], torch.tensor([0.25, 0.5, 0.75]))
    torch.testing.assert_close(quantiles, torch.tensor([-0.5, 0, 0.5]), atol=0.03, rtol=0)
    # Flat ones along the normal.
    thinnest = rotations(cloud.quats)[:, :, 2]
    assert ((thinnest * cloud.means).sum(-1) > 0.98).all()


def test_a_mesh_is_brought_to_size_around_the_origin():
    box = trimesh.creation.box((2, 8, 4))
    vertices = torch.tensor(box.vertices, dtype=torch.float32) + 7
    cloud = from_mesh(
        Mesh(vertices, torch.tensor(box.faces), torch.zeros(8, 3)), 5000, seeded(), size=1.0
    )
    torch.testing.assert_close(
        cloud.means.amax(0), torch.tensor([0.125, 0.5, 0.25]), atol=5e-3, rtol=0
    )
    torch.testing.assert_close(
        cloud.means.amin(0), -torch.tensor([0.125, 0.5, 0.25]), atol=5e-3, rtol=0
    )


def test_a_glb_comes_back_with_its_srgb_colours(tmp_path):
    mesh = sphere(2)
    save_glb(mesh.vertices, mesh.faces, mesh.colors, tmp_path / "a.glb")
    back = load_mesh(tmp_path / "a.glb")
    torch.testing.assert_close(back.vertices, mesh.vertices)
    torch.testing.assert_close(back.colors, mesh.colors, atol=1e-5, rtol=0)


def test_the_objects_of_a_scene_are_read_in_place(tmp_path):
    scene = trimesh.Scene()
    box = trimesh.creation.box((1, 1, 1))
    box.visual.face_colors = [0, 0, 255, 255]
    scene.add_geometry(box, transform=trimesh.transformations.translation_matrix((5, 0, 0)))
    scene.add_geometry(
        trimesh.creation.box((1, 1, 1)), transform=trimesh.transformations.scale_matrix(-2)
    )
    scene.export(tmp_path / "a.glb")
    mesh = load_mesh(tmp_path / "a.glb")
    assert mesh.vertices.amax(0).tolist() == pytest.approx([5.5, 1, 1])
    assert mesh.volume == pytest.approx(1 + 8)
    blue = mesh.vertices[:, 0] > 2
    torch.testing.assert_close(mesh.colors[blue], torch.tensor([0.0, 0, 1]).expand(8, 3))


def test_vertex_colours_of_a_ply_are_taken_as_srgb(tmp_path):
    mesh = trimesh.creation.icosphere(1)
    mesh.visual.vertex_colors = [255, 128, 0, 255]
    mesh.export(tmp_path / "a.ply")
    colors = load_mesh(tmp_path / "a.ply").colors
    torch.testing.assert_close(colors, torch.tensor([1, 128 / 255, 0]).expand_as(colors))


@pytest.mark.parametrize("suffix", ["stl", "off", "obj"])
def test_a_mesh_without_colours_is_grey(tmp_path, suffix):
    trimesh.creation.box((1, 2, 3)).export(tmp_path / f"a.{suffix}")
    mesh = load_mesh(tmp_path / f"a.{suffix}")
    assert mesh.volume == pytest.approx(6)
    assert ((mesh.colors >= 0.3) & (mesh.colors <= 0.7)).all()


@pytest.mark.parametrize(
    ("name", "content", "message"),
    [
        ("a.txt", b"", "choose one of .glb"),
        ("a.glb", b"glTF nonsense", "a.glb is glTF version 1852796448; only 2 can be read"),
        ("a.obj", b"v 0 0 0\nv 1 0 0\n", "a.obj (holds no triangles|cannot be read)"),
        ("a.ply", b"ply\n", "a.ply cannot be read as a mesh"),
    ],
)
def test_files_that_are_no_mesh_are_named(tmp_path, name, content, message):
    (tmp_path / name).write_bytes(content)
    with pytest.raises(ValueError, match=message):
        load_mesh(tmp_path / name)


def flat(value):
    return Mesh(torch.full((3, 3), value), torch.tensor([[0, 1, 2]]), torch.zeros(3, 3))


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (lambda: random_ball(0), "count is 0"),
        (lambda: random_ball(radius=-1), "radius is -1"),
        (lambda: random_ball(scale=math.nan), "scale is nan"),
        (lambda: random_ball(sh_degree=4), "sh_degree is 4"),
        (lambda: from_points(torch.zeros(0, 3)), "count is 0"),
        (lambda: from_points(torch.zeros(5, 2)), r"points have shape \(5, 2\)"),
        (
            lambda: from_points(torch.zeros(5, 3), torch.zeros(4, 3)),
            r"colors have shape \(4, 3\), expected \(5, 3\)",
        ),
        (lambda: from_points(torch.full((5, 3), math.nan)), "points hold values that are NaN"),
        (lambda: from_mesh(flat(0.0)), "has no area"),
        (lambda: from_mesh(flat(math.nan)), "NaN or infinite"),
        (lambda: load_mesh("/nowhere/a.glb"), "does not exist"),
    ],
)
def test_bad_input_is_named(call, message):
    with pytest.raises(ValueError, match=message):
        call()
