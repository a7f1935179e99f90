"""Gaussians from mesh files and point clouds: places, axes, colours, and that they look like the
mesh.
"""

from dataclasses import replace

import numpy as np
import pytest
import torch
import trimesh
from PIL import Image

from distill3d.kernels.cameras.pinhole import orbit
from distill3d.kernels.evaluate.metrics import iou, psnr
from distill3d.kernels.files.export import save_mesh
from distill3d.kernels.files.mesh import load_mesh, load_shape
from distill3d.kernels.files.ply import save_ply
from distill3d.kernels.gaussians.rotations import rotations
from distill3d.kernels.init.points import from_points
from distill3d.kernels.init.surface import from_mesh, from_shape
from distill3d.kernels.meshes.mesh import Mesh, Points
from distill3d.kernels.meshes.placing import upright
from distill3d.kernels.meshes.rasterize import render_mesh
from distill3d.kernels.meshes.sample import texels
from distill3d.kernels.rasterizers.rasterize import render
from distill3d.kernels.toybox.captions import parse
from distill3d.kernels.toybox.meshes import mesh as toy_mesh
from distill3d.kernels.toybox.meshes import mesh_colors

RED, GREEN, BLUE = torch.eye(3)


def toy(caption, resolution=96):
    known = parse(caption)
    vertices, faces = toy_mesh(known.category, resolution)
    return Mesh(vertices, faces, mesh_colors(known, vertices))


def marked():
    """A grey ball at the origin with a red, a green and a blue one towards +X, +Y and +Z, farther
    and farther out.
    """
    ball = trimesh.creation.icosphere(2, 0.1)
    parts = []
    for axis, (at, color) in enumerate(
        [(0.2, RED), (0.3, GREEN), (0.4, BLUE), (0.0, torch.full((3,), 0.5))]
    ):
        places = torch.tensor(ball.vertices).float()
        places[:, axis % 3] += at
        parts.append(Mesh(places, torch.tensor(ball.faces), color.expand(len(places), 3).clone()))
    offsets = torch.tensor([0, *[len(part.vertices) for part in parts[:-1]]]).cumsum(0).tolist()
    faces = torch.cat([part.faces + offset for part, offset in zip(parts, offsets, strict=True)])
    return Mesh(torch.cat([p.vertices for p in parts]), faces, torch.cat([p.colors for p in parts]))


def middle(cloud, color):
    chosen = (cloud.colors - color).norm(dim=-1) < 0.1
    assert chosen.any()
    return cloud.means[chosen].mean(0)


def squares(size=8):
    """A square from (-1,-1,0) to (1,1,0) that shows a texture of random texels the right way up,
    and the texture.
    """
    texture = torch.rand(size, size, 3, generator=torch.Generator().manual_seed(0))
    texture = (texture * 255).round() / 255
    vertices = torch.tensor([[-1.0, -1, 0], [1, -1, 0], [1, 1, 0], [-1, 1, 0]])
    uvs = torch.stack([(vertices[:, 0] + 1) / 2, (1 - vertices[:, 1]) / 2], -1)
    faces = torch.tensor([[0, 1, 2], [0, 2, 3]])
    return Mesh(vertices, faces, torch.full((4, 3), 0.5), uvs, texture), texture


def expected(means, texture):
    size = len(texture)
    column = ((means[:, 0] + 1) / 2 * size).long().clamp(0, size - 1)
    row = ((1 - means[:, 1]) / 2 * size).long().clamp(0, size - 1)
    return texture[row, column]


