"""Init from Shap-E in a running ComfyUI, on a tiny pipeline of random weights."""

from __future__ import annotations

import itertools

import numpy as np
import plyfile
import pytest
from harness.server import PromptRefused
from tiny_prior import write_tiny_prior
from tiny_shap_e import write_tiny_shap_e

KIND = "Distill3D_InitShapE"
fresh_seed = itertools.count(100).__next__  # for runs that ComfyUI must not answer from its cache


@pytest.fixture(scope="module")
def model(comfyui):
    """The name of a Shap-E folder, beside one of Stable Diffusion's kind."""
    folders = comfyui.base / "models" / "diffusers"
    for name, write in (("shapes/tiny", write_tiny_shap_e), ("no-shap-e", write_tiny_prior)):
        if not (folders / name).exists():
            write(folders / name)
    return "shapes/tiny"


@pytest.fixture
def prompt(model):
    def build(**inputs):
        values = {
            "model": model,
            "prompt": "a mug",
            "count": 500,
            "seed": 3,
            "turn": 0.0,
            "steps": 2,
        }
        start = values | {"guidance": 15.0, "opacity": 0.5} | inputs
        save = {"gaussians": ["start", 0], "filename_prefix": "shap-e/start", "training": False}
        return {
            "start": {"class_type": KIND, "inputs": start},
            "save": {"class_type": "Distill3D_SaveGaussians", "inputs": save},
        }

    return build


def saved(comfyui, run):
    assert run.status == "success", run.error
    (record,) = run.files
    return comfyui.output / record["subfolder"] / record["filename"]


def test_only_folders_of_shap_e_are_listed(comfyui, model):
    info = comfyui.object_info()
    spec = info[KIND]["input"]["required"]["model"]
    assert spec[1].get("options", spec[0]) == [model]


def test_a_shape_comes_out_and_comes_out_again(comfyui, prompt):
    seed = fresh_seed()
    first = comfyui.run(prompt(seed=seed))
    rows = plyfile.PlyData.read(str(saved(comfyui, first)))["vertex"].data
    places = np.stack([rows[name] for name in "xyz"], -1)
    assert len(rows) == 500
    assert np.ptp(places, axis=0).max() == pytest.approx(1, abs=0.1)
    assert first.progress("start")[-1] == (3, 3)

    comfyui.free()  # made anew, the same seed gives the same shape
    again = comfyui.run(prompt(seed=seed))
    assert again.started("start") is not None
    assert saved(comfyui, first).read_bytes() == saved(comfyui, again).read_bytes()


def test_cancel_ends_it_between_two_calls(comfyui, prompt):
    asked = []

    def cancel(run):
        if not asked and (progress := run.progress("start")) and progress[-1][0] >= 2:
            asked.append(progress[-1])
            comfyui.interrupt(run.prompt_id)

    run = comfyui.run(prompt(seed=fresh_seed(), steps=1000), on_event=cancel)
    assert run.status == "interrupted"
    assert run.progress("start")[-1][0] < 1000


@pytest.mark.parametrize(
    ("values", "message"),
    [
        (
            {"model": "no-shap-e"},
            "'no-shap-e' is no Shap-E folder below ComfyUI's models/diffusers",
        ),
        ({"model": "(no Shap-E folder yet)"}, "is no Shap-E folder"),
        ({"model": "../shapes"}, "is no Shap-E folder"),
        ({"prompt": "  "}, "The prompt is empty"),
        ({"count": 0}, "count"),
        ({"steps": 0}, "steps"),
    ],
)
def test_refused_before_anything_runs(comfyui, prompt, values, message):
    with pytest.raises(PromptRefused) as refused:
        comfyui.queue(prompt(**values))
    assert message in str(refused.value)


def test_a_folder_that_lost_its_weights_is_named(comfyui, model, prompt):
    folder = comfyui.base / "models" / "diffusers" / "hollow-shap-e"
    folder.mkdir(exist_ok=True)
    folder.joinpath("model_index.json").write_text('{"_class_name": "ShapEPipeline"}')
    try:
        run = comfyui.run(prompt(model="hollow-shap-e"))
    finally:
        folder.joinpath("model_index.json").unlink()
        folder.rmdir()
    assert run.status == "error"
    assert "hollow-shap-e lacks prior/config.json" in run.error and "safetensors" in run.error
