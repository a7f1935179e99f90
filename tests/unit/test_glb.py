import pytest
import torch
import trimesh

from distill3d.kernels.files.glb import save_glb
from distill3d.kernels.meshes.color import linear_to_srgb, srgb_to_linear


def sphere(subdivisions=2):
    mesh = trimesh.creation.icosphere(subdivisions)
    vertices = torch.tensor(mesh.vertices, dtype=torch.float32)
    return vertices, torch.tensor(mesh.faces), (vertices + 1) / 2


def load(path):
    (mesh,) = trimesh.load(path, process=False).geometry.values()
    return mesh


def test_a_glb_holds_the_mesh_upright_and_facing_outward(tmp_path):
    vertices, faces, colors = sphere()
    save_glb(vertices, faces, colors, tmp_path / "a.glb")
    mesh = load(tmp_path / "a.glb")
    torch.testing.assert_close(torch.tensor(mesh.vertices, dtype=torch.float32), vertices)
    assert (mesh.faces == faces.numpy()).all()
    assert mesh.is_watertight and mesh.volume > 0
    torch.testing.assert_close(
        torch.tensor(mesh.vertex_normals, dtype=torch.float32), vertices, atol=0.05, rtol=0
    )


def test_colours_are_linear_in_the_file_and_keep_their_precision(tmp_path):
    vertices, faces, colors = sphere()
    colors[0], colors[1], colors[2] = 0.0, 1.0, 0.5
    save_glb(vertices, faces, colors, tmp_path / "a.glb")
    linear = torch.tensor(load(tmp_path / "a.glb").visual.vertex_attributes["color"])
    assert linear[2, 0].item() == pytest.approx(0.21404, abs=1e-5)  # sRGB mid grey
    torch.testing.assert_close(linear_to_srgb(linear), colors, atol=1e-6, rtol=0)


def test_the_material_is_not_metallic(tmp_path):
    save_glb(*sphere(), tmp_path / "a.glb")
    assert load(tmp_path / "a.glb").visual.material.metallicFactor == 0


def test_srgb_and_linear_are_inverse_and_meet_known_values():
    grey = torch.linspace(0, 1, 256)
    torch.testing.assert_close(linear_to_srgb(srgb_to_linear(grey)), grey, atol=1e-6, rtol=1e-5)
    assert srgb_to_linear(torch.tensor(0.04045)).item() == pytest.approx(0.0031308, rel=1e-4)
    assert torch.equal(srgb_to_linear(torch.tensor([0.0, 1.0])), torch.tensor([0.0, 1.0]))


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda v, f, c: (v, f + 1000, c), "within 0..161"),
        (lambda v, f, c: (v, f[:0], c), r"faces have shape \(0, 3\)"),
        (lambda v, f, c: (v, f, c[:5]), r"\(162, 3\) and \(5, 3\)"),
        (lambda v, f, c: (v * torch.nan, f, c), "NaN or infinite"),
    ],
)
def test_bad_meshes_are_named_and_nothing_is_written(tmp_path, change, message):
    with pytest.raises(ValueError, match=message):
        save_glb(*change(*sphere()), tmp_path / "a.glb")
    assert not list(tmp_path.iterdir())


def test_a_full_disk_leaves_the_old_file(tmp_path, full_disk):
    path = tmp_path / "a.glb"
    save_glb(*sphere(1), path)
    old = path.read_bytes()
    with full_disk(2048), pytest.raises(OSError):
        save_glb(*sphere(3), path)
    assert path.read_bytes() == old
    assert len(list(tmp_path.iterdir())) == 1