class TestColours:
    def test_a_textures_texels_arrive_where_they_lie(self):
        mesh, texture = squares()
        cloud = from_mesh(mesh, 2000, size=None)
        torch.testing.assert_close(cloud.colors, expected(cloud.means, texture), atol=1e-5, rtol=0)

    @pytest.mark.parametrize("format", ["glb", "obj"])
    def test_and_so_through_a_file(self, tmp_path, format):
        mesh, texture = squares()
        save_mesh(mesh, tmp_path / f"a.{format}")
        (part,) = load_shape(tmp_path / f"a.{format}")
        cloud = from_shape([part], 2000, size=None)
        # 8-bit, and points on a texel's edge may fall to either side
        wrong = (cloud.colors - expected(cloud.means, texture)).abs().amax(-1) > 1 / 255
        assert wrong.float().mean() < 0.002
        assert load_mesh(tmp_path / f"a.{format}").colors.shape == part.vertices.shape

    def test_textures_repeat_beyond_their_edges_and_end_at_one(self):
        _, texture = squares(4)
        uvs = torch.tensor([[0.1, 0.1], [1.1, 0.1], [0.1, -0.9], [1.0, 1.0], [0.0, 0.0]])
        first, last = texture[0, 0], texture[3, 3]
        torch.testing.assert_close(
            texels(texture, uvs), torch.stack([first, first, first, last, first])
        )

    def test_objects_of_a_file_keep_their_own_textures_and_places(self, tmp_path):
        scene = trimesh.Scene()
        for place, color in ((-2, (255, 0, 0)), (2, (0, 0, 255))):
            box = trimesh.creation.box()
            picture = Image.new("RGB", (2, 2), color)
            material = trimesh.visual.material.PBRMaterial(baseColorTexture=picture)
            box.visual = trimesh.visual.TextureVisuals(np.full((8, 2), 0.5), material=material)
            scene.add_geometry(
                box, transform=trimesh.transformations.translation_matrix((place, 0, 0))
            )
        scene.export(tmp_path / "a.glb")
        cloud = from_shape(load_shape(tmp_path / "a.glb"), 1000, size=None)
        left = cloud.means[:, 0] < 0
        assert abs(int(left.sum()) - 500) <= 1  # evenly over both
        torch.testing.assert_close(
            cloud.colors, torch.where(left[:, None], RED, BLUE), atol=1e-5, rtol=0
        )

    def test_the_factor_of_a_gltf_material_tints_its_texture_in_linear_light(self, tmp_path):
        box = trimesh.creation.box()
        material = trimesh.visual.material.PBRMaterial(
            baseColorTexture=Image.new("RGB", (2, 2), (255, 255, 255)),
            baseColorFactor=[128, 0, 255, 255],
        )
        box.visual = trimesh.visual.TextureVisuals(np.full((8, 2), 0.5), material=material)
        box.export(tmp_path / "a.glb")
        colors = from_shape(load_shape(tmp_path / "a.glb"), 10).colors
        torch.testing.assert_close(colors[0], torch.tensor([0.736, 0, 1]), atol=2e-3, rtol=0)


class TestPlaces:
    @pytest.mark.parametrize(
        ("format", "up_axis"), [("glb", "Y"), ("obj", "Z"), ("ply", "Y"), ("ply", "Z")]
    )
    def test_up_and_front_survive_a_file_of_either_axis(self, tmp_path, format, up_axis):
        save_mesh(marked(), tmp_path / f"a.{format}", up_axis=up_axis)
        cloud = from_shape(load_shape(tmp_path / f"a.{format}"), 4000, size=None, up_axis=up_axis)
        for color, place in zip(
            (RED, GREEN, BLUE), torch.diag(torch.tensor([0.2, 0.3, 0.4])), strict=True
        ):
            torch.testing.assert_close(middle(cloud, color), place, atol=0.01, rtol=0)

    def test_a_turn_is_one_of_azimuth(self):
        cloud = from_shape([marked()], 4000, size=None, turn=90.0)
        torch.testing.assert_close(
            middle(cloud, BLUE), torch.tensor([0.4, 0, 0]), atol=0.01, rtol=0
        )
        front = upright(torch.tensor([0.0, 0, 2]), "Y", 30)
        torch.testing.assert_close(front, orbit(30.0, 0.0, 2.0).positions[0], atol=1e-5, rtol=0)

    def test_normalised_it_fills_the_cube_as_one_whatever_its_size_and_place(self):
        mesh = replace(marked(), vertices=marked().vertices * 30 + 7)
        cloud, plain = from_shape([mesh], 4000), from_shape([marked()], 4000, size=None)
        low, high = cloud.means.amin(0), cloud.means.amax(0)
        assert float((high - low).max()) == pytest.approx(1, abs=0.01)
        torch.testing.assert_close((low + high) / 2, torch.zeros(3), atol=0.01, rtol=0)
        side = float((marked().vertices.amax(0) - marked().vertices.amin(0)).max())
        torch.testing.assert_close(cloud.scales, plain.scales / side, rtol=1e-4, atol=0)

    def test_the_seed_decides(self):
        one, same, other = (
            from_shape([marked()], 100, torch.Generator().manual_seed(seed)).means
            for seed in (1, 1, 2)
        )
        assert torch.equal(one, same) and not torch.equal(one, other)


