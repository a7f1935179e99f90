"""Every shipped workflow: valid to ComfyUI's own tool, and running to its end on the embedded
prior; those that want a model of their own are in test_recipes.
"""

from __future__ import annotations

import importlib
import json
import math
import subprocess
import sys
from dataclasses import asdict
from pathlib import Path

import numpy as np
import plyfile
import pytest
from harness import prompts
from harness.environment import child_environment
from harness.opening import note_height, opening

BENCHMARKS = Path(__file__).parents[1] / "benchmarks"
NAMES = prompts.NAMES


LONG = {
    name: pytest.mark.nightly(reason="many losses; test_baselines runs each")
    for name in ("baseline_losses", "compare_losses")
}


@pytest.mark.parametrize(
    "name", [pytest.param(name, marks=LONG.get(name, ())) for name in prompts.EMBEDDED]
)
def test_workflow_runs_to_its_end(comfyui, object_info, name):
    prompt = prompts.reduced(prompts.api_form(prompts.read(name), object_info), steps=3)
    run = comfyui.run(prompt)
    assert run.status == "success", run.error
    for file in run.files:
        assert comfyui.view(file)


@pytest.mark.parametrize("name", prompts.EMBEDDED)
def test_first_click_asks_for_nothing_that_a_fresh_install_lacks(object_info, name):
    """Every choice is among those of a server whose folders are empty, and no loss wants a package
    of its own.
    """
    for node in prompts.api_form(prompts.read(name), object_info).values():
        inputs = object_info[node["class_type"]]["input"]
        for input, spec in (inputs.get("required", {}) | inputs.get("optional", {})).items():
            options = (
                spec[0]
                if isinstance(spec[0], list)
                else spec[1].get("options", [])
                if spec[0] == "COMBO"
                else []
            )
            value = node["inputs"].get(input)
            assert not options or isinstance(value, list) or value in options, (
                node["class_type"],
                input,
                value,
            )
        assert node["class_type"] != "Distill3D_VSDLoss"


@pytest.mark.parametrize("name", NAMES)
def test_workflow_opens_as_large_as_the_way_from_its_note_to_its_run_allows(name):
    graph = prompts.read(name)
    assert graph["extra"]["ds"] == opening(graph) and graph["extra"]["ds"]["scale"] >= 0.66
    for node in graph["nodes"]:
        if node["type"] == "MarkdownNote":
            width, height = node["size"]
            assert height == note_height(node["widgets_values"][0], width)


def test_resume_is_the_quickstart_in_two_halves(object_info):
    whole = prompts.api_form(prompts.without_preset(prompts.read("quickstart")), object_info)
    halves = prompts.api_form(prompts.read("resume"), object_info)

    def values(prompt, kind):
        apart = ("steps", "schedule_steps")
        found = [prompt[id]["inputs"] for id in prompts.of_type(prompt, f"Distill3D_{kind}")]
        return [
            {k: v for k, v in each.items() if k not in apart and not isinstance(v, list)}
            for each in found
        ]

    settings = ("LearningRates", "Penalties", "Densification")
    for kind in ("ViewPrompts", "OrbitCameras", "InitText", "CDSLoss", *settings):
        assert values(halves, kind) == values(whole, kind)
    assert values(halves, "Optimize") == 2 * values(whole, "Optimize")
    (steps,) = (whole[id]["inputs"]["steps"] for id in prompts.of_type(whole, "Distill3D_Optimize"))
    loops = [halves[id]["inputs"] for id in prompts.of_type(halves, "Distill3D_Optimize")]
    assert sum(loop["steps"] for loop in loops) == steps and {
        loop["schedule_steps"] for loop in loops
    } == {steps}


