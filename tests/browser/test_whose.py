"""A viewer shows what was made of the graph on the page, and nothing else."""

from __future__ import annotations

import copy

import pytest
from harness.prompts import with_only

pytestmark = pytest.mark.nightly(reason="several runs in one page")


@pytest.fixture(
    scope="module",
    params=[
        "comfyui",
        pytest.param("newest", marks=pytest.mark.nightly(reason="a newer page than ComfyUI's own")),
    ],
)
def played(request, play, workflow):
    workflow = copy.deepcopy(workflow)
    workflow["id"] = "00000000-0000-4000-8000-000000000003"  # with a history of its own
    kept = {
        "LoadDiffusionPrior",
        "ViewPrompts",
        "OrbitCameras",
        "InitText",
        "CDSLoss",
        "Optimize",
    }
    kept = {f"Distill3D_{name}" for name in kept} | {"PreviewImage"}
    workflow = with_only(workflow, kept)
    server = request.getfixturevalue(request.param)
    return play(
        "whose.mjs", f"whose-{request.param}", server, workflow, nodes2=request.param == "newest"
    )


def test_what_a_program_runs_is_not_shown_in_a_page_that_did_not_ask_for_it(played):
    assert played.facts["program"] == ["", "", "", None]


def test_template_opened_anew_does_not_show_what_was_made_of_other_words(played):
    assert played.facts["chair"] == ["execution_success", "step 3 of 3"]
    assert played.facts["mug"] == ["", None]
    assert played.facts["again"] == ["step 3 of 3", True]


def test_viewer_lives_in_a_graph_that_was_cleared_and_loaded_again(played):
    _, reloaded = played.facts["ids"]
    # what the page made of the id of zeros that some pages leave
    assert not set(reloaded) <= set("0-")
    assert played.facts["cleared"] == ["execution_success", "step 4 of 4"]
    assert played.facts["reloaded"] == "step 4 of 4"
    assert played.facts["alive"] == ["execution_success", "step 5 of 5"]


def test_nothing_else_is_wrong(played):
    assert played.complaints == []
    assert played.told["outside"] == []
