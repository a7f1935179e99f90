"""Splat files as other programs write them: which way is up, what they leave out, what is wrong in
a few rows.
"""

from __future__ import annotations

import json

import numpy as np
import pytest
import torch
from format_clouds import object_cloud, saved
from glb_files import glb_parts, write_glb

from distill3d.kernels.files.formats import (
    UP_AXES,
    load_gaussians,
    may_hold_gaussians,
    may_hold_mesh,
)
from distill3d.kernels.files.frame import from_file_frame, placed
from distill3d.kernels.files.notes import notes
from distill3d.kernels.gaussians.cloud import SH_C0

N = 8
AS_IT_STANDS = {"Y up": lambda x, y, z: (x, y, z), "Y down": lambda x, y, z: (x, -y, -z)}
AS_IT_STANDS["Z up"] = lambda x, y, z: (x, z, -y)


def columns(*without, **more):
    g = np.random.default_rng(0)
    names = ["x", "y", "z", "f_dc_0", "f_dc_1", "f_dc_2", "opacity", "rot_0", "rot_1", "rot_2"]
    found = {name: g.normal(size=N).astype("f4") for name in [*names, "rot_3"]}
    found |= {f"scale_{i}": g.normal(-3, 0.3, N).astype("f4") for i in range(3)}
    return {key: value for key, value in (found | more).items() if key not in without}


def write(path, table, comments=(), after="", tail=b""):
    names = {"f": "float", "B": "uchar", "H": "ushort"}
    head = "ply\nformat binary_little_endian 1.0\n" + "".join(f"comment {c}\n" for c in comments)
    head += f"element vertex {N}\n"
    head += "".join(f"property {names[v.dtype.char]} {key}\n" for key, v in table.items())
    rows = np.rec.fromarrays(list(table.values()), names=list(table))
    path.write_bytes(f"{head}{after}end_header\n".encode() + rows.tobytes() + tail)
    return path


def test_up_axis_turns_places_rotations_and_harmonics_alike(tmp_path):
    cloud = object_cloud(degree=3)
    for format, habit in (("ply", "Y down"), ("spz", "Y down"), ("glb", "Y up"), ("sog", "Y down")):
        path = saved(cloud, format, tmp_path)
        stands = load_gaussians(path, "Y up")
        for up_axis in UP_AXES[1:]:
            x, y, z = AS_IT_STANDS[up_axis](*stands.means.unbind(1))
            turned = load_gaussians(path, up_axis)
            torch.testing.assert_close(turned.means, torch.stack([x, y, z], 1), atol=1e-6, rtol=0)
        auto = load_gaussians(path)
        for key, value in load_gaussians(path, habit).tensors().items():
            if key == "quats":
                value = value * (value * auto.quats).sum(1, keepdim=True).sign()
            torch.testing.assert_close(value, auto.tensors()[key], atol=1e-5, rtol=0)
    with pytest.raises(ValueError, match="up_axis is 'up'; choose one of auto, Y up"):
        load_gaussians(path, "up")


@pytest.mark.parametrize(
    ("comment", "expected"),
    [
        ("Vertical Axis: z", "Z up"),
        ("Vertical axis: y", "Y down"),
        ("Vertical axis: 0 1 0", "Y up"),
        ("Vertical axis: 0.02 -0.99 0.1", "Y down"),
        ("Vertical axis: 0 0 1", "Z up"),
    ],
)
def test_the_comment_of_a_ply_says_which_way_is_up(tmp_path, comment, expected):
    """nerfstudio writes the first; Brush wrote the second in every file, whatever was up."""
    path = write(tmp_path / "a.ply", columns(), [comment])
    told = load_gaussians(path)
    assert torch.equal(told.means, load_gaussians(path, expected).means)


def test_an_spz_4_that_does_not_say_is_taken_for_y_down_and_asks(tmp_path):
    pytest.importorskip("zstandard")
    cloud = object_cloud()
    path = saved(cloud, "spz 4", tmp_path)
    with notes() as heard:
        load_gaussians(path)
    assert not heard
    data = bytearray(path.read_bytes())
    assert data[14] == 2
    data[14] = 0  # its record of axes is there, but nothing says so
    path.write_bytes(data)
    with notes() as heard:
        back = load_gaussians(path)
    torch.testing.assert_close(back.means, cloud.means, atol=2e-4, rtol=0)
    assert len(heard) == 1 and "choose up_axis Y up" in heard[0]
    up = load_gaussians(path, "Y up")
    torch.testing.assert_close(up.means, back.means * torch.tensor([1, -1, -1]))


