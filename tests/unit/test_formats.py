"""Every format against itself: what comes back, what a picture shows, what is refused, and that no
half file stays.
"""

from __future__ import annotations

import gzip
import json
import re
import struct
import sys

import numpy as np
import pytest
import torch

from distill3d.kernels.cameras.pinhole import turntable
from distill3d.kernels.files import assembly, spz_streams
from distill3d.kernels.files.formats import FORMATS, format_of, load_gaussians, may_hold_gaussians
from distill3d.kernels.files.frame import placed
from distill3d.kernels.files.glb import save_glb
from distill3d.kernels.files.notes import notes
from distill3d.kernels.gaussians.cloud import Gaussians
from distill3d.kernels.gaussians.sh import sh_basis
from distill3d.kernels.rasterizers.rasterize import render

# By format, how far each property may come back from where it was; None where it is not kept.
TOLERANCES = {
    "ply": {
        "means": 1e-6,
        "log_scales": 1e-6,
        "quats": 1e-6,
        "opacities": 1e-6,
        "dc": 1e-6,
        "rest": 1e-6,
    },
    "glb": {
        "means": 1e-6,
        "log_scales": 1e-5,
        "quats": 1e-6,
        "opacities": 1e-6,
        "dc": 1e-6,
        "rest": 1e-6,
    },
    "compressed ply": {
        "means": 6e-4,
        "log_scales": 2e-3,
        "quats": 2e-3,
        "opacities": 3e-3,
        "dc": 1e-2,
        "rest": 0.02,
    },
    "spz": {
        "means": 1.3e-4,
        "log_scales": 0.032,
        "quats": 3e-3,
        "opacities": 3e-3,
        "dc": 0.014,
        "rest": 4e-3,
    },
    "spz 2": {
        "means": 1.3e-4,
        "log_scales": 0.032,
        "quats": 0.09,
        "opacities": 3e-3,
        "dc": 0.014,
        "rest": 4e-3,
    },
    "sog": {
        "means": 2e-5,
        "log_scales": 1e-6,
        "quats": 4e-3,
        "opacities": 3e-3,
        "dc": 1e-6,
        "rest": 0.02,
    },
    "splat": {
        "means": 1e-6,
        "log_scales": 1e-5,
        "quats": 8e-3,
        "opacities": 3e-3,
        "dc": 0.014,
        "rest": None,
    },
}
TOLERANCES["spz 4"] = TOLERANCES["spz"]
TOLERANCES |= {kind: TOLERANCES["glb"] for kind in ("usda", "usdc", "usdz")}
PSNR = {"ply": 80, "glb": 80, "compressed ply": 40, "spz": 38, "spz 2": 36, "splat": 40}
PSNR |= {"spz 4": 38, "sog": 45, "usda": 80, "usdc": 80, "usdz": 80}
# those of one file that are read; usda has the writer and the reader of usdc
FILES = [name for name in FORMATS if name not in ("sog folder", "html", "usda")]


def object_cloud(count=60, degree=3, seed=0):
    """An object without any symmetry: long thin Gaussians of all colours, more of them high, left
    and in front.
    """
    g = torch.Generator().manual_seed(seed)
    means = torch.rand(count, 3, generator=g) ** torch.tensor([2.0, 0.5, 0.7]) - 0.5
    sh = 0.12 * torch.randn(count, (degree + 1) ** 2, 3, generator=g)
    sh[:, 0] = (torch.rand(count, 3, generator=g) * 0.8 - 0.4) / 0.28209
    return Gaussians(
        means=means,
        log_scales=torch.tensor([0.1, 0.03, 0.015]).log()
        + 0.3 * torch.randn(count, 3, generator=g),
        quats=torch.nn.functional.normalize(torch.randn(count, 4, generator=g), dim=-1),
        opacity_logits=2 * torch.randn(count, generator=g) + 1,
        sh=sh,
    )


def in_order(cloud, other):
    """The other cloud's Gaussians, each where its nearest in the cloud is."""
    nearest = torch.cdist(cloud.means.double(), other.means.double()).argmin(1)
    return other.map(lambda value: value[nearest])


