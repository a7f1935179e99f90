"""The benchmark of runs that begin from a text: what they begin from, and how their settings are
chosen; no object is made.
"""

import importlib
import json
import sys
from pathlib import Path

import pytest
import torch

from distill3d.kernels.init.text import from_text, load_point_model

BENCHMARKS = Path(__file__).resolve().parents[1] / "benchmarks"


@pytest.fixture(scope="module", autouse=True)
def importable():
    """The scripts import each other as siblings."""
    sys.path.insert(0, str(BENCHMARKS))
    yield
    sys.path.remove(str(BENCHMARKS))


def script(name):
    return importlib.import_module(name)


def row(value, loss, caption, **more):
    return {"loss": loss, "caption": caption, "seed": 0, "steps": 90, "iou": value} | more


def test_a_run_begins_from_a_ball_or_from_what_the_text_says():
    plan, scores = script("quality_plan"), script("quality_score")
    ball = plan.build("sds", 90, "auto", {"init.count": 50}).init
    points = plan.build("sds", 90, "auto", {"init": "text", "init.count": 50}).init
    caption = plan.parse("a red mug")
    clouds = [scores.started(init, caption, 3) for init in (ball, points)]
    wanted = from_text(
        load_point_model(plan.POINTS), "a red mug", 50, torch.Generator().manual_seed(3)
    )
    assert torch.equal(clouds[1].means, wanted.means)
    assert [len(cloud) for cloud in clouds] == [50, 50] and clouds[0].opacities.max() < 0.02
    with pytest.raises(ValueError, match="TextInit has no setting 'radius'"):
        plan.build("sds", 90, "auto", {"init": "text", "init.radius": 1.0})
    with pytest.raises(ValueError, match="init=cube: it is one of ball, text"):
        plan.build("sds", 90, "auto", {"init": "cube"})


def test_the_best_of_a_tuning_sweep_is_measured_with_the_settings_that_its_loss_reads(tmp_path):
    """A hundredth of IoU weighs as much as half a decibel; configs with fewer captions are out."""
    choice = script("quality_choice")
    sets = {"a": {"init": "text"}, "b": {"init": "text", "sds.t_min": 30, "vdm.t_min": 40}}
    sweep = [{"name": name, "losses": ["sds", "vdm"], "set": sets[name]} for name in sets]
    rows = [
        row(iou, loss, caption, config=config, psnr=psnr)
        for config, loss, iou, psnr in (
            ("a", "sds", 0.90, 25.0), ("b", "sds", 0.89, 25.6), ("a", "vdm", 0.90, 25.0),
            ("b", "vdm", 0.89, 25.4),
        )
        for caption in "xy"
    ]  # fmt: skip
    assert choice.chosen(rows, sweep) == {"sds": "b", "vdm": "a"}
    few = [r for r in rows if r["config"] != "b" or r["caption"] == "x"]
    assert choice.chosen(few, sweep) == {"sds": "a", "vdm": "a"}
    files = [tmp_path / name for name in ("rows.json", "sweep.json", "to.json")]
    files[0].write_text(json.dumps({"rows": rows}))
    files[1].write_text(json.dumps(sweep))
    choice.main([str(files[0]), "--sweep", str(files[1]), "--to", str(files[2])])
    found = {(c["name"], *c["losses"]): c for c in json.loads(files[2].read_text())}
    assert found["ball", "sds", "vdm"]["set"] == {}
    assert found["text", "sds"]["set"] == {"init": "text", "sds.t_min": 30}
    assert found["text", "vdm"]["set"] == {"init": "text"}
    assert found["text, 90 steps", "sds"]["steps"] == 90


def test_rows_of_another_model_of_points_are_not_taken_for_the_same(tmp_path, monkeypatch):
    plan = script("quality_plan")

    def fingerprint():
        setup = plan.build("sds", 90, "auto", {"init": "text"})
        return plan.Task("", "sds", None, 0, setup, "").fingerprint

    before = fingerprint()
    other = tmp_path / "points.safetensors"
    other.write_bytes(b"other weights")
    monkeypatch.setattr(plan, "POINTS", other)
    assert fingerprint() != before
