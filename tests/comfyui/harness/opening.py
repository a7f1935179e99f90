"""Where a workflow is looked at when it opens, and how high its notes are."""

from __future__ import annotations

import math
import re
from typing import Any

# pixels of a window of 1500 x 1000 that the page's bars leave free, and its statistics at the left
LEFT, TOP, RIGHT, BOTTOM, ABOVE_STATISTICS = 72, 94, 1490, 985, 915
LARGEST = 0.9  # beyond it the next step of the way leaves the window
TITLE = 30  # graph units, of a node, above its place
NOTE_WIDTH = 380
# graph units, of a note's text as Nodes 2.0 draws it
LETTER, WIDE_LETTER, LINE, PARAGRAPH, INDENT, EDGE = 5.0, 10.0, 16.0, 5.0, 20.0, 16.0


def opening(graph: dict[str, Any]) -> dict[str, Any]:
    """``extra.ds`` of a workflow, UI form: as large as its notes, the group at the left and
    the first run beside them can be seen whole, with all groups' tops below the page's bars.
    """
    nodes, groups = graph["nodes"], graph["groups"]
    first = min((_box(each["bounding"]) for each in groups), key=lambda box: box[:2])
    shown = [first]
    shown += [_drawn(node) for node in nodes if node["type"] == "MarkdownNote"]
    loops = [node for node in nodes if node["type"] == "Distill3D_Optimize"]
    shown += [min(map(_drawn, loops))] if loops else []
    left = min(box[0] for box in shown)
    top = min(box[1] for box in [*shown, *(each["bounding"] for each in groups)])
    scales = [LARGEST, (RIGHT - LEFT) / (max(box[2] for box in shown) - left)]
    for box in shown:
        lowest = ABOVE_STATISTICS if box[0] < left + 100 else BOTTOM
        scales.append((lowest - TOP) / (box[3] - top))
    scale = math.floor(min(scales) * 100) / 100
    return {"scale": scale, "offset": [round(LEFT / scale - left, 1), round(TOP / scale - top, 1)]}


def note_height(text: str, width: float = NOTE_WIDTH) -> int:
    """Graph units that a note needs, without its title, for its text to be read whole."""
    height = 2 * EDGE
    for paragraph in filter(None, re.split(r"\n+", text)):
        head = paragraph.startswith("#")
        listed = re.match(r"(\d+\.|\*) ", paragraph)
        words = re.sub(r"[*`#]", "", paragraph)
        length = sum(WIDE_LETTER if ord(letter) > 0x2E7F else LETTER for letter in words)
        lines = math.ceil(length * (1.3 if head else 1) / (width - 30 - INDENT * bool(listed)))
        height += lines * LINE * (1.3 if head else 1) + PARAGRAPH * (2 if head or listed else 1)
    return math.ceil(height / 20) * 20


def _box(bounding: list[float]) -> list[float]:
    x, y, width, height = bounding
    return [x, y, x + width, y + height]


def _drawn(node: dict[str, Any]) -> list[float]:
    (x, y), (width, height) = node["pos"], node["size"]
    return [x, y - TITLE, x + width, y + height]
