"""docs/method/papers.md: the papers' values beside ours, from nodes/papers.json and the nodes'
schemas.
"""

from __future__ import annotations

import json
import re

from harness.environment import ROOT
from harness.help_pages import inputs_of, name_of, value_of

FILE = ROOT / "nodes" / "papers.json"
PAGE = ROOT / "docs" / "method" / "papers.md"
NUMBER = re.compile(r"\d+(?:,\d{3})*(?:\.\d+)?(?:e-?\d+)?")
HEAD = """# The papers' values

What the papers and their public code set, beside this pack's defaults. DreamMapping's own values
are not public; rows of VDM Loss name LucidDreamer's, which shares authors with it. Inputs that no
paper has are not listed. Guidance is in the [standard form](../conventions.md#guidance). Distances
are in each paper's own world units. What follows *theirs* is what no input here can be set to.
[Equal to the authors' code](parity.md) says what is held to it.

"""


def data() -> dict:
    return json.loads(FILE.read_text(encoding="utf-8"))


def page(object_info: dict, words: dict) -> str:
    """The page's text. Raises KeyError for a node, an input or a paper that there is not."""
    known = data()
    papers, text = known["papers"], HEAD
    for paper in papers.values():
        text += f"* [{paper['name']}]({paper['url']}), {paper['source']}\n"
    for id, values in known["values"].items():
        specs = {name: (group, spec) for group, name, spec in inputs_of(object_info[id])}
        columns = [short for short in papers if any(short in given for given in values.values())]
        titles = ["Input", "Default here", *(papers[short]["name"] for short in columns)]
        text += (
            f"\n## {object_info[id]['display_name']}\n\n| {' | '.join(titles)}"
            f" |\n{'|---' * len(titles)}|\n"
        )
        for name, given in values.items():
            group, spec = specs[name]
            cells = [name_of(name, spec[1]), value_of(group, spec, words, ranges=False)]
            text += f"| {' | '.join([*cells, *(given.get(short, '') for short in columns)])} |\n"
    return text


def numbers(text: str) -> set[float]:
    return {float(found.replace(",", "")) for found in NUMBER.findall(text)}
