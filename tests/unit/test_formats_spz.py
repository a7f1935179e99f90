"""The bytes of .splat and .spz files, older and damaged ones too."""

from __future__ import annotations

import gzip
import struct
import sys

import numpy as np
import pytest
import torch
from format_clouds import covariance, object_cloud, saved

from distill3d.kernels.files import spz_streams
from distill3d.kernels.files.formats import load_gaussians
from distill3d.kernels.files.notes import notes
from distill3d.kernels.gaussians.sh import sh_basis


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
    return gzip.compress(
        head + positions + bytes([51, *color, 160, 160, 176]) + rotation + sh, mtime=0
    )


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
        (gzip.compress(b"nonsense, but enough of it", mtime=0), "is not an SPZ file"),
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
