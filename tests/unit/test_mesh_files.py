"""Every format, read back by trimesh."""

import errno
import io
import os
import zipfile
from dataclasses import replace

import numpy as np
import pytest
import torch
import trimesh
from PIL import Image

from distill3d.kernels.files.atomic import write_together
from distill3d.kernels.files.export import FORMATS, check_placing, save_mesh
from distill3d.kernels.meshes.mesh import Mesh

# Two strips of a texture 8 high: the front (+Z) shows the upper, orange one, everything else the
# lower, blue one.
ORANGE, BLUE = torch.tensor([1.0, 0.5, 0.0]), torch.tensor([0.0, 0.25, 1.0])


def box():
    """A box 0.2 x 0.4 x 0.6 around (0, 0.5, 0), every face with corners of its own, the front one
    orange.
    """
    solid = trimesh.creation.box((0.2, 0.4, 0.6))
    normals = solid.face_normals
    vertices = torch.tensor(solid.triangles.reshape(-1, 3), dtype=torch.float32) + torch.tensor(
        [0, 0.5, 0]
    )
    front = torch.tensor(np.repeat(normals[:, 2] > 0.5, 3))
    return Mesh(vertices, torch.arange(36).view(12, 3), torch.where(front[:, None], ORANGE, BLUE))


def textured():
    mesh = box()
    front = mesh.colors[:, 0] > 0.5
    v = torch.where(front, 0.25, 0.75)
    texture = torch.cat([ORANGE.expand(4, 8, 3), BLUE.expand(4, 8, 3)])
    return replace(mesh, uvs=torch.stack([torch.full_like(v, 0.5), v], -1), texture=texture)


def load(path):
    return trimesh.load(path, process=False, force="mesh")


def colors_at(mesh):
    """sRGB 0..1 at the vertices, from whatever the file has."""
    if mesh.visual.kind == "texture" and mesh.visual.uv is not None:
        material = mesh.visual.material
        image = getattr(material, "baseColorTexture", None) or material.image
        return trimesh.visual.color.uv_to_color(mesh.visual.uv, image)[:, :3] / 255
    return np.asarray(mesh.visual.vertex_colors)[:, :3] / 255


@pytest.mark.parametrize("format", [name for name in FORMATS if name != "usdz"])
@pytest.mark.parametrize("make", [box, textured])
def test_every_format_holds_the_closed_mesh_the_right_way_up(tmp_path, format, make):
    save_mesh(make(), tmp_path / f"a.{format}")
    solid = load(tmp_path / f"a.{format}")
    assert len(solid.faces) == 12
    np.testing.assert_allclose(solid.bounds, [[-0.1, 0.3, -0.3], [0.1, 0.7, 0.3]], atol=1e-6)
    solid.merge_vertices(merge_tex=True, merge_norm=True)
    assert solid.is_watertight and solid.volume == pytest.approx(0.2 * 0.4 * 0.6)


@pytest.mark.parametrize(
    ("format", "make"), [("glb", textured), ("obj", textured), ("obj", box), ("ply", box)]
)
def test_the_front_has_its_colour(tmp_path, format, make):
    save_mesh(make(), tmp_path / f"a.{format}")
    solid = load(tmp_path / f"a.{format}")
    front = np.zeros(len(solid.vertices), bool)
    front[solid.faces[solid.face_normals[:, 2] > 0.5].ravel()] = True
    np.testing.assert_allclose(colors_at(solid)[front], ORANGE.expand(front.sum(), 3), atol=0.005)
    np.testing.assert_allclose(colors_at(solid)[~front], BLUE.expand((~front).sum(), 3), atol=0.005)


def test_a_textured_glb_is_one_file_with_the_picture_inside(tmp_path):
    assert save_mesh(textured(), tmp_path / "a.glb") == [tmp_path / "a.glb"]
    assert [file.name for file in tmp_path.iterdir()] == ["a.glb"]
    material = load(tmp_path / "a.glb").visual.material
    assert material.baseColorTexture.size == (8, 8) and material.metallicFactor == 0
    data = (tmp_path / "a.glb").read_bytes()
    assert b"\x89PNG" in data and b"image/png" in data and b'"uri"' not in data
    assert b"COLOR_0" not in data  # would darken the texture


def test_an_obj_brings_its_material_and_picture(tmp_path):
    files = save_mesh(textured(), tmp_path / "my mug_1_.obj")
    assert [file.name for file in files] == [
        "my mug_1_.obj",
        "my_mug_1_texture.png",
        "my_mug_1_.mtl",
    ]
    assert sorted(file.name for file in tmp_path.iterdir()) == sorted(file.name for file in files)
    assert "map_Kd my_mug_1_texture.png" in files[2].read_text()


@pytest.mark.parametrize("format", ["obj", "ply", "stl"])
def test_scale_and_z_up(tmp_path, format):
    save_mesh(box(), tmp_path / f"a.{format}", scale=100, up_axis="Z")
    solid = load(tmp_path / f"a.{format}")
    np.testing.assert_allclose(solid.bounds, [[-10, -30, 30], [10, 30, 70]], atol=1e-4)
    assert solid.volume > 0
    if format != "stl":
        orange = colors_at(solid)[:, 0] > 0.5
        np.testing.assert_allclose(solid.vertices[orange][:, 1], -30, atol=1e-4)  # the front is -Y


