"""SOG and KSPLAT: the layout, what others write, what is refused."""

from __future__ import annotations

import json
import zipfile
from pathlib import Path

import numpy as np
import pytest
import torch
from format_clouds import errors, in_order, object_cloud

from distill3d.kernels.files import codebook
from distill3d.kernels.files.formats import (
    FORMATS,
    format_of,
    load_gaussians,
    may_hold_gaussians,
)
from distill3d.kernels.gaussians.cloud import Gaussians

KSPLATS = Path(__file__).resolve().parent / "ksplat"


@pytest.fixture
def sog(tmp_path):
    FORMATS["sog"].save(object_cloud(degree=1), tmp_path / "a.sog")
    return tmp_path / "a.sog"


def changed(path, change):
    """The same .sog with other JSON, and what ``change`` puts into the dictionary of files."""
    with zipfile.ZipFile(path) as archive:
        files = {name: archive.read(name) for name in archive.namelist()}
    meta = json.loads(files["meta.json"])
    change(meta, files)
    with zipfile.ZipFile(path, "w") as archive:
        for name, data in (files | {"meta.json": json.dumps(meta).encode()}).items():
            archive.writestr(name, data)


def test_a_folder_holds_the_same_and_is_offered_by_its_json_alone(tmp_path):
    cloud = object_cloud()
    FORMATS["sog"].save(cloud, tmp_path / "a.sog")
    FORMATS["sog folder"].save(cloud, tmp_path / "b_00001_.meta.json")
    names = sorted(path.name for path in tmp_path.iterdir())
    assert len(names) == 9 and "b_00001_.means_l.webp" in names
    assert [n for n in names if may_hold_gaussians(tmp_path / n)] == ["a.sog", "b_00001_.meta.json"]
    assert format_of(tmp_path / "b_00001_.meta.json") == "sog folder"
    one, two = (load_gaussians(tmp_path / n) for n in ("a.sog", "b_00001_.meta.json"))
    assert all(torch.equal(value, two.tensors()[key]) for key, value in one.tensors().items())
    (tmp_path / "b_00001_.quats.webp").unlink()
    with pytest.raises(
        ValueError, match=r"b_00001_\.meta\.json names .*quats\.webp', which is not"
    ):
        load_gaussians(tmp_path / "b_00001_.meta.json")


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda m, f: m.pop("version"), "SOG version 1; version 2 is read"),
        (lambda m, f: m.update(count=10**9), "announces 1000000000 Gaussians"),
        (lambda m, f: m.update(count=10_000), "texels where 10000 are needed"),
        (lambda m, f: m.update(count=-1), "count is '-1'"),
        (lambda m, f: m.pop("sh0"), "lacks sh0"),
        (lambda m, f: m["quats"].update(files=["../quats.webp"]), "which is a path"),
        (lambda m, f: m["quats"].update(files=["other.webp"]), "'other.webp' is not in it"),
        (lambda m, f: m["scales"].update(codebook=[1, "a"] * 128), "no finite number"),
        (lambda m, f: m["scales"].update(codebook=[]), "no list of 256 numbers"),
        (lambda m, f: m["scales"].update(codebook=[99] * 256), "at most 20"),
        (lambda m, f: m["means"].update(maxs=[1e5, 1, 1]), "NaN or infinite"),
        (lambda m, f: m["shN"].update(bands=4), "its harmonics"),
        (lambda m, f: f.update({"quats.webp": b"GIF89a"}), "no WebP picture"),
        (lambda m, f: f.update({f"{i}.webp": b"" for i in range(99)}), "64 are read"),
    ],
)
def test_a_damaged_sog_says_what_is_wrong(sog, change, message):
    changed(sog, change)
    with pytest.raises(ValueError, match=rf"a\.sog.*{message}"):
        load_gaussians(sog)


def test_an_archive_that_unpacks_to_more_than_it_may_is_not_unpacked(sog):
    with zipfile.ZipFile(sog) as archive:
        files = {name: archive.read(name) for name in archive.namelist()}
    files["quats.webp"] = bytes(1 << 24)
    with zipfile.ZipFile(sog, "w", zipfile.ZIP_DEFLATED) as archive:
        for name, data in files.items():
            archive.writestr(name, data)
    assert sog.stat().st_size < 1 << 17
    with pytest.raises(ValueError, match=r"'quats\.webp' has 16777216 bytes"):
        load_gaussians(sog)


def test_a_streamed_sog_is_named(tmp_path):
    with zipfile.ZipFile(tmp_path / "a.sog", "w") as archive:
        archive.writestr("lod-meta.json", "{}")
    with pytest.raises(ValueError, match=r"a\.sog is a streamed SOG \(lod-meta\.json\)"):
        load_gaussians(tmp_path / "a.sog")


