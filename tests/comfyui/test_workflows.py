"""Every shipped workflow: valid to ComfyUI's own tool, and running to its end on the embedded prior."""

from __future__ import annotations

import json
import subprocess

import pytest
from harness import prompts
from harness.environment import child_environment

NAMES = sorted(file.stem for file in prompts.WORKFLOWS.glob("*.json"))


@pytest.mark.parametrize("name", NAMES)
def test_workflow_runs_to_its_end(comfyui, quickstart, object_info, name):
    prompt = prompts.reduced(prompts.api_form(prompts.read(name), object_info), steps=3)
    run = comfyui.run(prompt)
    assert run.status == "success", run.error
    for file in run.files:
        assert comfyui.view(file)


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