def errors(cloud, other):
    normalized = [torch.nn.functional.normalize(c.quats, dim=-1) for c in (cloud, other)]
    signs = (normalized[0] * normalized[1]).sum(-1, keepdim=True).sign()
    found = {
        key: (getattr(cloud, key) - getattr(other, key)).abs()
        for key in ("means", "log_scales", "opacities")
    }
    found["quats"] = (normalized[0] - signs * normalized[1]).abs()
    found["dc"] = (cloud.sh[:, 0] - other.sh[:, 0]).abs()
    if cloud.sh.shape == other.sh.shape and cloud.sh_degree:
        found["rest"] = (cloud.sh[:, 1:] - other.sh[:, 1:]).abs()
    return {key: float(value.max()) for key, value in found.items()}


def saved(cloud, format, folder):
    path = folder / f"object.{FORMATS[format].extension}"
    FORMATS[format].save(cloud, path)
    return path


@pytest.mark.parametrize("degree", [0, 1, 2, 3])
@pytest.mark.parametrize("format", FILES)
def test_a_round_trip_returns_what_the_format_keeps(tmp_path, format, degree):
    cloud = object_cloud(degree=degree)
    path = saved(cloud, format, tmp_path)
    assert format_of(path) == re.sub(r" \d$", "", format)  # other versions of the same
    back = in_order(cloud, load_gaussians(path))
    kept = TOLERANCES[format]
    assert back.sh_degree == (degree if kept["rest"] else 0)
    for key, error in errors(cloud, back).items():
        assert error <= kept[key], key


@pytest.mark.parametrize("format", FILES)
def test_pictures_before_and_after_agree(tmp_path, format):
    cloud = object_cloud(degree=0 if format == "splat" else 3)
    cameras = turntable(4, size=64, elevation=20.0)
    before = render(cloud, cameras).color
    after = render(load_gaussians(saved(cloud, format, tmp_path)), cameras).color
    assert -10 * float((before - after).square().mean().log10()) > PSNR[format]


@pytest.mark.parametrize("format", FILES)
def test_threads_and_stretches_give_the_same_cloud(tmp_path, format, monkeypatch):
    cloud = object_cloud(count=2500, degree=1)
    path = saved(cloud, format, tmp_path)
    whole = load_gaussians(path)
    monkeypatch.setattr(assembly, "STRETCH", 512)
    monkeypatch.setattr(torch, "get_num_threads", lambda: 2)
    for key, value in load_gaussians(path).tensors().items():
        assert torch.equal(value, whole.tensors()[key]), key


@pytest.mark.filterwarnings("error")  # numpy's about 0 / 0, which casts to whole numbers hide
@pytest.mark.parametrize("format", FILES)
def test_extremes_stay_finite(tmp_path, format):
    cloud = object_cloud(count=3, degree=0).map(
        lambda value: value[:1].repeat(3, *[1] * (value.dim() - 1))
    )
    cloud.opacity_logits[:] = torch.tensor([-200.0, 200.0, 0.0])
    cloud.log_scales[0] = -60
    back = load_gaussians(saved(cloud, format, tmp_path)).check()
    assert back.opacities.sort().values.tolist() == pytest.approx([0, 0.5, 1], abs=0.003)
    assert torch.isfinite(back.scales).all()
    torch.testing.assert_close(back.means, cloud.means, atol=2e-4, rtol=0)


@pytest.mark.parametrize("format", FILES)
def test_a_full_disk_leaves_the_old_file_and_nothing_else(tmp_path, full_disk, format):
    path = saved(object_cloud(count=1), format, tmp_path)
    old = path.read_bytes()
    with full_disk(4096), pytest.raises(OSError):
        saved(object_cloud(count=20_000), format, tmp_path)
    assert path.read_bytes() == old
    assert list(tmp_path.iterdir()) == [path]


@pytest.mark.parametrize("format", FILES)
def test_an_invalid_cloud_and_a_missing_folder_are_refused(tmp_path, format):
    cloud = object_cloud()
    with pytest.raises(ValueError, match="does not exist"):
        FORMATS[format].save(cloud, tmp_path / "no" / f"a.{FORMATS[format].extension}")
    cloud.sh[3] = torch.nan
    with pytest.raises(ValueError, match="sh holds 48 values"):
        saved(cloud, format, tmp_path)
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize("format", FILES)
def test_the_same_cloud_gives_the_same_bytes(tmp_path, format):
    first = saved(object_cloud(), format, tmp_path).read_bytes()
    assert saved(object_cloud(), format, tmp_path).read_bytes() == first


