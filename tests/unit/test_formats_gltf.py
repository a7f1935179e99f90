"""glTF splats: axes, units, nodes, damage."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from format_clouds import covariance, errors, object_cloud, saved
from glb_files import glb_parts, write_glb

from distill3d.kernels.files.formats import load_gaussians
from distill3d.kernels.files.frame import placed
from distill3d.kernels.gaussians.sh import sh_basis


def glb_planes(tree, binary):
    """Attribute name -> array, read by hand."""
    kinds = {5126: "<f4", 5121: "u1"}
    planes = {}
    for name, index in tree["meshes"][0]["primitives"][0]["attributes"].items():
        entry = tree["accessors"][index]
        view = tree["bufferViews"][entry["bufferView"]]
        raw = binary[view["byteOffset"] : view["byteOffset"] + view["byteLength"]]
        planes[name] = np.frombuffer(raw, kinds[entry["componentType"]]).reshape(entry["count"], -1)
    return planes


def test_glb_is_y_up_with_linear_scales_and_opacities(tmp_path):
    cloud = object_cloud(degree=1)
    tree, binary = glb_parts(saved(cloud, "glb", tmp_path))
    planes = glb_planes(tree, binary)
    prefix = "KHR_gaussian_splatting:"
    assert np.allclose(planes["POSITION"], cloud.means)
    assert np.allclose(planes[prefix + "SCALE"], cloud.scales)
    assert np.allclose(planes[prefix + "ROTATION"], cloud.quats[:, [1, 2, 3, 0]], atol=1e-6)
    assert np.allclose(planes[prefix + "OPACITY"][:, 0], cloud.opacities)
    for term, name in enumerate(("0_COEF_0", "1_COEF_0", "1_COEF_1", "1_COEF_2")):
        assert np.allclose(planes[f"{prefix}SH_DEGREE_{name}"], cloud.sh[:, term])
    assert tree["extensionsUsed"] == ["KHR_gaussian_splatting"]
    assert tree["meshes"][0]["primitives"][0]["mode"] == 0


def test_glb_scales_of_the_drafts_are_logarithms(tmp_path):
    cloud = object_cloud(degree=0)
    path = saved(cloud, "glb", tmp_path)
    tree, binary = glb_parts(path)
    view = tree["bufferViews"][
        tree["meshes"][0]["primitives"][0]["attributes"]["KHR_gaussian_splatting:SCALE"]
    ]
    logs = cloud.log_scales.numpy().astype("<f4").tobytes()
    write_glb(
        path, tree, binary[: view["byteOffset"]] + logs + binary[view["byteOffset"] + len(logs) :]
    )
    torch.testing.assert_close(load_gaussians(path).log_scales, cloud.log_scales)


def test_glb_nodes_place_their_gaussians(tmp_path):
    cloud = object_cloud(degree=3)
    path = saved(cloud, "glb", tmp_path)
    tree, binary = glb_parts(path)
    turn = [0.0, 0.6, 0.0, 0.8]  # about Y
    tree["nodes"] = [
        {"mesh": 0, "rotation": turn, "scale": [2, 2, 2]},
        # Y to Z, then a shift
        {"children": [0], "matrix": [1, 0, 0, 0, 0, 0, 1, 0, 0, -1, 0, 0, 3, 4, 5, 1]},
    ]
    write_glb(path, tree, binary)
    back = load_gaussians(path)
    c, s = 0.8**2 - 0.6**2, 2 * 0.6 * 0.8
    about_y = torch.tensor([[c, 0, s], [0, 1, 0], [-s, 0, c]])
    total = torch.tensor([[1.0, 0, 0], [0, 0, -1], [0, 1, 0]]) @ about_y
    torch.testing.assert_close(
        back.means, 2 * cloud.means @ total.T + torch.tensor([3.0, 4, 5]), atol=1e-5, rtol=1e-5
    )
    torch.testing.assert_close(back.scales, 2 * cloud.scales)
    seen = torch.nn.functional.normalize(
        torch.randn(20, 3, generator=torch.Generator().manual_seed(1)), dim=-1
    )
    before = torch.einsum("dk,nkc->dnc", sh_basis(seen, 3), cloud.sh)
    after = torch.einsum("dk,nkc->dnc", sh_basis(seen @ total.T, 3), back.sh)
    torch.testing.assert_close(after, before, atol=1e-5, rtol=1e-5)
    assert torch.allclose(covariance(back), 4 * total @ covariance(cloud) @ total.T, atol=1e-5)


def test_half_a_turn_about_x_is_the_frame_of_splat_files():
    from distill3d.kernels.files.frame import to_file_frame

    cloud = object_cloud()
    turned, expected = placed(cloud, np.diag([1.0, -1, -1, 1])), to_file_frame(cloud)
    for key, limit in errors(expected, turned).items():
        assert limit < 1e-5, key


def test_two_primitives_become_one_cloud(tmp_path):
    cloud = object_cloud(degree=1)
    path = saved(cloud, "glb", tmp_path)
    tree, binary = glb_parts(path)
    (primitive,) = tree["meshes"][0]["primitives"]
    plain = {k: v for k, v in primitive["attributes"].items() if "DEGREE_1" not in k}
    tree["meshes"].append({"primitives": [primitive | {"attributes": plain}]})
    write_glb(path, tree, binary)
    back = load_gaussians(path)
    assert len(back) == 120
    torch.testing.assert_close(back.sh[:60], cloud.sh)
    assert (back.sh[60:, 1:] == 0).all() and torch.equal(back.sh[60:, 0], back.sh[:60, 0])


def glb_change(change):
    def apply(tree):
        primitive = tree["meshes"][0]["primitives"][0]
        change(tree, primitive, primitive["extensions"]["KHR_gaussian_splatting"])

    return apply


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda t, p, e: t["nodes"][0].update(scale=[1, 2, 1]), "stretches, shears or mirrors"),
        (lambda t, p, e: t["nodes"][0].update(children=[0]), "nodes form a ring"),
        (lambda t, p, e: t.update(nodes=[{"mesh": 0}, {"mesh": 0}]), "several places"),
        (lambda t, p, e: e.update(colorSpace="acescg"), "colorSpace 'acescg' is unknown"),
        (lambda t, p, e: e.update(extensions={"SPZ": {}}), "compressed"),
        (lambda t, p, e: p["attributes"].pop("POSITION"), "'POSITION' is 'None'"),
        (lambda t, p, e: t["accessors"][3].update(count=10**15), "1000000000000000 rows"),
        (lambda t, p, e: t["accessors"][3].update(count=59), "59 to 60 rows"),
        (lambda t, p, e: t["bufferViews"][2].update(byteOffset=-4), "'byteOffset' is -4"),
        (lambda t, p, e: t["bufferViews"][2].update(byteOffset=10**6), "that does not fit"),
        (lambda t, p, e: p.update(extensions={}), "holds no Gaussian splats .* may be a mesh"),
    ],
)
def test_damaged_and_unread_glb_files_say_what_is_wrong(tmp_path, change, message):
    path = saved(object_cloud(degree=0), "glb", tmp_path)
    tree, binary = glb_parts(path)
    glb_change(change)(tree)
    write_glb(path, tree, binary)
    with pytest.raises(ValueError, match=r"object\.glb.*(" + message + ")"):
        load_gaussians(path)
