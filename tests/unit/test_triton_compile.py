"""The Triton kernels compile for an NVIDIA GPU, and are called with what they take; needs Triton, but no GPU.

Triton's interpreter, in which the other tests run, neither types the kernels nor minds a keyword that none of them has.
"""

import os
import subprocess
import sys

import pytest

pytest.importorskip("triton", reason="needs the package triton")

SCRIPT = """
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
    compiled.setdefault(self.fn.__name__, []).append(kernel.asm["ptx"])

JITFunction.run = compile_only
from distill3d.kernels.fast import triton_kernels as kernels
from distill3d.kernels.fast.reference import Norm

draw = lambda *shape: torch.randn(shape, dtype=torch.bfloat16)
x, residual = (draw(1, 128, 16, 16).to(memory_format=torch.channels_last) for _ in range(2))
(weight, shift), rows = draw(2, 128), draw(64, 128)
norm = Norm(weight, shift, 32, 1e-6, True)
total, y, mean, rstd = kernels.forward(x, residual, shift, norm)
kernels.forward(x, None, draw(1, 128), norm)
kernels.backward(total, None, y, residual, norm, mean, rstd)
kernels.backward(x, shift, y, None, norm, mean, rstd)
kernels.add(x, residual, shift)
kernels.layer_norm(rows, shift, weight, shift, 1e-5)
kernels.geglu(rows)
for name, codes in sorted(compiled.items()):
    print(name, min(len(re.findall(r"ld\\.global\\S*\\.v4", code)) for code in codes))
"""


def test_every_kernel_compiles_and_reads_its_pictures_in_pieces_of_16_bytes(tmp_path):
    environment = {**os.environ, "TRITON_CACHE_DIR": str(tmp_path)}
    environment.pop("TRITON_INTERPRET", None)
    command = [sys.executable, "-c", SCRIPT]
    done = subprocess.run(command, env=environment, cwd=tmp_path, capture_output=True, text=True)
    if "No module named 'triton.backends" in done.stderr or "Cannot find ptxas" in done.stderr:
        pytest.skip("this Triton has no NVIDIA compiler")
    assert done.returncode == 0, done.stderr[-2000:]
    wide = dict(line.split() for line in done.stdout.splitlines())
    small = {"_group_moments", "_group_means"}  # they read the sums of a few columns each
    pictures = {"_column_sums", "_normalise", "_gradient_sums", "_gradient", "_add", "_layer_norm", "_geglu"}
    assert set(wide) == small | pictures
    assert all(int(wide[name]) > 0 for name in pictures)
