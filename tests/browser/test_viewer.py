"""The quickstart as a person sees it: the cloud grows in the node, is turned around, stopped, kept,
and found again.
"""

from __future__ import annotations

import copy
import itertools
import re

import pytest
from harness import prompts

SEEDS = {"classic canvas": 1, "nodes 2.0": 2}  # ComfyUI would answer the second run from its cache


NIGHTLY = pytest.mark.nightly(reason="as on the classic canvas")


@pytest.fixture(scope="module", params=["classic canvas", pytest.param("nodes 2.0", marks=NIGHTLY)])
def played(request, play, comfyui, workflow):
    (optimize,) = (node["id"] for node in workflow["nodes"] if node["type"] == "Distill3D_Optimize")
    before = set(comfyui.output.rglob("*.*"))
    workflow = copy.deepcopy(workflow)
    (node,) = (node for node in workflow["nodes"] if node["id"] == optimize)
    node["widgets_values"][2] = SEEDS[request.param]
    nodes2 = request.param == "nodes 2.0"
    name = "nodes2" if nodes2 else "classic"
    told = play("scenario.mjs", name, comfyui, workflow, optimize=optimize, nodes2=nodes2)
    told.facts["made"] = set(comfyui.output.rglob("*.*")) - before
    told.facts["node"] = node
    return told


def test_viewer_shows_the_cloud_and_changes_while_the_node_runs(played):
    facts = played.facts
    assert facts["panels"] == 1 and facts["later"] > facts["first"] >= 1
    assert 0.05 < played.object_share("first") < 0.9 and 0.05 < played.object_share("later") < 0.9
    assert played.difference("first", "later") > 0.5


def test_stop_and_keep_ends_the_node_and_the_graph_leaves_its_files(played):
    facts = played.facts
    assert facts["end"] == "execution_success"
    assert (
        "stopped and kept" in facts["kept"]
        and "1,500 Gaussians" in facts["kept"]
        and "loss" in facts["kept"]
    )
    assert not facts["stop_enabled"]
    assert facts["stopping"] >= 1 and "Stopping" not in facts["kept"]
    assert {file.suffix for file in played.facts["made"]} >= {".ply", ".glb", ".webp"}


def test_a_still_view_stays_and_each_way_of_moving_changes_it(played):
    still = played.difference("kept", "kept-again")
    assert still < 0.05
    order = ["kept", "orbit", "pan", "zoom", "touch", "pinch", "reset"]
    for a, b in itertools.pairwise(order):
        assert played.difference(a, b) > 0.5, (a, b)
    assert played.object_share("zoom") > 1.1 * played.object_share("pan")
    assert played.difference("reset", "kept") < 0.5  # from the front again
    assert played.facts["graph_before"] == played.facts["graph_after"]


def test_run_says_how_it_goes_while_it_runs(played):
    first, second = played.facts["running"].splitlines()[:2]
    assert re.fullmatch(r"step \d+ of 2000 · [\d.]+ (ms|s|min|h) left", first)
    assert re.fullmatch(r"1,500 Gaussians · [\d.]+ (ms|s) a step · loss [-\d.e+]+", second)
    assert len(played.facts["curve"].split()) >= 8


def test_viewer_takes_the_room_there_is(played):
    panel, view, *others = played.facts["heights"]
    whole = abs(panel - view - sum(others)) < 0.05 * panel
    assert (whole and view > 0.3 * panel) or view > 400  # of a very high node it leaves some
    assert 40 < played.facts["chart"] < 80


def test_viewer_stays_as_it_is_while_the_page_lists_the_inputs_of_its_node(played):
    before, beside = played.facts["beside"]
    assert before == beside


def test_page_loads_little_and_the_renderer_only_when_it_is_needed(played):
    assert "distill3d.js" in played.facts["loaded"] and "gsplat.mjs" not in played.facts["loaded"]
    ours = [
        file for file in prompts.ROOT.joinpath("web").iterdir() if file.suffix in (".js", ".mjs")
    ]
    assert sum(file.stat().st_size for file in ours) < 1.5e6


def test_run_uses_what_was_kept_and_all_steps_are_made_when_asked_for(played):
    ended, begun, said = played.facts["again"]
    assert (ended, begun) == ("execution_success", 0)
    assert "stopped and kept" in said and "does not continue it. Run all steps starts over" in said
    assert played.facts["anew"] >= 2 and played.facts["anew_end"] == ["execution_success", 1]


def test_background_and_turntable_do_what_they_say(played):
    assert (
        played.pixels("reset")[8, 8].tolist() == [128] * 3
        and played.pixels("white")[8, 8].tolist() == [255] * 3
    )
    assert played.difference("white", "turned") > 0.5


def test_result_is_there_again_after_a_reload(played):
    facts = played.facts
    assert facts["restored_facts"] == facts["kept"]
    assert played.object_share("restored") > 0.05
    # the background is saved with the workflow
    assert played.pixels("restored")[8, 8].tolist() == [255] * 3


def test_widget_changes_neither_the_prompt_nor_the_saved_values(played):
    node = played.facts["node"]
    for values in played.facts["values"]:
        assert values == node["widgets_values"]
    assert (
        "viewer" not in played.facts["prompt"]
        and played.facts["prompt"]["steps"] == node["widgets_values"][0]
    )


def test_console_is_free_of_errors_and_no_request_leaves_this_machine(played):
    assert played.complaints == []
    assert played.told["outside"] == []
