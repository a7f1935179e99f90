"""Translations and help: served by ComfyUI, as the nodes say it themselves, Chinese whole and of
the same numbers.
"""

from __future__ import annotations

import json
import re
import urllib.request

import pytest
from harness import help_pages, locales, papers
from harness.environment import ROOT

LANGUAGES = ("en", "zh")
SCRIPT = "python tests/comfyui/write_texts.py"
CHINESE = re.compile(r"[\u4e00-\u9fff]")
SAME_IN_CHINESE = {"CLIP", "VAE", "SPLAT", "Perp-Neg", "IoU", "PSNR", "R-precision", "GLB"}


def read(language: str, name: str) -> dict:
    return json.loads(locales.FOLDER.joinpath(language, f"{name}.json").read_text(encoding="utf-8"))


@pytest.fixture(scope="module")
def expected(object_info):
    return locales.english(object_info)


@pytest.fixture(scope="module")
def pairs(expected):
    """(where, English, Chinese) of every text that the page shows."""
    chinese, found = read("zh", "nodeDefs"), []

    def compare(where, a, b):
        if isinstance(a, dict):
            assert isinstance(b, dict) and sorted(a) == sorted(b), (
                f"locales/zh differs at {where}: {set(a) ^ set(b)}"
            )
            for key in a:
                compare(f"{where}.{key}", a[key], b[key])
        else:
            found.append((where, a, b))

    compare("nodeDefs", expected["nodeDefs"], chinese)
    return found


@pytest.mark.parametrize("name", ["nodeDefs", "main"])
def test_english_is_what_the_nodes_say(expected, name):
    assert read("en", name) == expected[name], f"run {SCRIPT}"


def test_help_pages_and_the_manual_are_what_the_nodes_say(object_info):
    pages = dict(help_pages.pages(object_info))
    for page, text in pages.items():
        assert page.is_file() and page.read_text(encoding="utf-8") == text, (
            f"{page.relative_to(ROOT)}: run {SCRIPT}"
        )
    known = {*help_pages.MANUAL.glob("*.md"), *help_pages.FOLDER.rglob("*.md")}
    assert known <= pages.keys(), f"of no node: {known - pages.keys()}; run {SCRIPT}"


def test_papers_values_are_in_the_manual_and_tooltips_that_name_a_paper_have_them(object_info):
    assert papers.PAGE.read_text(encoding="utf-8") == papers.page(
        object_info, help_pages.ENGLISH
    ), f"run {SCRIPT}"
    known, compared = papers.data(), 0
    for id, values in known["values"].items():
        tooltips = {
            name: spec[1]["tooltip"] for _, name, spec in help_pages.inputs_of(object_info[id])
        }
        for name, given in values.items():
            for short, value in given.items():
                if known["papers"][short]["name"] in tooltips[name]:
                    lacking = papers.numbers(value) - papers.numbers(tooltips[name])
                    assert not lacking, f"{id} {name}: {short}'s {lacking} is not in its tooltip"
                    compared += 1
    assert compared > 40


def test_server_serves_help_pages_and_their_pictures(comfyui):
    """Where the page asks for them: /extensions/<pack>/docs/<node id>/<locale>.md, and pictures
    beside the nodes.
    """
    for file in help_pages.FOLDER.rglob("*.*"):
        path = file.relative_to(help_pages.FOLDER).as_posix()
        with urllib.request.build_opener(urllib.request.ProxyHandler({})).open(
            f"{comfyui.url}/extensions/distill3d/docs/{path}"
        ) as answer:
            assert answer.read() == file.read_bytes()


@pytest.mark.parametrize("language", LANGUAGES)
def test_server_hands_out_all_of_it(comfyui, language):
    served = comfyui.get("/i18n")[language]
    assert served["nodeDefs"] == read(language, "nodeDefs")
    for key, texts in read(language, "main").items():
        assert served[key] == texts


def test_every_category_and_socket_has_a_name(object_info):
    pack = [info for name, info in object_info.items() if name.startswith("Distill3D_")]
    categories = {part for info in pack for part in info["category"].split("/")}
    sockets = {kind for info in pack for kind in info["output"] if kind.startswith("DISTILL3D_")}
    for language in LANGUAGES:
        main = read(language, "main")
        assert set(main["nodeCategories"]) == categories and set(main["dataTypes"]) == sockets


def test_every_node_input_and_output_is_translated(pairs):
    assert len(pairs) > 700
    untranslated = [
        where
        for where, _, text in pairs
        if not CHINESE.search(text) and text not in SAME_IN_CHINESE
    ]
    assert not untranslated
    assert all(CHINESE.search(text) for text in read("zh", "main")["dataTypes"].values())


def test_translations_name_the_same_numbers_and_inputs(pairs):
    """So that a changed default, range or paper's value in a tooltip is not forgotten in the other
    language.
    """
    facts = re.compile(r"\d[\d,.]*\d|\d|\b[a-z0-9]+(?:_[a-z0-9]+)+\b", re.ASCII)
    differing = {
        where: sorted(set(facts.findall(english)) ^ set(facts.findall(chinese)))
        for where, english, chinese in pairs
        if where.endswith(("tooltip", "description"))
        and set(facts.findall(english)) != set(facts.findall(chinese))
    }
    assert not differing


def test_names_of_inputs_can_be_found_again_in_error_messages(pairs):
    """Messages and help pages name inputs by their ids."""
    for where, english, chinese in pairs:
        if re.search(r"\.inputs\.\w+\.name$", where):
            assert english.lower() in chinese.lower() or chinese in SAME_IN_CHINESE, where


def test_no_text_holds_what_the_page_takes_for_a_placeholder(pairs):
    for where, *texts in pairs:
        assert not any(set("{}@|$") & set(text) for text in texts), where
