"""Normal maps, read back from the written file by a reader of the test's own."""

import importlib.util
import io
from dataclasses import replace

import numpy as np
import pytest
import torch
import trimesh
from PIL import Image

from distill3d.kernels.files.export import save_mesh
from distill3d.kernels.meshes.cleanup import simplify
from distill3d.kernels.meshes.mesh import Mesh
from distill3d.kernels.meshes.normal_map import add_normal_map, normals_near, vertex_tangents
from distill3d.kernels.meshes.unwrap import unwrap

needs_xatlas = pytest.mark.skipif(
    importlib.util.find_spec("xatlas") is None, reason="xatlas is not installed"
)
RADIUS, HEIGHT, WAVES = 0.4, 0.01, 25.0


def mesh_of(vertices, faces):
    vertices = torch.as_tensor(np.asarray(vertices)).float()
    return Mesh(vertices, torch.as_tensor(np.asarray(faces)).long(), torch.full_like(vertices, 0.5))


def ball(subdivisions):
    solid = trimesh.creation.icosphere(subdivisions, radius=RADIUS)
    return mesh_of(solid.vertices, solid.faces)


def rippled(subdivisions):
    """A ball with ripples along x and y; the coarse one has none of them."""
    mesh = ball(subdivisions)
    bumps = HEIGHT * (
        torch.sin(WAVES * mesh.vertices[:, :1]) + torch.sin(WAVES * mesh.vertices[:, 1:2])
    )
    return replace(mesh, vertices=mesh.vertices * (1 + bumps / RADIUS))


def outward(points):
    """The ball's true normals."""
    return points / np.linalg.norm(points, axis=-1, keepdims=True)


def ripple_normals(points):
    """The gradient of |p| - RADIUS - HEIGHT (sin x + sin y)."""
    slope = outward(points)
    slope[:, :2] -= HEIGHT * WAVES * np.cos(WAVES * points[:, :2])
    return slope / np.linalg.norm(slope, axis=-1, keepdims=True)


def square(z=lambda x, y: 0 * x, side=2, mirrored=False):
    """A square of side 1 that faces +Z, right and up those of its texture, or with the texture's
    right to its left.
    """
    y, x = np.meshgrid(np.linspace(0, 1, side), np.linspace(0, 1, side), indexing="ij")
    index = np.arange(side * side).reshape(side, side)
    a, b, c, d = (
        part.ravel() for part in (index[:-1, :-1], index[:-1, 1:], index[1:, 1:], index[1:, :-1])
    )
    mesh = mesh_of(
        np.stack([x, y, z(x, y)], -1).reshape(-1, 3),
        np.concatenate([np.stack([a, b, c], -1), np.stack([a, c, d], -1)]),
    )
    u = 1 - x if mirrored else x
    return replace(mesh, uvs=torch.tensor(np.stack([u, 1 - y], -1).reshape(-1, 2)).float())


def textured(mesh, size):
    return replace(unwrap(mesh, size), texture=torch.full((size, size, 3), 0.5))


def read(path, count=5000):
    """Points of a GLB's surface with the normals of its vertices and those of its map, all
    [count,3].

    The map's directions come out of the equations du = T . dp and dv = B . dp on each triangle, v
    upward.
    """
    (solid,) = trimesh.load(path, process=False).geometry.values()
    points, face = trimesh.sample.sample_surface(solid, count, seed=0)
    weights = trimesh.triangles.points_to_barycentric(solid.triangles[face], points)[..., None]
    normals = (weights * solid.vertex_normals[solid.faces[face]]).sum(1)
    normals /= np.linalg.norm(normals, axis=-1, keepdims=True)
    uvs = solid.visual.uv[solid.faces[face]]
    edges = solid.triangles[face][:, 1:] - solid.triangles[face][:, :1]
    # gradients of u and v
    right, up = np.moveaxis(np.linalg.pinv(edges) @ (uvs[:, 1:] - uvs[:, :1]), -1, 0)
    picture = np.asarray(solid.visual.material.normalTexture.convert("RGB")) / 255 * 2 - 1
    column, row = ((weights * uvs).sum(1) * [1, -1] + [0, 1]).T * picture.shape[0] - 0.5
    found = np.zeros_like(points)
    for down in (0, 1):
        for over in (0, 1):
            i, j = np.floor(row).astype(int) + down, np.floor(column).astype(int) + over
            share = (1 - abs(row - i)) * (1 - abs(column - j))
            found += (
                share[:, None] * picture[i.clip(0, len(picture) - 1), j.clip(0, len(picture) - 1)]
            )
    mapped = found[:, 2:] * normals
    for axis, part in ((right, found[:, :1]), (up, found[:, 1:2])):
        axis = axis - (axis * normals).sum(-1, keepdims=True) * normals
        mapped += part * axis / np.linalg.norm(axis, axis=-1, keepdims=True)
    return points, normals, mapped / np.linalg.norm(mapped, axis=-1, keepdims=True)


def degrees(one, two):
    return float(np.degrees(np.arccos((one * two).sum(-1).clip(-1, 1))).mean())


@needs_xatlas
@pytest.mark.parametrize(
    ("dense", "triangles", "truth", "least"),
    [(ball, 100, outward, 0.8), (rippled, 500, ripple_normals, 4.0)],
)
def test_the_map_has_the_normals_that_the_triangles_lost(tmp_path, dense, triangles, truth, least):
    pytest.importorskip("fast_simplification")
    # of irregular triangles: those of an icosphere have exact normals
    coarse = simplify(ball(5), triangles)
    save_mesh(add_normal_map(textured(coarse, 256), dense(6), 256), tmp_path / "a.glb")
    points, smooth, mapped = read(tmp_path / "a.glb")
    before, after = degrees(smooth, truth(points)), degrees(mapped, truth(points))
    print(f"{before:.2f} degrees off without the map, {after:.2f} with it")
    assert before > least and after < 0.35 * before


