"""Training data: light layers of every category from many cameras, painted in any caption's colours
on the fly.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import torch
from torch import Tensor

from ..cameras.pinhole import Cameras, orbit
from .captions import (
    CATEGORIES,
    COLORS,
    FINISHES,
    VIEW_WORDS,
    VIEWS,
    Caption,
    held_out,
    side_of,
    view_of,
)
from .render import render_layers

SIZE = 128  # pixels
FOV_Y = 40.0  # degrees
# world units; wider, and the prior would take an object for right at any size in between
DISTANCES = (1.97, 2.03)
JITTER = 0.01  # world units, of the target; likewise for its place
BACKGROUNDS = (0.25, 0.75)  # grey level: random, so that grey floaters and grey holes cannot hide
BOUNDARY = 8.0  # degrees around +-45 and +-135 where no view word is fair
NO_VIEW = len(VIEW_WORDS)


def training_cameras(
    count: int, generator: torch.Generator, device: torch.device | str = "cpu"
) -> Cameras:
    """Cameras as the prior knows them: any azimuth, elevation -15..50 for 82 % and 62..88
    (overhead) for the rest.
    """

    def uniform(low: float, high: float) -> Tensor:
        return low + (high - low) * torch.rand(count, generator=generator)

    high = torch.rand(count, generator=generator) < 0.18
    elevation = torch.where(high, uniform(62, 88), uniform(-15, 50))
    target = JITTER * (2 * torch.rand(count, 3, generator=generator) - 1)
    cameras = orbit(uniform(-180, 180), elevation, uniform(*DISTANCES), FOV_Y, SIZE, target)
    return cameras.to(device)


@dataclass
class Atlas:
    """Light layers of ``views`` random cameras per category, 8 bits each, on one device.

    layers [M,8,H,W]: main light, its share in stripes, checks, dots, accents (3), alpha. View m
    shows category m // views. ``view_said`` is ``view``, or `NO_VIEW` near a boundary between two
    words.

    Args:
        layers: [M,8,H,W] uint8
        category: [M]
        view: [M] index into VIEWS, exact
        view_said: [M] index into VIEWS or NO_VIEW
        side: [M] index into VIEW_WORDS of the finer words
    """

    layers: Tensor
    category: Tensor
    view: Tensor
    view_said: Tensor
    side: Tensor

    def paint(
        self, rows: Tensor, color: Tensor, finish: Tensor, second: Tensor, background: Tensor
    ) -> Tensor:
        """Pictures [B,3,H,W] of views ``rows``: colour, finish, second colour as indices [B],
        background grey [B].
        """
        palette = torch.tensor(list(COLORS.values()), device=rows.device)
        layers = self.layers[rows].float() / 255
        mask = torch.where(
            (finish > 0)[:, None, None],
            layers[torch.arange(len(rows), device=rows.device), finish.clamp_min(1)],
            torch.zeros((), device=rows.device),
        )
        first, other = palette[color][:, :, None, None], palette[second][:, :, None, None]
        picture = layers[:, 4:7] + (layers[:, 0] - mask)[:, None] * first + mask[:, None] * other
        return (picture + (1 - layers[:, 7:8]) * background[:, None, None, None]).clamp(0, 1)


def render_atlas(
    views: int,
    seed: int,
    device: torch.device | str,
    chunk: int = 512,
    progress: Callable[[int, int], None] | None = None,
) -> Atlas:
    """Trace ``views`` random cameras of every category."""
    generator = torch.Generator().manual_seed(seed)
    layers = torch.empty(len(CATEGORIES) * views, 8, SIZE, SIZE, dtype=torch.uint8, device=device)
    words: list[list[int]] = [[], [], []]
    for index, category in enumerate(CATEGORIES):
        cameras = training_cameras(views, generator)
        for start in range(0, views, chunk):
            some = cameras[torch.arange(start, min(start + chunk, views))].to(device)
            traced = render_layers(category, some)
            stack = torch.cat(
                [traced.main[..., None], traced.second, traced.fixed, traced.alpha[..., None]], -1
            )
            row = index * views + start
            layers[row : row + len(some)] = (
                (stack.permute(0, 3, 1, 2) * 255).round().to(torch.uint8)
            )
        for azimuth, elevation in zip(
            cameras.azimuths.tolist(), cameras.elevations.tolist(), strict=True
        ):
            word = VIEWS.index(view_of(azimuth, elevation))
            near = (
                min(abs(abs(azimuth) - 45), abs(abs(azimuth) - 135)) < BOUNDARY and elevation <= 60
            )
            words[0].append(word)
            words[1].append(NO_VIEW if near else word)
            words[2].append(VIEW_WORDS.index(side_of(azimuth, elevation)))
        if progress is not None:
            progress(index + 1, len(CATEGORIES))
    category_of = torch.arange(len(CATEGORIES)).repeat_interleave(views)
    return Atlas(layers, category_of.to(device), *(torch.tensor(w, device=device) for w in words))


class CaptionTable:
    """Token ids of every caption and of every view's words, so that captions of a batch are one
    lookup.

    Row layout: category x (colour or none) x finish x second colour, then one empty caption.
    """

    def __init__(self, tokenize: Callable[[list[str]], Tensor], device: torch.device | str) -> None:
        names = [*COLORS, None]
        texts = []
        for category in CATEGORIES:
            for color in names:
                for finish in FINISHES:
                    for second in COLORS:
                        plain = finish == "plain" or second == color  # such rows are never drawn
                        texts.append(
                            Caption(
                                category, color, *(("plain", None) if plain else (finish, second))
                            ).text
                        )
        self.shape = (len(CATEGORIES), len(names), len(FINISHES), len(COLORS))
        self.ids = tokenize([*texts, ""]).to(device)
        end = self.ids[-1, -1]
        self.lengths = (self.ids != end).sum(1)  # start token included: where the view words begin
        # no start token
        words = tokenize([*(f", {view} view" for view in VIEW_WORDS), ""]).to(device)[:, 1:]
        # [NO_VIEW + 1,W], padded with the end token
        self.words = words[:, : int((words != end).sum(1).max())]
        allowed = [
            [[not held_out(_example(c, k, f)) for f in FINISHES] for k in COLORS]
            for c in CATEGORIES
        ]
        # [category, colour, finish]: not held out
        self.allowed = torch.tensor(allowed, device=device)

    def rows(
        self, category: Tensor, color: Tensor, finish: Tensor, second: Tensor, view: Tensor
    ) -> Tensor:
        """Token ids [B,L]; colour len(COLORS) = unsaid, view NO_VIEW = unsaid, category -1 = the
        empty caption.
        """
        index = category
        for size, part in zip(self.shape[1:], (color, finish, second), strict=True):
            index = index * size + part
        index = torch.where(category < 0, len(self.ids) - 1, index)
        words = self.words[torch.where(category < 0, NO_VIEW, view)]
        token_positions = self.lengths[index][:, None] + torch.arange(
            words.shape[1], device=words.device
        )
        return self.ids[index].scatter(1, token_positions, words)


def _example(category: str, color: str, finish: str) -> Caption:
    return Caption(
        category,
        color,
        finish,
        None if finish == "plain" else next(c for c in COLORS if c != color),
    )


@dataclass
class Batch:
    """Indices of B painted views.

    Args:
        images: [B,3,H,W] 0..1
        second: meaningful where finish > 0
        view: exact
        view_said: NO_VIEW near boundaries
        side: the finer words
    """

    images: Tensor
    category: Tensor
    color: Tensor
    finish: Tensor
    second: Tensor
    view: Tensor
    view_said: Tensor
    side: Tensor


def draw(
    atlas: Atlas, count: int, generator: torch.Generator, allowed: Tensor | None = None
) -> Batch:
    """A random batch: any view, 55 % plain, 15 % each pattern. ``allowed`` [category,colour,finish]
    excludes the held-out combinations; None draws from all."""
    device = atlas.layers.device

    def integers(high: int) -> Tensor:
        return torch.randint(high, (count,), generator=generator, device=device)

    row, colors = integers(len(atlas.category)), len(COLORS)
    category = atlas.category[row]
    finish = torch.where(integers(20) < 11, 0, 1 + integers(3))
    if allowed is None:
        color = integers(colors)
    else:
        weights = allowed[category, :, finish].float()
        color = torch.multinomial(weights, 1, generator=generator)[:, 0]
    second = (color + 1 + integers(colors - 1)) % colors
    low, high = BACKGROUNDS
    background = low + (high - low) * torch.rand(count, generator=generator, device=device)
    images = atlas.paint(row, color, finish, second, background)
    return Batch(
        images,
        category,
        color,
        finish,
        second,
        atlas.view[row],
        atlas.view_said[row],
        atlas.side[row],
    )
