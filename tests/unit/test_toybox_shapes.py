from functools import cache

import pytest
import torch
import trimesh

from distill3d.kernels.toybox.captions import CATEGORIES, COLORS, Caption
from distill3d.kernels.toybox.meshes import mesh, mesh_colors
from distill3d.kernels.toybox.render import BOUND, patterns
from distill3d.kernels.toybox.roles import ACCENTS, MAIN, ROLES
from distill3d.kernels.toybox.shapes import shape

RESOLUTION = 72
CELL = 1.12 / (RESOLUTION - 1)
every_category = pytest.mark.parametrize("category", CATEGORIES)


def points(count, half=0.7, seed=0):
    generator = torch.Generator().manual_seed(seed)
    return half * (2 * torch.rand(count, 3, generator=generator, dtype=torch.float64) - 1)


@cache
def surface(category):
    vertices, faces = mesh(category, RESOLUTION)
    return trimesh.Trimesh(vertices.numpy(), faces.numpy(), process=False)


@every_category
def test_the_distance_outside_is_the_way_to_the_nearest_surface(category):
    p = points(90, seed=1)
    d = shape(category).distance(p)
    p, d = p[d > 0], d[d > 0]
    _, way, _ = trimesh.proximity.closest_point(surface(category), p.numpy())
    error = (torch.from_numpy(way) - d).abs()
    assert error.max() < 1.5 * CELL  # what marching cubes cuts off sharp edges
    assert error.median() < 0.25 * CELL  # most points are nearest to something smooth


@every_category
def test_the_sign_says_what_is_inside(category):
    solid = surface(category)
    assert solid.is_watertight
    near = torch.from_numpy(solid.vertices[:: len(solid.vertices) // 40]) + points(1, 0.03, seed=2)
    p = torch.cat([near, points(30, 0.5, seed=3)])
    d = shape(category).distance(p)
    p, d = p[d.abs() > CELL], d[d.abs() > CELL]  # marching cubes cuts sharp edges off
    assert (d < 0).sum() > 2
    assert (solid.contains(p.numpy()) == (d < 0).numpy()).all()


@every_category
def test_the_distance_never_changes_faster_than_the_point_moves(category):
    p = points(4000, seed=3)
    q = torch.cat([points(2000, seed=4), p[2000:] + points(2000, 0.01, seed=5)])
    change = (shape(category).distance(p) - shape(category).distance(q)).abs()
    assert (change <= (p - q).norm(dim=-1) + 1e-12).all()


@every_category
def test_the_gradient_outside_is_one_long_and_its_direction_the_normal(category):
    toy, h = shape(category), 1e-6
    p = points(2000, seed=6)
    p = p[toy.distance(p) > 2 * h]
    offsets = torch.eye(3, dtype=torch.float64) * h
    gradient = torch.stack([toy.distance(p + o) - toy.distance(p - o) for o in offsets], -1) / (
        2 * h
    )
    # but where two solids are equally near
    assert ((gradient.norm(dim=-1) - 1).abs() < 1e-4).double().mean() > 0.998
    # the surface point that the distance is the way to
    on = p - toy.distance(p)[:, None] * gradient
    assert (toy.distance(on).abs() < 1e-6).double().mean() > 0.998
    same = (toy.normals(p) * gradient).sum(-1)
    assert (same > 0.999).double().mean() > 0.98


@every_category
def test_a_toy_fits_the_cube_and_the_ball_that_rendering_looks_into(category):
    sheet = torch.cartesian_prod(*[torch.linspace(-0.541, 0.541, 60, dtype=torch.float64)] * 2)
    for axis in range(3):
        for side in (-0.541, 0.541):
            wall = torch.cat(
                [sheet[:, :axis], torch.full((len(sheet), 1), side), sheet[:, axis:]], 1
            )
            assert (shape(category).distance(wall) > 0).all()
    ball = points(4000)
    assert (shape(category).distance(BOUND * ball / ball.norm(dim=-1, keepdim=True)) > 0).all()
    vertices = torch.from_numpy(surface(category).vertices)
    assert vertices.abs().max() < 0.541 and vertices.norm(dim=-1).max() < BOUND
    assert (vertices.amax(0) - vertices.amin(0)).max() > 0.69  # and the toy fills it


@every_category
def test_mesh_vertices_lie_on_the_surface_and_its_faces_look_outward(category):
    solid = surface(category)
    vertices = torch.from_numpy(solid.vertices)
    off = shape(category).distance(vertices).abs()
    assert off.quantile(0.999) < 1e-5 and off.max() < 1e-3
    assert solid.is_winding_consistent and solid.volume > 0
    large = solid.area_faces > 1e-6
    middle = torch.tensor(solid.triangles_center[large])
    facing = (shape(category).normals(middle) * torch.from_numpy(solid.face_normals[large])).sum(-1)
    assert (facing > 0.5).double().mean() > 0.97  # the rest lies across sharp edges


def test_a_finer_mesh_encloses_the_known_volume():
    volume = {"sphere": 4 / 3 * torch.pi * 0.45**3, "torus": 2 * torch.pi**2 * 0.33 * 0.14**2}
    for category, wanted in volume.items():
        vertices, faces = mesh(category, 64)
        assert vertices.dtype == torch.float32 and faces.dtype == torch.int64
        got = trimesh.Trimesh(vertices.numpy(), faces.numpy(), process=False).volume
        assert got == pytest.approx(wanted, rel=5e-3)


def test_bad_requests_are_named():
    with pytest.raises(ValueError, match="'unicorn' is not one of sphere"):
        mesh("unicorn")
    with pytest.raises(ValueError, match=r"resolution is 16; choose 32\.\.512"):
        mesh("sphere", 16)


def test_a_vertex_takes_the_colour_of_its_part_and_of_its_pattern():
    caption = Caption("snowman", "blue", "striped", "yellow")
    vertices = torch.tensor(
        [[0, -0.24, 0.26], [0, -0.15, 0.24], [0, 0.43, 0.105], [0.42, 0.22, 0.02]]
    )
    stripe = patterns(vertices)[:, 0].tolist()
    assert stripe[:2] == [False, True]  # one vertex in each, or nothing is tested
    wanted = [COLORS["blue"], COLORS["yellow"], ACCENTS["dark"], ACCENTS["wood"]]
    torch.testing.assert_close(mesh_colors(caption, vertices), torch.tensor(wanted))
    unsaid = mesh_colors(Caption("snowman", None), vertices)
    torch.testing.assert_close(unsaid[0], torch.tensor(COLORS["gray"]))


@every_category
def test_the_caption_colours_a_good_part_of_every_toy(category):
    solid = surface(category)
    role = shape(category).roles(torch.tensor(solid.triangles_center))
    share = torch.from_numpy(solid.area_faces)[role == ROLES.index(MAIN)].sum() / solid.area
    assert share > 0.3


def test_the_part_is_the_nearest_solid():
    mushroom = shape("mushroom")
    names = [ROLES[i] for i in mushroom.roles(torch.tensor([[0.0, 0.6, 0.0], [0.0, -0.5, 0.0]]))]
    assert names == ["main", "cream"]