@needs_xatlas
@pytest.mark.parametrize("channel", [0, 1])
def test_a_map_turned_round_would_be_noticed(tmp_path, channel):
    mesh = add_normal_map(textured(ball(3), 256), rippled(6), 256)
    wrong = mesh.normal_map.clone()
    wrong[..., channel] = 1 - wrong[..., channel]
    save_mesh(replace(mesh, normal_map=wrong), tmp_path / "a.glb")
    points, smooth, mapped = read(tmp_path / "a.glb")
    assert degrees(mapped, ripple_normals(points)) > degrees(smooth, ripple_normals(points))


def test_what_was_flat_stays_flat():
    flat = add_normal_map(square(), square(side=9), 16).normal_map
    assert ((255 * flat).round() == torch.tensor([128, 128, 255])).all()


@pytest.mark.parametrize("mirrored", [False, True])
def test_slopes_to_the_right_are_red_and_those_to_the_top_green(mirrored):
    sign = -1 if mirrored else 1
    for height, expected in (
        (lambda x, y: -0.1 * x, [sign, 0, 10]),
        (lambda x, y: -0.1 * y, [0, 1, 10]),
    ):
        found = add_normal_map(square(mirrored=mirrored), square(height, 9), 16).normal_map
        expected = torch.nn.functional.normalize(torch.tensor(expected, dtype=torch.float32), dim=0)
        torch.testing.assert_close(
            found, (0.5 + 0.5 * expected).expand(16, 16, 3), atol=1e-4, rtol=0
        )


def test_a_thin_wall_keeps_its_two_sides():
    solid = trimesh.creation.box((1.0, 1.0, 0.01))
    for _ in range(4):
        solid = solid.subdivide()
    points = (
        torch.rand(200, 3, generator=torch.Generator().manual_seed(0)) * torch.tensor([0.8, 0.8, 0])
        - 0.4
    )
    for side in (-1.0, 1.0):
        points[:, 2] = -0.004 * side  # nearer to the wrong one
        up = torch.tensor([0, 0, side]).expand(200, 3)
        torch.testing.assert_close(
            normals_near(mesh_of(solid.vertices, solid.faces), points, up), up
        )


def test_no_normal_points_inward_or_is_longer_than_one():
    steep = square(lambda x, y: 0.3 * np.sin(40 * x), 65)
    found = 2 * add_normal_map(square(), steep, 32).normal_map - 1
    assert found[..., 2].min() > 0
    torch.testing.assert_close(found.norm(dim=-1), torch.ones(32, 32), atol=1e-5, rtol=0)


def test_a_map_needs_texture_coordinates():
    with pytest.raises(ValueError, match="the mesh has no texture coordinates"):
        add_normal_map(ball(1), ball(2), 64)
    with pytest.raises(ValueError, match=r"the normal map is \(4, 4, 3\) without uvs"):
        replace(ball(1), normal_map=torch.zeros(4, 4, 3)).check()


def test_simplified_meshes_keep_their_colours_and_small_ones_everything():
    pytest.importorskip("fast_simplification")
    mesh = ball(5)
    mesh = replace(mesh, colors=(mesh.vertices > 0).float())
    fewer = simplify(mesh, 1000)
    clear = fewer.vertices.abs() > 0.05
    assert 900 < len(fewer.faces) <= 1000
    assert torch.equal(fewer.colors[clear], (fewer.vertices > 0).float()[clear])
    assert simplify(mesh, 10**6) is mesh


def test_an_obj_names_its_normal_map_for_every_reader(tmp_path):
    mesh = add_normal_map(
        replace(square(), texture=torch.full((16, 16, 3), 0.5)), square(side=9), 16
    )
    files = save_mesh(mesh, tmp_path / "my mug.obj", up_axis="Z")
    assert sorted(file.name for file in tmp_path.iterdir()) == sorted(file.name for file in files)
    assert {"my_mugnormal.png", "my_mugtexture.png"} <= {file.name for file in files} and files[
        0
    ].suffix == ".obj"
    lines = (tmp_path / "my_mug.mtl").read_text().splitlines()
    assert {
        "norm my_mugnormal.png",
        "map_Bump my_mugnormal.png",
        "map_Kd my_mugtexture.png",
    } <= set(lines)
    picture = Image.open(io.BytesIO((tmp_path / "my_mugnormal.png").read_bytes()))
    assert picture.mode == "RGB" and picture.getpixel((3, 5)) == (128, 128, 255)


@needs_xatlas
def test_a_glb_brings_tangents_along_its_texture(tmp_path):
    mesh = add_normal_map(textured(ball(2), 128), ball(4), 128)
    save_mesh(mesh, tmp_path / "a.glb")
    data = (tmp_path / "a.glb").read_bytes()
    assert b'"TANGENT"' in data and b"_TANGENT" not in data
    tangents = vertex_tangents(mesh)
    torch.testing.assert_close(
        tangents[:, :3].norm(dim=-1), torch.ones(len(tangents)), atol=1e-5, rtol=0
    )
    torch.testing.assert_close(
        (tangents[:, :3] * mesh.vertex_normals).sum(-1),
        torch.zeros(len(tangents)),
        atol=1e-5,
        rtol=0,
    )
    for flat, sign in ((square(), 1.0), (square(mirrored=True), -1.0)):
        torch.testing.assert_close(
            vertex_tangents(flat), torch.tensor([[sign, 0, 0, sign]]).expand(4, 4)
        )
