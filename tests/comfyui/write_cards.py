"""Writes the thumbnails of the recipes that want a Stable Diffusion: plain cards, for no weights of
it were at hand to make a picture with. ``python tests/comfyui/write_cards.py``
"""

from __future__ import annotations

import colorsys

from harness import prompts, recipes
from PIL import Image, ImageDraw, ImageFont

SIZE, EDGE = 512, 40
INK, QUIET = (236, 238, 242), (150, 158, 170)
WHOSE = {"dreammapping_sd": "LucidDreamer's values", "scene_sd": "Consistent3D's loss"}


def card(title: str, loss: str, whose: str, hue: float) -> Image.Image:
    """512 x 512: a paper's name, its loss, whose model it wants and whose values it has; the page
    writes over the lowest part.
    """
    ground = tuple(round(255 * part) for part in colorsys.hls_to_rgb(hue, 0.15, 0.25))
    mark = tuple(round(255 * part) for part in colorsys.hls_to_rgb(hue, 0.6, 0.45))
    picture = Image.new("RGB", (SIZE, SIZE), ground)
    draw = ImageDraw.Draw(picture)
    draw.rectangle((0, 0, SIZE, 14), fill=mark)
    draw.text((EDGE, 50), title, font=fitting(title, 54), fill=INK)
    draw.text((EDGE, 130), loss, font=ImageFont.load_default(110), fill=mark)
    lines = ("with your Stable Diffusion", f"{whose}, no result shown")
    for place, (line, ink) in enumerate(zip(lines, (INK, QUIET), strict=True)):
        draw.text((EDGE, 310 + 40 * place), line, font=fitting(line, 28), fill=ink)
    return picture


def fitting(text: str, largest: int) -> ImageFont.FreeTypeFont:
    size = largest
    while ImageFont.load_default(size).getlength(text) > SIZE - 2 * EDGE:
        size -= 1
    return ImageFont.load_default(size)


def title_of(each: recipes.Recipe) -> str:
    if each.name.startswith("scene"):
        return "Scene all around"
    return each.paper["name"] + (", long" if each.name.endswith("_long") else "")


def main() -> None:
    names = recipes.names()
    for place, name in enumerate(names):
        each = recipes.recipe(name)
        file = prompts.file_of(name).with_suffix(".jpg")
        made = card(
            title_of(each), each.loss, WHOSE.get(name, "the authors' values"), place / len(names)
        )
        made.save(file, quality=88)


if __name__ == "__main__":
    main()
