"""The step benchmark on the CPU with the embedded prior: it runs, adds up and agrees with float32."""

import importlib
import json
import sys
from argparse import Namespace
from pathlib import Path

import pytest

BENCHMARKS = Path(__file__).resolve().parents[1] / "benchmarks"


@pytest.fixture(scope="module")
def step():
    """The scripts import each other as siblings."""
    sys.path.insert(0, str(BENCHMARKS))
    yield importlib.import_module("step")
    sys.path.remove(str(BENCHMARKS))


def test_both_loops_run_and_their_parts_and_gradients_are_reported(step, tmp_path):
    options = Namespace(device="cpu", loss="vdm", prior="toybox", pictures_at_once=1, render_backend="torch")
    options.vae_dtype, options.profile = "bfloat16", True  # both are for a GPU
    options.repeats, options.warm, options.no_gradients, options.json = 1, 0, False, tmp_path / "step.json"
    result = step.run(options, [2, 1], [60])
    assert json.loads(options.json.read_text()) == result
    assert [(row["views"], row["gaussians"]) for row in result["cases"]] == [(2, 60), (1, 60)]
    two, one = result["cases"]
    assert two["tflop"]["unet"] == pytest.approx(2 * one["tflop"]["unet"], abs=2e-3)
    for loop in (two["naive"], two["ours"]):
        assert sum(loop["parts_ms"].values()) == pytest.approx(loop["step_ms"], abs=0.01)
    assert result["cosine"]["vdm"]["fast"]["least"] >= 0.999


def test_a_cosine_tells_directions_apart(step):
    import torch

    a = torch.tensor([[1.0, 2.0], [3.0, 4.0]])
    assert step.cosine(a, 2 * a) == pytest.approx(1)
    assert step.cosine(a, torch.tensor([[2.0, -1.0], [4.0, -3.0]])) == pytest.approx(0)
