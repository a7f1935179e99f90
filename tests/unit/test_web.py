"""The page's files: nothing is loaded from elsewhere, the library is the one that is asked for,
help is of nodes.
"""

from __future__ import annotations

import json
import re
from pathlib import Path

import pytest
from PIL import Image

from distill3d.kernels.toybox.captions import CATEGORIES, COLORS

ROOT = Path(__file__).resolve().parents[2]
WEB = ROOT / "web"
LIBRARY = WEB / "gsplat.mjs"
# nodes of settings, whose effect no one picture shows
WITHOUT_PICTURE = {
    f"Distill3D_{name}"
    for name in (
        "Penalties",
        "Densification",
        "Refining",
        "RunOptions",
        "MeshPenalties",
        "Recover",
        "RewardLoss",
        "PictureScorer",
    )
}
WITHOUT_NUMBERS = {"Distill3D_PreviewGaussians", "Distill3D_ScoreViews", "Distill3D_Recover"}
WITHOUT_NUMBERS |= {"Distill3D_PictureScorer"}


def scripts():
    return [file for file in WEB.rglob("*") if file.suffix in (".js", ".mjs")]


def test_page_loads_one_script_by_itself_and_that_the_others():
    assert [file.name for file in WEB.rglob("*.js")] == ["distill3d.js"]
    for file in scripts():
        for path in re.findall(r'(?:from|import)\s*\(?"([^"]+)"', file.read_text(encoding="utf-8")):
            assert (
                path in ("../../scripts/api.js", "../../scripts/app.js")
                or (file.parent / path).is_file()
            ), path


def test_no_script_names_an_address_outside():
    for file in scripts():
        named = set(re.findall(r"https?://[\w.]+/[\w-]+", file.read_text(encoding="utf-8")))
        # A name that is never fetched, and a shader's comment.
        assert named <= {"http://www.w3.org/2000", "https://github.com/graphdeco-inria"}, file


def test_bundled_library_is_the_pinned_one_with_its_licence():
    pinned = json.loads(ROOT.joinpath("web-src", "package.json").read_text(encoding="utf-8"))[
        "devDependencies"
    ]
    head = LIBRARY.read_text(encoding="utf-8")[:1500]
    assert (
        head.startswith(f"/* gsplat.js {pinned['gsplat']} (MIT)")
        and "Permission is hereby granted" in head
    )
    assert LIBRARY.stat().st_size < 150_000


def nodes():
    """What the page is told of every node: tests/comfyui/test_locales.py holds this file to the
    nodes themselves.
    """
    return json.loads(ROOT.joinpath("locales", "en", "nodeDefs.json").read_text(encoding="utf-8"))


def help_page(id, place="{}.md"):
    return WEB.joinpath("docs", place.format(id)).read_text(encoding="utf-8")


def test_every_node_has_a_help_page_and_every_help_page_a_node():
    ids = set(
        re.findall(
            r'node_id="(\w+)"',
            "".join(f.read_text(encoding="utf-8") for f in ROOT.glob("nodes/**/*.py")),
        )
    )
    assert {file.stem for file in WEB.glob("docs/*.md")} == ids == set(nodes())
    for language in ("en", "zh"):
        assert {file.parent.name for file in WEB.glob(f"docs/*/{language}.md")} == ids


@pytest.mark.parametrize("id", nodes())
def test_help_page_is_there_where_the_page_looks_first_and_in_chinese_with_the_same_facts(id):
    """A number that is changed in one language is not forgotten in the other."""
    english, chinese = help_page(id, "{}/en.md"), help_page(id, "{}/zh.md")
    assert english == help_page(id)
    translated = json.loads(
        ROOT.joinpath("locales", "zh", "nodeDefs.json").read_text(encoding="utf-8")
    )[id]
    assert chinese.startswith(f"# {translated['display_name']}\n\n")
    assert english.count("\n## ") == chinese.count("\n## ") and english.count(
        "\n|"
    ) == chinese.count("\n|")
    for fact in (r"\]\(([^)]+)\)", r"`([^`\n]+)`", r"\d[\d,.]*\d|\d"):
        pages = (
            page.partition("\n## Inputs\n")[0].partition("\n## \u8f93\u5165\n")[0]
            for page in (english, chinese)
        )
        one, other = (sorted(set(re.findall(fact, page))) for page in pages)
        assert one == other, fact