def test_usd_that_is_z_up_says_so_and_stands_up(tmp_path):
    pxr = pytest.importorskip("pxr")
    from pxr import Usd, UsdGeom

    assert pxr
    cloud = object_cloud(degree=2)
    turn = np.array([[1, 0, 0, 0], [0, 0, -1, 0], [0, 1, 0, 0], [0, 0, 0, 1.0]])
    path = saved(placed(cloud, turn), "usda", tmp_path)
    stage = Usd.Stage.Open(str(path))
    UsdGeom.SetStageUpAxis(stage, UsdGeom.Tokens.z)
    stage.GetRootLayer().Save()
    back = load_gaussians(path)
    torch.testing.assert_close(back.means, cloud.means, atol=1e-5, rtol=0)
    torch.testing.assert_close(back.sh, cloud.sh, atol=1e-5, rtol=0)
    lying = load_gaussians(path, "Y up")
    torch.testing.assert_close(lying.means, placed(cloud, turn).means, atol=1e-5, rtol=0)


def test_usd_that_names_other_files_is_refused(tmp_path):
    pytest.importorskip("pxr")
    (tmp_path / "a.usda").write_text("#usda 1.0\n(\n    subLayers = [@/etc/b.usda@]\n)\n")
    with pytest.raises(ValueError, match=r"a\.usda takes '/etc/b\.usda' in, which is not read"):
        load_gaussians(tmp_path / "a.usda")


@pytest.mark.parametrize(
    ("table", "told", "check"),
    [
        (
            columns("f_dc_0", "f_dc_1", "f_dc_2", red=np.full(N, 51, "u1"), green=np.full(N, 0, "u1"),
                    blue=np.full(N, 255, "u1")),
            "plain colours",
            lambda c: torch.allclose(c.colors, torch.tensor([0.2, 0.0, 1.0]), atol=1e-5),
        ),
        (
            columns("scale_2"),
            "surfels",
            lambda c: bool((c.log_scales[:, 2] < c.log_scales[:, :2].amin(1) - 6).all()),
        ),
        (
            columns("scale_1", "scale_2", "rot_0", "rot_1", "rot_2", "rot_3"),
            "no rotations: taken as none; one size",
            lambda c: torch.equal(c.log_scales[:, 0], c.log_scales[:, 2]),
        ),
        (columns("opacity"), "no opacities", lambda c: bool((c.opacities > 0.98).all())),
        (
            columns(**{f"f_rest_{i}": np.full(N, i, "f4") for i in range(72)}),
            "degree 4",
            lambda c: c.sh[0, 1:, 1].abs().tolist() == list(range(24, 39)),
        ),
    ],
)  # fmt: skip
def test_what_a_ply_lacks_is_told_and_made_good(tmp_path, table, told, check):
    path = write(tmp_path / "a.ply", table)
    with notes() as heard:
        cloud = load_gaussians(path).check()
    assert len(heard) == 1 and told in heard[0] and heard[0].startswith("a.ply has ")
    assert check(cloud)
    assert may_hold_gaussians(path) and not may_hold_mesh(path)


@pytest.mark.parametrize(
    ("comment", "told"),
    [
        ("SplatRenderMode: mip", "SplatRenderMode mip"),
        ("antialiased 1", "with antialiasing"),
        ("SplatRenderMode: default", None),
        ("antialiased 0", None),
    ],
)
def test_another_way_of_drawing_is_told(tmp_path, comment, told):
    with notes() as heard:
        load_gaussians(write(tmp_path / "a.ply", columns(), [comment]))
    assert heard == [] if told is None else (len(heard) == 1 and told in heard[0])


@pytest.mark.parametrize(
    ("key", "value"),
    [("x", np.nan), ("f_dc_1", np.nan), ("rot_1", np.inf), ("y", -np.inf), ("scale_0", 25.0)],
)
def test_a_bad_row_is_left_out_and_counted(tmp_path, key, value):
    table = columns()
    whole = load_gaussians(write(tmp_path / "a.ply", table))
    table[key][[1, 5]] = value
    with notes() as heard:
        cloud = load_gaussians(write(tmp_path / "a.ply", table))
    assert heard == [
        "a.ply: 2 of 8 Gaussians hold numbers that are NaN, infinite or beyond all scale; they are"
        " left out."
    ]
    kept = [0, 2, 3, 4, 6, 7]
    for name, tensor in cloud.tensors().items():
        assert torch.equal(tensor, whole.tensors()[name][kept])