@pytest.mark.parametrize(("workflow", "kind"), [("quickstart", "cds"), ("dreammapping", "vdm")])
def test_workflow_has_the_settings_that_were_measured(object_info, workflow, kind):
    """The benchmark's, field by field: config "standard" of sweeps/quickstart.json; of
    sweeps/text.json that of 90 steps.
    """
    sys.path.insert(0, str(BENCHMARKS))
    plan = importlib.import_module("quality_plan")
    if workflow == "quickstart":
        configs = json.loads((BENCHMARKS / "sweeps/quickstart.json").read_text())
        (config,) = (config for config in configs if config["name"] == "standard")
        measured = plan.build("cds", config["steps"], "auto", config["set"])
    else:
        measured = plan.build("vdm", 90, "auto", plan.configured("text", "text, 90 steps"))
    read = prompts.read(workflow)
    prompt = prompts.api_form(
        prompts.without_preset(read) if workflow == "quickstart" else read, object_info
    )

    def inputs(kind):
        (id,) = prompts.of_type(prompt, f"Distill3D_{kind}")
        return prompt[id]["inputs"]

    def same(given, wanted, least, apart=()):
        shared = given.keys() & wanted.keys() - set(apart)
        assert len(shared) >= least
        assert {name: given[name] for name in shared} == {name: wanted[name] for name in shared}

    (id,) = prompts.of_type(prompt, "Distill3D_Optimize")
    loss, start = inputs(f"{kind.upper()}Loss"), inputs("InitText")
    loop = prompts.settings_of(prompt, id)
    same(loss, asdict(measured.loss), 15)
    if kind == "vdm":
        picture, joined = inputs("PictureLoss"), inputs("ScheduleLosses")
        given = {
            f"refine_{name}": picture[name] for name in ("steps", "guidance", "t_min", "t_max")
        }
        given |= {name: picture[name] for name in ("shared_t", "clip", "weight")}
        same(given | {"refine_from": joined["switch_at"]}, asdict(measured.loss), 8)
        assert (joined["first_anneals_over"], joined["second_anneals_over"]) == (
            "whole run",
            "own share",
        )
        drawn = inputs("DegradationMap")
        given = {f"psi_{name}": drawn[name] for name in ("lr", "lr_end")}
        same(given, asdict(measured.loss), 2)
        assert drawn["design"] == measured.loss.degradation.design
    same(loop, asdict(measured.settings), 17, apart=("densify", "image_size", "max_gaussians"))
    same(start, asdict(measured.init), 1)
    same(inputs("OrbitCameras"), asdict(measured.cameras), 8)
    same(inputs("ViewPrompts"), asdict(measured.prompts), 7)
    assert loop["steps"] == measured.steps and loop["densify"] is False
    assert start["opacity"] == pytest.approx(
        1 / (1 + math.exp(-measured.init.opacity_logit)), abs=1e-4
    )


@pytest.mark.nightly(reason="three runs of a workflow that runs above")
def test_stages_of_consistent3d_move_what_they_say(comfyui, object_info):
    prompt = prompts.reduced(prompts.api_form(prompts.read("consistent3d"), object_info), steps=3)
    optimized = {
        prompt[id]["_meta"]["title"]: id for id in prompts.of_type(prompt, "Distill3D_Optimize")
    }
    stages = [
        next(id for title, id in optimized.items() if title.startswith(f"Optimize: {stage}"))
        for stage in ("coarse", "geometry", "texture")
    ]
    kinds = {id: prompt[prompt[id]["inputs"]["loss"][0]]["inputs"]["t_start"] for id in stages}
    assert list(kinds.values()) == [700, 300, 500]
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
    geometry = (
        "x",
        "y",
        "z",
        "opacity",
        "scale_0",
        "scale_1",
        "scale_2",
        "rot_0",
        "rot_1",
        "rot_2",
        "rot_3",
    )
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
        shared = {name: value for name, value in given.items() if name in wanted}
        assert len(shared) > 8
        for name, value in shared.items():
            assert value == wanted[name], (loss, name)
    picture, joined = inputs("Distill3D_PictureLoss"), inputs("Distill3D_ScheduleLosses")
    for name in ("steps", "guidance", "t_min", "t_max"):
        assert picture[name] == wanted[f"refine_{name}"], name
    for name in ("shared_t", "clip", "weight"):
        assert picture[name] == wanted[name], name
    assert joined["switch_at"] == wanted["refine_from"]
    start = inputs("Distill3D_InitGaussians")
    loop = prompts.settings_of(prompt, prompts.of_type(prompt, "Distill3D_Optimize")[0])
    assert (start["count"], start["scale"]) == (plan.Init().count, plan.Init().scale)
    assert (loop["densify"], loop["lambda_opacity"], loop["lambda_gamut"]) == (False, 1500.0, 20.0)


