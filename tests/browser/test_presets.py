"""A preset fills the inputs of its node, where a person sees the values that are used."""

from __future__ import annotations

import pytest

OWN = {"values": "own"}  # which is no preset's to fill
LOSS, PENALTIES = "Distill3D_CDSLoss", "Distill3D_Penalties"


@pytest.fixture(
    scope="module",
    params=[
        "comfyui",
        pytest.param("newest", marks=pytest.mark.nightly(reason="a newer page than ComfyUI's own")),
    ],
)
def played(request, play, workflow):
    server = request.getfixturevalue(request.param)
    ids = {node["type"]: node["id"] for node in workflow["nodes"]}
    told = play(
        "presets.mjs",
        f"presets-{request.param}",
        server,
        workflow,
        loss=ids[LOSS],
        penalties=ids[PENALTIES],
    )
    spec = server.object_info()[LOSS]["input"]["required"]["preset"][1]
    told.facts["presets"] = spec["distill3d_presets"]
    return told


def test_a_workflow_opens_with_the_values_that_it_was_saved_with(played):
    facts = played.facts
    assert facts["opened"] == facts["presets"]["embedded prior"] | OWN | {
        "preset": "embedded prior"
    }
    assert facts["penalties"]["preset"] == "custom" and facts["penalties"]["lambda_gamut"] == 20


def test_choosing_one_fills_every_input_of_the_node(played):
    facts = played.facts
    assert facts["texture"] == facts["presets"]["texture"] | OWN | {"preset": "texture"}
    assert facts["queued"] == facts["texture"] == facts["again"] == facts["reloaded"]


def test_an_input_that_is_changed_by_hand_is_no_preset_any_more(played):
    facts = played.facts
    assert facts["changed"] == facts["texture"] | {"weight": 0.5, "preset": "custom"}


def test_nodes_2_do_the_same_and_show_it(played):
    facts = played.facts
    assert facts["refine"] == facts["presets"]["refine"] | OWN | {"preset": "refine"}
    assert "refine" in facts["said"]


def test_nothing_else_is_wrong(played):
    assert played.complaints == []
