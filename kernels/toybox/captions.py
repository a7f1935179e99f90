"""The toybox's language: captions, their parts, and the held-out split. Needs nothing but the
standard library.

Grammar: ``a|an [COLOR] CATEGORY [with SECOND stripes|checks|dots][, VIEW view]``.
"""

from __future__ import annotations

import re
from dataclasses import dataclass

CATEGORIES = (
    "sphere", "cube", "cylinder", "cone", "torus", "mug", "table", "chair", "snowman", "mushroom", "rocket", "house",
    "car", "tree", "lamp", "duck", "teapot", "airplane", "boat", "truck", "sofa", "dog", "fish", "robot", "bed",
    "castle", "train", "windmill",
)  # fmt: skip

# Seen from the front and the back these look alike but for the light, so a view word says little
# about them.
SYMMETRIC = frozenset({"sphere", "cube", "cylinder", "cone", "torus", "table", "mushroom", "tree"})

COLORS: dict[str, tuple[float, float, float]] = {  # sRGB albedo, 0..1
    "red": (0.86, 0.10, 0.09),
    "green": (0.12, 0.60, 0.16),
    "blue": (0.10, 0.22, 0.86),
    "yellow": (0.96, 0.86, 0.10),
    "purple": (0.48, 0.12, 0.68),
    "orange": (0.98, 0.50, 0.04),
    "white": (0.96, 0.96, 0.96),
    "black": (0.06, 0.06, 0.07),
    "pink": (0.98, 0.54, 0.74),
    "cyan": (0.08, 0.80, 0.86),
    "brown": (0.42, 0.23, 0.09),
    "gray": (0.52, 0.52, 0.52),
}
FINISHES = ("plain", "striped", "checkered", "dotted")
VIEWS = ("front", "side", "back", "overhead")
# Finer view words, one per 45 degrees of azimuth from the front on; left and right are the object's
# own.
SIDES = (
    "front",
    "front left",
    "left side",
    "back left",
    "back",
    "back right",
    "right side",
    "front right",
)
VIEW_WORDS = (
    *VIEWS,
    *(side for side in SIDES if side not in VIEWS),
    *(f"overhead {side}" for side in SIDES),
)
SPELLINGS = {"grey": "gray"}  # of other people, for words of the vocabulary
_NOUNS = {"striped": "stripes", "checkered": "checks", "dotted": "dots"}
_GRAMMAR_WORDS = ("a", "an", "with", "view", *_NOUNS.values())


@dataclass(frozen=True)
class Caption:
    """What a caption says of an object. ``color`` None: unsaid; ``second`` is the pattern's
    colour.
    """

    category: str
    color: str | None
    finish: str = "plain"
    second: str | None = None

    def __post_init__(self) -> None:
        if self.category not in CATEGORIES:
            raise ValueError(f"category {self.category!r} is not one of {', '.join(CATEGORIES)}.")
        for color in (self.color, self.second):
            if color is not None and color not in COLORS:
                raise ValueError(f"colour {color!r} is not one of {', '.join(COLORS)}.")
        if self.finish not in FINISHES:
            raise ValueError(f"finish {self.finish!r} is not one of {', '.join(FINISHES)}.")
        if (self.finish == "plain") != (self.second is None):
            need = "takes no" if self.finish == "plain" else "needs a"
            raise ValueError(f"a {self.finish} finish {need} second colour.")
        if self.second is not None and self.second == self.color:
            raise ValueError(
                f"the pattern's colour {self.second!r} is the object's own; name another one."
            )

    @property
    def text(self) -> str:
        noun = f"{self.color} {self.category}" if self.color else self.category
        article = "an" if noun[0] in "aeiou" else "a"
        pattern = f" with {self.second} {_NOUNS[self.finish]}" if self.second else ""
        return f"{article} {noun}{pattern}"

    def seen_from(self, view: str) -> str:
        """The caption with its view words, as the prior was trained: ``a red mug, front view``."""
        return f"{self.text}, {view} view"


