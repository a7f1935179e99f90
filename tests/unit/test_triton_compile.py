"""The Triton kernels compile for an NVIDIA GPU, and are called with what they take; needs Triton,
but no GPU.

Triton's interpreter, in which the other tests run, neither types the kernels nor minds a keyword
that none of them has.
"""

import os
import subprocess
import sys

import pytest

pytestmark = pytest.mark.nightly(reason="Triton's compiler")

pytest.importorskip("triton", reason="needs the package triton")

COMPILE_ONLY = """
import re, torch
from triton.backends.compiler import GPUTarget
from triton.runtime.driver import driver
from triton.runtime.jit import JITFunction

class Hopper:
    get_current_device = get_current_stream = lambda self, *_: 0
    get_current_target = lambda self: GPUTarget("cuda", 90, 32)

driver.set_active(Hopper())
run, compiled = JITFunction.run, {}

def compile_only(self, *given, grid, warmup, **options):
    kernel = run(self, *given, grid=grid, warmup=True, **options)
    compiled.setdefault(self.fn.__name__, []).append(kernel)

JITFunction.run = compile_only
"""

NETWORKS = """
from distill3d.kernels.fast import triton_layers, triton_norm
from distill3d.kernels.fast.reference import Norm

draw = lambda *shape: torch.randn(shape, dtype=torch.bfloat16)
x, residual = (draw(1, 128, 16, 16).to(memory_format=torch.channels_last) for _ in range(2))
(weight, shift), rows = draw(2, 128), draw(64, 128)
norm = Norm(weight, shift, 32, 1e-6, True)
total, y, mean, rstd = triton_norm.forward(x, residual, shift, norm)
triton_norm.forward(x, None, draw(1, 128), norm)
triton_norm.backward(total, None, y, residual, norm, mean, rstd)
triton_norm.backward(x, shift, y, None, norm, mean, rstd)
triton_layers.add(x, residual, shift)
triton_layers.layer_norm(rows, shift, weight, shift, 1e-5)
triton_layers.geglu(rows)
for name, variants in sorted(compiled.items()):
    print(name, min(len(re.findall(r"ld\\.global\\S*\\.v4", kernel.asm["ptx"])) for kernel in variants))
"""


RASTERIZER = """
from distill3d.kernels.rasterizers.triton import rasterize as triton_raster
from distill3d.kernels.cameras.pinhole import turntable
from distill3d.kernels.gaussians.cloud import Gaussians

bins = triton_raster.bin_pairs

def bin_nothing(means2d, shapes, depths, boxes, counts, *sizes):  # what no kernel has written is no number of tiles
    return bins(means2d, shapes, depths.zero_(), boxes, counts.zero_(), *sizes)

triton_raster.bin_pairs = bin_nothing
for full in (True, False):
    shapes = (3,), (3,), (4,), (), (4 if full else 1, 3)
    cloud = Gaussians(*(torch.rand(50, *shape, requires_grad=True) for shape in shapes))
    layers = triton_raster.rasterize_triton(cloud, turntable(2, size=40), full, full)
    sum(layer.sum() for layer in (layers.color, layers.alpha, layers.depth) if layer is not None).backward()
for name, variants in sorted(compiled.items()):
    print(name, len(variants), max(kernel.metadata.shared for kernel in variants))
"""


def words_of(script, folder):
    """What the script prints when compiling alone, as one list of words per line."""
    environment = {**os.environ, "TRITON_CACHE_DIR": str(folder)}
    environment.pop("TRITON_INTERPRET", None)
    command = [sys.executable, "-c", COMPILE_ONLY + script]
    done = subprocess.run(command, env=environment, cwd=folder, capture_output=True, text=True)
    if "No module named 'triton.backends" in done.stderr or "Cannot find ptxas" in done.stderr:
        pytest.skip("this Triton has no NVIDIA compiler")
    assert done.returncode == 0, done.stderr[-2000:]
    return [line.split() for line in done.stdout.splitlines()]


def test_every_kernel_compiles_and_reads_its_pictures_in_pieces_of_16_bytes(tmp_path):
    wide = dict(words_of(NETWORKS, tmp_path))
    small = {"_group_moments", "_group_means"}  # they read the sums of a few columns each
    pictures = {
        "_column_sums",
        "_normalise",
        "_gradient_sums",
        "_gradient",
        "_add",
        "_layer_norm",
        "_geglu",
    }
    assert set(wide) == small | pictures
    assert all(int(wide[name]) > 0 for name in pictures)


def test_the_rasterizer_compiles_and_its_pixels_keep_to_their_lanes(tmp_path):
    # A tile's pixels are 512 bytes; as much shared memory would mean that they change places at
    # every Gaussian.
    found = {
        name: (int(variants), int(shared))
        for name, variants, shared in words_of(RASTERIZER, tmp_path)
    }
    assert set(found) == {
        *(
            "_project",
            "_fill",
            "_pack",
            "_composite",
            "_composite_back",
            "_sum_entries",
            "_pull_back",
        )
    }
    assert all(variants == 2 for variants, _ in found.values())
    assert max(found["_composite"][1], found["_composite_back"][1]) < 512