@pytest.mark.parametrize("format", [name for name in FILES if name != "splat"])
def test_the_content_decides_not_the_name(tmp_path, format):
    path = saved(object_cloud(), format, tmp_path).rename(tmp_path / "file.bin")
    assert format_of(path) == re.sub(r" \d$", "", format)  # other versions of the same


def test_other_files_are_named(tmp_path):
    (tmp_path / "a.ply").write_bytes(b"\x89PNG\r\n")
    with pytest.raises(
        ValueError, match=r"a\.ply is no splat file .* choose one of \.ply, \.splat, \.spz, \.glb"
    ):
        load_gaussians(tmp_path / "a.ply")


def test_splat_bytes_are_as_the_viewer_reads_them(tmp_path):
    cloud = object_cloud(count=5, degree=0)
    data = saved(cloud, "splat", tmp_path).read_bytes()
    assert len(data) == 160
    for i in range(5):
        x, y, z, *scales, red, green, blue, alpha, w, i_, j, k = struct.unpack_from(
            "<6f8B", data, 32 * i
        )
        assert (x, -y, -z) == pytest.approx(cloud.means[i].tolist())
        assert scales == pytest.approx(cloud.scales[i].tolist())
        assert np.array([red, green, blue]) / 255 == pytest.approx(
            cloud.colors[i].numpy(), abs=0.003
        )
        assert alpha / 255 == pytest.approx(float(cloud.opacities[i]), abs=0.003)
        # Half a turn about X before q: (w, x, y, z) becomes (-x, w, -z, y).
        expected = cloud.quats[i, [1, 0, 3, 2]] * torch.tensor([-1, 1, -1, 1])
        assert (np.array([w, i_, j, k]) - 128) / 128 == pytest.approx(expected.numpy(), abs=0.008)


def test_far_positions_get_fewer_fractional_bits_in_spz(tmp_path):
    cloud = object_cloud(count=2)
    cloud.means[1] = torch.tensor([2e5, -3.0, 7.0])
    path = saved(cloud, "spz", tmp_path)
    assert gzip.decompress(path.read_bytes())[13] == 5
    torch.testing.assert_close(load_gaussians(path).means, cloud.means, atol=2**-6, rtol=0)
    cloud.means[1] = 1e9
    with pytest.raises(ValueError, match=r"reach 1e\+09 units .* Save as ply"):
        saved(cloud, "spz", tmp_path)


def spz_bytes(version, rotation, positions, sh=b"", degree=0, bits=12):
    """One Gaussian by hand: opacity 0.2, red, scale 1, 1, e."""
    head = struct.pack("<IIIBBBB", 0x5053474E, version, 1, degree, bits, 0, 0)
    color = [
        255,
        round((-0.5 / 0.28209479) * 0.15 * 255 + 127.5),
        round((-0.5 / 0.28209479) * 0.15 * 255 + 127.5),
    ]
    return gzip.compress(head + positions + bytes([51, *color, 160, 160, 176]) + rotation + sh)


def test_older_spz_versions_are_read(tmp_path):
    half = np.array([0.25, -0.5, 1.5], "<f2").tobytes()
    fixed = b"".join(int(v * 4096).to_bytes(3, "little", signed=True) for v in (0.25, -0.5, 1.5))
    x_turn = bytes([255, 128, 128])  # half a turn about X: with the frame's own turn, none at all
    for version, positions in ((1, half), (2, fixed)):
        (tmp_path / "a.spz").write_bytes(spz_bytes(version, x_turn, positions))
        cloud = load_gaussians(tmp_path / "a.spz")
        assert cloud.means[0].tolist() == [0.25, 0.5, -1.5]
        assert cloud.log_scales[0].tolist() == [0, 0, 1]
        assert float(cloud.opacities[0]) == pytest.approx(0.2, abs=1e-6)
        assert (
            cloud.colors[0, 1:].tolist() == pytest.approx([0, 0], abs=0.005)
            and cloud.colors[0, 0] > 0.9
        )
        assert cloud.quats[0].abs().tolist() == pytest.approx([1, 0, 0, 0], abs=0.01)


