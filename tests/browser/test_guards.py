"""What must not confuse a viewer: an outage, another workflow, the front of the queue, a closed
subgraph.
"""

from __future__ import annotations

import copy
import json

import pytest
from harness import prompts
from harness.environment import ROOT

pytestmark = pytest.mark.nightly(reason="rare situations")


@pytest.fixture(scope="module")
def played(play, comfyui, workflow, tmp_path_factory):
    workflow = copy.deepcopy(workflow)
    workflow["id"] = "00000000-0000-4000-8000-000000000002"  # with a history of its own
    (optimize,) = [node["id"] for node in workflow["nodes"] if node["type"] == "Distill3D_Optimize"]
    folder = tmp_path_factory.mktemp("guards-graphs")
    other, blueprint = folder / "other.json", folder / "blueprint.json"
    other.write_text(json.dumps(prompts.read("inspect")))
    blueprint.write_bytes(next(ROOT.glob("subgraphs/*.json")).read_bytes())
    files = {"other": str(other), "blueprint": str(blueprint)}
    return play("guards.mjs", "guards", comfyui, workflow, optimize=optimize, **files)


def test_the_viewer_goes_on_after_an_outage(played):
    before, after = played.facts["outage"]
    assert after >= before + 2


def test_a_node_that_is_not_seen_asks_for_nothing_until_it_is(played):
    assert played.facts["collapsed"] == 0
    closed, opened = played.facts["opened"]
    assert opened >= closed + 2


def test_another_workflow_shows_neither_result_nor_error(played):
    before, after = played.facts["other"]
    assert before == after
    assert played.facts["foreign"] == [[], ""]


def test_a_reload_brings_back_the_last_run_though_it_was_queued_at_the_front(played):
    assert [lines.split(" · ")[0] for lines in played.facts["front"]] == ["step 5 of 5"] * 2


def test_what_goes_wrong_in_a_closed_subgraph_is_said_outside(played):
    asked, (text,), after = played.facts["closed"]
    assert asked == 0 and text.startswith("View Prompts: ") and "dragon" in text
    assert after == []  # with the next prompt


def test_nothing_else_is_wrong(played):
    # the outage and the refusal themselves
    wanted = ("net::ERR_FAILED", "the server did not answer", "dragon")
    assert [line for line in played.complaints if not any(word in line for word in wanted)] == []
    assert played.told["outside"] == []
