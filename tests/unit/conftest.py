"""One thread for the small tensors of these tests: more only wait for each other, most of all on a busy machine."""

import os
from contextlib import contextmanager

import pytest

os.environ.setdefault("OMP_NUM_THREADS", "1")  # read when torch is first imported


@pytest.fixture
def full_disk():
    """``with full_disk(bytes)``: no file can grow beyond so many bytes; writes fail part way, as on a full disk.

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
