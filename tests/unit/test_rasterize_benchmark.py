"""The benchmark of the GPU rasterizers, tried out on the CPU: it runs, and its figures belong
together.
"""

import importlib
import json
import sys
from pathlib import Path

import pytest

from distill3d.kernels.rasterizers.rasterize import available

BENCHMARKS = Path(__file__).resolve().parents[1] / "benchmarks"


@pytest.mark.nightly(reason="a benchmark, which compiles all backends at its sizes")
@pytest.mark.skipif(not available("numba"), reason="needs numba, a second backend to compare with")
def test_backends_take_turns_and_are_compared_with_torch(monkeypatch, capsys, tmp_path):
    arguments = (
        "--device cpu --size 20 --counts 40,90 --rounds 1 --repeats 2 --depth --degree 1 --json"
    )
    monkeypatch.setattr(
        sys, "argv", ["rasterize_cuda.py", *arguments.split(), str(tmp_path / "result.json")]
    )
    monkeypatch.syspath_prepend(BENCHMARKS)
    importlib.import_module("rasterize_cuda").main()
    result = json.loads(capsys.readouterr().out.splitlines()[-1])
    assert json.loads((tmp_path / "result.json").read_text()) == result
    assert list(result["cases"]) == ["40", "90"]
    for case in result["cases"].values():
        assert set(case) >= {"torch", "numba"}  # and Triton in its interpreter
        assert set(case["torch"]["error"].values()) == {0.0}
        assert len(case["numba"]["error"]) == 8 and 0 < max(case["numba"]["error"].values()) < 1e-2
        for row in case.values():
            assert row["repeats"] and row["least_ms"] <= row["total_ms"] and row["forward_ms"] > 0
