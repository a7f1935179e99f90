"""web/docs: the tables at the end of each help page, from the node's own schema. What stands before them is by hand.

ComfyUI's page asks for ``<node id>/<locale>.md``, then for ``<node id>.md``. So there are ``<node id>/zh.md``, a copy
``<node id>/en.md`` of the English page, which saves its console an error, and ``<node id>.md`` for all other languages.
"""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path

from harness import locales
from harness.environment import ROOT

FOLDER = ROOT / "web" / "docs"
WORDS = json.loads(Path(__file__).with_name("help_words.json").read_text(encoding="utf-8"))
ENGLISH, CHINESE = WORDS["en"], WORDS["zh"]


def pages(object_info: dict) -> Iterator[tuple[Path, str]]:
    """(file, what has to be in it) of every help page, from what is by hand in them now."""
    chinese = json.loads(locales.FOLDER.joinpath("zh", "nodeDefs.json").read_text(encoding="utf-8"))
    for file in sorted(FOLDER.glob("*.md")):
        id = file.stem
        english = whole(file.read_text(encoding="utf-8"), object_info[id], ENGLISH)
        yield file, english
        yield FOLDER / id / "en.md", english
        translated = FOLDER / id / "zh.md"
        yield translated, whole(translated.read_text(encoding="utf-8"), object_info[id], CHINESE, chinese[id])


def by_hand(page: str, words: dict = ENGLISH) -> str:
    """What a person wrote: all before the first table."""
    headings = [f"\n{words[part]}\n" for part in ("inputs", "outputs")]
    ends = [page.find(heading) for heading in headings if heading in page]
    return page[: min(ends)] if ends else page.rstrip("\n") + "\n"


def whole(page: str, info: dict, words: dict = ENGLISH, texts: dict | None = None) -> str:
    """The page with its tables made anew; ``info`` is the node's entry in /object_info, ``texts`` its translation."""
    return by_hand(page, words) + tables(info, words, texts)


def tables(info: dict, words: dict, texts: dict | None) -> str:
    inputs = [
        (group, name, spec) for group in ("required", "optional") for name, spec in info["input"].get(group, {}).items()
    ]
    text = ""
    if inputs:
        text += f"\n{words['inputs']}\n\n"
        if any(spec[1].get("advanced") for _, _, spec in inputs):
            text += words["advanced"] + "\n\n"
        text += words["input columns"] + "\n|---|---|---|\n"
        for group, name, spec in inputs:
            tooltip = texts["inputs"][name]["tooltip"] if texts else spec[1]["tooltip"]
            text += f"| {_name(name, spec[1])} | {_value(group, spec, words)} | {tooltip} |\n"
    if info["output_name"]:
        text += f"\n{words['outputs']}\n\n{words['output columns']}\n|---|---|\n"
        for place, (name, tooltip) in enumerate(zip(info["output_name"], info["output_tooltips"], strict=True)):
            said = texts["outputs"][str(place)]["tooltip"] if texts else tooltip
            text += f"| `{name}` | {said} |\n"
    return text


def _name(name: str, options: dict) -> str:
    return f"*`{name}`*" if options.get("advanced") else f"`{name}`"


def _value(group: str, spec: list, words: dict) -> str:
    """The default, with the range of a number."""
    kind, options = spec
    default = options.get("default")
    if kind in ("INT", "FLOAT"):
        numbers = [_number(value) for value in (default, options["min"], options["max"])]
        # A seed's range is that of 64 bits, which says nothing.
        return words["range"].format(*numbers) if options["max"] < 2**53 else numbers[0]
    if kind == "BOOLEAN":
        return words["on" if default else "off"]
    if kind == "COMBO":
        return str(default or words["first"])
    if kind == "STRING":
        return f"`{default}`" if default else words["empty"]
    return words["link" if group == "required" else "no link"]


def _number(value: float) -> str:
    return f"{int(value):,}" if value == int(value) else f"{value:g}"
