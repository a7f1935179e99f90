"""Our splat files in readers that others wrote, and theirs in ours."""

from __future__ import annotations

import numpy as np
import pytest
import torch
import trimesh
from plyfile import PlyData

from distill3d.kernels.files.formats import FORMATS, load_gaussians
from distill3d.kernels.files.frame import to_file_frame
from distill3d.kernels.gaussians.cloud import Gaussians

# in one worker: gsply compiles for some ten seconds in each process that asks it
pytestmark = pytest.mark.xdist_group("gsply")
SH_DEGREES = [0, 1, 2, 3]

# means, log scales, quaternions, opacities, constant and higher harmonics
EXACT = (1e-6, 1e-5, 1e-6, 1e-5, 1e-6, 1e-6)
COMPRESSED = (1e-3, 3e-3, 3e-3, 3e-3, 0.01, 0.04)
SPZ = (2e-4, 0.04, 4e-3, 3e-3, 0.02, 0.008)
SPZ_2 = (2e-4, 0.04, 0.09, 3e-3, 0.02, 0.008)


@pytest.fixture(scope="module")
def gsply():
    return pytest.importorskip("gsply")


def cloud_of(degree, count=300):
    g = torch.Generator().manual_seed(degree)
    return Gaussians(
        means=torch.rand(count, 3, generator=g) ** torch.tensor([2.0, 0.5, 0.7]) - 0.5,
        log_scales=torch.tensor([0.1, 0.03, 0.015]).log()
        + 0.3 * torch.randn(count, 3, generator=g),
        quats=torch.nn.functional.normalize(torch.randn(count, 4, generator=g), dim=-1),
        opacity_logits=2 * torch.randn(count, generator=g),
        sh=0.2 * torch.randn(count, (degree + 1) ** 2, 3, generator=g).clamp(-3, 3),
    )


def assert_theirs_is(cloud, data, limits):
    """gsply's arrays against a cloud in the file's frame, whatever the order."""
    means = torch.as_tensor(data.means)
    nearest = torch.cdist(cloud.means.double(), means.double()).argmin(1)
    assert len(nearest.unique()) == len(cloud)
    pick = lambda values: torch.as_tensor(values)[nearest]  # noqa: E731
    quats, expected = pick(data.quats), torch.nn.functional.normalize(cloud.quats, dim=-1)
    quats = torch.nn.functional.normalize(quats, dim=-1)
    quats = quats * (quats * expected).sum(-1, keepdim=True).sign()
    pairs = [
        (pick(data.means), cloud.means),
        (pick(data.scales), cloud.log_scales),
        (quats, expected),
    ]
    pairs += [
        (pick(data.opacities).flatten().sigmoid(), cloud.opacities),
        (pick(data.sh0), cloud.sh[:, 0]),
    ]
    if cloud.sh_degree:
        pairs.append((pick(data.shN).reshape(len(cloud), -1, 3), cloud.sh[:, 1:]))
    for (theirs, ours), limit in zip(pairs, limits, strict=False):
        torch.testing.assert_close(theirs, ours, atol=limit, rtol=0)


@pytest.mark.parametrize("degree", SH_DEGREES)
@pytest.mark.parametrize(
    ("format", "limits"),
    [
        ("ply", EXACT),
        ("compressed ply", COMPRESSED),
        ("spz", SPZ),
        ("spz 2", SPZ_2),
        ("spz 4", SPZ),
    ],
)
def test_gsply_reads_ours(tmp_path, gsply, format, limits, degree):
    cloud, path = cloud_of(degree), tmp_path / f"a.{FORMATS[format].extension}"
    FORMATS[format].save(cloud, path)
    read = gsply.read_spz if format.startswith("spz") else gsply.plyread
    assert_theirs_is(to_file_frame(cloud), read(path), limits)


def as_gsply(gsply, cloud):
    values = [cloud.means, cloud.log_scales, cloud.quats, cloud.opacity_logits, cloud.sh[:, 0]]
    means, scales, quats, opacities, sh0 = (value.contiguous().numpy() for value in values)
    rest = cloud.sh[:, 1:].contiguous().numpy()
    return gsply.GSData(
        means=means, scales=scales, quats=quats, opacities=opacities, sh0=sh0, shN=rest
    )


def write_spz(version):
    return lambda gsply, path, data: gsply.write_spz(path, data, version=version)


WRITERS = {
    "ply": (".ply", lambda gsply, path, data: gsply.plywrite(path, data), EXACT),
    "compressed ply": (
        ".compressed.ply",
        lambda gsply, path, data: gsply.plywrite(path, data, compressed=True),
        COMPRESSED,
    ),
    "spz 3": (".spz", write_spz(3), (2e-4, 0.07, 4e-3, 5e-3, 0.04, 0.016)),
    "spz 4": (".spz", write_spz(4), (2e-4, 0.07, 4e-3, 5e-3, 0.04, 0.016)),
}


@pytest.mark.parametrize("degree", SH_DEGREES)
@pytest.mark.parametrize("writer", WRITERS)
def test_we_read_gsplys(tmp_path, gsply, writer, degree):
    if writer == "spz 4":
        pytest.importorskip("zstandard")
    suffix, write, limits = WRITERS[writer]
    cloud = cloud_of(degree)
    # gsply turns nothing
    write(gsply, tmp_path / f"a{suffix}", as_gsply(gsply, to_file_frame(cloud)))
    back = to_file_frame(load_gaussians(tmp_path / f"a{suffix}"))
    data = type("Theirs", (), {"means": back.means, "scales": back.log_scales, "quats": back.quats})
    data.opacities, data.sh0, data.shN = back.opacity_logits, back.sh[:, 0], back.sh[:, 1:]
    assert back.sh_degree == degree
    assert_theirs_is(to_file_frame(cloud), data, limits)


def test_plyfile_reads_the_elements_of_a_compressed_ply(tmp_path):
    FORMATS["compressed ply"].save(cloud_of(2), tmp_path / "a.ply")
    ply = PlyData.read(str(tmp_path / "a.ply"))
    counts = {element.name: (element.count, len(element.properties)) for element in ply.elements}
    assert counts == {"chunk": (2, 18), "vertex": (300, 4), "sh": (300, 24)}
    assert [p.name for p in ply["chunk"].properties][:7] == [
        "min_x", "min_y", "min_z", "max_x", "max_y", "max_z", "min_scale_x",
    ]  # fmt: skip
    means = to_file_frame(cloud_of(2)).means.numpy()
    boxes = ply["chunk"].data
    assert min(boxes["min_y"]) == means[:, 1].min() and max(boxes["max_y"]) == means[:, 1].max()


def test_trimesh_reads_a_glb_as_coloured_points_y_up(tmp_path):
    cloud = cloud_of(1)
    FORMATS["glb"].save(cloud, tmp_path / "a.glb")
    (points,) = trimesh.load(str(tmp_path / "a.glb"), process=False).geometry.values()
    assert np.allclose(points.vertices, cloud.means, atol=1e-6)
    linear = ((cloud.colors.clamp(0, 1).numpy() + 0.055) / 1.055) ** 2.4
    bright = cloud.colors.numpy() > 0.1
    assert np.abs(np.asarray(points.colors)[:, :3] / 255 - linear)[bright].max() < 0.004
