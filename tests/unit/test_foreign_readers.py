"""What other people's readers make of our splat files, and the manual's table of it."""

from __future__ import annotations

import importlib.util

import foreign_readers
import pytest
import torch

from distill3d.kernels.files.formats import load_gaussians
from distill3d.kernels.files.frame import to_file_frame

NIGHTLY = pytest.mark.nightly
MODULES = {"gaussforge": "gaussforge", "gsply": "gsply", "usd-core": "pxr"}
LEAST = {"ply": 80, "usdz": 80, "usdc": 80, "usda": 80}  # dB; 35 of those that lose precision


def there(reader: str) -> bool:
    if reader == "splat-transform":
        return foreign_readers.PACKAGE.is_dir()
    return importlib.util.find_spec(MODULES[reader]) is not None


CASES = [
    pytest.param(reader, format, marks=() if reader == "usd-core" else NIGHTLY)
    for reader, (_, formats) in foreign_readers.READERS.items()
    for format in formats
]


@pytest.mark.parametrize(("reader", "format"), CASES)
def test_it_reads_our_file_upright_with_its_colours_and_harmonics(tmp_path, reader, format):
    if not there(reader):
        pytest.skip(f"{reader} is not installed")
    told = foreign_readers.compared(reader, format, tmp_path)
    assert told["upright"] and (told["harmonics"] or format == "splat")
    assert told["psnr"] >= LEAST.get(format, 35)


@NIGHTLY
def test_the_manuals_table_is_what_the_readers_say(tmp_path):
    readers = list(foreign_readers.READERS)
    if not all(map(there, readers)):
        pytest.skip("not all readers are installed")
    text = foreign_readers.PAGE.read_text("utf-8")
    told = text.partition(foreign_readers.MARK[0])[2].partition(foreign_readers.MARK[1])[0]
    assert told.strip() == foreign_readers.table(readers, tmp_path)


@NIGHTLY
@pytest.mark.parametrize("suffix", ["ply", "sog", "spz", "meta.json"])
def test_we_read_what_splat_transform_of_today_writes(tmp_path, suffix):
    """Its .spz of version 4 names no axes; its palette of harmonics is coarse for few Gaussians."""
    if not there("splat-transform"):
        pytest.skip("splat-transform is not installed")
    import subprocess

    from distill3d.kernels.files.formats import FORMATS

    kept = foreign_readers.cloud(0)
    FORMATS["ply"].save(kept, tmp_path / "a.ply")
    program = foreign_readers.PACKAGE / "bin" / "cli.mjs"
    target = tmp_path / f"b.{suffix}"
    command = ["node", str(program), "-q", "-w", "-g", "cpu", str(tmp_path / "a.ply"), str(target)]
    subprocess.run(command, check=True, capture_output=True)
    assert foreign_readers.decibels(kept, load_gaussians(target)) > 35


@NIGHTLY
@pytest.mark.parametrize("kind", ["ply", "splat", "sog", "spz"])
def test_we_read_what_gaussforge_writes(tmp_path, kind):
    gaussforge = pytest.importorskip("gaussforge")
    from distill3d.kernels.files.formats import FORMATS

    kept = foreign_readers.cloud(0)
    FORMATS["ply"].save(kept, tmp_path / "a.ply")
    told = gaussforge.GaussForge().convert((tmp_path / "a.ply").read_bytes(), "ply", kind)
    (tmp_path / f"b.{kind}").write_bytes(told["data"])
    assert foreign_readers.decibels(kept, load_gaussians(tmp_path / f"b.{kind}")) > 35


def test_a_wrong_turn_would_be_seen():
    kept = foreign_readers.cloud()
    assert foreign_readers.decibels(kept, to_file_frame(kept)) < 25
    squashed = kept.map(lambda value: value.clone())
    squashed.sh[:, 1:] = torch.flip(squashed.sh[:, 1:], [1])
    assert foreign_readers.decibels(kept, squashed) < 35
