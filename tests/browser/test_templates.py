"""Templates as somebody finds them who has just installed the pack, and what they see when they
open one.
"""

from __future__ import annotations

import importlib.util
import json
import os
from contextlib import ExitStack

import pytest
from harness import environment, prompts
from harness.frontend import frontend
from harness.played import readable
from harness.server import Server

OTHERS = environment.HOME / "workflow-templates"  # ComfyUI's own, 420 MB: pip install --target
PACKAGE = "comfyui_workflow_templates"
NIGHTLY = pytest.mark.nightly(reason="a newer page than ComfyUI's own, on a server of its own")
FILES = [f"{prompts.PREFIX}{name}" for name in prompts.NAMES]
LISTED = json.loads((environment.ROOT / "web" / "templates.json").read_text(encoding="utf-8"))


@pytest.fixture(
    scope="module",
    params=[
        "installed page",
        pytest.param("newest page", marks=NIGHTLY),
        pytest.param("newest page, ComfyUI's own templates", marks=NIGHTLY),
    ],
)
def played(request, browser, play, tmp_path_factory):
    arguments = (
        () if request.param == "installed page" else ("--front-end-root", str(frontend("newest")))
    )
    patch = pytest.MonkeyPatch()
    if "own" in request.param:
        if OTHERS.is_dir():
            patch.setenv(
                "PYTHONPATH",
                os.pathsep.join(filter(None, [str(OTHERS), os.environ.get("PYTHONPATH")])),
            )
        elif importlib.util.find_spec(PACKAGE) is None:
            pytest.skip(f"pip install --target {OTHERS} comfyui-workflow-templates")
    folder, name = (
        tmp_path_factory.mktemp("templates"),
        request.param.replace(" ", "-").replace(",", ""),
    )
    nodes2 = request.param == "newest page"
    # on the installed page test_workflows opens the others
    names = FILES if request.param == "newest page" else FILES[:1]
    with ExitStack() as stack:
        if request.param == "installed page":
            server = request.getfixturevalue("comfyui")
        else:
            files = folder / "base", folder / "comfyui.log"
            server = stack.enter_context(Server(environment.tree(), *files, arguments=arguments))
            server.post("/settings", {"Comfy.TutorialCompleted": True})
        told = play("templates.mjs", f"templates-{name}", server, nodes2=nodes2, names=names)
    told.facts["newest"] = "newest" in request.param
    yield told
    patch.undo()


def test_list_of_templates_is_whole():
    assert sorted(each["name"] for each in LISTED) == prompts.NAMES
    assert LISTED[0]["name"] == "quickstart"
    for each in LISTED:
        assert each["title"].startswith("Distill3D ") and each["zh_title"].startswith("Distill3D ")
        assert 20 < len(each["description"]) < 160 and each["zh_description"]


def test_category_lists_them_in_order_with_title_and_description(played):
    assert [name for name, _ in played.facts["category"]] == [
        f"{prompts.PREFIX}{each['name']}" for each in LISTED
    ]
    for (_, text), each in zip(played.facts["category"], LISTED, strict=True):
        assert each["title"] in text
        # cards of the newest page show none at all
        assert played.facts["newest"] or each["description"] in text


def test_search_for_the_packs_name_finds_all_of_them_the_quickstart_first(played):
    found = [name for name, _ in played.facts["search"]]
    assert found[0] == f"{prompts.PREFIX}quickstart" and sorted(found) == FILES


def test_each_opens_where_note_first_group_and_loop_can_be_read(played):
    for name, seen in played.facts["opened"].items():
        readable(name, seen)


def test_nothing_else_is_wrong(played):
    assert played.complaints == []
