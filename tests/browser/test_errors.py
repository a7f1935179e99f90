"""What goes wrong is said in the node where it did, with the widget's name, and gone when it is
mended.
"""

from __future__ import annotations

import copy

import pytest
from harness import environment
from harness.prompts import with_only
from harness.server import Server


@pytest.fixture(scope="module")
def server(browser, tmp_path_factory):
    """A ComfyUI without the package xatlas."""
    folder = tmp_path_factory.mktemp("errors")
    folder.joinpath("xatlas.py").write_text("raise ImportError('taken away')")
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("PYTHONPATH", str(folder))
        with Server(environment.tree(), folder / "base", folder / "comfyui.log") as server:
            server.post("/settings", {"Comfy.TutorialCompleted": True})
            yield server


@pytest.fixture(scope="module")
def played(play, server, workflow):
    """In Nodes 2.0; the test of the oldest ComfyUI does the same on the classic canvas."""
    workflow = copy.deepcopy(workflow)
    workflow["id"] = "00000000-0000-4000-8000-000000000001"  # with a history of its own
    kept = {
        "Distill3D_LoadDiffusionPrior",
        "Distill3D_ViewPrompts",
        "Distill3D_OrbitCameras",
        "Distill3D_InitText",
    }
    kept |= {"Distill3D_CDSLoss", "Distill3D_Optimize", "PreviewImage"}
    workflow = with_only(workflow, kept)
    ids = {node["type"]: node["id"] for node in workflow["nodes"]}
    optimize, prompts = ids["Distill3D_Optimize"], ids["Distill3D_ViewPrompts"]
    return play(
        "errors.mjs", "errors", server, workflow, nodes2=True, optimize=optimize, prompts=prompts
    )


def test_what_is_refused_names_the_widgets_in_the_node(played):
    ((title, text),) = played.facts["refused"]
    assert title == "Optimize N Steps"
    lines = text.splitlines()
    assert len(lines) == 2
    assert any(line.startswith("steps is 0") for line in lines)
    assert any(line.startswith("image_size") and "-5" in line for line in lines)


def test_one_wrong_value_is_told_once(played):
    """Of the page's own list of errors: ComfyUI repeats the check of a whole node for each of its
    inputs.
    """
    assert played.facts["once"] == [["elevation_min"]]


def test_missing_xatlas_is_told_in_the_node(played):
    ended, ((title, text),) = played.facts["note"]
    assert ended == "execution_success" and title == "Export Mesh" and "pip install xatlas" in text


def test_what_ends_a_run_is_said_in_its_node_and_again_after_a_reload(played):
    ((title, text),) = played.facts["failed"]
    assert title == "View Prompts" and "dragon" in text
    assert played.facts["restored"] == played.facts["failed"]


def test_a_message_is_gone_when_the_run_is_good_and_leaves_no_trace(played):
    assert played.facts["mended"] == []
    heights = {id: height for id, _, height in played.facts["before"]}
    assert {id: height for id, _, height in played.facts["after"]} == heights
    values = {id: values for id, values, _ in played.facts["before"]}
    assert {id: values for id, values, _ in played.facts["after"]} == values
    during = {id: values for id, values, _ in played.facts["during"]}
    assert {id: len(values or []) for id, values in during.items()} == {
        id: len(v or []) for id, v in values.items()
    }


def test_nothing_else_is_wrong(played):
    # the refusal itself
    assert [line for line in played.complaints if "prompt" not in line.lower()] == []
    assert played.told["outside"] == []
