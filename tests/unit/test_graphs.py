"""CUDA graphs: the same numbers under every allocator, nothing left behind; and what happens where
they cannot be.
"""

import gc
import os
import subprocess
import sys
import time
import weakref
from contextlib import contextmanager, nullcontext
from pathlib import Path
from types import SimpleNamespace

import pytest
import torch

from distill3d.kernels.fast import graph_trial, graphs
from distill3d.kernels.fast.graphs import Graphed, GraphedGradient, tuned

cuda = pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a CUDA device")
ALLOCATORS = {
    "native": "",
    "expandable": "expandable_segments:True",
    "asynchronous": "backend:cudaMallocAsync",
}


@pytest.fixture
def trial(monkeypatch):
    """A process that has not asked yet whether it may record graphs, and has an asynchronous
    allocator.
    """
    fresh = graph_trial.Trial()
    for name in ("begin", "allowed", "forbid", "state"):
        monkeypatch.setattr(graph_trial, name, getattr(fresh, name))
    monkeypatch.setattr(torch.cuda, "get_allocator_backend", lambda: graph_trial.ASYNCHRONOUS)
    return fresh


def settled(trial):
    """Its answer, once the trial has ended."""
    trial.begin()
    if trial.process is not None:
        trial.process.wait(60)
    return trial.allowed()


def test_torchs_own_allocator_needs_no_trial(trial, monkeypatch):
    monkeypatch.setattr(torch.cuda, "get_allocator_backend", lambda: "native")
    assert trial.allowed() and trial.process is None


def test_another_allocators_graphs_wait_for_a_trial_in_a_process_of_its_own(trial, monkeypatch):
    monkeypatch.setattr(
        graph_trial, "PROGRAM", "import sys; sys.stdin.read(); import time; time.sleep(0.3)"
    )
    assert not trial.allowed()  # while it goes on
    assert settled(trial)


def test_a_trial_that_fails_forbids_graphs_and_the_log_says_why(trial, monkeypatch, caplog):
    monkeypatch.setattr(
        graph_trial, "PROGRAM", "raise SystemExit('RuntimeError: a graph gives wrong numbers')"
    )
    assert not settled(trial) and not trial.allowed()
    (record,) = caplog.records
    assert "ended with 1: RuntimeError: a graph gives wrong numbers" in record.message
    assert "--disable-cuda-malloc" in record.message


def test_a_trial_that_does_not_end_is_ended(trial, monkeypatch, caplog):
    monkeypatch.setattr(graph_trial, "PROGRAM", "import time; time.sleep(60)")
    monkeypatch.setattr(graph_trial, "LONGEST", 0.2)
    trial.begin()
    time.sleep(0.3)
    assert not trial.allowed() and "took more than" in caplog.text
    assert trial.process.wait(10) != 0


def test_graphs_are_off_under_an_allocator_that_is_not_torchs(trial, monkeypatch, caplog):
    monkeypatch.setattr(torch.cuda, "get_allocator_backend", lambda: "pluggable")
    assert not trial.allowed() and trial.process is None and "not torch's" in caplog.text


def test_a_trial_that_wants_memory_is_tried_again_in_a_later_run(trial, monkeypatch, caplog):
    monkeypatch.setattr(
        graph_trial, "PROGRAM", "raise SystemExit('torch.OutOfMemoryError: CUDA out of memory.')"
    )
    assert not settled(trial) and trial.answer is None and "Not enough memory" in caplog.text
    assert not trial.allowed() and trial.process is None  # not at once
    monkeypatch.setattr(graph_trial, "PROGRAM", "")
    assert settled(trial)


def test_a_trial_that_never_finds_memory_is_given_up_and_the_log_says_so_once_each(
    trial, monkeypatch, caplog
):
    monkeypatch.setattr(
        graph_trial, "PROGRAM", "raise SystemExit('torch.OutOfMemoryError: CUDA out of memory.')"
    )
    for _ in range(graph_trial.MOST_TRIES + 2):
        assert not settled(trial)
    told = [record.message for record in caplog.records]
    assert [line for line in told if "3 times there was no memory" in line] == told[1:]
    assert "Not enough memory" in told[0] and len(told) == 2
    assert trial.state() == (
        "without CUDA graphs (3 times there was no memory on the device to try them)"
    )