def vocabulary() -> tuple[str, ...]:
    """Every word a caption can hold, sorted."""
    return tuple(sorted({*CATEGORIES, *COLORS, *" ".join(VIEW_WORDS).split(), *_GRAMMAR_WORDS}))


def spelled(text: str) -> str:
    """``text`` with its words as the vocabulary spells them; all else stays as it is."""
    return re.sub(
        rf"\b({'|'.join(SPELLINGS)})\b", lambda match: SPELLINGS[match[0].lower()], text, flags=re.I
    )


def words_of(text: str) -> list[str]:
    """The words of ``text`` without case and punctuation, spelled as in the vocabulary."""
    return re.findall(r"[^\s,.;:!?]+", spelled(text).lower())


def unknown_words(text: str) -> list[str]:
    """The words of ``text`` that no caption can hold, in order of appearance."""
    known = set(vocabulary())
    return list(dict.fromkeys(word for word in words_of(text) if word not in known))


def parse(text: str) -> Caption:
    """The caption that ``text`` is (view words are dropped). Raises ValueError that names what is
    wrong.
    """
    words = " ".join(words_of(text))
    if not words:
        raise ValueError('the prompt is empty; try "a red mug".')
    if unknown := unknown_words(text):
        raise ValueError(
            f"the toybox does not know {', '.join(map(repr, unknown))} in {text!r}. Objects:"
            f" {', '.join(CATEGORIES)}. Colours: {', '.join(COLORS)}. Patterns: stripes, checks,"
            " dots."
        )
    either = "|".join
    match = re.fullmatch(
        rf"(?:an? )?(?:({either(COLORS)}) )?({either(CATEGORIES)})"
        rf"(?: with ({either(COLORS)}) ({either(_NOUNS.values())}))?(?: (?:{either(VIEW_WORDS)})"
        r" view)?",
        words,
    )
    if match is None:
        raise ValueError(
            f'{text!r} is not a toybox caption. Write "a COLOUR OBJECT" or "a COLOUR OBJECT with'
            ' COLOUR stripes" (or checks, dots), for example "a red mug with white stripes".'
        )
    color, category, second, noun = match.groups()
    finish = next((f for f, n in _NOUNS.items() if n == noun), "plain")
    return Caption(category, color, finish, second)


def held_out(caption: Caption) -> bool:
    """Whether training never sees this category x colour x finish: 2 of the 12 colours, others for
    each pair.
    """
    if caption.color is None:
        return False
    color, c, f = (
        list(COLORS).index(caption.color),
        CATEGORIES.index(caption.category),
        FINISHES.index(caption.finish),
    )
    first = (5 * c + 3 * f) % len(COLORS)
    return color in (first, (first + 7) % len(COLORS))


def all_captions() -> list[Caption]:
    """Every caption with a colour: each category, colour and finish, the pattern in every other
    colour.
    """
    plain = [Caption(c, k) for c in CATEGORIES for k in COLORS]
    return plain + [
        Caption(c, k, f, s)
        for c in CATEGORIES
        for k in COLORS
        for f in FINISHES[1:]
        for s in COLORS
        if s != k
    ]


def view_of(azimuth: float, elevation: float) -> str:
    """The view word of a camera (degrees): overhead above 60, front within +-45 of 0, back beyond
    +-135, else side.
    """
    if elevation > 60:
        return "overhead"
    turn = abs((azimuth + 180) % 360 - 180)
    return "front" if turn <= 45 else "back" if turn >= 135 else "side"


def side_of(azimuth: float, elevation: float) -> str:
    """The finer view words of a camera (degrees): the nearest of `SIDES`, after "overhead" above an
    elevation of 60.
    """
    side = SIDES[round(azimuth % 360 / 45) % 8]
    return f"overhead {side}" if elevation > 60 else side