@pytest.mark.parametrize("id", nodes())
def test_help_page_names_every_input_and_output(id):
    node, page = nodes()[id], help_page(id)
    inputs, outputs = node["inputs"], [slot["name"] for slot in node.get("outputs", {}).values()]
    table = page.partition("\n## Inputs\n")[2]
    assert all(f"`{name}`" in table for name in (*inputs, *outputs))


@pytest.mark.parametrize("id", nodes())
def test_help_page_begins_with_what_the_node_does_and_says_typical_values(id):
    page = help_page(id)
    assert page.startswith(f"# {nodes()[id]['display_name']}\n\n")
    first = page.split("\n\n")[1]
    assert len(first) > 80 and not first.startswith(("*", "|", "!"))
    if "## Typical values" in page:
        assert "mbedded" in page and "Stable Diffusion" in page
    else:
        assert id in WITHOUT_NUMBERS


def test_help_pages_show_pictures_that_are_there_and_small():
    """The help panel looks for them beside the page."""
    named = {
        path for id in nodes() for path in re.findall(r"!\[[^\]]+\]\(([^)]+)\)", help_page(id))
    }
    there = {file.relative_to(WEB / "docs").as_posix() for file in WEB.glob("docs/pictures/*")}
    assert len(named) > 15 and named == there
    assert sum(WEB.joinpath("docs", path).stat().st_size for path in there) < 600_000
    for path in there:
        with Image.open(WEB / "docs" / path) as picture:
            assert 300 <= picture.width <= 1100, path


def before_the_tables(id, place):
    return re.split(r"\n## (?:Inputs|\u8f93\u5165)\n", help_page(id, place))[0]


@pytest.mark.parametrize("place", ["{}.md", "{}/en.md", "{}/zh.md"])
@pytest.mark.parametrize("id", nodes())
def test_help_page_has_a_picture_and_a_source_to_read_on(id, place):
    page = before_the_tables(id, place)
    pictures = re.findall(r"!\[[^\]]+\]\(([^)]+)\)", page)
    assert bool(pictures) is (id not in WITHOUT_PICTURE)
    assert all(WEB.joinpath("docs", path).is_file() for path in pictures)
    assert re.search(r"(?<!!)\[[^\]]+\]\(https://[^\s)]+\)", page)


@pytest.mark.parametrize("place", ["{}.md", "{}/zh.md"])
def test_page_of_the_prompts_lists_the_words_of_the_embedded_prior(place):
    page = before_the_tables("Distill3D_ViewPrompts", place)
    listed = [
        re.findall(r"`(\w+)`", item)
        for item in re.findall(r"^\* \*\*.+(?:\n  .+)*", page, re.MULTILINE)
    ]
    assert listed == [list(CATEGORIES), list(COLORS), ["stripes", "checks", "dots"]]


def test_losses_link_to_their_papers():
    losses = [id for id in nodes() if id.endswith("Loss")]
    assert len(losses) == 12
    assert all("https://arxiv.org/abs/" in help_page(id) for id in losses)


def test_workflows_can_be_read_in_chinese():
    """Each title and note, as it stands in a shipped workflow, has its translation with the same
    inputs and numbers.
    """
    told = json.loads(WEB.joinpath("workflows.zh.json").read_text(encoding="utf-8"))
    titles, notes = set(), set()
    for file in ROOT.glob("workflows/*.json"):
        graph = json.loads(file.read_text(encoding="utf-8"))
        titles |= {
            each["title"] for each in (*graph["groups"], *graph["nodes"]) if each.get("title")
        }
        notes |= {
            node["widgets_values"][0] for node in graph["nodes"] if node["type"] == "MarkdownNote"
        }
    assert set(told["titles"]) == titles and set(told["notes"]) == notes
    for english, chinese in told["notes"].items():
        for fact in (r"`([^`]+)`", r"(?<![A-Za-z])\d+\.\d+"):
            assert sorted(re.findall(fact, english)) == sorted(re.findall(fact, chinese)), chinese[
                :60
            ]


def test_every_word_of_the_viewer_is_in_chinese():
    said = "".join(file.read_text(encoding="utf-8") for file in scripts() if file != LIBRARY)
    words = WEB.joinpath("words.mjs").read_text(encoding="utf-8")
    for text in re.findall(r'say\("([^"]+)"', said):
        assert f'"{text}":' in words or f"  {text}:" in words, text