def test_the_real_trial_fails_where_there_is_another_allocator(trial, monkeypatch):
    """Its program finds the pack and runs: here it has no GPU, or torch's own allocator, and says
    so.
    """
    monkeypatch.delenv("PYTORCH_CUDA_ALLOC_CONF", raising=False)
    assert not settled(trial)
    assert trial.process.returncode == 1
    assert "RuntimeError" in trial._said() or "AssertionError" in trial._said(), trial._said()


@pytest.mark.parametrize("kind", [Graphed, GraphedGradient])
def test_networks_run_without_graphs_until_these_are_allowed(trial, monkeypatch, kind):
    monkeypatch.setattr(graph_trial, "PROGRAM", "import time; time.sleep(1)")
    graphed = kind(lambda x: 3 * x, "network")
    for _ in range(3):
        assert torch.equal(graphed(torch.ones(2, requires_grad=True)), torch.full((2,), 3.0))
    assert not graphed.graphs and graphed.most > 0


class Kept:
    """Something whose end can be seen."""


def test_a_recording_that_fails_leaves_its_tensors_alone_and_is_the_last(trial, monkeypatch):
    """What was allocated inside is held for good, but not what its callers have."""

    @contextmanager
    def broken(*given, **how):
        yield
        raise RuntimeError("operation not permitted when stream is capturing")

    def record():
        inside = Kept()
        seen.append(weakref.ref(inside))
        with graphs.recording(None, torch.device("cuda"), None):
            pass

    def run():
        cloud = Kept()
        seen.append(weakref.ref(cloud))
        with pytest.raises(RuntimeError, match="not permitted"):
            record()

    seen = []
    trial.answer = True
    monkeypatch.setattr(torch.cuda, "graph", broken)
    monkeypatch.setattr(torch.cuda, "stream", lambda stream: nullcontext())
    monkeypatch.setattr(graphs, "recording_stream", lambda device: None)
    monkeypatch.setattr(graphs, "_stranded", [])
    monkeypatch.setattr(torch.cuda, "default_generators", [SimpleNamespace()])
    monkeypatch.setattr(torch.cuda, "current_device", lambda: 0)
    run()
    gc.collect()
    assert [value() is not None for value in seen] == [False, True]
    assert not trial.allowed() and "a recording failed" in trial.state()


@pytest.mark.parametrize(
    ("error", "said"),
    [
        (torch.cuda.OutOfMemoryError("CUDA out of memory"), "micro_batch needs less"),
        (
            RuntimeError("operation not permitted when stream is capturing"),
            "not permitted when stream is capturing",
        ),
    ],
)
def test_an_encoder_of_which_no_graph_can_be_made_runs_without_and_does_not_try_again(
    trial, monkeypatch, caplog, error, said
):
    tries = []

    def no_graph(function, pictures):
        tries.append(1)
        raise error

    trial.answer = True
    monkeypatch.setattr(graphs, "_Pair", no_graph)
    graphed = GraphedGradient(lambda x: 3 * x)
    for _ in range(2):
        pictures = torch.ones(1, 3, 2, 2, requires_grad=True)
        assert torch.autograd.grad(graphed(pictures).sum(), pictures)[0].unique().tolist() == [3.0]
    assert tries == [1] and said in caplog.text


def test_the_search_for_fast_convolutions_ends_with_the_block_that_wants_it():
    before = torch.backends.cudnn.benchmark
    with pytest.raises(RuntimeError), tuned():
        assert torch.backends.cudnn.benchmark
        raise RuntimeError
    assert torch.backends.cudnn.benchmark == before


