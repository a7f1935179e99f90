"""Texts, and what else a prior's denoiser is given of each row."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from typing import Any

import torch
from torch import Tensor

from ..devices.streams import send
from .rows import TextRow, blend, lengthened, stacked


@dataclass(frozen=True)
class Conditioning:
    """Text embeddings as one prior's denoiser takes them; B rows, meaningful to the prior that made
    them only.

    Args:
        embeddings: [B,L,D]
        pooled: [B,P], for priors that take a pooled embedding besides
        against: texts that the estimate is bent away from (Perp-Neg)
        camera: [B,K], for priors that are told where each row is seen from; see
            `view_conditioning.condition_on_views`
        hint: [B,3,H,W] 0..1, for priors that are shown a picture of each row's shape
        negative: [B] bool on the CPU: rows that guidance leads away from; None: there are none
        rows: B texts as their encoder gives them; ``embeddings`` is then only for comparing texts
    """

    embeddings: Tensor
    pooled: Tensor | None = None
    against: Against | None = None
    camera: Tensor | None = None
    hint: Tensor | None = None
    negative: Tensor | None = None
    rows: tuple[TextRow, ...] | None = None

    def __len__(self) -> int:
        return self.embeddings.shape[0]

    def _map(self, each: Callable[[Tensor], Tensor], against: Against | None) -> Conditioning:
        values = (self.pooled, self.camera, self.hint, self.negative)
        pooled, camera, hint, negative = (
            None if value is None else each(value) for value in values
        )
        return Conditioning(
            each(self.embeddings), pooled, against, camera, hint, negative, self.rows
        )

    def to(self, device: torch.device | str) -> Conditioning:
        """The same rows on another device."""
        moved = self._map(lambda value: value.to(device), self.against and self.against.to(device))
        rows = self.rows and tuple(row.to(device) for row in self.rows)
        return replace(moved, negative=self.negative, rows=rows)

    def led_away(self) -> Tensor:
        """`negative`, written out where there are none too."""
        return torch.zeros(len(self), dtype=torch.bool) if self.negative is None else self.negative

    def as_negative(self) -> Conditioning:
        """The same rows as such that guidance leads away from."""
        return replace(self, negative=torch.ones(len(self), dtype=torch.bool))

    def index(self, rows: int | slice | Sequence[int] | Tensor) -> Conditioning:
        """The chosen rows, [b,L,D]; an int keeps its row dimension. A tensor of rows had better be
        on the CPU, where it may be read."""
        chosen = [rows] if isinstance(rows, int) else rows
        picked = self._map(
            lambda value: value[
                send(chosen, value.device) if isinstance(chosen, Tensor) else chosen
            ],
            self.against and self.against.index(chosen),
        )
        if self.rows is None:
            return picked
        places = torch.arange(len(self))[
            chosen.cpu() if isinstance(chosen, Tensor) else chosen
        ].tolist()
        return replace(picked, rows=tuple(self.rows[place] for place in places))

    def repeat(self, count: int) -> Conditioning:
        """One row as ``count`` equal rows. Raises ValueError when there is not exactly one row."""
        if len(self) != 1:
            raise ValueError(
                f"Conditioning: repeat needs exactly 1 row, this one holds {len(self)}. Use index()"
                " first."
            )
        against = self.against and self.against.repeat(count)
        result = self._map(lambda value: value.expand(count, *[-1] * (value.dim() - 1)), against)
        return replace(result, rows=self.rows and self.rows * count)

    def with_views(self, camera: Tensor | None, hint: Tensor | None) -> Conditioning:
        """The same texts with what a prior is told of each row's view; Perp-Neg's texts are of the
        same views.
        """
        return replace(
            self,
            camera=camera,
            hint=hint,
            against=self.against and self.against.with_views(camera, hint),
        )

    @staticmethod
    def lerp(a: Conditioning, b: Conditioning, weight: Tensor) -> Conditioning:
        """Rows (1 - weight) a + weight b; weight [B]. A single row on either side serves every
        weight.

        The result is a text of its own: what a and b are bent away from, and the views they are of,
        stay behind. ``weight`` had better be on the CPU, where it may be read; see `rows.blend`.
        """
        rows = None
        if a.rows is not None and b.rows is not None:
            count = len(weight)
            starts, ends = (rows * count if len(rows) == 1 else rows for rows in (a.rows, b.rows))
            rows = tuple(map(blend, starts, ends, weight.tolist()))
        weight = send(weight, a.embeddings.device).to(a.embeddings)
        longest = max(a.embeddings.shape[1], b.embeddings.shape[1])
        start, end = (lengthened(text.embeddings, 1, longest, repeat=False) for text in (a, b))
        embeddings = torch.lerp(start, end, weight[:, None, None])
        pooled = None
        if a.pooled is not None and b.pooled is not None:
            pooled = torch.lerp(a.pooled, b.pooled, weight[:, None])
        return Conditioning(embeddings, pooled, rows=rows)

    @staticmethod
    def cat(parts: Sequence[Conditioning]) -> Conditioning:
        """All rows of all parts, in order. Raises ValueError for an empty list, and for parts with
        ``against``.
        """
        if not parts:
            raise ValueError("Conditioning: cat was given no parts; pass at least one.")
        if any(part.against for part in parts):
            raise ValueError(
                "Conditioning: cat cannot join texts with Perp-Neg branches; pass predict a list of"
                " them."
            )
        joined: dict[str, Any] = {}
        for name, what in (
            ("pooled", "a pooled embedding"),
            ("camera", "a camera"),
            ("hint", "a hint"),
        ):
            values = [value for part in parts if (value := getattr(part, name)) is not None]
            if values and len(values) != len(parts):
                raise ValueError(
                    f"Conditioning: cat mixes parts with and without {what}; make all for one"
                    " prior."
                )
            joined[name] = torch.cat(values) if values else None
        if any(part.negative is not None for part in parts):
            joined["negative"] = torch.cat([part.led_away() for part in parts])
        if all(part.rows is not None for part in parts):
            joined["rows"] = tuple(row for part in parts for row in part.rows or ())
        return Conditioning(stacked([part.embeddings for part in parts]), **joined)


@dataclass(frozen=True)
class Against:
    """What a text of B rows is bent away from whenever it is predicted with; see
    `perp_neg.predict`.

    Args:
        branches: B rows and a weight for each: below 0 away, 0 unused
        null: B rows of the null text, or of the negative prompt, from which directions are measured
    """

    branches: tuple[tuple[Conditioning, tuple[float, ...]], ...]
    null: Conditioning

    # The weights are plain numbers: which rows are worth evaluating must be known without waiting
    # for the device.

    def to(self, device: torch.device | str) -> Against:
        return Against(
            tuple((text.to(device), weights) for text, weights in self.branches),
            self.null.to(device),
        )

    def index(self, rows: slice | Sequence[int] | Tensor) -> Against:
        picked = torch.arange(len(self.null))[
            rows.cpu() if isinstance(rows, Tensor) else rows
        ].tolist()
        branches = (
            (text.index(rows), tuple(weights[row] for row in picked))
            for text, weights in self.branches
        )
        return Against(tuple(branches), self.null.index(rows))

    def with_views(self, camera: Tensor | None, hint: Tensor | None) -> Against:
        branches = tuple(
            (text.with_views(camera, hint), weights) for text, weights in self.branches
        )
        return Against(branches, self.null.with_views(camera, hint))

    def repeat(self, count: int) -> Against:
        return Against(
            tuple((t.repeat(count), w * count) for t, w in self.branches), self.null.repeat(count)
        )
