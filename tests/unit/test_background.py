"""Long work in a thread: its progress is shown, its errors come out, a cancel does not wait for
it.
"""

from __future__ import annotations

import threading
import time

import numpy as np
import pytest
import torch
from comfy_stubs import Comfy, Interrupt

from distill3d.kernels.devices import native
from distill3d.kernels.devices.native import NativeError, apart, child
from distill3d.kernels.devices.pace import paced, reached

PARTS = {"first": 0.25, "second": 0.75}


@pytest.fixture
def comfy(monkeypatch, tmp_path):
    made = Comfy(monkeypatch, tmp_path)
    yield made
    made.close()


@pytest.fixture
def background(comfy, monkeypatch):
    module = comfy.load("shared.background")
    monkeypatch.setattr(module, "POLL", 0.01)
    monkeypatch.setattr(module, "PATIENCE", 0.05)
    return module


def test_progress_is_the_share_of_the_parts_and_ordinary_tensors_come_back(comfy, background):
    def make():
        for part in PARTS:
            reached(part, 1.0)
            reached("unknown", 1.0)
            time.sleep(0.1)
        return torch.ones(3)

    with torch.inference_mode():
        made = background.in_background(make, PARTS)
    assert not made.is_inference()
    (bar,) = comfy.bars
    assert {250, 1000} <= set(bar.values) and bar.values == sorted(bar.values)


def test_an_error_in_the_work_is_the_nodes(background):
    def make():
        raise ValueError("the cloud shows no surface")

    with pytest.raises(ValueError, match="no surface"):
        background.in_background(make, PARTS)


def test_a_cancel_does_not_wait_for_a_native_call_and_the_next_work_does(comfy, background):
    release, ended = threading.Event(), []

    def make():
        release.wait(30)  # as a call that cannot be ended
        try:
            reached("first", 1.0)
        except BaseException as error:
            ended.append(type(error).__name__)
            raise
        return "must not appear"

    threading.Timer(0.1, lambda: setattr(comfy, "interrupted", True)).start()
    begin = time.monotonic()
    with pytest.raises(Interrupt):
        background.in_background(make, PARTS)
    assert time.monotonic() - begin < 1.0 and not ended
    # one that comes meanwhile waits, and can be cancelled too
    threading.Timer(0.1, lambda: setattr(comfy, "interrupted", True)).start()
    with pytest.raises(Interrupt):
        background.in_background(lambda: 1, PARTS)
    threading.Timer(0.1, release.set).start()
    assert background.in_background(lambda: 2, PARTS) == 2
    assert ended == ["Abandoned"]


def test_a_call_in_a_process_of_its_own_gives_what_it_gives_here():
    axis = np.linspace(-1, 1, 24, dtype=np.float32)
    x, y, z = np.meshgrid(axis, axis, axis, indexing="ij")
    given = {"volume": np.sqrt(x * x + y * y + z * z) - 0.7}
    here, there = child.march(given), apart("march", given)
    assert here.keys() == there.keys()
    assert all(np.array_equal(here[name], there[name]) for name in here)


def test_its_error_has_the_last_line_of_what_it_said():
    with pytest.raises(NativeError, match="KeyError: 'volume'"):
        apart("march", {})


def test_a_process_that_is_no_longer_wanted_is_ended(monkeypatch):
    started = []
    popen = native.subprocess.Popen

    def noted(*arguments, **options):
        started.append(popen(*arguments, **options))
        return started[-1]

    def ended(part, share):
        raise Interrupt

    monkeypatch.setattr(native.subprocess, "Popen", noted)
    with pytest.raises(Interrupt), paced(ended):
        apart("march", {"volume": np.zeros((8, 8, 8), np.float32)})
    assert started[0].poll() is not None


def test_without_processes_it_runs_here(monkeypatch):
    def refuse(*_, **__):
        raise OSError("no more processes")

    monkeypatch.setattr(native.subprocess, "Popen", refuse)
    volume = np.ones((8, 8, 8), np.float32)
    volume[3:5, 3:5, 3:5] = -1
    assert len(apart("march", {"volume": volume})["faces"]) > 0
