"""Advanced inputs are out of sight until they are asked for, and every socket of the pack has a
colour of its own.
"""

from __future__ import annotations

import json

import pytest


@pytest.fixture(
    scope="module",
    params=[
        "comfyui",
        pytest.param("newest", marks=pytest.mark.nightly(reason="a newer page than ComfyUI's own")),
    ],
)
def played(request, play, workflow):
    server = request.getfixturevalue(request.param)
    (optimize,) = (node["id"] for node in workflow["nodes"] if node["type"] == "Distill3D_Optimize")
    told = play("inputs.mjs", f"inputs-{request.param}", server, workflow, optimize=optimize)
    inputs = server.object_info()["Distill3D_Optimize"]["input"]
    declared = inputs["required"] | inputs.get("optional", {})
    told.facts["advanced"] = {
        name for name, spec in declared.items() if len(spec) > 1 and spec[1].get("advanced")
    }
    return told


def test_classic_canvas_hides_advanced_inputs_and_takes_no_room_for_them(played):
    hidden, advanced = played.facts["hidden"], played.facts["advanced"]
    assert advanced and not advanced & set(hidden["shown"])
    assert hidden["gap"] < 30  # one row follows the other
    assert str(len(advanced)) in hidden["label"]


def test_button_shows_them_and_hides_them_again(played):
    hidden, shown, reloaded, again = (
        played.facts[name] for name in ("hidden", "shown", "reloaded", "again")
    )
    assert played.facts["advanced"] <= set(shown["shown"]) and shown["height"] > hidden["height"]
    assert set(reloaded["shown"]) == set(shown["shown"])  # saved with the workflow
    assert set(again["shown"]) == set(hidden["shown"]) and again["height"] < shown["height"]
    assert hidden["values"] == shown["values"] == reloaded["values"]


def test_linked_advanced_input_stays_in_sight(played, request):
    if "newest" in request.node.callspec.id:
        pytest.xfail(
            "page 1.58.1 hides it, link and all, until the button shows it; see docs/limits.md"
        )
    assert (
        "schedule_steps" in played.facts["linked"]["shown"]
        and "image_size" not in played.facts["linked"]["shown"]
    )


def test_nodes_2_hide_them_too(played):
    hidden, shown = played.facts["nodes2"]
    assert "image_size" not in hidden and "image_size" in shown


def test_own_sockets_have_colours_of_their_own_in_both_renderers_and_every_palette(played):
    dark, light = played.facts["colors"]
    assert len(dark) == 11
    for colors in (dark, light):
        assert all(len(set(three)) == 1 and three[0] for three in colors.values()), json.dumps(
            colors
        )
        assert len({three[0] for three in colors.values()}) == len(colors)
    assert len(played.facts["dots"]) >= 5


def test_nothing_else_is_wrong(played):
    assert played.complaints == []
    assert played.told["outside"] == []