def test_normals_turn_with_the_mesh(tmp_path):
    save_mesh(box(), tmp_path / "a.ply", up_axis="Z")
    solid = load(tmp_path / "a.ply")
    np.testing.assert_allclose(
        solid.vertex_normals[solid.faces[:, 0]], solid.face_normals, atol=1e-5
    )


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (("fbx", 1, "Y"), "format is 'fbx'; choose one of glb, obj, ply, stl"),
        (("obj", 1, "X"), "up_axis is 'X'; choose one of Y, Z"),
        (("obj", 0, "Y"), r"scale is 0; choose a value within 0.0001\.\.10000"),
        (("obj", float("nan"), "Y"), "scale is nan"),
        (("glb", 1, "Z"), "GLB says that Y is up"),
    ],
)
def test_wrong_settings_are_named(arguments, message):
    with pytest.raises(ValueError, match=message):
        check_placing(*arguments)


@pytest.mark.parametrize("format", FORMATS)
def test_a_full_disk_leaves_nothing(tmp_path, full_disk, format):
    with full_disk(400), pytest.raises(OSError):
        save_mesh(textured(), tmp_path / f"a.{format}")
    assert not list(tmp_path.iterdir())


def test_files_that_belong_together_appear_together_or_not_at_all(tmp_path, monkeypatch):
    paths = [tmp_path / name for name in ("a.png", "a.mtl", "a.obj")]
    order = []
    replaced = os.replace

    def failing(source, target):
        order.append(os.path.basename(target))
        if len(order) == 3:
            assert sorted(file.suffix for file in tmp_path.iterdir()) == [".mtl", ".part", ".png"]
            raise OSError(errno.EIO, "the disk is gone")
        replaced(source, target)

    monkeypatch.setattr(os, "replace", failing)
    with pytest.raises(OSError, match="the disk is gone"):
        write_together(dict.fromkeys(paths, b"x"))
    assert order == ["a.png", "a.mtl", "a.obj"] and not list(tmp_path.iterdir())
    monkeypatch.undo()
    write_together({path: path.name.encode() for path in paths})
    assert [path.read_bytes() for path in paths] == [b"a.png", b"a.mtl", b"a.obj"]
    with pytest.raises(ValueError, match="does not exist"):
        write_together({tmp_path / "b.png": b"", tmp_path / "no" / "b.obj": b""})
    assert len(list(tmp_path.iterdir())) == 3


@pytest.mark.parametrize("make", [box, textured])
def test_a_usdz_holds_the_mesh_its_material_and_its_picture(tmp_path, make):
    """As usd-core, the format's own library, reads it."""
    pytest.importorskip("pxr")
    from pxr import Usd, UsdGeom, UsdShade

    mesh = make()
    save_mesh(mesh, tmp_path / "a.usdz")
    stage = Usd.Stage.Open(str(tmp_path / "a.usdz"))
    assert UsdGeom.GetStageUpAxis(stage) == "Y" and UsdGeom.GetStageMetersPerUnit(stage) == 1
    shape = UsdGeom.Mesh(stage.GetPrimAtPath("/Object/Mesh"))
    points = np.array(shape.GetPointsAttr().Get())
    assert np.allclose(points, mesh.vertices, atol=1e-6)
    assert (
        np.array(shape.GetFaceVertexIndicesAttr().Get()).reshape(-1, 3).tolist()
        == mesh.faces.tolist()
    )
    assert np.allclose(shape.GetExtentAttr().Get(), [points.min(0), points.max(0)])
    material, _ = UsdShade.MaterialBindingAPI(shape.GetPrim()).ComputeBoundMaterial()
    surface = material.ComputeSurfaceSource()[0]
    source = surface.GetInput("diffuseColor").GetConnectedSource()[0]
    primvars = UsdGeom.PrimvarsAPI(shape)
    if mesh.texture is None:
        colors = np.array(primvars.GetPrimvar("displayColor").Get())
        linear = np.where(mesh.colors > 0.04045, ((mesh.colors + 0.055) / 1.055) ** 2.4, 0)
        assert np.allclose(colors, linear, atol=1e-5)
        return
    texture = UsdShade.Shader(source.GetPrim())
    assert texture.GetInput("file").Get().path == "texture.png"
    assert texture.GetInput("sourceColorSpace").Get() == "sRGB"
    uv = np.array(primvars.GetPrimvar("st").Get())
    with zipfile.ZipFile(tmp_path / "a.usdz") as archive:
        assert archive.namelist() == ["scene.usdc", "texture.png"]
        for info in archive.infolist():  # stored, and at a multiple of 64, as the format wants it
            assert info.compress_type == zipfile.ZIP_STORED
            head = (tmp_path / "a.usdz").read_bytes()[info.header_offset :][:30]
            extra = int.from_bytes(head[28:30], "little")
            assert (info.header_offset + 30 + len(info.filename) + extra) % 64 == 0
        image = Image.open(io.BytesIO(archive.read("texture.png")))
    at = trimesh.visual.color.uv_to_color(uv, image)[:, :3] / 255
    assert np.allclose(at, mesh.colors, atol=0.01)
