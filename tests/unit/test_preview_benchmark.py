"""The arithmetic of tests/benchmarks/preview.py, on steps whose times are known."""

from __future__ import annotations

import importlib.util
import sys
from pathlib import Path

import pytest

FILE = Path(__file__).resolve().parents[1] / "benchmarks" / "preview.py"
BLOCK = 8


@pytest.fixture(scope="module")
def preview():
    spec = importlib.util.spec_from_file_location("preview_benchmark", FILE)
    module = importlib.util.module_from_spec(spec)
    sys.modules[spec.name] = module
    spec.loader.exec_module(module)
    return module


def seen(preview, cost, known=lambda step: True):
    """A run of 0.1 s a step that grows slower and slower, and takes ``cost`` more wherever a viewer
    is attached.
    """
    run, now = preview.Watched(pictures=[1000, 2000], last={"packing_seconds": 0.02}), 0.0
    for step in range(1, 161):
        now += 0.1 * (1 + step / 1000) * (1 + cost * preview.attached(step - 1, BLOCK))
        if known(step):
            run.times[step] = now
    return run


@pytest.mark.parametrize("cost", [0.0, 0.02, 0.5])
def test_overhead_is_what_attached_steps_take_longer_though_all_grow_slower(preview, cost):
    entry = preview.evaluated(seen(preview, cost), BLOCK)
    assert entry["overhead"] == pytest.approx(cost, abs=0.003 * (1 + cost) ** 2)
    assert entry["low"] <= entry["overhead"] <= entry["high"]
    assert entry["bytes"] == 1500 and entry["pictures"] == 2


def test_steps_that_the_server_did_not_report_are_reckoned_with(preview):
    entry = preview.evaluated(seen(preview, 0.2, known=lambda step: step % 2), BLOCK)
    assert entry["overhead"] == pytest.approx(0.2, abs=0.02)