def test_baseline_losses_has_the_settings_that_were_measured(object_info):
    sys.path.insert(0, str(BENCHMARKS))
    plan = importlib.import_module("quality_plan")
    workflow = prompts.read("baseline_losses")
    for node in workflow["nodes"]:
        node["mode"] = 0  # VSD is muted
    prompt = prompts.api_form(workflow, object_info)
    for loss in ("csd", "nfsd", "ism", "vsd", "sdi", "sctd", "rfds"):
        (id,) = prompts.of_type(prompt, f"Distill3D_{loss.upper()}Loss")
        wanted, given = asdict(plan.LOSSES[loss]), prompt[id]["inputs"]
        shared = given.keys() & wanted.keys()
        assert len(shared) > 8 and {name: given[name] for name in shared} == {
            name: wanted[name] for name in shared
        }


@pytest.mark.parametrize("name", NAMES)
def test_a_preset_that_is_named_is_what_the_inputs_say(object_info, name):
    """And where they say a preset's values, it is named."""
    for node in prompts.api_form(prompts.read(name), object_info).values():
        spec = object_info[node["class_type"]]["input"].get("required", {}).get("preset")
        if spec is None:
            continue
        given = {k: v for k, v in node["inputs"].items() if not isinstance(v, list)}
        named = [
            preset
            for preset, values in spec[1]["distill3d_presets"].items()
            if all(given.get(k) == v for k, v in values.items())  # none of them linked
        ]
        assert given["preset"] == (named or ["custom"])[0], node["_meta"]["title"]


CONVERT = """
import json
from comfy_cli.workflow_to_api import convert_ui_to_api as convert
info, workflows = (json.load(open(name + ".json")) for name in ("info", "workflows"))
print(json.dumps({name: convert(workflow, info) for name, workflow in workflows.items()}))
"""


@pytest.fixture(scope="module")
def converted(comfy_cli, object_info, tmp_path_factory):
    """Every workflow in API form by ComfyUI's own program."""
    folder = tmp_path_factory.mktemp("converted")
    folder.joinpath("info.json").write_text(json.dumps(object_info))
    workflows = {name: prompts.read(name) for name in NAMES}
    folder.joinpath("workflows.json").write_text(json.dumps(workflows))
    done = subprocess.run(
        [comfy_cli / "python", "-c", CONVERT],
        cwd=folder,
        env=child_environment(),
        capture_output=True,
        text=True,
    )
    assert done.returncode == 0, done.stderr
    return json.loads(done.stdout)


@pytest.mark.nightly(
    reason="installs ComfyUI's command line; files in API form are held to ours, and run"
)
@pytest.mark.parametrize("name", NAMES)
def test_conversion_agrees_with_comfy_cli(converted, object_info, name):
    ours = prompts.api_form(prompts.read(name), object_info)
    assert {id: (node["class_type"], node["inputs"]) for id, node in ours.items()} == {
        id: (node["class_type"], node["inputs"]) for id, node in converted[name].items()
    }


@pytest.mark.nightly(reason="installs ComfyUI's command line; a server takes them in other tests")
@pytest.mark.parametrize("name", prompts.EMBEDDED)
def test_workflow_is_valid_to_comfy_cli(comfy_cli, object_info, tmp_path, name):
    prompt = prompts.api_form(prompts.read(name), object_info)
    tmp_path.joinpath("info.json").write_text(json.dumps(object_info))
    tmp_path.joinpath("prompt.json").write_text(json.dumps(prompt))
    command = [
        "--skip-prompt",
        "workflow",
        "validate",
        "--workflow",
        "prompt.json",
        "--input",
        "info.json",
    ]
    done = subprocess.run(
        [comfy_cli / "comfy", *command],
        cwd=tmp_path, env=child_environment(), capture_output=True, text=True,
    )  # fmt: skip
    assert done.returncode == 0, done.stdout + done.stderr