def test_the_lost_first_number_of_early_codebooks_is_continued_from_the_others(tmp_path, sog):
    before = load_gaussians(sog)
    changed(sog, lambda m, f: m["sh0"]["codebook"].__setitem__(0, None))
    after = load_gaussians(sog)
    assert torch.equal(before.means, after.means)
    assert 0 < float((before.sh - after.sh).abs().max()) < 1


def surface_cloud(count, degree):
    """A ball's surface: flat Gaussians along it, their colours and lights a function of place."""
    g = torch.Generator().manual_seed(0)
    normals = torch.nn.functional.normalize(torch.randn(count, 3, generator=g), dim=-1)
    noise = lambda *shape: torch.randn(count, *shape, generator=g)  # noqa: E731
    waves = torch.sin(normals @ torch.randn(3, 3 * (degree + 1) ** 2, generator=g) * 3)
    half = torch.cat([1 + normals[:, 2:], -normals[:, 1:2], normals[:, :1], 0 * normals[:, :1]], 1)
    return Gaussians(
        means=0.4 * normals + 0.002 * noise(3),
        log_scales=torch.tensor([-5.0, -5.0, -8.0]) + 0.2 * noise(3),
        quats=torch.nn.functional.normalize(half + 0.05 * noise(4), dim=-1),
        opacity_logits=4 + noise(),
        sh=0.2 * waves.reshape(count, -1, 3) + 0.02 * noise((degree + 1) ** 2, 3),
    )


@pytest.mark.parametrize(("degree", "share"), [(0, 5), (3, 12)])
def test_an_object_shrinks_to_a_fifth_and_with_harmonics_to_a_twelfth(tmp_path, degree, share):
    sizes = []
    for format in ("ply", "sog"):
        path = tmp_path / f"a.{format}"
        FORMATS[format].save(surface_cloud(20_000, degree), path)
        sizes.append(path.stat().st_size)
    assert sizes[1] < sizes[0] / share


def test_a_codebook_is_nearly_as_good_as_any():
    g = np.random.default_rng(0)
    values = g.normal(size=30_000).astype(np.float32)
    book = codebook.codebook(values)
    error = np.square(book[codebook.labels_of(values, book)] - values).mean()
    # of a normal distribution no 256 numbers leave less than sqrt(3) pi / 2 / 256^2 (Panter, Dite)
    assert error < 1.1 * np.sqrt(3) * np.pi / 2 / 256**2
    few = np.array([3.0, 1.0, 2.0, 1.0], np.float32)
    assert codebook.codebook(few).tolist() == [1, 2, 3]
    outlier = np.append(values, np.float32(1e6))
    book = codebook.codebook(outlier)
    assert abs(book[codebook.labels_of(outlier, book)] - outlier).max() < 1


@pytest.mark.parametrize("flat", [1 << 26, 0])
def test_a_palette_keeps_clusters_apart_whichever_way_it_is_made(monkeypatch, flat):
    monkeypatch.setattr(codebook, "FLAT", flat)
    g = np.random.default_rng(0)
    centres = g.normal(size=(40, 9)).astype(np.float32)
    rows = centres[g.integers(40, size=4000)] + g.normal(size=(4000, 9)).astype(np.float32) * 1e-3
    found, labels = codebook.palette(rows, 256)
    assert len(found) <= 256
    assert np.abs(found[labels] - rows).max() < 0.01


@pytest.mark.parametrize("level", [0, 1, 2])
def test_what_gaussiansplats3d_wrote_is_read(level):
    """Version 0.4.7 of npm's @mkkellogg/gaussian-splats-3d wrote it of the PLY beside: two clusters,
    so more than one bucket, and harmonics of degree 2.
    """
    cloud = load_gaussians(KSPLATS / "source.ply")
    back = in_order(cloud, load_gaussians(KSPLATS / f"gs3d{level}.ksplat"))
    assert back.sh_degree == 2
    found = errors(cloud, back)
    limits = {"means": 2e-3 if level else 0, "log_scales": 4e-3, "quats": 1e-3}
    limits |= {"opacities": 4e-3, "dc": 0.014, "rest": (1e-6, 1e-3, 7e-3)[level]}
    assert {key for key, error in found.items() if error > limits[key]} == set()


@pytest.mark.parametrize("level", [0, 2])
def test_damaged_ksplats_are_valid_or_named(tmp_path, level):
    content = (KSPLATS / f"gs3d{level}.ksplat").read_bytes()
    path, g, loaded = tmp_path / "a.ksplat", np.random.default_rng(level), 0
    for _ in range(300):
        data = np.frombuffer(content, np.uint8).copy()
        # the bytes of the headers that say something, or any
        places = [*range(48), *range(4096, 4144), *g.integers(5120, len(data), 20)]
        data[g.choice(places, 2)] = g.integers(256, size=2)
        path.write_bytes(data[: len(data) if g.random() < 0.8 else g.integers(len(data))].tobytes())
        try:
            load_gaussians(path).check()
            loaded += 1
        except ValueError as error:
            assert "a.ksplat" in str(error)
    assert 20 < loaded < 280
