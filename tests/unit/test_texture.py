import importlib.util
import sys
from dataclasses import replace

import pytest
import torch
import trimesh

from distill3d.kernels.cameras.pinhole import orbit
from distill3d.kernels.files.export import save_mesh
from distill3d.kernels.init.points import from_points
from distill3d.kernels.init.surface import from_mesh
from distill3d.kernels.meshes.mesh import Mesh, places_of
from distill3d.kernels.meshes.raster import cover, rasterize_faces
from distill3d.kernels.meshes.surface import extract_surface
from distill3d.kernels.meshes.texture import add_texture, pad
from distill3d.kernels.meshes.unwrap import available, unwrap
from distill3d.kernels.rasterizers.rasterize import render

pytestmark = pytest.mark.slow(reason="meshes from renders, unwrapped")

needs_xatlas = pytest.mark.skipif(
    importlib.util.find_spec("xatlas") is None, reason="xatlas is not installed"
)
QUICK = {"size": 128, "views": 24, "image_size": 96}


def of_trimesh(mesh, colors=None):
    vertices = torch.tensor(mesh.vertices, dtype=torch.float32)
    colors = torch.full_like(vertices, 0.5) if colors is None else colors
    return Mesh(vertices, torch.tensor(mesh.faces), colors)


def ball(subdivisions=3):
    return of_trimesh(trimesh.creation.icosphere(subdivisions, radius=0.4))


def painted_cloud(mesh, count=3000):
    """Opaque Gaussians on the mesh: red where x > 0, else blue; green added where z > 0."""
    cloud = from_mesh(mesh, count, torch.Generator().manual_seed(0), size=None, opacity_logit=3.0)
    return replace(cloud, sh=from_points(cloud.means, paint(cloud.means)).sh)


def paint(points):
    x, z = points[:, 0], points[:, 2]
    return torch.stack([(x > 0).float(), 0.8 * (z > 0).float(), (x <= 0).float()], -1)


def texture_at(mesh, uvs):
    grid = (2 * uvs - 1)[None, None]
    return torch.nn.functional.grid_sample(
        mesh.texture.permute(2, 0, 1)[None], grid, align_corners=False
    )[0, :, 0].T


def test_two_triangles_cover_a_square_once():
    square = torch.tensor([[1.0, 2], [6, 2], [6, 9], [1, 9]])
    parts = list(cover(square[torch.tensor([[0, 1, 2], [0, 3, 2]])], 8, 12))
    pixel = torch.cat([p for _, p, _ in parts])
    rows, columns = torch.meshgrid(torch.arange(2, 9), torch.arange(1, 6), indexing="ij")
    assert set(pixel.tolist()) == set((rows * 8 + columns).flatten().tolist())
    assert len(pixel) <= 35 + 5  # those with centres on the diagonal belong to both


