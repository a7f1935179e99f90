"""Training data of scenes: every category at both places from shared cameras, put together and
painted on the fly.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import torch
from torch import Tensor

from ..cameras.pinhole import Cameras
from ..cameras.scene import SceneSampler
from .captions import CATEGORIES, COLORS, SIDES, Caption, held_out, side_of, view_of
from .data import BOUNDARY, FOV_Y, SIZE
from .scene_captions import GROUNDS, OUTWARD, SCENE_VIEWS, SKIES, Scene, pair_held_out
from .scenes import WHITE_LEVEL, compose, first_nearer, render_surroundings, render_toy

NO_SCENE_VIEW = len(SCENE_VIEWS)
# A little more than distillation will ask for.
CAMERAS = SceneSampler(
    outward_share=0.3, elevation_min=-2.0, elevation_max=45.0, distance_min=2.4, distance_max=2.6, fov_y=FOV_Y,
    outward_elevation_min=-14.0, outward_elevation_max=30.0, outward_jitter=0.08, target_jitter=0.03,
)  # fmt: skip


@dataclass
class SceneAtlas:
    """What S shared cameras see of the surroundings and of every category at each of the two
    places, on one device.

    layers: main light, accents' light (3), alpha. Pictures are put together per pixel, the nearer
    toy in front.

    Args:
        layers: [S,2,K,5,H,W] uint8
        depth: [S,2,K,H,W] float16
        surroundings: [S,3,H,W] uint8: weights of the ground's colour, the sky's colour, white
        view_said: [S] index into SCENE_VIEWS, the coarse word, or NO_SCENE_VIEW near a boundary
        side: [S] index into SCENE_VIEWS of the finer words
    """

    layers: Tensor
    depth: Tensor
    surroundings: Tensor
    view_said: Tensor
    side: Tensor

    def paint(self, rows: Tensor, toys: tuple[Tensor, Tensor], colors: tuple[Tensor, Tensor], ground: Tensor,
              sky: Tensor) -> Tensor:  # fmt: skip
        """Pictures [B,3,H,W] from cameras ``rows``: categories and colours of the two toys, ground
        and sky, all as indices [B] (into CATEGORIES, COLORS, GROUNDS, SKIES)."""
        palette = torch.tensor(list(COLORS.values()), device=rows.device)
        weights = self.surroundings[rows].float().permute(0, 2, 3, 1) / 255
        grounds, skies = (
            palette[[list(COLORS).index(c) for c in names]] for names in (GROUNDS, SKIES)
        )
        white = torch.full((len(rows), 3), WHITE_LEVEL, device=rows.device)
        behind = weights @ torch.stack([grounds[ground], skies[sky], white], 1)[:, None]
        stacks = [
            self.layers[rows, slot, toys[slot]].float().permute(0, 2, 3, 1) / 255 for slot in (0, 1)
        ]
        depths = self.depth[rows, 0, toys[0]][..., None], self.depth[rows, 1, toys[1]][..., None]
        alphas = stacks[0][..., 4:], stacks[1][..., 4:]
        painted = [
            s[..., 1:4] + s[..., :1] * palette[c][:, None, None]
            for s, c in zip(stacks, colors, strict=True)
        ]
        picture = compose(painted[0], painted[1], alphas, first_nearer(depths, alphas), behind)
        return picture.permute(0, 3, 1, 2).clamp(0, 1)


def scene_words(cameras: Cameras) -> tuple[list[int], list[int]]:
    """Of each camera the coarse view word (or none) and the finer ones, as indices into
    SCENE_VIEWS.
    """
    coarse, fine = [], []
    outward = [False] * len(cameras) if cameras.outward is None else cameras.outward.tolist()
    for azimuth, elevation, out in zip(
        cameras.azimuths.tolist(), cameras.elevations.tolist(), outward, strict=True
    ):
        side = side_of(azimuth, elevation)
        if out:
            word = OUTWARD[SIDES.index(side)]
            fine.append(SCENE_VIEWS.index(word))
            coarse.append(fine[-1])
        else:
            near = min(abs(abs(azimuth) - 45), abs(abs(azimuth) - 135)) < BOUNDARY
            coarse.append(NO_SCENE_VIEW if near else SCENE_VIEWS.index(view_of(azimuth, elevation)))
            fine.append(SCENE_VIEWS.index(side))
    return coarse, fine


def render_scene_atlas(
    count: int,
    seed: int,
    device: torch.device | str,
    chunk: int = 512,
    progress: Callable[[int, int], None] | None = None,
) -> SceneAtlas:
    """Trace every category at both places from ``count`` random cameras."""
    cameras = CAMERAS.sample(count, SIZE, torch.Generator().manual_seed(seed))
    shape = (count, 2, len(CATEGORIES))
    layers = torch.empty(*shape, 5, SIZE, SIZE, dtype=torch.uint8, device=device)
    depth = torch.empty(*shape, SIZE, SIZE, dtype=torch.float16, device=device)
    surroundings = torch.empty(count, 3, SIZE, SIZE, dtype=torch.uint8, device=device)
    for start in range(0, count, chunk):
        rows = slice(start, min(start + chunk, count))
        some = cameras[rows].to(device)
        around = render_surroundings(some)
        surroundings[rows] = _bytes(torch.stack([around.ground, around.sky, around.white], 1))
        for index, category in enumerate(CATEGORIES):
            for slot in (0, 1):
                toy_layers = render_toy(category, some, slot)
                stack = torch.stack(
                    [toy_layers.main, *toy_layers.fixed.unbind(-1), toy_layers.alpha], 1
                )
                layers[rows, slot, index], depth[rows, slot, index] = (
                    _bytes(stack),
                    toy_layers.depth.half(),
                )
            if progress is not None:
                progress(start * len(CATEGORIES) + index * len(some), count * len(CATEGORIES))
    words = (torch.tensor(w, device=device) for w in scene_words(cameras))
    return SceneAtlas(layers, depth, surroundings, *words)


def _bytes(values: Tensor) -> Tensor:
    return (values.clamp(0, 1) * 255).round().to(torch.uint8)


class SceneTable:
    """Token ids of scene captions, put together word by word: every one has the same length but for
    its view.
    """

    def __init__(self, tokenize: Callable[[list[str]], Tensor], device: torch.device | str) -> None:
        def caption(color: str = "red", ground: str = GROUNDS[0], sky: str = SKIES[0]) -> str:
            return Scene(Caption("mug", color), Caption("mug", color), ground, sky).text

        self.base, self.empty = tokenize([caption(), ""]).to(device)

        def column(texts: list[str], words: tuple[int, ...]) -> Tensor:
            return tokenize(texts)[:, words].to(device)

        # Places of words in "<start> a red mug and a red mug on a green ground under a blue sky".
        self.token_positions = torch.tensor([1, 2, 3, 5, 6, 7, 9, 10, 13, 14], device=device)
        self.colors = column([caption(color) for color in COLORS], (1, 2))
        self.toys = column(
            [
                Scene(Caption(c, "red"), Caption(c, "red"), GROUNDS[0], SKIES[0]).text
                for c in CATEGORIES
            ],
            (3,),
        )
        self.grounds = column([caption(ground=ground) for ground in GROUNDS], (9, 10))
        self.skies = column([caption(sky=sky) for sky in SKIES], (13, 14))
        words = tokenize([*(f", {view} view" for view in SCENE_VIEWS), ""]).to(device)[:, 1:]
        # padded with the end token
        self.words = words[:, : int((words != self.base[-1]).sum(1).max())]
        self.allowed = torch.tensor(
            [[not held_out(Caption(c, k)) for k in COLORS] for c in CATEGORIES], device=device
        )
        pairs = [
            [not pair_held_out(a, b) for b in range(len(CATEGORIES))]
            for a in range(len(CATEGORIES))
        ]
        self.pairs = torch.tensor(pairs, device=device)

    def rows(self, toy1: Tensor, color1: Tensor, toy2: Tensor, color2: Tensor, ground: Tensor, sky: Tensor,
             view: Tensor) -> Tensor:  # fmt: skip
        """Token ids [B,L] of indices [B]; view NO_SCENE_VIEW = unsaid, first category -1 = the
        empty caption.
        """
        said = torch.cat(
            [self.colors[color1], self.toys[toy1], self.colors[color2], self.toys[toy2], self.grounds[ground],
             self.skies[sky]], 1
        )  # fmt: skip
        ids = self.base.repeat(len(toy1), 1)
        ids[:, self.token_positions] = said
        ids[:, 16 : 16 + self.words.shape[1]] = self.words[view]
        return torch.where((toy1 < 0)[:, None], self.empty, ids)


@dataclass
class SceneBatch:
    """B painted scenes and what their captions say, as indices."""

    images: Tensor  # [B,3,H,W] 0..1
    toys: tuple[Tensor, Tensor]
    colors: tuple[Tensor, Tensor]
    ground: Tensor
    sky: Tensor
    view_said: Tensor
    side: Tensor

    @property
    def words(self) -> tuple[Tensor, ...]:
        (toy1, toy2), (color1, color2) = self.toys, self.colors
        return toy1, color1, toy2, color2, self.ground, self.sky, self.view_said, self.side


def draw_scenes(
    atlas: SceneAtlas, count: int, generator: torch.Generator, table: SceneTable
) -> SceneBatch:
    """A random batch of scenes that are not held out."""
    device = atlas.layers.device

    def integers(high: int) -> Tensor:
        return torch.randint(high, (count,), generator=generator, device=device)

    def chosen(weights: Tensor) -> Tensor:
        return torch.multinomial(weights.float(), 1, generator=generator)[:, 0]

    row, toy1 = integers(len(atlas.side)), integers(len(CATEGORIES))
    toy2 = chosen(table.pairs[toy1])
    colors = chosen(table.allowed[toy1]), chosen(table.allowed[toy2])
    ground, sky = integers(len(GROUNDS)), integers(len(SKIES))
    images = atlas.paint(row, (toy1, toy2), colors, ground, sky)
    return SceneBatch(
        images, (toy1, toy2), colors, ground, sky, atlas.view_said[row], atlas.side[row]
    )


def scene_said(words: list[Tensor], generator: torch.Generator) -> tuple[Tensor, ...]:
    """Caption indices for `SceneTable.rows` as the prior hears them: 10 % nothing at all, 12 % no
    view, else 30 % the coarse view word (none near a boundary), 70 % the finer ones."""
    toy1, *rest, view, side = words
    u = torch.rand(3, len(toy1), generator=generator, device=toy1.device)
    heard = torch.where(u[1] < 0.12, NO_SCENE_VIEW, torch.where(u[2] < 0.3, view, side))
    return torch.where(u[0] < 0.10, -1, toy1), *rest, heard
