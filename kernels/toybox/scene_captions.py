"""The language of scenes: two toys on a ground under a sky. Needs nothing but the standard library.

Grammar: ``a COLOR CATEGORY and a COLOR CATEGORY on a COLOR ground under a COLOR sky[, [outward]
VIEW view]``.
"""

from __future__ import annotations

import random
import re
from dataclasses import dataclass

from . import captions
from .captions import CATEGORIES, COLORS, SIDES, VIEW_WORDS, VIEWS, Caption, parse

GROUNDS = ("green", "brown", "yellow", "gray")
SKIES = ("blue", "cyan", "orange", "pink")
# Looking out from between the toys, by the azimuth looked towards: "outward front" looks where the
# toys look.
OUTWARD = tuple(f"outward {side}" for side in SIDES)
SCENE_WORDS = ("and", "on", "ground", "under", "sky", "outward")
SCENE_VIEWS = (*SIDES, *OUTWARD, *(view for view in VIEWS[:3] if view not in SIDES))
_EXAMPLE = "a red mug and a blue chair on a green ground under a cyan sky"


@dataclass(frozen=True)
class Scene:
    """Two plain toys with their colours. Seen from the front the first one stands on the left."""

    first: Caption
    second: Caption
    ground: str
    sky: str

    def __post_init__(self) -> None:
        for name, toy in (("first", self.first), ("second", self.second)):
            if toy.color is None or toy.finish != "plain":
                raise ValueError(
                    f"a scene's {name} toy is {toy.text!r}; it needs one colour and no pattern."
                )
        for name, color, allowed in (("ground", self.ground, GROUNDS), ("sky", self.sky, SKIES)):
            if color not in allowed:
                raise ValueError(
                    f"a scene's {name} is {color!r}; choose one of {', '.join(allowed)}."
                )

    @property
    def text(self) -> str:
        places = (
            f"on {_article(self.ground)} {self.ground} ground under {_article(self.sky)}"
            f" {self.sky} sky"
        )
        return f"{self.first.text} and {self.second.text} {places}"

    def seen_from(self, view: str) -> str:
        """The caption with its view words, as the prior was trained: ``..., outward left side
        view``.
        """
        return f"{self.text}, {view} view"


def _article(color: str) -> str:
    return "an" if color[0] in "aeiou" else "a"


def vocabulary() -> tuple[str, ...]:
    """Every word that a caption of an object or a scene can hold, sorted."""
    return tuple(sorted({*captions.vocabulary(), *SCENE_WORDS}))


def parse_scene(text: str) -> Scene:
    """The scene that ``text`` is (view words are dropped). Raises ValueError that names what is
    wrong.
    """
    words = captions.words_of(text)
    if not words:
        raise ValueError(f'the prompt is empty; try "{_EXAMPLE}".')
    known = set(vocabulary())
    if unknown := list(dict.fromkeys(w for w in words if w not in known)):
        raise ValueError(
            f"the toybox does not know {', '.join(map(repr, unknown))} in {text!r}. Objects:"
            f" {', '.join(CATEGORIES)}. Colours: {', '.join(COLORS)}. Grounds:"
            f" {', '.join(GROUNDS)}. Skies: {', '.join(SKIES)}."
        )
    color = f"({'|'.join(COLORS)})"
    toy = rf"(?:an? )?{color} ({'|'.join(CATEGORIES)})"
    views = "|".join({*VIEW_WORDS, *OUTWARD})
    match = re.fullmatch(
        rf"{toy} and {toy} on (?:an? )?{color} ground under (?:an? )?{color} sky(?: (?:{views})"
        r" view)?",
        " ".join(words),
    )
    if match is None:
        raise ValueError(
            f'{text!r} is not a scene of the toybox. Write "a COLOUR OBJECT and a COLOUR OBJECT on'
            f' a COLOUR ground under a COLOUR sky", for example "{_EXAMPLE}".'
        )
    color1, category1, color2, category2, ground, sky = match.groups()
    return Scene(Caption(category1, color1), Caption(category2, color2), ground, sky)


def check_sentence(text: str) -> None:
    """Raises ValueError for a text that is neither a caption of one object nor of a scene, though
    of known words: the embedded prior makes something of it all the same, and seldom what is meant.
    """
    for read in (parse, parse_scene):
        try:
            read(text)
            return
        except ValueError:
            continue
    raise ValueError(
        f"prompt {text!r} is no sentence that the embedded prior was trained on, so it would make"
        " something else. "
        'Write "a COLOUR OBJECT", or "a COLOUR OBJECT with COLOUR stripes" (or checks, dots), for'
        ' example "a red mug '
        f'with blue stripes"; for a scene "a COLOUR OBJECT and a COLOUR OBJECT on a COLOUR ground'
        f' under a COLOUR sky". '
        f"Objects: {', '.join(CATEGORIES)}. Colours: {', '.join(COLORS)}. Other sentences need"
        " another prior, such as "
        "Stable Diffusion."
    )


def pair_held_out(first: int, second: int) -> bool:
    """Whether training never sees these two categories (indices) together in this order: an eighth
    of all pairs.
    """
    return (3 * first + 5 * second) % 8 == 0


def held_out_scene(scene: Scene) -> bool:
    """Whether training never sees this scene: its pair of categories is held out, or one of its
    toys is.
    """
    pair = pair_held_out(
        CATEGORIES.index(scene.first.category), CATEGORIES.index(scene.second.category)
    )
    return pair or captions.held_out(scene.first) or captions.held_out(scene.second)


def held_out_scenes(count: int, seed: int) -> list[Scene]:
    """``count`` scenes whose pair of categories is held out, each toy in a colour that training
    knows it in.
    """
    rng = random.Random(seed)
    pairs = [
        (a, b)
        for a in range(len(CATEGORIES))
        for b in range(len(CATEGORIES))
        if a != b and pair_held_out(a, b)
    ]
    rng.shuffle(pairs)
    scenes = []
    for i in range(count):
        toys = []
        for category in pairs[i % len(pairs)]:
            known = [Caption(CATEGORIES[category], color) for color in COLORS]
            toys.append(rng.choice([toy for toy in known if not captions.held_out(toy)]))
        scenes.append(Scene(toys[0], toys[1], rng.choice(GROUNDS), rng.choice(SKIES)))
    return scenes
