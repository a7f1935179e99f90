"""What a scenario in a browser told, and the pictures it took."""

from __future__ import annotations

import re
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image

from .prompts import PREFIX

HIGHEST = 700  # graph units, of a node with its title

# What ComfyUI's own page says in an empty folder: files of the user's that are not there yet, its
# own templates, which are not installed, and models of its default graph that it wants to ask for,
# which the server's policy forbids.
ITS_OWN = re.compile(
    r"userdata|user\.css|favicon|/templates/|fuse options|core workflow templates|accessed before"
    r" init|huggingface\.co"
)


@dataclass(frozen=True)
class Played:
    """``facts``: by the scenario's own names. ``told``: {"errors", "warnings" of the console,
    "outside" requests}.
    """

    facts: dict[str, Any]
    pictures: dict[str, str]
    told: dict[str, list[str]]
    folder: Path

    @property
    def complaints(self) -> list[str]:
        """Errors in the console that are not ComfyUI's own, and warnings about the pack."""
        errors = [line for line in self.told["errors"] if not ITS_OWN.search(line)]
        return errors + [line for line in self.told["warnings"] if "istill3" in line]

    def pixels(self, name: str) -> np.ndarray:
        """[H,W,3], 0..255."""
        return np.asarray(Image.open(self.folder / self.pictures[name]).convert("RGB"), np.float32)

    def difference(self, a: str, b: str) -> float:
        """Mean over all pixels, 0..255."""
        return float(np.abs(self.pixels(a) - self.pixels(b)).mean())

    def object_share(self, name: str) -> float:
        """How much of the picture is not background, by its corner's colour."""
        picture = self.pixels(name)
        return float((np.abs(picture - picture[8, 8]).max(-1) > 12).mean())


def readable(name: str, seen: dict[str, Any]) -> None:
    """Asserts that a template opens where its note and first group can be read and its loop's top
    is in sight, with nothing of the page over them; ``seen``: `view` of page.mjs.
    """
    if name == f"{PREFIX}text_to_3d":
        assert seen["app"]
        return
    width, height = seen["sides"]
    assert seen["scale"] >= 0.6, name
    for what in ("note", "group"):
        left, top, right, bottom = seen[what]
        assert 40 < left < right < width and 0 < top < bottom < height, (name, what)
    left, top, *_ = seen["loop"]
    assert 0 < left < width and 0 < top < height / 2, name
    assert seen["tallest"] <= HIGHEST, name
    assert seen["covered"] == [], f"{name}: the page's bars cover it"
    assert seen["cut"] == [], f"{name}: text of a note goes on below"