@pytest.mark.parametrize(
    "caption",
    [
        "a red mug with white dots",
        pytest.param("a yellow duck", marks=pytest.mark.nightly(reason="as the mug")),
        pytest.param(
            "a green car with white stripes", marks=pytest.mark.nightly(reason="as the mug")
        ),
    ],
)
def test_the_gaussians_look_like_the_exported_mesh(tmp_path, caption):
    save_mesh(toy(caption), tmp_path / "a.glb")
    cameras = orbit(
        torch.tensor([20.0, 110.0, 200.0, 290.0]),
        torch.tensor([10.0, 40.0, -10.0, 20.0]),
        2.0,
        40.0,
        256,
    )
    with torch.no_grad():
        shown = render_mesh(toy(caption), cameras, 0.5)
        seen, turned = (
            render(
                from_shape(load_shape(tmp_path / "a.glb"), 12_000, None, None, "Y", turn, 0.0),
                cameras,
                0.5,
            )
            for turn in (0, 180)
        )
    # What is missing is mostly the rasterizer's third of a pixel and the Gaussians' own width at
    # silhouettes.
    assert iou(seen.alpha, shown.alpha) > 0.94
    assert psnr(seen.color, shown.color) > 21
    # that it faces the right way is seen
    assert psnr(seen.color, shown.color) > psnr(turned.color, shown.color) + 6


class TestPointClouds:
    def write(self, path, points, colors, normals):
        lines = ["ply", "format ascii 1.0", f"element vertex {len(points)}"]
        lines += [f"property float {name}" for name in ("x", "y", "z", "nx", "ny", "nz")]
        lines += [f"property uchar {name}" for name in ("red", "green", "blue")] + ["end_header"]
        bytes_ = (colors * 255).round().int()
        rows = zip(points.tolist(), normals.tolist(), bytes_.tolist(), strict=True)
        path.write_text(
            "\n".join(lines + [" ".join(map(str, [*p, *n, *c])) for p, n, c in rows]) + "\n"
        )

    def points(self, count=300):
        generator = torch.Generator().manual_seed(0)
        normals = torch.nn.functional.normalize(torch.randn(count, 3, generator=generator), dim=-1)
        return 0.5 * normals, (normals + 1) / 2, normals

    def test_a_ply_without_faces_gives_a_gaussian_a_point(self, tmp_path):
        points, colors, normals = self.points()
        self.write(tmp_path / "a.ply", points, colors, normals)
        shape = load_shape(tmp_path / "a.ply")
        assert isinstance(shape, Points)
        cloud = from_shape(shape, 1000, size=None)
        torch.testing.assert_close(cloud.means, points, atol=1e-5, rtol=0)
        torch.testing.assert_close(cloud.colors, colors, atol=0.003, rtol=0)
        thinnest = rotations(cloud.quats)[:, :, 2]
        torch.testing.assert_close(thinnest, normals, atol=1e-3, rtol=0)
        turned = from_shape(shape, 1000, size=None, up_axis="Z")
        torch.testing.assert_close(turned.means, upright(points, "Z"), atol=1e-5, rtol=0)
        torch.testing.assert_close(
            rotations(turned.quats)[:, :, 2], upright(normals, "Z"), atol=1e-3, rtol=0
        )

    def test_of_too_many_points_so_many_are_drawn_and_normals_of_zero_are_none(self, tmp_path):
        points, colors, normals = self.points()
        self.write(tmp_path / "a.ply", points, colors, 0 * normals)
        shape = load_shape(tmp_path / "a.ply")
        cloud = from_shape(shape, 50, torch.Generator().manual_seed(3), size=None)
        assert len(cloud) == 50 and torch.unique(cloud.means, dim=0).shape == (50, 3)
        assert float((cloud.means[:, None] - points).norm(dim=-1).amin(1).max()) < 1e-6
        torch.testing.assert_close(cloud.log_scales[:, 0], cloud.log_scales[:, 2])  # round

    def test_a_gltf_of_points_is_one_too(self, tmp_path):
        points, _, _ = self.points(20)
        trimesh.Scene(
            trimesh.PointCloud(points.numpy(), np.tile([0, 0, 255, 255], (20, 1)))
        ).export(tmp_path / "a.glb")
        shape = load_shape(tmp_path / "a.glb")
        assert isinstance(shape, Points)
        torch.testing.assert_close(shape.points, points)
        torch.testing.assert_close(shape.colors, BLUE.expand(20, 3))

    def test_a_splat_and_a_cloud_where_a_mesh_is_wanted_are_named(self, tmp_path):
        points, colors, normals = self.points()
        save_ply(from_points(points, colors), tmp_path / "splat.ply")
        with pytest.raises(ValueError, match=r"splat.ply holds Gaussian splats.*Load Gaussians"):
            load_shape(tmp_path / "splat.ply")
        self.write(tmp_path / "a.ply", points, colors, normals)
        with pytest.raises(ValueError, match=r"a.ply holds no triangles; it is a point cloud"):
            load_mesh(tmp_path / "a.ply")
        with pytest.raises(ValueError, match="up_axis is 'X'; choose one of Y, Z"):
            from_shape([marked()], 10, up_axis="X")
