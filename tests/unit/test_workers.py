"""Shares of work on torch's own threads and on plain ones."""

import sys
import threading

import pytest
import torch

from distill3d.kernels.devices import workers


@pytest.fixture(params=["torch's threads", "plain threads"])
def three_threads(request, monkeypatch):
    if request.param == "plain threads":
        monkeypatch.setattr(workers, "openmp", lambda: None)
    elif workers.openmp() is None:
        pytest.skip("torch has no GNU OpenMP here")
    before = torch.get_num_threads()
    torch.set_num_threads(3)
    yield
    torch.set_num_threads(before)


@pytest.mark.parametrize(("limit", "expected"), [(0, 1), (1, 1), (2, 2), (100, 3)])
def test_every_share_is_done_once(three_threads, limit, expected):
    done, lock = [], threading.Lock()

    def kernel(worker, of, name):
        with lock:
            done.append((worker, of, name))

    assert workers.team(limit) == expected
    workers.spread(kernel, limit, "x")
    assert sorted(done) == [(worker, expected, "x") for worker in range(expected)]


def test_shares_run_at_the_same_time(three_threads):
    # breaks, and fails the test, unless all three are there
    together = threading.Barrier(3, timeout=20)
    workers.spread(lambda worker, of: together.wait(), 3)


@pytest.mark.parametrize("failing", [0, 2])
def test_an_error_in_any_share_reaches_the_caller(three_threads, failing):
    def kernel(worker, of):
        if worker == failing:
            raise ArithmeticError(f"share {worker}")

    with pytest.raises(ArithmeticError, match=f"share {failing}"):
        workers.spread(kernel, 3)
    workers.spread(lambda worker, of: None, 3)


@pytest.mark.skipif(
    not sys.platform.startswith("linux"), reason="GNU OpenMP comes with torch for Linux"
)
def test_torch_for_linux_brings_the_threads_it_uses():
    assert workers.openmp().omp_get_max_threads() == torch.get_num_threads()
