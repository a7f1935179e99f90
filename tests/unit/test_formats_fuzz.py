"""Damaged splat files of every format: a valid cloud or a clear ValueError, in little time and
memory.
"""

from __future__ import annotations

import gzip
import random
import re
import struct
import time
import tracemalloc

import pytest
import torch
from mutations import MUTATIONS, mutated, mutated_glb, mutated_sog

from distill3d.kernels.files import assembly
from distill3d.kernels.files.formats import FORMATS, load_gaussians
from distill3d.kernels.gaussians.cloud import Gaussians
from distill3d.kernels.rasterizers.rasterize import available

NUMBA = pytest.mark.skipif(not available("numba"), reason="needs numba")
# a folder has the same reader as sog; USD's own library reads its files, and .ply is text enough
FILES = [name for name in FORMATS if name not in ("sog folder", "html", "usda", "usdc", "usdz")]
# bytes, for files of some thousand bytes; what their headers may announce is beyond any memory
MEMORY_LIMIT = 8 << 20
SECONDS_LIMIT = 2.0  # for one file


def small_cloud(degree):
    g = torch.Generator().manual_seed(degree)
    return Gaussians(
        means=torch.randn(7, 3, generator=g),
        log_scales=torch.randn(7, 3, generator=g) - 3,
        quats=torch.nn.functional.normalize(torch.randn(7, 4, generator=g), dim=-1),
        opacity_logits=torch.randn(7, generator=g),
        sh=torch.randn(7, (degree + 1) ** 2, 3, generator=g),
    )


def header_length(format, content):
    if format in ("ply", "compressed ply"):
        return content.index(b"end_header") + 11
    return {
        "splat": 32,
        "spz": 16,
        "spz 2": 16,
        "spz 4": 128,
        "sog": 512,
        "glb": 20 + int.from_bytes(content[12:16], "little"),
    }[format]


def check(path, seen):
    """Load: a valid cloud or an error that names the file. Returns whether it was a cloud."""
    start = time.perf_counter()
    try:
        cloud = load_gaussians(path)
    except ValueError as error:
        assert path.name in str(error) and len(str(error)) > 30, error
        seen.add(re.sub(r"\d+", "0", str(error))[:60])
        return False
    finally:
        assert time.perf_counter() - start < SECONDS_LIMIT
    cloud.check()
    assert torch.isfinite(cloud.scales).all()
    return True


@pytest.mark.parametrize("compiled", [False, pytest.param(True, marks=NUMBA)])
@pytest.mark.parametrize("format", FILES)
def test_a_mutated_file_gives_a_valid_cloud_or_a_clear_error(
    tmp_path, monkeypatch, format, compiled
):
    if compiled:
        if format in ("ply", "glb"):
            pytest.skip("nothing of it is compiled")
        monkeypatch.setattr(assembly, "WORTH_COMPILING", 0)
    rng = random.Random(f"{format} {compiled}")
    kind = FORMATS[format]
    path = tmp_path / f"damaged.{kind.extension}"
    originals = []
    for degree in (0, 1, 3):
        kind.save(small_cloud(degree), path)
        content = path.read_bytes()
        originals.append(content)
    path.write_bytes(originals[-1])
    # imports, tables and compiling, which time and memory below should not count
    load_gaussians(path)
    loaded, seen = 0, set()
    # a round of sog takes pictures apart: fewer, but so many that some load
    rounds = max(200, MUTATIONS // 8) if format == "sog" else MUTATIONS
    tracemalloc.start()
    try:
        for _ in range(rounds):
            original = rng.choice(originals)
            if format == "sog" and rng.random() < 0.8:
                path.write_bytes(mutated_sog(original, rng))
            elif format == "glb" and rng.random() < 0.5:
                path.write_bytes(mutated_glb(original, rng))
            # else nearly all would fail the checksum
            elif format in ("spz", "spz 2") and rng.random() < 0.7:
                raw = gzip.decompress(original)
                path.write_bytes(gzip.compress(mutated(raw, 16, rng), 1))
            else:
                path.write_bytes(mutated(original, header_length(format, original), rng))
            loaded += check(path, seen)
        _, peak = tracemalloc.get_traced_memory()
    finally:
        tracemalloc.stop()
    assert peak < MEMORY_LIMIT
    # Both ends are reached: the mutations neither all pass nor all fail at the first check.
    assert loaded > rounds // 100
    assert len(seen) >= (2 if format == "splat" else 4), seen


@pytest.mark.parametrize("format", FILES)
def test_a_file_cut_off_anywhere_says_so(tmp_path, format):
    kind = FORMATS[format]
    path = tmp_path / f"cut.{kind.extension}"
    kind.save(small_cloud(1), path)
    content = path.read_bytes()
    # the head anywhere; what follows at some hundred places, and everywhere by many mutations
    step = -(-len(content) // (len(content) if MUTATIONS > 500 else 300))
    for length in sorted({*range(min(len(content), 100)), *range(0, len(content), step)}):
        path.write_bytes(content[:length])
        if format == "splat" and length and length % 32 == 0:
            # a whole number of Gaussians, and nothing says that there were more
            assert check(path, set())
        else:
            assert not check(path, set()), length


@pytest.mark.parametrize(
    ("count", "limit"), [(1, 1), (200_000, 32), (3_000_000, 1), ((1 << 32) - 1, 1)]
)
def test_gzip_bombs_take_no_more_memory_than_announced_and_allowed(tmp_path, count, limit):
    path = tmp_path / "bomb.spz"
    header = struct.pack("<IIIBBBB", 0x5053474E, 3, count, 0, 12, 0, 0)
    # some hundred kB that unpack to 60 MB
    path.write_bytes(gzip.compress(header + bytes(60_000_000), 1))
    tracemalloc.start()
    try:
        check(path, set())
        _, peak = tracemalloc.get_traced_memory()
    finally:
        tracemalloc.stop()
    assert peak < limit << 20


@pytest.mark.parametrize(
    "json", [b"[" * 500_000, b'{"a":' * 200_000, b'{"nodes":[' + b"{}," * 500_000 + b"{}]}"]
)
def test_json_bombs_are_refused_soon(tmp_path, json):
    json += b" " * (-len(json) % 4)
    path = tmp_path / "bomb.glb"
    path.write_bytes(
        struct.pack("<4sIIII", b"glTF", 2, 20 + len(json), len(json), 0x4E4F534A) + json
    )
    assert not check(path, set())
