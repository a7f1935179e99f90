"""More viewers in one graph than WebGL contexts are theirs: each shows its own cloud, lives, and
turns.
"""

from __future__ import annotations

import pytest

PREVIEWS = 6
CONTEXTS = 6  # of web/viewer.mjs
LARGE, SMALL = 1500, 400  # Gaussians

pytestmark = pytest.mark.nightly(reason="eight viewers drawn in software")


@pytest.fixture(scope="module")
def played(play, comfyui, workflow):
    return play("several.mjs", "several", comfyui, workflow, previews=PREVIEWS, seed=31)


def test_both_optimize_nodes_are_live(played):
    assert len(played.facts["live"]) == 2
    for steps in played.facts["live"].values():
        assert steps == sorted(set(steps)) and steps


def test_each_viewer_has_its_own_cloud_and_can_be_turned(played):
    clouds = played.facts["clouds"]
    assert len(clouds) == 2 + PREVIEWS
    assert sorted(clouds[2:]) == sorted([LARGE, SMALL] * (PREVIEWS // 2))
    for i, count in enumerate(clouds):
        assert 0.02 < played.object_share(f"before-{i}") < 0.95, (i, count)
    for i in range(0, len(clouds), 2):
        assert played.difference(f"before-{i}", f"after-{i}") > 0.3, i


def test_they_hold_no_more_contexts_than_they_should_and_do_not_fight_for_them(played):
    count = 2 + PREVIEWS
    assert played.facts["resting"] == count - CONTEXTS
    before, after = played.facts["turning"]
    assert before == after and sum(before) == count - CONTEXTS
    assert not [line for line in played.told["warnings"] if "Too many active WebGL" in line]


def test_a_viewer_whose_context_was_taken_comes_back(played):
    assert played.object_share("taken") > 0.02


def test_nothing_else_is_wrong(played):
    assert played.complaints == []
    assert played.told["outside"] == []
