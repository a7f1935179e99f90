"""Every shipped workflow as a newcomer opens it: all nodes known, nothing in the way of anything,
and Run runs it.
"""

from __future__ import annotations

import itertools
import json

import pytest
from harness import prompts
from harness.played import HIGHEST, readable

TRIED = [*prompts.EMBEDDED, prompts.RECIPES[0]]  # the recipes are made alike
# the others' first click is as theirs; the server's tests run all to their end
CLICKED = ["quickstart", "text_to_3d", "refine", prompts.RECIPES[0]]
TOLERANCE = 4.0  # graph units, of rounding
SMALL = {
    "Distill3D_Optimize": {"views": 1, "image_size": 64},
    "Distill3D_InitGaussians": {"count": 500},
    "Distill3D_InitText": {"count": 500},
}


@pytest.fixture(
    scope="module",
    params=[
        "classic canvas",
        "nodes 2.0",
        *(
            pytest.param(
                f"{where}, recipes", marks=pytest.mark.nightly(reason="all are made alike")
            )
            for where in ("classic canvas", "nodes 2.0")
        ),
    ],
)
def opened(request, play, comfyui):
    """Dropped on the canvas; on the classic one some of them by their cards in the template
    browser, and run.
    """
    where = request.param
    nodes2 = where.startswith("nodes")
    names = prompts.RECIPES if where.endswith("recipes") else TRIED
    told = play(
        "layouts.mjs",
        where.replace(" ", "-").replace(",", ""),
        comfyui,
        workflows=[str(prompts.file_of(name)) for name in names],
        run=[] if where != "classic canvas" else [str(prompts.file_of(name)) for name in CLICKED],
        cards=[f"{prompts.PREFIX}{name}" for name in CLICKED],
        nodes2=nodes2,
        values=SMALL,
    )
    assert sorted(told.facts["layouts"]) == sorted(names)
    return told


def overlap(a, b):
    """Width and height of what two boxes (x, y, width, height) share; negative where they are
    apart.
    """
    return [min(a[i] + a[i + 2], b[i] + b[i + 2]) - max(a[i], b[i]) for i in (0, 1)]


def meet(a, b):
    return min(overlap(a["box"], b["box"])) > TOLERANCE


def holds(group, node):
    shared = overlap(group["box"], node["box"])
    return all(
        share >= side - TOLERANCE for share, side in zip(shared, node["box"][2:], strict=True)
    )


def test_workflows_open_with_every_node_known_and_in_its_place(opened):
    for name, layout in opened.facts["layouts"].items():
        nodes, groups = layout["nodes"], layout["groups"]
        assert [node["title"] for node in nodes if not node["known"]] == [], name
        assert len(nodes) == len(prompts.read(name)["nodes"]) and groups
        at = [(n["title"], n["box"][3]) for n in nodes if n["box"] and n["box"][3] > HIGHEST]
        assert at == [], f"{name}: nodes are too high"
        at = [(a["title"], b["title"]) for a, b in itertools.combinations(nodes, 2) if meet(a, b)]
        assert at == [], f"{name}: nodes cover each other"
        at = [(a["title"], b["title"]) for a, b in itertools.combinations(groups, 2) if meet(a, b)]
        assert at == [], f"{name}: groups cover each other"
        at = [
            (group["title"], node["title"])
            for group in groups
            for node in nodes
            if meet(group, node) and not holds(group, node)
        ]
        assert at == [], f"{name}: nodes stick out of their groups"


def test_each_opens_where_note_first_group_and_loop_can_be_read(opened, request):
    if "nodes 2.0" in request.node.name:
        pytest.skip("tried on the classic canvas")
    assert len(opened.facts["opened"]) == len(opened.facts["layouts"])
    for name, seen in opened.facts["opened"].items():
        readable(name, seen)


def test_first_click_of_run_starts_them(opened, request):
    if "[classic canvas]" not in request.node.name:
        pytest.skip("tried on the classic canvas, with the others")
    started = opened.facts["started"]
    *embedded, recipe = CLICKED
    assert {name: started[name] for name in embedded} == dict.fromkeys(embedded, "runs")
    (told,) = json.loads(started[recipe]).values()  # one input is left to choose
    (error,) = told["errors"]
    assert error["extra_info"]["input_name"] == "model"


def test_opening_them_says_nothing_and_asks_nobody_else(opened):
    refused = "prompt"  # of the recipes' first click, without their model
    assert [line for line in opened.complaints if refused not in line.lower()] == []
    assert opened.told["outside"] == []
