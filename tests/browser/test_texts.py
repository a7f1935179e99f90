"""Names and help as a person reads them: in English and in Chinese, on the canvas and in the help
panel.
"""

from __future__ import annotations

import json

import pytest
from harness import locales

LANGUAGES = ("en", "zh")
NODES = ("Distill3D_CDSLoss", "Distill3D_LoadDiffusionPrior")


@pytest.fixture(scope="module")
def opened(play, comfyui, workflow):
    told = play("texts.mjs", "texts", comfyui, workflow, languages=LANGUAGES, nodes=NODES)
    comfyui.post("/settings", {"Comfy.Locale": "en"})  # for those that come after
    return told


def texts(language):
    return json.loads(
        locales.FOLDER.joinpath(language, "nodeDefs.json").read_text(encoding="utf-8")
    )


@pytest.mark.parametrize("language", LANGUAGES)
def test_canvas_shows_the_names_of_that_language(opened, language):
    drawn = {
        type: node
        for type, node in opened.facts[language]["drawn"].items()
        if type.startswith("Distill3D_")
    }
    assert len(drawn) == 12
    for type, node in drawn.items():
        names = texts(language)[type]
        assert node["title"] == names["display_name"]
        known = {entry["name"] for entry in names["inputs"].values()}
        # Beside them are what the page adds to seeds, and the viewer.
        assert (
            set(node["inputs"]) <= known
            and len(known - set(node["widgets"]) - set(node["inputs"])) <= 1
        ), type
        assert set(node["outputs"]) <= {entry["name"] for entry in names["outputs"].values()}


WORDS = {
    "en": {
        "groups": "Keep",
        "note": "## Quickstart",
        "panel": "Stop and keep",
        "card": "A prompt becomes",
    },
    "zh": {
        "groups": "\u4fdd\u5b58",
        "note": "## \u5feb\u901f\u5165\u95e8",
        "panel": "\u505c\u6b62\u5e76\u4fdd\u7559",
        "card": "\u7531\u63d0\u793a\u8bcd",
    },
}


@pytest.mark.parametrize("language", LANGUAGES)
def test_workflow_viewer_and_template_are_in_that_language(opened, language):
    for what, text in WORDS[language].items():
        assert text in opened.facts[language][what], what


@pytest.mark.parametrize("language", LANGUAGES)
def test_nodes_2_show_them_too(opened, language):
    names = texts(language)["Distill3D_CDSLoss"]
    assert names["display_name"] in opened.facts[language]["text"]
    assert names["inputs"]["guidance_start"]["name"] in opened.facts[language]["text"]


@pytest.mark.parametrize("language", LANGUAGES)
@pytest.mark.parametrize("node", NODES)
def test_help_panel_has_the_page_of_that_language_with_its_picture(opened, language, node):
    shown = opened.facts[language]["help"][node]
    tooltip = next(iter(texts(language)[node]["inputs"].values()))["tooltip"]
    assert texts(language)[node]["display_name"] in shown and tooltip in shown
    assert opened.facts[language]["pictures"] and all(opened.facts[language]["pictures"])


def test_nothing_of_the_pack_is_asked_for_in_vain(opened):
    assert opened.complaints == []
    assert opened.told["outside"] == []