def test_weights_give_back_the_pixels_centre_and_pictures_cut_triangles_off():
    # the second has no area
    triangles = torch.tensor([[[-5.0, -3], [14, 2], [3, 20]], [[2, 2], [2, 2], [5, 5]]])
    for face, pixel, weights in cover(triangles, 10, 7):
        assert (face == 0).all() and pixel.max() < 70
        centre = torch.stack([pixel % 10, pixel // 10], -1) + 0.5
        torch.testing.assert_close(
            (weights[..., None] * triangles[face]).sum(1), centre, atol=1e-4, rtol=0
        )


def test_batches_do_not_change_what_is_covered(monkeypatch):
    triangles = 20 * torch.rand(50, 3, 2, generator=torch.Generator().manual_seed(0))
    whole = torch.cat([face * 1000 + pixel for face, pixel, _ in cover(triangles, 20, 20)])
    monkeypatch.setattr("distill3d.kernels.meshes.raster.AT_ONCE", 100)
    parts = [face * 1000 + pixel for face, pixel, _ in cover(triangles, 20, 20)]
    assert len(parts) > 5 and torch.equal(torch.cat(parts), whole)


def test_the_nearer_wall_is_seen_at_its_depth():
    walls = torch.tensor([[[-1.0, -1, z], [1, -1, z], [0, 1.5, z]] for z in (0.0, 0.5, -0.5)]).view(
        -1, 3
    )
    cameras = orbit(torch.tensor([0.0, 180.0]), 0, 2.0, size=32)
    face, _, depth = rasterize_faces(walls, torch.arange(9).view(3, 3), cameras)
    assert face[0, 16, 16] == 1 and depth[0, 16, 16].item() == pytest.approx(1.5, abs=1e-4)
    assert face[1, 16, 16] == 2 and depth[1, 16, 16].item() == pytest.approx(1.5, abs=1e-4)
    face, _, depth = rasterize_faces(walls[:3] * 0.1, torch.tensor([[0, 1, 2]]), cameras)
    assert face[0, 0, 0] == -1 and depth[0, 0, 0] == torch.inf


def test_weights_are_right_in_perspective():
    slanted = torch.tensor([[-0.4, -0.4, -1.0], [0.5, -0.3, 1.0], [0.0, 0.5, 0.3]])
    cameras = orbit(torch.tensor([0.0]), 0, 3.0, size=64)
    face, weights, depth = rasterize_faces(slanted, torch.tensor([[0, 1, 2]]), cameras)
    hit = face[0] >= 0
    assert hit.sum() > 100
    places = weights[0][hit] @ slanted
    torch.testing.assert_close(3 - places[:, 2], depth[0][hit], atol=1e-4, rtol=0)
    rows, columns = torch.nonzero(hit).T
    focal = cameras.intrinsics[0, 0, 0]
    torch.testing.assert_close(
        32 + focal * places[:, 0] / depth[0][hit], columns + 0.5, atol=1e-2, rtol=0
    )
    torch.testing.assert_close(
        32 - focal * places[:, 1] / depth[0][hit], rows + 0.5, atol=1e-2, rtol=0
    )


def test_padding_takes_the_nearest_colour():
    texture, covered = torch.zeros(5, 7, 3), torch.zeros(5, 7, dtype=torch.bool)
    texture[2, 1], texture[2, 5] = torch.tensor([1.0, 0, 0]), torch.tensor([0.0, 1, 0])
    covered[2, 1] = covered[2, 5] = True
    full = pad(texture, covered)
    assert (full[:, :3, 0] == 1).all() and (full[:, 4:, 1] == 1).all()
    assert torch.equal(pad(texture, torch.zeros_like(covered)), texture)


@needs_xatlas
@pytest.mark.parametrize("subdivisions", [3, 5])  # the second is laid out in several parts
def test_a_layout_keeps_the_shape_and_doubles_only_seams(subdivisions):
    mesh = ball(subdivisions)
    flat = unwrap(mesh, 256)
    assert torch.equal(flat.vertices[flat.faces], mesh.vertices[mesh.faces])
    assert flat.uvs.min() >= 0 and flat.uvs.max() <= 1
    assert len(mesh.vertices) < len(flat.vertices) < 2 * len(mesh.vertices)
    # No two triangles share a texel's middle, but for hairline contacts along edges.
    pixel = torch.cat([p for _, p, _ in cover(256 * flat.uvs[flat.faces], 256, 256, slack=-1e-3)])
    assert len(pixel) == len(pixel.unique()) and len(pixel) > 0.3 * 256**2


def test_places_are_numbered_as_rows_are():
    vertices = torch.randint(0, 3, (200, 3), generator=torch.Generator().manual_seed(0)).float() - 1
    assert torch.equal(places_of(vertices), vertices.unique(dim=0, return_inverse=True)[1])


@needs_xatlas
def test_normals_stay_smooth_across_seams():
    flat = unwrap(ball(), 128)
    torch.testing.assert_close(flat.vertex_normals, flat.vertices / 0.4, atol=0.03, rtol=0)
    assert (replace(flat, uvs=None).vertex_normals - flat.vertex_normals).abs().max() > 0.02


@needs_xatlas
def test_the_texture_has_the_colours_of_the_side_it_lies_on():
    mesh = ball()
    flat = add_texture(mesh, painted_cloud(mesh), **QUICK)
    assert (
        flat.texture.shape == (128, 128, 3) and flat.texture.min() >= 0 and flat.texture.max() <= 1
    )
    clear = (flat.vertices[:, [0, 2]].abs() > 0.08).all(-1)
    error = (texture_at(flat, flat.uvs) - paint(flat.vertices)).abs()[clear]
    assert error.mean() < 0.03


@needs_xatlas
def test_a_textured_surface_looks_like_the_cloud():
    """The whole way: surface, layout, colours; seen from views that were not baked from."""
    cloud = from_mesh(
        of_trimesh(trimesh.creation.torus(0.3, 0.12)), 3000, size=None, opacity_logit=3.0
    )
    cloud = replace(cloud, sh=from_points(cloud.means, (cloud.means + 0.5).clamp(0, 1)).sh)
    mesh = add_texture(
        extract_surface(cloud, resolution=48, views=32, image_size=96), cloud, **QUICK
    )
    cameras = orbit(torch.tensor([10.0, 130, 250]), 25, 2.0, size=64)
    seen = render(cloud, cameras, 0.0)
    face, weights, _ = rasterize_faces(mesh.vertices, mesh.faces, cameras)
    hit = (face >= 0) & (seen.alpha[..., 0] > 0.95)
    uvs = (weights[hit][..., None] * mesh.uvs[mesh.faces[face[hit]]]).sum(1)
    error = (texture_at(mesh, uvs) - seen.color[hit]).square().mean()
    assert hit.sum() > 500 and -10 * error.log10() > 30


@needs_xatlas
def test_the_file_has_the_faces_asked_for_is_closed_and_looks_like_the_cloud(tmp_path):
    pytest.importorskip("fast_simplification")
    cloud = painted_cloud(ball())
    mesh = extract_surface(cloud, resolution=48, views=32, image_size=96, faces=1500)
    save_mesh(add_texture(mesh, cloud, **QUICK), tmp_path / "a.glb")
    solid = trimesh.load(tmp_path / "a.glb", process=False, force="mesh")
    points, face = trimesh.sample.sample_surface(solid, 2000, seed=0)
    weights = trimesh.triangles.points_to_barycentric(solid.triangles[face], points)
    uvs = (weights[..., None] * solid.visual.uv[solid.faces[face]]).sum(1)
    image = solid.visual.material.baseColorTexture.convert("RGB")
    colors = torch.tensor(trimesh.visual.color.uv_to_color(uvs, image)[:, :3] / 255.0)
    points = torch.tensor(points)
    clear = (points[:, [0, 2]].abs() > 0.05).all(-1)
    assert (colors - paint(points))[clear].abs().mean() < 0.05
    solid.merge_vertices(merge_tex=True, merge_norm=True)
    assert solid.is_watertight and solid.volume > 0 and 1400 <= len(solid.faces) <= 1600


@needs_xatlas
def test_what_stands_in_front_does_not_print_through():
    plates = [
        trimesh.creation.box((0.6, 0.6, 0.1)).apply_translation((0, 0, z)) for z in (0.2, -0.2)
    ]
    both = of_trimesh(trimesh.util.concatenate(plates))
    front = both.vertices[:, 2:] > 0
    both = replace(both, colors=torch.cat([front, torch.zeros_like(front), ~front], 1).float())
    cloud = from_mesh(both, 3000, size=None, opacity_logit=4.0)
    flat = add_texture(both, cloud, **QUICK)
    # the back plate's inner side
    facing = (flat.vertex_normals[:, 2] > 0.5) & (flat.vertices[:, 2] < 0)
    rear = flat.faces[facing[flat.faces].all(-1)]
    middle = flat.uvs[rear].mean(1)
    assert len(rear) == 2
    torch.testing.assert_close(
        texture_at(flat, middle), torch.tensor([[0.0, 0, 1]]).expand(2, 3), atol=0.08, rtol=0
    )


@needs_xatlas
def test_what_no_view_sees_takes_the_nearest_colour():
    inner = trimesh.creation.icosphere(2, radius=0.2)
    both = of_trimesh(trimesh.util.concatenate([trimesh.creation.icosphere(3, radius=0.4), inner]))
    flat = add_texture(both, painted_cloud(ball()), **QUICK)
    hidden = flat.vertices.norm(dim=-1) < 0.3
    colors = texture_at(flat, flat.uvs[hidden])
    clear = (flat.vertices[hidden][:, [0, 2]].abs() > 0.1).all(-1)
    assert (colors - paint(flat.vertices[hidden]))[clear].abs().mean() < 0.15


@needs_xatlas
def test_the_same_input_gives_the_same_texture_and_stays_as_it_was():
    mesh = ball(2)
    cloud = painted_cloud(mesh, 500)
    before = mesh.vertices.clone()
    one, two = (add_texture(mesh, cloud, **QUICK) for _ in range(2))
    assert torch.equal(one.texture, two.texture) and torch.equal(one.uvs, two.uvs)
    assert torch.equal(mesh.vertices, before) and mesh.uvs is None


@pytest.mark.parametrize(
    ("settings", "message"),
    [({"size": 32}, r"size is 32; choose a value within 64\.\.4096"), ({"views": 1}, "views is 1")],
)
def test_bad_settings_are_named(settings, message):
    with pytest.raises(ValueError, match=message):
        add_texture(ball(1), painted_cloud(ball(1), 50), **(QUICK | settings))


def test_without_its_package_a_texture_says_how_to_get_it(monkeypatch):
    monkeypatch.setitem(sys.modules, "xatlas", None)
    assert not available()
    with pytest.raises(ValueError, match="pip install xatlas"):
        unwrap(ball(1), 64)


def test_a_texture_needs_its_coordinates():
    with pytest.raises(ValueError, match="without uvs"):
        replace(ball(1), texture=torch.zeros(4, 4, 3)).check()
    with pytest.raises(ValueError, match=r"uvs have shape \(5, 2\), expected \(42, 2\)"):
        replace(ball(1), uvs=torch.zeros(5, 2)).check()