@pytest.mark.parametrize(
    ("data", "message"),
    [
        (gzip.compress(b"nonsense, but enough of it"), "is not an SPZ file"),
        (spz_bytes(5, bytes(4), bytes(9)), "is SPZ version 5; versions 1 to 4 can be read"),
        (spz_bytes(3, bytes(4), bytes(9), degree=9), "SH degree is 9"),
        (spz_bytes(3, bytes(4), bytes(9), bits=40), "40 fractional bits"),
        (
            spz_bytes(3, bytes(3), bytes(9)),
            "is cut off: 4 more bytes of quats were announced, 3 came",
        ),
        (spz_bytes(3, bytes(4), bytes(9))[:-1], "is cut off"),
        (spz_bytes(3, bytes(4), bytes(9))[:-8] + bytes(8), "is a damaged SPZ"),  # the checksum
        (b"NGSP" + struct.pack("<IIBBBBI", 4, 1, 0, 12, 0, 9, 32), "9 streams"),
    ],
)
def test_damaged_spz_files_say_what_is_wrong(tmp_path, data, message):
    pytest.importorskip("zstandard")
    (tmp_path / "a.spz").write_bytes(data)
    with pytest.raises(ValueError, match=r"a\.spz.*(" + message + ")"):
        load_gaussians(tmp_path / "a.spz")


def test_a_gzip_bomb_is_not_unpacked(tmp_path):
    head = struct.pack("<IIIBBBB", 0x5053474E, 3, 400_000_000, 0, 12, 0, 0)
    (tmp_path / "a.spz").write_bytes(gzip.compress(head + bytes(10_000_000)))
    with pytest.raises(
        ValueError, match=r"announces 400000000 Gaussians .* but is only \d+ bytes long"
    ):
        load_gaussians(tmp_path / "a.spz")


