"""The oldest ComfyUI that the pack supports, with the page that belongs to it."""

from __future__ import annotations

import re

import pytest
from harness import environment
from harness.frontend import WHEELS, frontend
from harness.server import Server

pytestmark = pytest.mark.nightly(
    reason="a server and a page of its own; comfyui/test_versions.py starts that server"
)
OLDEST = "0.20.1"
WAYS = ["nodes2", "classic"]


@pytest.fixture(scope="module")
def played(browser, play, workflow, tmp_path_factory):
    ids = {node["type"]: node["id"] for node in workflow["nodes"]}
    folder = tmp_path_factory.mktemp("oldest")
    tree, page = environment.tree(OLDEST), frontend(OLDEST)
    assert (
        re.search(r"comfyui-frontend-package==([\d.]+)", (tree / "requirements.txt").read_text())[1]
        == WHEELS[OLDEST][0]
    )
    with Server(
        tree, folder / "base", folder / "comfyui.log", arguments=("--front-end-root", str(page))
    ) as server:
        server.post("/settings", {"Comfy.TutorialCompleted": True})
        optimize, prompts = ids["Distill3D_Optimize"], ids["Distill3D_ViewPrompts"]
        told = play("oldest.mjs", "oldest", server, workflow, optimize=optimize, prompts=prompts)
        told.facts["made"] = {file.suffix for file in server.output.rglob("*.*")}
    return told


@pytest.mark.parametrize("way", WAYS)
def test_viewer_is_live_and_turns(played, way):
    facts = played.facts[way]
    assert facts["later"] > facts["first"] >= 1
    assert 0.05 < played.object_share(f"{way}-first") < 0.9
    assert played.difference(f"{way}-first", f"{way}-later") > 0.3
    assert played.difference(f"{way}-kept", f"{way}-orbit") > 0.5


@pytest.mark.parametrize("way", WAYS)
def test_viewer_stays_as_it_is_while_the_page_lists_the_inputs_of_its_node(played, way):
    before, beside = played.facts[way]["beside"]
    assert before == beside


@pytest.mark.parametrize("way", WAYS)
def test_stop_and_keep_lets_the_graph_go_on(played, way):
    assert played.facts[way]["end"] == "execution_success"
    assert "stopped and kept" in played.facts[way]["kept"]
    assert played.facts["made"] >= {".ply", ".glb", ".webp"}


def test_result_is_there_again_after_a_reload(played):
    assert played.facts["restored"] == played.facts["classic"]["kept"]
    assert played.object_share("restored") > 0.05


def test_what_ends_a_run_is_said_in_its_node(played):
    assert "dragon" in played.facts["message"]


def test_help_opens(played):
    assert (
        "Our addition, at no further evaluation." in played.facts["help"]
        and "noise_groups" in played.facts["help"]
    )


def test_nothing_else_is_wrong(played):
    assert played.complaints == []
    assert played.told["outside"] == []
