"""Every shipped workflow: valid to ComfyUI's own tool, and running to its end on the embedded prior."""

from __future__ import annotations

import importlib
import json
import subprocess
import sys
from dataclasses import asdict
from pathlib import Path

import numpy as np
import plyfile
import pytest
from harness import prompts
from harness.environment import child_environment

BENCHMARKS = Path(__file__).parents[1] / "benchmarks"
NAMES = sorted(file.stem for file in prompts.WORKFLOWS.glob("*.json"))


@pytest.mark.parametrize("name", NAMES)
def test_workflow_runs_to_its_end(comfyui, quickstart, object_info, name):
    prompt = prompts.reduced(prompts.api_form(prompts.read(name), object_info), steps=3)
    run = comfyui.run(prompt)
    assert run.status == "success", run.error
    for file in run.files:
        assert comfyui.view(file)


def test_stages_of_consistent3d_move_what_they_say(comfyui, quickstart, object_info):
    prompt = prompts.reduced(prompts.api_form(prompts.read("consistent3d"), object_info), steps=3)
    optimized = {prompt[id]["_meta"]["title"]: id for id in prompts.of_type(prompt, "Distill3D_Optimize")}
    stages = [
        next(id for title, id in optimized.items() if title.startswith(f"Optimize: {stage}"))
        for stage in ("coarse", "geometry", "texture")
    ]
    kinds = {id: prompt[prompt[id]["inputs"]["loss"][0]]["inputs"]["preset"] for id in stages}
    assert list(kinds.values()) == ["coarse", "refine", "texture"]
    for id in stages:
        save = {"gaussians": [id, 0], "filename_prefix": f"stages/{id}", "training": False}
        prompt[f"save {id}"] = {"class_type": "Distill3D_SaveGaussians", "inputs": save}
    run = comfyui.run(prompt)
    assert run.status == "success", run.error

    def columns(id, *names):
        (record,) = (file for file in run.files if file["node"] == f"save {id}")
        ply = plyfile.PlyData.read(str(comfyui.output / record["subfolder"] / record["filename"]))
        return np.stack([ply["vertex"][name] for name in names], -1)

    colors = ("f_dc_0", "f_dc_1", "f_dc_2")
    geometry = ("x", "y", "z", "opacity", "scale_0", "scale_1", "scale_2", "rot_0", "rot_1", "rot_2", "rot_3")
    coarse, refined, painted = stages
    assert np.array_equal(columns(coarse, *colors), columns(refined, *colors))
    assert np.array_equal(columns(refined, *geometry), columns(painted, *geometry))
    assert not np.array_equal(columns(coarse, *geometry), columns(refined, *geometry))
    assert not np.array_equal(columns(refined, *colors), columns(painted, *colors))


def test_compare_losses_has_the_settings_that_were_measured(object_info):
    """The benchmark's config "400 steps", field by field."""
    sys.path.insert(0, str(BENCHMARKS))
    plan = importlib.import_module("quality_plan")
    changes = plan.configured("losses", "400 steps")
    prompt = prompts.api_form(prompts.read("compare_losses"), object_info)

    def inputs(kind):
        return prompt[prompts.of_type(prompt, kind)[0]]["inputs"]

    for loss in ("sds", "cds", "vdm"):
        wanted = asdict(plan.build(loss, 400, "auto", changes).loss)
        given = inputs(f"Distill3D_{loss.upper()}Loss")
        shared = {name: value for name, value in given.items() if name in wanted and name != "degradation"}
        assert len(shared) > 8
        for name, value in shared.items():
            if value not in (-1, "from preset"):  # those are the coarse preset's, which are the defaults
                assert value == wanted[name], (loss, name)
    start, loop = inputs("Distill3D_InitGaussians"), inputs("Distill3D_Optimize")
    assert (start["count"], start["scale"]) == (plan.Init().count, plan.Init().scale)
    assert (loop["densify"], loop["lambda_opacity"], loop["lambda_gamut"]) == (False, 1500.0, 20.0)


@pytest.mark.parametrize("name", NAMES)
def test_conversion_agrees_with_comfy_cli(comfy_cli, object_info, tmp_path, name):
    tmp_path.joinpath("info.json").write_text(json.dumps(object_info))
    tmp_path.joinpath("workflow.json").write_text(json.dumps(prompts.read(name)))
    script = (
        "import json; from comfy_cli.workflow_to_api import convert_ui_to_api as convert; "
        "print(json.dumps(convert(json.load(open('workflow.json')), json.load(open('info.json')))))"
    )
    done = subprocess.run(
        [comfy_cli / "python", "-c", script], cwd=tmp_path, env=child_environment(), capture_output=True, text=True
    )
    assert done.returncode == 0, done.stderr
    theirs = json.loads(done.stdout)
    ours = prompts.api_form(prompts.read(name), object_info)
    assert {id: (node["class_type"], node["inputs"]) for id, node in ours.items()} == {
        id: (node["class_type"], node["inputs"]) for id, node in theirs.items()
    }


@pytest.mark.parametrize("name", NAMES)
def test_workflow_is_valid_to_comfy_cli(comfyui, comfy_cli, quickstart, tmp_path, name):
    object_info = comfyui.object_info()  # anew: it lists the files that there are by now
    prompt = prompts.with_embedded_prior(prompts.api_form(prompts.read(name), object_info))
    tmp_path.joinpath("info.json").write_text(json.dumps(object_info))
    tmp_path.joinpath("prompt.json").write_text(json.dumps(prompt))
    command = ["--skip-prompt", "workflow", "validate", "--workflow", "prompt.json", "--input", "info.json"]
    done = subprocess.run(
        [comfy_cli / "comfy", *command],
        cwd=tmp_path, env=child_environment(), capture_output=True, text=True,
    )  # fmt: skip
    assert done.returncode == 0, done.stdout + done.stderr
