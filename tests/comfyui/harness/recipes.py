"""Workflows of published recipes, workflows/distill3d_<name>.json, made from nodes/papers.json.

That file says what each node is set to: what the authors' code has ("theirs"), and what that has no
counterpart for ("ours"). `recipe_graphs` says what stands where. Notes are in
tests/comfyui/recipes, in English and Chinese, two a recipe with a line of --- between;
{node.input} is filled in from the same file, so that no number of a note can differ from the
workflow's.
"""

from __future__ import annotations

import json
import re
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from . import papers, prompts
from .environment import ROOT
from .recipe_graphs import Graph, build, graph, kind_of

NOTES = Path(__file__).parents[1] / "recipes"
TRANSLATED = ROOT / "web" / "workflows.zh.json"
PAGE = ROOT / "docs" / "guide" / "recipes.md"
LANGUAGES = ("en", "zh")
PLACE = re.compile(r"\{([^{}]+)\}")
WORDS = {
    "en": {True: "on", False: "off", "": "empty"},
    "zh": {True: "\u5f00", False: "\u5173", "": "\u7a7a"},  # the same
}


@dataclass(frozen=True)
class Recipe:
    """``values``: {node's title: {input: value}}; ``ours``: {title: which of them are not the
    authors'}; ``told``: what the notes say besides, such as values of theirs that nothing here has.
    """

    name: str
    paper: dict[str, str]
    short: str  # of the paper whose values these are
    loss: str
    code: str
    graph: Graph
    values: dict[str, dict[str, Any]]
    ours: dict[str, set[str]]
    told: dict[str, Any]
    measured: dict[str, Any] | None


def names() -> list[str]:
    return [name for name, told in papers.data()["recipes"].items() if "loss" in told]


def recipe(name: str) -> Recipe:
    """One of `names`. Raises ValueError for a node in the file that does not stand in the graph."""
    known = papers.data()
    chain = [known["recipes"][name]]
    while "like" in chain[0]:
        chain.insert(0, known["recipes"][chain[0]["like"]])
    told = {key: value for each in chain for key, value in each.items()}
    made = graph(told["graph"], f"{told['loss']} Loss")
    own = {title for whose in ("theirs", "ours") for title in chain[-1].get(whose, ())}
    if strange := own - set(made.titles):
        raise ValueError(f"recipe {name} has no {', '.join(sorted(strange))}.")
    values: dict[str, dict[str, Any]] = {title: {} for title in made.titles}
    ours: dict[str, set[str]] = {title: set() for title in made.titles}
    for each in chain:
        for whose in ("theirs", "ours"):
            for title, given in each.get(whose, {}).items():
                if title not in values:  # of a recipe that this one is like
                    continue
                values[title] |= given
                ours[title] -= given.keys()
                ours[title] |= set(given) if whose == "ours" else set()
    besides = {key: value for each in chain for key, value in each.get("told", {}).items()}
    short = chain[-1].get("as", told["paper"])
    return Recipe(
        name, known["papers"][told["paper"]], short, told["loss"], told["code"], made, values, ours,
        besides, chain[-1].get("measured"),
    )  # fmt: skip


def notes(each: Recipe, language: str) -> list[str]:
    """The two notes of a workflow, filled in."""
    suffix = "" if language == "en" else f".{language}"
    shared = _sections(NOTES / f"shared{suffix}.md")
    text = (NOTES / f"{each.name}{suffix}.md").read_text(encoding="utf-8")

    def filled(found: re.Match[str]) -> str:
        name = found[1]
        if name == "measured":
            name = "not measured" if each.measured is None else "a step measured"
        if name == "memory measured" and "gb" not in (each.measured or {}):
            return ""
        if name in shared:
            return PLACE.sub(filled, shared[name])
        if name in ("paper", "by", "code"):
            return each.code if name == "code" else each.paper["url" if name == "paper" else "by"]
        node, _, input = name.rpartition(".")
        own = {"told": each.told, "measured": each.measured or {}, "": {"loss": each.loss}}
        return said((own.get(node) or each.values[node])[input], language)

    return [part.strip() for part in PLACE.sub(filled, text).split("\n---\n")]


def said(value: Any, language: str = "en") -> str:
    if isinstance(value, bool) or value == "":
        return WORDS[language][value]
    if isinstance(value, list):
        return " -> ".join(said(each, language) for each in value)
    return value if isinstance(value, str) else f"{value:.10g}"


def _sections(file: Path) -> dict[str, str]:
    """{heading: text} of a file of "# heading" sections."""
    parts = re.split(r"(?m)^# (.+)\n", file.read_text(encoding="utf-8"))[1:]
    return {name: text.strip() for name, text in zip(parts[::2], parts[1::2], strict=True)}


def workflow(name: str, object_info: dict) -> dict:
    each = recipe(name)
    return build(name, each.graph, each.values, notes(each, "en"), object_info)


def translations(known: dict) -> dict:
    """web/workflows.zh.json with the recipes' notes as they are now, after those by hand."""
    shipped = {
        node["widgets_values"][0]
        for name in prompts.EMBEDDED
        for node in prompts.read(name)["nodes"]
        if node["type"] == "MarkdownNote"
    }
    told = {note: text for note, text in known["notes"].items() if note in shipped}
    for each in map(recipe, names()):
        told |= dict(zip(notes(each, "en"), notes(each, "zh"), strict=True))
    return known | {"notes": told}


def files(object_info: dict) -> Iterator[tuple[Path, str]]:
    """(file, what has to be in it) of all that is made here."""
    for name in names():
        yield prompts.file_of(name), _json(workflow(name, object_info))
    known = json.loads(TRANSLATED.read_text(encoding="utf-8"))
    yield TRANSLATED, _json(translations(known))
    yield PAGE, page(object_info)


def _json(content: Any) -> str:
    return json.dumps(content, indent=1, ensure_ascii=False) + "\n"


def page(object_info: dict) -> str:
    """docs/guide/recipes.md: what each recipe sets, and whose each value is."""
    text = (NOTES / "page.md").read_text(encoding="utf-8")
    listed = "| Template | Loss | Values of | Steps | Views |\n|---|---|---|--:|--:|\n"
    tables = ""
    for name in names():
        each = recipe(name)
        loops = [
            values
            for title, values in each.values.items()
            if kind_of(title, object_info) in ("Distill3D_Optimize", "Distill3D_RefineMesh")
        ]
        steps = " + ".join(f"{values['steps']:,}" for values in loops)
        listed += f"| `{name}` | {each.loss} | {each.code} | {steps} | {loops[0]['views']} |\n"
        tables += f"\n## {name}\n\n| Node | Input | Value | Whose |\n|---|---|---|---|\n"
        for title, values in each.values.items():
            for input, value in values.items():
                whose = "ours" if input in each.ours[title] else "theirs"
                tables += f"| {title} | `{input}` | {said(value)} | {whose} |\n"
    return text.replace("<!-- list -->\n", listed) + tables
