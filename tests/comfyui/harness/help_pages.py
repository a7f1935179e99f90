"""web/docs and docs/nodes: a page for each node, its tables from the node's own schema, the rest by
hand.

ComfyUI's page asks for ``<node id>/<locale>.md``, then for ``<node id>.md``. So there are ``<node
id>/zh.md``, a copy ``<node id>/en.md`` of the English page, which saves its console an error, and
``<node id>.md`` for all other languages. The hand-written part of a node's page is in
``web/docs/<node id>.md`` alone; of a node that has none it is its name and its description.
docs/nodes has the same pages for the manual, and an index.
"""

from __future__ import annotations

import json
import re
from collections.abc import Iterator
from pathlib import Path

from harness import locales
from harness.environment import ROOT

FOLDER = ROOT / "web" / "docs"
MANUAL = ROOT / "docs" / "nodes"
PREFIX = "Distill3D_"
WORDS = json.loads(Path(__file__).with_name("help_words.json").read_text(encoding="utf-8"))
ENGLISH, CHINESE = WORDS["en"], WORDS["zh"]
INDEX = """# Nodes

Every node has this page in ComfyUI too: select it and press the *i* above it. Names, tooltips and
descriptions are there in English and Chinese (*Settings > Locale*). Inputs in *italics* are
advanced: ComfyUI shows them on demand. Units and axes: [Conventions](../conventions.md). What the
papers set: [The papers' values](../method/papers.md).
"""


def pages(object_info: dict) -> Iterator[tuple[Path, str]]:
    """(file, what has to be in it) of every page, from what is by hand in them now."""
    chinese = json.loads(locales.FOLDER.joinpath("zh", "nodeDefs.json").read_text(encoding="utf-8"))
    for id, info in ours(object_info).items():
        file = FOLDER / f"{id}.md"
        english = whole(hand_written(file, info), info, ENGLISH)
        yield file, english
        yield FOLDER / id / "en.md", english
        yield MANUAL / f"{slug(id)}.md", in_manual(english, id, info)
        texts = chinese[id]
        translated = FOLDER / id / "zh.md"
        yield translated, whole(hand_written(translated, texts), info, CHINESE, texts)
    yield MANUAL / "index.md", index(object_info)


def ours(object_info: dict) -> dict[str, dict]:
    return {id: info for id, info in sorted(object_info.items()) if id.startswith(PREFIX)}


def hand_written(file: Path, texts: dict) -> str:
    if file.is_file():
        return file.read_text(encoding="utf-8")
    return f"# {texts['display_name']}\n\n{texts['description']}\n"


def slug(id: str) -> str:
    """cds-loss of Distill3D_CDSLoss."""
    return re.sub(
        r"(?<=[a-z0-9])(?=[A-Z])|(?<=[A-Z])(?=[A-Z][a-z])", "-", id.removeprefix(PREFIX)
    ).lower()


def in_manual(page: str, id: str, info: dict) -> str:
    title, rest = page.split("\n", 1)
    where = f"Node id `{id}`, under *{info['category'].replace('/', ' > ')}*."
    return f"{title}\n\n{where}\n{rest.replace('](pictures/', '](../../web/docs/pictures/')}"


def index(object_info: dict) -> str:
    text, category = INDEX, None
    for id, info in sorted(
        ours(object_info).items(), key=lambda item: (item[1]["category"], item[1]["display_name"])
    ):
        if info["category"] != category:
            category = info["category"]
            text += f"\n## {category.replace('/', ' > ')}\n\n| Node | What it does |\n|---|---|\n"
        text += (
            f"| [{info['display_name']}]({slug(id)}.md) | {info['description'].splitlines()[0]} |\n"
        )
    return text


def by_hand(page: str, words: dict = ENGLISH) -> str:
    """What a person wrote: all before the first table."""
    headings = [f"\n{words[part]}\n" for part in ("inputs", "outputs")]
    ends = [page.find(heading) for heading in headings if heading in page]
    return page[: min(ends)] if ends else page.rstrip("\n") + "\n"


def whole(page: str, info: dict, words: dict = ENGLISH, texts: dict | None = None) -> str:
    """The page with its tables made anew; ``info`` is the node's entry in /object_info, ``texts``
    its translation.
    """
    return by_hand(page, words) + tables(info, words, texts)


def inputs_of(info: dict) -> list[tuple[str, str, list]]:
    """(required or optional, name, specification) of each input of a node."""
    return [
        (group, name, spec)
        for group in ("required", "optional")
        for name, spec in info["input"].get(group, {}).items()
    ]


def tables(info: dict, words: dict, texts: dict | None) -> str:
    inputs = inputs_of(info)
    text = ""
    if inputs:
        text += f"\n{words['inputs']}\n\n"
        if any(spec[1].get("advanced") for _, _, spec in inputs):
            text += words["advanced"] + "\n\n"
        text += words["input columns"] + "\n|---|---|---|\n"
        for group, name, spec in inputs:
            tooltip = texts["inputs"][name]["tooltip"] if texts else spec[1]["tooltip"]
            text += f"| {name_of(name, spec[1])} | {value_of(group, spec, words)} | {tooltip} |\n"
    if info["output_name"]:
        text += f"\n{words['outputs']}\n\n{words['output columns']}\n|---|---|\n"
        for place, (name, tooltip) in enumerate(
            zip(info["output_name"], info["output_tooltips"], strict=True)
        ):
            said = texts["outputs"][str(place)]["tooltip"] if texts else tooltip
            text += f"| `{name}` | {said} |\n"
    return text


def name_of(name: str, options: dict) -> str:
    return f"*`{name}`*" if options.get("advanced") else f"`{name}`"


def value_of(group: str, spec: list, words: dict, ranges: bool = True) -> str:
    """The default, with the range of a number."""
    kind, options = spec
    default = options.get("default")
    if kind in ("INT", "FLOAT"):
        numbers = [_number(value) for value in (default, options["min"], options["max"])]
        # A seed's range is that of 64 bits, which says nothing.
        return words["range"].format(*numbers) if ranges and options["max"] < 2**53 else numbers[0]
    if kind == "BOOLEAN":
        return words["on" if default else "off"]
    if kind == "COMBO":
        return str(default or words["first"])
    if kind == "STRING":
        return f"`{default}`" if default else words["empty"]
    return words["link" if group == "required" else "no link"]


def _number(value: float) -> str:
    return f"{int(value):,}" if value == int(value) else f"{value:g}"
