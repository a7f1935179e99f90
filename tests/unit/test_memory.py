"""Runs that cannot fit into memory are refused before they begin, and those that fit are not."""

from __future__ import annotations

import subprocess
import sys

import pytest
import torch
from optimize_runs import haze, run
from safetensors.torch import load_file

from distill3d.kernels.devices import memory as devices
from distill3d.kernels.files.tensors import NAMES, write_tensors
from distill3d.kernels.run import memory
from distill3d.kernels.run.settings import OptimizeSettings

# saves 200 MB where 60 MB more may be had
TIGHT = """
import resource, torch
from distill3d.kernels.files.tensors import write_tensors
value = torch.ones(50_000_000)
write_tensors({path!r}, {{"warm": torch.ones(3)}}, {{}})
used = int(open("/proc/self/statm").read().split()[0]) * resource.getpagesize()
resource.setrlimit(resource.RLIMIT_AS, (used + 60_000_000,) * 2)
write_tensors({path!r}, {{"first": value, "second": value}}, {{}})
"""


class Encoder:
    """A prior whose encoder keeps a known number of bytes for each pixel."""

    name, image_size, downscale, latent_channels = "known", 512, 8, 4
    device, dtype = torch.device("cpu"), torch.float32

    def __init__(self):
        self.weights = torch.ones(1000, 1000)  # kept too, but once

    def encode(self, images, generator=None):
        layers = images.mean(1, keepdim=True).expand(-1, 25, -1, -1)  # 100 bytes a pixel
        squared = layers * 2.0 + 1
        squared = squared.square()
        return squared.flatten(1)[:, :1000] @ self.weights


def test_the_bytes_a_pixel_are_measured_without_those_of_the_weights():
    assert memory.kept_per_pixel(Encoder()) == pytest.approx(100, rel=0.01)


def test_what_cannot_be_measured_is_not_refused(monkeypatch):
    prior = Encoder()
    prior.encode = lambda images: images.reshape(5)
    monkeypatch.setattr(memory, "available_bytes", lambda _: 4 * 512**2 * memory.RENDER + 1)
    memory.check_memory(prior, OptimizeSettings(views=4), "Optimize")


@pytest.mark.parametrize(
    ("available", "settings", "refused"),
    [
        (1_000_000_000, {"views": 4}, False),
        (1_000_000_000, {"views": 4, "image_size": 4096}, True),
        (12_000_000_000, {"views": 4, "image_size": 4096}, False),
        (5_600_000_000, {"views": 4, "image_size": 4096, "micro_batch": 1}, False),
        (None, {"views": 64, "image_size": 4096}, False),
    ],
)
def test_what_fits_is_never_refused_and_what_cannot_fit_is(
    monkeypatch, available, settings, refused
):
    monkeypatch.setattr(memory, "available_bytes", lambda _: available)
    if not refused:
        memory.check_memory(Encoder(), OptimizeSettings(**settings), "Optimize")
        return
    with pytest.raises(ValueError) as caught:
        memory.check_memory(Encoder(), OptimizeSettings(**settings), "Optimize")
    for part in ("image_size 4096 with 4 views", "10 GB", "1.0 GB are free", "image_size to 512"):
        assert part in str(caught.value)


def test_a_run_asks_before_its_first_step(monkeypatch):
    monkeypatch.setattr(memory, "available_bytes", lambda _: 1000)
    with pytest.raises(ValueError, match="Optimize: image_size 16"):
        run(haze(), 2)


def test_the_machines_memory_is_known_here():
    found = devices.available_bytes(torch.device("cpu"))
    assert found is None or found > 10_000_000
    assert devices.available_bytes(torch.device("meta")) is None


def test_a_containers_limit_counts(monkeypatch, tmp_path):
    files = []
    for name, text in (
        ("max", "3000"), ("current", "2500"), ("stat", "anon 2000\ninactive_file 400\n"),
    ):  # fmt: skip
        (tmp_path / name).write_text(text)
        files.append(str(tmp_path / name))
    monkeypatch.setattr(devices, "GROUPS", (tuple(files),))
    assert devices.available_bytes(torch.device("cpu")) == 900
    (tmp_path / "max").write_text("max")
    assert devices.available_bytes(torch.device("cpu")) != 900


def test_tensors_are_written_as_safetensors_reads_them(tmp_path):
    values = {
        str(kind): torch.arange(-3, 4).to(kind).reshape(7, 1).expand(7, 3)  # not contiguous
        for kind in NAMES
    }
    values |= {
        "none": torch.empty(0, 3),
        "scalar": torch.tensor(5),
        "shared": values["torch.int64"],
    }
    write_tensors(tmp_path / "a.safetensors", values, {"a": "b"})
    found = load_file(tmp_path / "a.safetensors")
    assert found.keys() == values.keys()
    for name, value in values.items():
        assert found[name].dtype == value.dtype and torch.equal(found[name], value), name


def test_saving_takes_no_second_copy_of_what_is_saved(tmp_path):
    pytest.importorskip("resource")
    path = str(tmp_path / "a.safetensors")
    done = subprocess.run(
        [sys.executable, "-c", TIGHT.format(path=path)], capture_output=True, text=True
    )
    assert done.returncode == 0, done.stderr
    assert (tmp_path / "a.safetensors").stat().st_size > 400_000_000


HOLES = """
import ctypes, resource
from distill3d.kernels.devices.memory import trim_heap
from pathlib import Path

def resident():
    return int(Path("/proc/self/statm").read_text().split()[1]) * resource.getpagesize() >> 20

libc = ctypes.CDLL("libc.so.6")
libc.malloc.argtypes, libc.malloc.restype = [ctypes.c_size_t], ctypes.c_void_p
libc.free.argtypes = [ctypes.c_void_p]
blocks = [libc.malloc(100_000) for _ in range(1000)]  # of the heap, not mapped one by one
for block in blocks:
    ctypes.memset(block, 1, 100_000)
for block in blocks[:-1]:
    libc.free(block)
before = resident()
trim_heap()
print(before - resident())
"""


@pytest.mark.skipif(sys.platform != "linux", reason="glibc's heap")
def test_holes_in_the_heap_go_back_to_the_system():
    done = subprocess.run([sys.executable, "-c", HOLES], capture_output=True, text=True, check=True)
    assert int(done.stdout) > 80  # MiB, of the 95 that lie before a block that stays
