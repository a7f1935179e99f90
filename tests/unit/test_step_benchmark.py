"""The step benchmark on the CPU with the embedded prior: it runs, adds up and agrees with
float32.
"""

import importlib
import json
import sys
from argparse import Namespace
from pathlib import Path

import pytest

pytestmark = pytest.mark.nightly(reason="a benchmark")
BENCHMARKS = Path(__file__).resolve().parents[1] / "benchmarks"


@pytest.fixture(scope="module")
def step():
    """The scripts import each other as siblings."""
    sys.path.insert(0, str(BENCHMARKS))
    yield importlib.import_module("step")
    sys.path.remove(str(BENCHMARKS))


def test_both_loops_run_and_their_parts_and_gradients_are_reported(step, tmp_path):
    options = Namespace(
        device="cpu", loss=["vdm"], prior="toybox", micro_batch=1, render_backend="torch"
    )
    options.vae_dtype, options.profile = "bfloat16", True  # both are for a GPU
    options.repeats, options.warm, options.no_gradients, options.json = (
        1,
        0,
        False,
        tmp_path / "step.json",
    )
    result = step.run(options, [2, 1], [60])
    assert json.loads(options.json.read_text()) == result
    assert [(row["views"], row["gaussians"]) for row in result["cases"]] == [(2, 60), (1, 60)]
    two, one = result["cases"]
    assert two["tflop"]["unet"] == pytest.approx(2 * one["tflop"]["unet"], abs=2e-3)
    for loop in (two["naive"], two["ours"]):
        assert sum(loop["parts_ms"].values()) == pytest.approx(loop["step_ms"], abs=0.01)
    assert result["cosine"]["vdm"]["fast"]["least"] >= 0.999


def test_a_prior_that_judges_views_together_is_timed_too(step, monkeypatch):
    import step_priors
    from diffusers import AutoencoderKL, UNet2DConditionModel
    from transformers import CLIPTextConfig, CLIPTextModel

    def small(camera):
        unet = UNet2DConditionModel(
            sample_size=16, block_out_channels=(8, 16), layers_per_block=1, cross_attention_dim=16,
            attention_head_dim=2,
            down_block_types=("DownBlock2D", "CrossAttnDownBlock2D"), norm_num_groups=4,
            up_block_types=("CrossAttnUpBlock2D", "UpBlock2D"), class_embed_type="projection",
            projection_class_embeddings_input_dim=camera,
        )  # fmt: skip
        vae = AutoencoderKL(
            block_out_channels=(8, 16), down_block_types=("DownEncoderBlock2D",) * 2,
            up_block_types=("UpDecoderBlock2D",) * 2, norm_num_groups=4,
        )  # fmt: skip
        text = CLIPTextConfig(
            hidden_size=16, intermediate_size=16, num_hidden_layers=1, num_attention_heads=2
        )
        return unet, vae, CLIPTextModel(text)

    monkeypatch.setattr(step_priors, "stable_diffusion_21", small)
    monkeypatch.setitem(step_priors.SIZES, "mvdream-shapes", 32)
    options = Namespace(
        device="cpu",
        loss=["sds"],
        prior="mvdream-shapes",
        micro_batch=0,
        render_backend="torch",
    )
    options.vae_dtype, options.profile, options.no_gradients, options.json = (
        "bfloat16",
        False,
        False,
        None,
    )
    options.repeats, options.warm = 1, 0
    result = step.run(options, [4], [60])
    assert result["image_size"] == 32 and result["cases"][0]["naive"]["step_ms"] > 0
    assert result["cosine"]["sds"]["fast"]["estimate"] >= 0.999


def test_a_cosine_tells_directions_apart(step):
    import torch

    cosine = importlib.import_module("step_agreement").cosine
    a = torch.tensor([[1.0, 2.0], [3.0, 4.0]])
    assert cosine(a, 2 * a) == pytest.approx(1)
    assert cosine(a, torch.tensor([[2.0, -1.0], [4.0, -3.0]])) == pytest.approx(0)
