"""`values` auto: a loss and the cameras show what suits the prior once Optimize has begun."""

from __future__ import annotations

import copy

import pytest

LOSS, CAMERAS, RUN = "Distill3D_CDSLoss", "Distill3D_OrbitCameras", "Distill3D_Optimize"


@pytest.mark.nightly(reason="a run in a page; the server's test holds what is told")
def test_the_nodes_show_the_values_and_where_they_come_from(play, workflow, comfyui):
    graph = copy.deepcopy(workflow)
    ids = {}
    for node in graph["nodes"]:
        ids[node["type"]] = node["id"]
        if node["type"] in (LOSS, CAMERAS):
            node["widgets_values"].append("auto")
        if node["type"] == RUN:
            node["widgets_values"][0] = 2
    played = play("auto.mjs", "auto", comfyui, graph, loss=ids[LOSS], cameras=ids[CAMERAS])
    facts = played.facts
    assert facts["before"] == []
    (loss,), (cameras,) = facts["loss"], facts["cameras"]
    # the source first: the node shows two lines
    assert loss.startswith("auto, measured here: guidance_start 3, guidance_end 1.5")
    assert cameras.startswith("auto, measured here")
    assert played.complaints == []
