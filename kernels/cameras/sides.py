"""Where a picture was taken from, in words: named sides, or azimuth and elevation."""

from __future__ import annotations

import re

# azimuth and elevation, degrees; left and right are the object's own
SIDES: dict[str, tuple[float, float]] = {
    "front": (0.0, 0.0),
    "back": (180.0, 0.0),
    "left": (90.0, 0.0),
    "right": (-90.0, 0.0),
    "overhead": (0.0, 90.0),
}
EXAMPLE = '"front", "front, back 15", "30 20, 90 -10"'


def parse_views(text: str) -> list[tuple[float, float]]:
    """Azimuth and elevation in degrees of each view that ``text`` names, divided by commas.

    A view is a side of `SIDES` or an azimuth (0 front, 90 from the object's left), then, as wanted,
    an elevation (90 straight above). Raises ValueError naming the view and what is allowed.
    """
    views = []
    for number, entry in enumerate(re.split(r"[,;\n]", text.strip().strip(",;")), 1):
        words = entry.split()
        if not 1 <= len(words) <= 2:
            raise ValueError(
                f"views: view {number} is {entry.strip()!r}; write a side or an azimuth, then an"
                f" elevation if it is not 0, as in {EXAMPLE}."
            )
        azimuth, elevation = SIDES.get(words[0].lower(), (None, 0.0))
        if azimuth is None:
            azimuth = _degrees(words[0], number, "side or azimuth", 360.0)
        if len(words) == 2:
            elevation = _degrees(words[1], number, "elevation", 90.0)
        views.append((azimuth, elevation))
    return views


def _degrees(word: str, number: int, name: str, limit: float) -> float:
    try:
        value = float(word)
    except ValueError:
        value = float("nan")
    if not abs(value) <= limit:
        sides = f"{', '.join(SIDES)}, or " if "side" in name else ""
        raise ValueError(
            f"views: view {number} has the {name} {word!r}; choose {sides}degrees within"
            f" -{limit:g}..{limit:g}, as in {EXAMPLE}."
        )
    return value
