"""The benchmark of image models at their true shapes: what it gives ComfyUI's loader."""

import importlib
import json
import sys
from pathlib import Path

import pytest
import torch

BENCHMARKS = Path(__file__).resolve().parents[1] / "benchmarks"


@pytest.fixture(scope="module")
def benchmark():
    sys.path.insert(0, str(BENCHMARKS))
    yield importlib.import_module("image_models")
    sys.path.remove(str(BENCHMARKS))


def test_a_scaled_fp8_matrix_is_the_plain_one_to_the_rounding_of_fp8(benchmark):
    plain = torch.randn(8, 16, generator=torch.Generator().manual_seed(0))
    state = benchmark.scaled_fp8({"a.weight": plain, "a.bias": plain[:, 0]}, ["a"])
    assert state["a.weight"].dtype == torch.float8_e4m3fn
    found = state["a.weight"].float() * state["a.weight_scale"]
    torch.testing.assert_close(found, plain, rtol=2**-4, atol=1e-3)
    assert torch.equal(state["a.bias"], plain[:, 0])


def test_the_mark_of_a_quantised_layer_can_be_read_whatever_the_default_device_is(benchmark):
    with torch.device("meta"):
        state = benchmark.scaled_fp8({"a.weight": torch.ones(2, 2, device="cpu")}, ["a"])
    mark = json.loads(state["a.comfy_quant"].numpy().tobytes())
    assert mark == {"format": "float8_e4m3fn", "full_precision_matrix_mult": True}