def test_a_file_mostly_of_bad_rows_is_refused(tmp_path):
    table = columns()
    table["z"][:5] = np.nan
    with pytest.raises(ValueError, match="means holds 5 values that are NaN"):
        load_gaussians(write(tmp_path / "a.ply", table))
    table = columns(scale_0=np.full(N, 30, "f4"))
    with pytest.raises(ValueError, match="at most 20"):
        load_gaussians(write(tmp_path / "a.ply", table))


def srgb(value):
    return 12.92 * value if value <= 0.0031308 else 1.055 * value ** (1 / 2.4) - 0.055


def test_linear_colours_of_gltf_become_srgb(tmp_path):
    cloud = object_cloud(degree=1)
    path = saved(cloud, "glb", tmp_path)
    tree, binary = glb_parts(path)
    settings = tree["meshes"][0]["primitives"][0]["extensions"]["KHR_gaussian_splatting"]
    settings["colorSpace"] = "lin_rec709_display"
    write_glb(path, tree, binary)
    with notes() as heard:
        back = load_gaussians(path)
    assert len(heard) == 1 and "linear colours" in heard[0]
    expected = [[srgb(max(0.0, v)) for v in row] for row in cloud.colors.tolist()]
    torch.testing.assert_close(back.colors, torch.tensor(expected), atol=1e-4, rtol=0)
    # where a small harmonic adds to the colour, the encoded sum is what is added to
    n, step = 3, 1e-3
    linear = float(cloud.colors[n, 0])
    slope = (srgb(linear + step) - srgb(linear)) / step
    ratio = float(back.sh[n, 2, 0] / cloud.sh[n, 2, 0])
    assert ratio == pytest.approx(slope, rel=0.01)


def test_linear_colours_of_sharp_become_srgb(tmp_path):
    after = "element extrinsic 2\nproperty float extrinsic\nelement color_space 1\n"
    after += "property uchar color_space\n"
    clouds = [
        load_gaussians(
            write(tmp_path / "a.ply", columns(), after=after, tail=bytes(8) + bytes([space]))
        )
        for space in (0, 1)
    ]
    assert torch.equal(clouds[0].colors, 0.5 + SH_C0 * clouds[0].sh[:, 0])
    expected = [[srgb(max(0.0, v)) for v in row] for row in clouds[0].colors.tolist()]
    torch.testing.assert_close(clouds[1].colors, torch.tensor(expected), atol=1e-4, rtol=0)


@pytest.mark.parametrize(
    ("used", "extension", "attributes", "message"),
    [
        (
            "KHR_spz_gaussian_splats_compression",
            {"KHR_spz_gaussian_splats_compression": {"bufferView": 0}},
            {"POSITION": 0},
            "Cesium",
        ),
        (
            "KHR_gaussian_splatting",
            {"KHR_gaussian_splatting": {}},
            {"POSITION": 0, "_ROTATION": 0},
            "first draft",
        ),
        (
            "KHR_gaussian_splatting",
            {"KHR_gaussian_splatting": {"extensions": {"KHR_x_spz_2": {}}}},
            {"POSITION": 0},
            "compressed splats .KHR_x_spz_2",
        ),
    ],
)
def test_drafts_and_compressed_splats_in_gltf_are_named(
    tmp_path, used, extension, attributes, message
):
    path = saved(object_cloud(degree=0), "glb", tmp_path)
    tree, binary = glb_parts(path)
    tree["extensionsUsed"] = [used]
    primitive = tree["meshes"][0]["primitives"][0]
    primitive["extensions"], primitive["attributes"] = extension, attributes
    write_glb(path, json.loads(json.dumps(tree)), binary)
    assert may_hold_gaussians(path) and not may_hold_mesh(path)
    with pytest.raises(ValueError, match=rf"object\.glb holds .*{message}"):
        load_gaussians(path)


def test_what_was_turned_comes_back(tmp_path):
    cloud = object_cloud(degree=3)
    path = saved(from_file_frame(cloud), "ply", tmp_path)  # numbers as our world has them
    for key, value in load_gaussians(path, "Y up").tensors().items():
        torch.testing.assert_close(value, cloud.tensors()[key], atol=1e-5, rtol=0)