@cuda
def test_replayed_answers_are_the_networks_whatever_the_batch():
    layer = torch.nn.Conv2d(2, 2, 3, padding=1).cuda()

    def net(z, steps, text):
        return layer(z) * steps[:, None, None, None] + text.mean()

    graphed = Graphed(net, "network")
    for scale in (1.0, 2.0, 3.0):
        for rows in (3, 5):
            given = [
                torch.rand(rows, 2, 8, 8).cuda(),
                scale * torch.arange(rows).cuda(),
                torch.rand(rows, 4, 5).cuda(),
            ]
            torch.testing.assert_close(graphed(*given), net(*given))
    assert len(graphed.graphs) == 2


@cuda
def test_a_replayed_gradient_is_the_functions():
    layer = torch.nn.Conv2d(3, 2, 3).cuda().requires_grad_(False)
    graphed = GraphedGradient(lambda x: layer(x).square())
    for _ in range(3):
        pictures = torch.rand(2, 3, 8, 8, device="cuda", requires_grad=True)
        upstream = torch.rand(2, 2, 6, 6, device="cuda")
        values = [function(pictures) for function in (graphed, lambda x: layer(x).square())]
        torch.testing.assert_close(*values)
        torch.testing.assert_close(
            *(torch.autograd.grad(value, pictures, upstream)[0] for value in values)
        )
    assert len(graphed.graphs) == 1


@cuda
def test_two_answers_before_their_gradients_are_an_error():
    graphed = GraphedGradient(lambda x: x.square())
    pictures = [torch.rand(1, 3, 4, 4, device="cuda", requires_grad=True) for _ in range(2)]
    first, second = (graphed(picture) for picture in pictures)
    torch.testing.assert_close(torch.autograd.grad(second.sum(), pictures[1])[0], 2 * pictures[1])
    with pytest.raises(RuntimeError, match="before the next is asked for"):
        torch.autograd.grad(first.sum(), pictures[0])


@cuda
def test_a_kernel_started_by_address_does_what_it_does_started_as_usual():
    from distill3d.kernels.fast import triton_layers
    from distill3d.kernels.fast.launch import launch_by_address

    rows = torch.randn(33, 64, device="cuda")
    expected, found = triton_layers.geglu(rows), rows.new_empty(33, 32)
    columns = triton_layers.columns_of(32)
    launch_by_address(
        triton_layers._geglu, (2, 1), rows, found, 33, 32, triton_layers.ROWS, columns
    )
    assert torch.equal(found, expected)


@cuda
def test_what_waits_for_the_device_is_found_before_a_recording(caplog):
    graphed = Graphed(lambda x: x * float(x.sum()), "network")
    for _ in range(3):
        assert torch.equal(
            graphed(torch.ones(2, device="cuda")), torch.full((2,), 2.0, device="cuda")
        )
    assert not graphed.graphs and "it runs without" in caplog.text


@cuda
@pytest.mark.parametrize("allocator", ALLOCATORS)
def test_a_run_with_graphs_is_the_run_without_under_every_allocator_and_leaves_nothing(allocator):
    """Two hundred steps of the embedded prior each way, in a process that is alive at its end."""
    variables = {**os.environ, "PYTORCH_CUDA_ALLOC_CONF": ALLOCATORS[allocator]}
    program = Path(__file__).with_name("graphs_under.py")
    done = subprocess.run(
        [sys.executable, program], env=variables, capture_output=True, text=True, timeout=300
    )
    assert done.returncode == 0, done.stdout + done.stderr
    assert "uncaptured free" not in done.stderr


@cuda
@pytest.mark.parametrize("kind", ["Graphed", "GraphedGradient"])
@pytest.mark.parametrize("allocator", ALLOCATORS)
def test_a_process_goes_on_after_a_recording_that_really_fails(allocator, kind):
    variables = {**os.environ, "PYTORCH_CUDA_ALLOC_CONF": ALLOCATORS[allocator]}
    program = Path(__file__).with_name("graphs_failing.py")
    done = subprocess.run(
        [sys.executable, program, kind], env=variables, capture_output=True, text=True, timeout=300
    )
    assert done.returncode == 0, done.stdout + done.stderr
    assert "uncaptured free" not in done.stderr
    assert "a recording failed" in done.stdout and "it runs without" in done.stdout
