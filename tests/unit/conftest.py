"""How the unit tests run: on one thread, Triton's kernels in its interpreter where there is no
GPU.
"""

import importlib.util
import os
from contextlib import contextmanager

import pytest

# Both are read at imports. More threads only wait for each other over small tensors, most of all on
# a busy machine.
os.environ.setdefault("OMP_NUM_THREADS", "1")
if importlib.util.find_spec("triton") and not os.path.exists("/dev/nvidiactl"):
    os.environ.setdefault("TRITON_INTERPRET", "1")

import torch
from mvdream_priors import mvdream  # noqa: F401
from pipeline_folders import pipeline_folder  # noqa: F401


@pytest.fixture(autouse=True)
def as_many_threads():
    """Other readers' parallel loops (gsply's, by Numba) set them for the whole process."""
    before = torch.get_num_threads()
    yield
    torch.set_num_threads(before)


@pytest.fixture
def full_disk():
    """``with full_disk(bytes)``: no file can grow beyond so many bytes; writes fail part way, as on
    a full disk.

    A context, not the whole test: pytest's own output may be such a file.
    """
    resource = pytest.importorskip("resource")

    @contextmanager
    def limit(size):
        before = resource.getrlimit(resource.RLIMIT_FSIZE)
        resource.setrlimit(resource.RLIMIT_FSIZE, (size, before[1]))
        try:
            yield
        finally:
            resource.setrlimit(resource.RLIMIT_FSIZE, before)

    return limit