@pytest.mark.parametrize("name", ["zlib", "isal.isal_zlib"])
def test_either_inflater_reads_an_spz_and_names_what_is_wrong(tmp_path, monkeypatch, name):
    monkeypatch.setattr(spz_streams, "inflate", pytest.importorskip(name))
    cloud = object_cloud(count=20_000, degree=1)
    path = saved(cloud, "spz", tmp_path)
    content = path.read_bytes()
    back = load_gaussians(path)
    torch.testing.assert_close(back.means, cloud.means, atol=2e-4, rtol=0)
    torch.testing.assert_close(back.sh[:, 1:], cloud.sh[:, 1:], atol=5e-3, rtol=0)
    for damaged, message in (
        (content[: len(content) // 2], "more bytes of .* were announced"),
        (content[:-1], "its end is missing"),
        (content[:-8] + bytes(8), "damaged"),  # the checksum
        (content[:5000] + bytes(2000) + content[7000:], "damaged"),
    ):
        path.write_bytes(damaged)
        with pytest.raises(ValueError, match=r"object\.spz.*" + message):
            load_gaussians(path)


def with_axes(content, code, flags=2):
    """An SPZ whose extension names the axes of that code, after one that nobody knows."""
    raw = gzip.decompress(content)
    # ours say: right, down, front
    assert raw[14] == 2 and raw[-12:] == struct.pack("<III", 0xADBE0003, 4, 6)
    records = struct.pack("<II3s", 0x12340001, 3, b"abc") + struct.pack("<III", 0xADBE0003, 4, code)
    return gzip.compress(raw[:14] + bytes([flags]) + raw[15:-12] + records)


@pytest.mark.parametrize(
    ("code", "axes"), list(enumerate("LDB RDB LUB RUB LDF RDF LUF RUF".split(), 1))
)
def test_an_spz_is_read_by_the_axes_it_names(tmp_path, code, axes):
    cloud = object_cloud(degree=3)
    path = saved(cloud, "spz", tmp_path)
    path.write_bytes(with_axes(path.read_bytes(), code))
    back = load_gaussians(path)
    # The file's numbers are ours seen from right, down, front.
    flips = torch.tensor([1.0 if a == b else -1.0 for a, b in zip(axes, "RDF", strict=True)])
    torch.testing.assert_close(back.means, cloud.means * flips, atol=2e-4, rtol=0)
    turned = flips[:, None] * covariance(cloud) * flips
    torch.testing.assert_close(covariance(back), turned, atol=4e-3, rtol=0.02)
    seen = torch.nn.functional.normalize(
        torch.randn(20, 3, generator=torch.Generator().manual_seed(1)), dim=-1
    )
    before = torch.einsum("dk,nkc->dnc", sh_basis(seen, 3), cloud.sh)
    after = torch.einsum("dk,nkc->dnc", sh_basis(seen * flips, 3), back.sh)
    torch.testing.assert_close(after, before, atol=0.04, rtol=0)


def test_an_spz_that_names_no_axes_is_y_down_and_one_with_z_up_is_refused(tmp_path):
    cloud = object_cloud()
    path = saved(cloud, "spz", tmp_path)
    content = path.read_bytes()
    path.write_bytes(with_axes(content, 4, flags=0))  # without its flag an extension says nothing
    torch.testing.assert_close(load_gaussians(path).means, cloud.means, atol=2e-4, rtol=0)
    for code in (0, 9, 1 << 31):
        path.write_bytes(with_axes(content, code))
        with pytest.raises(
            ValueError,
            match=rf"object\.spz has axes of kind {code}, .* Export it with the axes RUB",
        ):
            load_gaussians(path)


def test_version_4_without_zstandard_names_the_cure(tmp_path, monkeypatch):
    monkeypatch.setitem(sys.modules, "zstandard", None)
    (tmp_path / "a.spz").write_bytes(
        b"NGSP" + struct.pack("<IIBBBBI", 4, 1, 0, 12, 0, 5, 32) + bytes(12)
    )
    with pytest.raises(ValueError, match="pip install zstandard"):
        load_gaussians(tmp_path / "a.spz")


def glb_parts(path):
    """JSON and binary chunk."""
    data = path.read_bytes()
    length = int.from_bytes(data[12:16], "little")
    return json.loads(data[20 : 20 + length]), data[28 + length :]


def write_glb(path, tree, binary):
    text = json.dumps(tree).encode()
    text += b" " * (-len(text) % 4)
    head = struct.pack("<4sIIII", b"glTF", 2, 28 + len(text) + len(binary), len(text), 0x4E4F534A)
    path.write_bytes(head + text + struct.pack("<II", len(binary), 0x004E4942) + binary)


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


def covariance(cloud):
    w, x, y, z = torch.nn.functional.normalize(cloud.quats, dim=-1).unbind(-1)
    rows = [1 - 2 * (y * y + z * z), 2 * (x * y - w * z), 2 * (x * z + w * y)]
    rows += [2 * (x * y + w * z), 1 - 2 * (x * x + z * z), 2 * (y * z - w * x)]
    rows += [2 * (x * z - w * y), 2 * (y * z + w * x), 1 - 2 * (x * x + y * y)]
    scaled = torch.stack(rows, -1).reshape(-1, 3, 3) * cloud.scales[:, None]
    return scaled @ scaled.transpose(1, 2)


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


def test_the_file_chooser_offers_splats_and_no_meshes(tmp_path):
    splat = saved(object_cloud(), "glb", tmp_path)
    corners = torch.tensor([[0.0, 0, 0], [1, 0, 0], [0, 1, 0]])
    save_glb(corners, torch.tensor([[0, 1, 2]]), corners, tmp_path / "mesh.glb")
    (tmp_path / "broken.glb").write_bytes(b"glTF")
    assert may_hold_gaussians(splat)
    assert not may_hold_gaussians(tmp_path / "mesh.glb")
    assert not may_hold_gaussians(tmp_path / "broken.glb")
    with pytest.raises(ValueError, match="may be a mesh"):
        load_gaussians(tmp_path / "mesh.glb")


@pytest.mark.parametrize("format", ["spz", "spz 4"])
def test_of_four_spz_degrees_three_are_kept_and_that_is_told(tmp_path, format):
    if format == "spz 4":
        pytest.importorskip("zstandard")
    cloud = object_cloud(degree=3)
    path = saved(cloud, format, tmp_path)
    before = load_gaussians(path)
    with spz_streams.open_spz(path, "a") as planes:
        parts = {k: planes.read(k, len(cloud) * v) for k, v in planes.sizes.items()}
    more = np.random.default_rng(0).integers(0, 256, (len(cloud), 27), np.uint8)
    parts["sh"] = np.concatenate([parts["sh"].reshape(len(cloud), 45), more], 1).reshape(-1)
    header = np.array([planes.header], spz_streams.HEADER)
    header["degree"] = 4
    write = spz_streams.write_zstandard if format == "spz 4" else spz_streams.write_gzip
    with open(path, "wb") as file:
        write(file, header, [[part] for part in parts.values()], spz_streams.axes_record("RDF"))
    with notes() as heard:
        back = load_gaussians(path)
    assert len(heard) == 1 and "degree 4" in heard[0]
    for key, value in back.tensors().items():
        assert torch.equal(value, before.tensors()[key]), key
