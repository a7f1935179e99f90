"""Every format against itself: what comes back, what a picture shows, what is refused, and that no
half file stays.
"""

from __future__ import annotations

import re

import pytest
import torch
from format_clouds import errors, in_order, object_cloud, saved

from distill3d.kernels.cameras.pinhole import turntable
from distill3d.kernels.files import assembly
from distill3d.kernels.files.formats import FORMATS, format_of, load_gaussians, may_hold_gaussians
from distill3d.kernels.files.glb import save_glb
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
TOLERANCES |= dict.fromkeys(("usda", "usdc", "usdz"), TOLERANCES["glb"])
PSNR = {"ply": 80, "glb": 80, "compressed ply": 40, "spz": 38, "spz 2": 36, "splat": 40}
PSNR |= {"spz 4": 38, "sog": 45, "usda": 80, "usdc": 80, "usdz": 80}
# those of one file that are read; usda has the writer and the reader of usdc
FILES = [name for name in FORMATS if name not in ("sog folder", "html", "usda")]


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
