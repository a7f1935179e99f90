"""What the server and the registry refuse."""

from __future__ import annotations

import subprocess

import pytest
from harness import prompts
from harness.environment import ROOT, child_environment
from harness.server import PromptRefused


@pytest.mark.parametrize(
    ("node", "values", "named"),
    [
        ("Distill3D_Optimize", {"steps": 0}, "steps"),
        ("Distill3D_OrbitCameras", {"elevation_min": "low"}, "elevation_min"),
        ("Distill3D_ViewPrompts", {"prompt": "  "}, "prompt"),
        ("Distill3D_LoadDiffusionPrior", {"model": "no such folder"}, "model"),
    ],
)
def test_bad_value_is_refused_before_anything_runs(comfyui, quickstart_prompt, node, values, named):
    with pytest.raises(PromptRefused) as refused:
        comfyui.queue(prompts.set_values(quickstart_prompt, node, **values))
    assert named in str(refused.value)
    assert [error["class_type"] for error in refused.value.node_errors.values()] == [node]


@pytest.mark.parametrize(
    ("node", "values", "message"),
    [
        (
            "Distill3D_Optimize",
            {"steps": "abc"},
            "steps is 'abc'; give a whole number within 1..1000000",
        ),
        (
            "Distill3D_OrbitCameras",
            {"elevation_min": "low"},
            "elevation_min is 'low'; give a number within -90.0..90.0",
        ),
    ],
)
def test_value_of_a_wrong_kind_is_named(comfyui, quickstart_prompt, node, values, message):
    with pytest.raises(PromptRefused) as refused:
        comfyui.queue(prompts.set_values(quickstart_prompt, node, **values))
    assert message in str(refused.value)


def test_word_outside_the_vocabulary_ends_the_run_with_its_name(comfyui, quickstart_prompt):
    run = comfyui.run(
        prompts.set_values(quickstart_prompt, "Distill3D_ViewPrompts", prompt="a red dragon")
    )
    assert run.status == "error"
    assert "dragon" in run.error


@pytest.mark.parametrize("text", ["red", "a red and blue mug", "a red mug on a table"])
def test_known_words_that_are_no_sentence_of_the_embedded_prior_end_the_run(
    comfyui, quickstart_prompt, text
):
    run = comfyui.run(prompts.set_values(quickstart_prompt, "Distill3D_ViewPrompts", prompt=text))
    assert run.status == "error"
    assert (
        run.error.startswith(f"Distill3D_ViewPrompts: prompt {text!r} is no sentence")
        and "a red mug" in run.error
    )


def test_refused_negative_prompt_is_named_so(comfyui, quickstart_prompt):
    run = comfyui.run(
        prompts.set_values(quickstart_prompt, "Distill3D_ViewPrompts", negative="an ugly mug")
    )
    assert run.status == "error"
    assert run.error.startswith("Distill3D_ViewPrompts: negative 'an ugly mug'")


def test_grey_is_gray(comfyui, quickstart_prompt):
    prompt = prompts.reduced(quickstart_prompt, steps=1)
    clouds = []
    for color in ("grey", "gray"):
        run = comfyui.run(
            prompts.set_values(prompt, "Distill3D_ViewPrompts", prompt=f"a {color} mug")
        )
        assert run.status == "success", run.error
        clouds.append(comfyui.fetch(run, ".ply"))
    assert clouds[0] == clouds[1]


@pytest.mark.nightly(reason="installs ComfyUI's command line; ruff has the registry's rules")
def test_registry_check_finds_nothing(comfy_cli):
    done = subprocess.run(
        [comfy_cli / "comfy", "--skip-prompt", "node", "validate"],
        cwd=ROOT, env=child_environment(), capture_output=True, text=True,
    )  # fmt: skip
    assert done.returncode == 0, done.stdout + done.stderr
