"""Our splat files as PlayCanvas' splat-transform reads them, and its files as we do: axes, colours,
sizes, opacities.

Stored files, made by `splat_transform/make.py`, stand for the tool, so that this needs neither node
nor a network; where the tool is installed, it is asked itself as well.
"""

from __future__ import annotations

import importlib.util
from pathlib import Path

import pytest
import torch

from distill3d.kernels.files.formats import FORMATS, load_gaussians
from distill3d.kernels.files.frame import mirrored
from distill3d.kernels.gaussians.cloud import Gaussians

FOLDER = Path(__file__).resolve().parent / "splat_transform"
spec = importlib.util.spec_from_file_location("splat_transform_make", FOLDER / "make.py")
make = importlib.util.module_from_spec(spec)
spec.loader.exec_module(make)

# How far means, covariances (of size 0.37 at most), opacities, colours and higher harmonics may be
# off.
LIMITS = {
    "compressed ply": (1e-3, 2e-3, 3e-3, 0.01, 0.02),
    "splat": (1e-6, 8e-3, 3e-3, 0.01, None),
    "spz": (1.3e-4, 0.025, 3e-3, 0.015, 5e-3),
    "their compressed.ply": (1e-3, 2e-3, 3e-3, 0.01, 0.02),
    "their spz": (1.3e-4, 0.025, 3e-3, 0.015, 0.07),  # 4 or 5 bits for a harmonic
    "their glb": (1e-6, 1e-6, 1e-6, 1e-6, 1e-6),
}


def covariances(cloud):
    w, x, y, z = torch.nn.functional.normalize(cloud.quats, dim=-1).unbind(-1)
    rows = [1 - 2 * (y * y + z * z), 2 * (x * y - w * z), 2 * (x * z + w * y)]
    rows += [2 * (x * y + w * z), 1 - 2 * (x * x + z * z), 2 * (y * z - w * x)]
    rows += [2 * (x * z - w * y), 2 * (y * z + w * x), 1 - 2 * (x * x + y * y)]
    axes = torch.stack(rows, -1).reshape(-1, 3, 3) * cloud.scales[:, None]
    return axes @ axes.transpose(1, 2)


def assert_shows_the_same(cloud: Gaussians, other: Gaussians, limits):
    """Whatever the order: the same Gaussians, of which covariances tell more than quaternions,
    which are not unique.
    """
    assert len(other) == len(cloud)
    nearest = torch.cdist(cloud.means.double(), other.means.double()).argmin(1)
    other = other.map(lambda value: value[nearest])
    values = [
        (c.means, covariances(c), c.opacities, c.sh[:, 0], c.sh[:, 1:]) for c in (cloud, other)
    ]
    for name, one, two, limit in zip(
        ("means", "covariances", "opacities", "dc", "rest"), *values, limits, strict=True
    ):
        if limit is not None:
            assert float((one - two).abs().max()) <= limit, name


@pytest.mark.parametrize("format", make.OURS)
def test_it_reads_in_our_files_what_we_wrote(tmp_path, format):
    name = f"ours.{FORMATS[format].extension}"
    assert_shows_the_same(
        make.cloud(), load_gaussians(FOLDER / f"{name}.as_read.ply"), LIMITS[format]
    )
    # That was a stored file; what is written today is the same but for rounding.
    FORMATS[format].save(make.cloud(), tmp_path / name)
    for key, value in load_gaussians(tmp_path / name).tensors().items():
        torch.testing.assert_close(
            load_gaussians(FOLDER / name).tensors()[key], value, atol=0.07, rtol=0.01
        )


@pytest.mark.parametrize("suffix", make.THEIRS)
def test_we_read_in_its_files_what_it_wrote(suffix):
    # 2.7.1 wrote it, which meant Y up and did not say so
    up_axis = "Y up" if suffix == "spz" else "auto"
    theirs = load_gaussians(FOLDER / f"theirs.{suffix}", up_axis)
    if suffix == "glb":
        theirs = mirrored(theirs, -1, 1, -1)  # a PLY's front comes out at the back there; up is up
    assert_shows_the_same(make.cloud(), theirs, LIMITS[f"their {suffix}"])


def test_a_wrong_turn_would_be_seen():
    cloud = make.cloud()
    for signs in ((1, -1, -1), (-1, 1, -1), (-1, 1, 1), (1, 1, -1)):
        turned = mirrored(cloud, *signs)
        with pytest.raises(AssertionError, match="means"):
            assert_shows_the_same(cloud, turned, LIMITS["spz"])
        with pytest.raises(AssertionError, match="covariances"):
            assert_shows_the_same(
                cloud,
                Gaussians(
                    cloud.means, turned.log_scales, turned.quats, cloud.opacity_logits, cloud.sh
                ),
                LIMITS["spz"],
            )


@pytest.mark.skipif(not make.PROGRAM.is_file(), reason="needs npm's @playcanvas/splat-transform")
@pytest.mark.parametrize("format", make.OURS)
def test_the_tool_itself_reads_what_we_write_today(tmp_path, format):
    path = tmp_path / f"ours.{FORMATS[format].extension}"
    FORMATS[format].save(make.cloud(), path)
    make.convert(path, tmp_path / "read.ply")
    assert_shows_the_same(make.cloud(), load_gaussians(tmp_path / "read.ply"), LIMITS[format])
