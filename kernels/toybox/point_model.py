"""A small network that turns captions into coloured points: a flow moves noise onto the surface,
and a second part paints the points.
"""

from __future__ import annotations

from collections.abc import Sequence
from itertools import pairwise

import torch
from torch import Tensor, nn

from .captions import Caption, vocabulary
from .roles import ACCENTS

WIDTH, PAINT_WIDTH, BLOCKS, PAINT_BLOCKS = 192, 128, 5, 3
WORD_WIDTH, CODE_WIDTH = 48, 128
OCTAVES = 5  # of the features that the flow sees of places: wavelengths from 2 to 1/8 world units
HARMONICS = 12  # of those that the painter sees: 2 world units over 1 to 12, for periodic patterns
LONGEST = 6  # words of a caption: "an orange airplane with white stripes"
NOISE = 0.35  # standard deviation of the points at time 0, world units
PALETTE = 2 + len(ACCENTS)  # the object's colour, its pattern's, and what no caption colours


class PointModel(nn.Module):
    """Captions -> points, after Point-E (Nichol et al. 2022, arXiv 2212.08751), whose points carry
    their colours too; here by rectified flow (Liu et al. 2022, arXiv 2209.03003), each point on its
    own.

    A recurrent network reads the caption's words into a code. `velocity` is the flow of points at
    times 0 (normal noise of `NOISE`) to 1 (the surface). `paint` mixes a palette at each point: two
    colours are the caption's, the others learned.
    """

    def __init__(self) -> None:
        super().__init__()
        self.words = nn.Embedding(len(vocabulary()) + 1, WORD_WIDTH, padding_idx=0)
        self.reader = nn.GRU(WORD_WIDTH, CODE_WIDTH, batch_first=True)
        self.flow = _Blocks(4 + 8 * OCTAVES, WIDTH, BLOCKS, 3)
        self.painter = _Blocks(3 + 6 * HARMONICS, PAINT_WIDTH, PAINT_BLOCKS, PALETTE + 1)
        self.caption_colors = nn.Sequential(
            nn.Linear(CODE_WIDTH, CODE_WIDTH), nn.SiLU(), nn.Linear(CODE_WIDTH, 6)
        )
        self.accents = nn.Parameter(torch.randn(PALETTE - 2, 3))

    def read(self, words: Tensor) -> Tensor:
        """Codes [B,CODE_WIDTH] of captions as `word_ids` [B,LONGEST]."""
        states: Tensor = self.reader(self.words(words))[0]
        last = (words > 0).sum(1) - 1
        return states[torch.arange(len(words), device=words.device), last]

    def velocity(self, points: Tensor, times: Tensor, code: Tensor) -> Tensor:
        """World units per unit of time [B,N,3], of points [B,N,3] at times [B,N], 0..1."""
        octaves = 2.0 ** torch.arange(OCTAVES, device=points.device)
        where, when = points / (2 * NOISE), times[..., None]
        moved: Tensor = self.flow(
            torch.cat([_waves(where, octaves), _waves(when, octaves)], -1), code
        )
        return moved

    def paint(self, points: Tensor, code: Tensor) -> Tensor:
        """Colours [B,N,3], sRGB 0..1, light included, of points [B,N,3] of the surface."""
        harmonics = torch.arange(1, HARMONICS + 1, device=points.device)
        mixed = self.painter(_waves(points, harmonics), code)
        named = self.caption_colors(code).view(-1, 2, 3)
        accents = self.accents.expand(len(code), -1, -1)
        palette = torch.cat([named, accents], 1).sigmoid()
        light = mixed[..., :1].sigmoid()
        painted: Tensor = light * (mixed[..., 1:].softmax(-1) @ palette)
        return painted

    @torch.no_grad()
    def sample(
        self, words: Tensor, count: int, generator: torch.Generator, steps: int = 12
    ) -> tuple[Tensor, Tensor]:
        """``count`` points [B,N,3] of each caption and their colours [B,N,3].

        Euler's steps, shorter towards the surface; draws come from the generator, on the CPU.
        """
        code = self.read(words)
        draws = torch.randn(len(words), count, 3, generator=generator)
        points = NOISE * draws.to(code)
        times = (1 - (1 - torch.linspace(0, 1, steps + 1)) ** 2).tolist()
        for now, later in pairwise(times):
            at = torch.full_like(points[..., 0], now)
            points = points + (later - now) * self.velocity(points, at, code)
        return points, self.paint(points, code)


class _Blocks(nn.Module):
    """Residual layers over points [B,N,inside], each scaled and shifted by the code [B,C]."""

    def __init__(self, inside: int, width: int, blocks: int, outside: int) -> None:
        super().__init__()
        self.first, self.last = nn.Linear(inside, width), nn.Linear(width, outside)
        self.layers = nn.ModuleList(nn.Linear(width, width) for _ in range(blocks))
        self.norms = nn.ModuleList(
            nn.LayerNorm(width, elementwise_affine=False) for _ in range(blocks)
        )
        self.shapes = nn.Linear(CODE_WIDTH, 2 * width * blocks)

    def forward(self, points: Tensor, code: Tensor) -> Tensor:
        h = self.first(points)
        shapes = self.shapes(code)[:, None].chunk(2 * len(self.layers), -1)
        for i, (layer, norm) in enumerate(zip(self.layers, self.norms, strict=True)):
            h = h + layer(nn.functional.silu(norm(h) * (1 + shapes[2 * i]) + shapes[2 * i + 1]))
        out: Tensor = self.last(nn.functional.silu(h))
        return out


def word_ids(captions: Sequence[Caption]) -> Tensor:
    """The captions' words [B,LONGEST] as places in the vocabulary, from 1; 0 after the last."""
    known = {word: place + 1 for place, word in enumerate(vocabulary())}
    rows = [[known[word] for word in caption.text.split()] for caption in captions]
    return torch.tensor([row + [0] * (LONGEST - len(row)) for row in rows])


def _waves(values: Tensor, frequencies: Tensor) -> Tensor:
    """``values`` [..., D] besides their sines and cosines, at half turns per unit."""
    angles = torch.pi * (values[..., None] * frequencies).flatten(-2)
    return torch.cat([values, angles.sin(), angles.cos()], -1)
