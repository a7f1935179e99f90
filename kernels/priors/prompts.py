"""View-dependent prompts: which side of the object the prior is told it sees (DreamFusion, section
3.2).
"""

from __future__ import annotations

from dataclasses import dataclass, fields, replace
from typing import Any

import torch
from torch import Tensor

from ..cameras.pinhole import sectors
from .base import Prior
from .conditioning import Against, Conditioning
from .perp_neg import WEIGHTS

# View words in equal sectors of azimuth, counter-clockwise from the front: what DreamFusion and its
# descendants say.
AROUND = ("front", "side", "back", "side")
OVERHEAD = ("overhead",)
OVERHEAD_ABOVE = 60.0  # degrees of elevation
PERP_NEG_FROM = ("null", "negative")
OVERHEAD_BLEND = (50.0, 70.0)  # degrees of elevation, where what changes smoothly does so


@dataclass(frozen=True)
class ViewPrompts:
    """One prompt as seen from each side, embedded by one prior.

    Row i of ``around`` is the text of the sector centred at azimuth i * 360 / rows, and so for
    ``overhead``.

    Args:
        around: at least one row: views from the sides
        overhead: at least one row: views from above
        base: one row: the prompt without view words
        null: one row: the empty text
        negative_row: one row: the negative prompt, null itself where that is empty
        interpolate: blend neighbouring views by angle rather than switch between them
        perp_neg: factor on Perp-Neg's published weights; 0 = off
        perp_neg_weights: whose: "luciddreamer" | "threestudio"
        perp_neg_from: what its directions are measured from: the "null" text | the "negative"
            prompt, as LucidDreamer and threestudio do
        side_guidance: factors on the guidance of views from there; 1 from the front
        outward: rows like those of ``around``, by the azimuth looked towards; None: ``base``
    """

    prompt: str
    negative: str
    around: Conditioning
    overhead: Conditioning
    base: Conditioning
    null: Conditioning
    negative_row: Conditioning
    interpolate: bool = False
    perp_neg: float = 0.0
    side_guidance: float = 1.0
    back_guidance: float = 1.0
    overhead_guidance: float = 1.0
    outward: Conditioning | None = None
    perp_neg_weights: str = "luciddreamer"
    perp_neg_from: str = "null"

    def to(self, device: torch.device | str) -> ViewPrompts:
        """The same prompts with their embeddings on another device; rows that are one object stay
        one.
        """
        rows = {f.name: getattr(self, f.name) for f in fields(self)}
        moved = {id(row): row.to(device) for row in rows.values() if isinstance(row, Conditioning)}
        changes: dict[str, Any] = {
            name: moved[id(row)] for name, row in rows.items() if id(row) in moved
        }
        return replace(self, **changes)

    def at(
        self,
        azimuths: Tensor,
        elevations: Tensor,
        interpolate: bool | None = None,
        outward: Tensor | None = None,
    ) -> Conditioning:
        """V rows for cameras at these angles, both [V] in degrees (any turn: -190 is 170).

        Each camera gets the text of its sector: with four of them, front within 45 degrees of
        azimuth 0, back beyond 135, side between. With interpolation the text runs linearly from one
        sector's centre to the next, so that it never jumps in azimuth. Above an elevation of 60 it
        is the overhead text; with interpolation it turns into that linearly from 50 to 70.
        ``interpolate`` None takes the field's value. With Perp-Neg the rows are bent away from the
        front and the side text, by `view_weights`; the angles had then better be on the CPU, as
        they are read. Cameras that look out of a scene, ``outward`` [V] bool, get the outward text
        instead.
        """
        blended = self.interpolate if interpolate is None else interpolate
        choose = _blended if blended else _switched
        high = _overhead_share(elevations) if blended else (elevations > OVERHEAD_ABOVE).float()
        text = Conditioning.lerp(
            choose(self.around, azimuths), choose(self.overhead, azimuths), high
        )
        if outward is not None:
            out = outward.float()
            own_text = choose(self.base if self.outward is None else self.outward, azimuths)
            text, high = (
                Conditioning.lerp(text, own_text, out),
                torch.maximum(high, out),
            )
        if self.perp_neg == 0:
            return text
        # A text that is itself the front's, or the side's, has nothing at right angles to that.
        own = [-1] * len(text) if blended else sectors(azimuths, len(self.around)).tolist()
        return replace(text, against=self._against(azimuths.tolist(), high.tolist(), own))

    def _against(self, azimuths: list[float], overhead: list[float], own: list[int]) -> Against:
        """Perp-Neg's branches for cameras at these azimuths, whose texts are ``overhead`` from
        above and else the ``own``-th of ``around``, or a blend (-1)."""
        quarter = len(self.around) // 4
        sides = [quarter if azimuth % 360 < 180 else 3 * quarter for azimuth in azimuths]
        places = [0] * len(azimuths), sides
        weights = zip(*map(WEIGHTS[self.perp_neg_weights], azimuths), strict=True)
        branches = []
        for rows, published in zip(places, weights, strict=True):
            text = Conditioning.cat([self.around.index(slice(row, row + 1)) for row in rows])
            scaled = (
                self.perp_neg * (1 - high) * weight * (row != said)
                for weight, high, row, said in zip(published, overhead, rows, own, strict=True)
            )
            branches.append((text, tuple(scaled)))
        origin = self.null if self.perp_neg_from == "null" else self.negative_row
        return Against(tuple(branches), origin.repeat(len(azimuths)))

    def guidance_factor(self, azimuths: Tensor, elevations: Tensor) -> Tensor | float:
        """What each camera's guidance is multiplied by, [V,1,1,1], or just 1.0 where that is all.

        Runs smoothly, as the squares of sine and cosine of the azimuth, from 1 at the front over
        ``side_guidance`` to ``back_guidance``, and from an elevation of 50 to 70 to
        ``overhead_guidance``.
        """
        if self.side_guidance == self.back_guidance == self.overhead_guidance == 1:
            return 1.0
        forth = torch.cos(torch.deg2rad(azimuths))
        factors = (1.0, self.side_guidance, self.back_guidance, self.overhead_guidance)
        front, side, back, overhead = (torch.full_like(forth, factor) for factor in factors)
        around = torch.lerp(side, torch.where(forth > 0, front, back), forth.square())
        return torch.lerp(around, overhead, _overhead_share(elevations))[:, None, None, None]

    def negative_rows(self, count: int) -> Conditioning:
        """``count`` equal rows of what guidance leads away from."""
        return self.negative_row.repeat(count)

    def null_rows(self, count: int) -> Conditioning:
        """``count`` equal rows of the null text, as one that is asked about for itself."""
        return replace(self.null, negative=None).repeat(count)


def _switched(rows: Conditioning, azimuths: Tensor) -> Conditioning:
    return rows.index(sectors(azimuths, len(rows)))


def _overhead_share(elevations: Tensor) -> Tensor:
    low, high = OVERHEAD_BLEND
    return ((elevations - low) / (high - low)).clamp(0, 1)


def _blended(rows: Conditioning, azimuths: Tensor) -> Conditioning:
    place = torch.remainder(azimuths * (len(rows) / 360), len(rows))
    low = place.floor().long() % len(rows)
    before, after = (rows.index((low + step) % len(rows)) for step in (0, 1))
    return Conditioning.lerp(before, after, place - place.floor())


def view_prompts(
    prior: Prior,
    prompt: str,
    negative: str = "",
    view_dependent: bool = True,
    interpolate: bool = False,
    perp_neg: float = 0.0,
    side_guidance: float = 1.0,
    back_guidance: float = 1.0,
    overhead_guidance: float = 1.0,
    perp_neg_weights: str = "luciddreamer",
    perp_neg_from: str = "null",
) -> ViewPrompts:
    """Embed ``prompt`` with view words: ", front view", ", side view", ", back view" and ",
    overhead view".

    A prior that was trained with finer ones names them in ``around_words`` and ``overhead_words``,
    in the order of `AROUND`, or names none and gets the bare prompt; one that knows views out of a
    scene names theirs in ``outward_words``. view_dependent False uses the bare prompt from every
    side. The rest is as in `ViewPrompts`. Raises ValueError for a text that the prior rejects
    (empty, or outside its vocabulary) and settings out of range.
    """
    factors: dict[str, Any] = {
        "side_guidance": side_guidance,
        "back_guidance": back_guidance,
        "overhead_guidance": overhead_guidance,
    }
    for name, value in {"perp_neg": perp_neg, **factors}.items():
        if not 0 <= value <= 10:
            raise ValueError(f"View Prompts: {name} is {value:g}; it must lie between 0 and 10.")
    choices = {
        "perp_neg_weights": (perp_neg_weights, tuple(WEIGHTS)),
        "perp_neg_from": (perp_neg_from, PERP_NEG_FROM),
    }
    for name, (choice, allowed) in choices.items():
        if choice not in allowed:
            raise ValueError(
                f"View Prompts: {name} is {choice!r}; choose one of {', '.join(allowed)}."
            )
    prior.check_text(prompt)
    if negative:
        prior.check_text(negative)
    base, null = prior.embed([prompt]), prior.embed([""]).as_negative()
    negative_row = prior.embed([negative]).as_negative() if negative else null
    words = (getattr(prior, "around_words", AROUND), getattr(prior, "overhead_words", OVERHEAD))
    around, overhead = (
        (
            prior.embed([f"{prompt}, {view} view" for view in views])
            if view_dependent and views
            else base
        )
        for views in words
    )
    if perp_neg and (not view_dependent or len(around) % 4):
        raise ValueError(
            f"View Prompts: perp_neg is {perp_neg:g}, but there are no front and side texts to lead"
            " away from. Turn view_dependent on, with view words for a multiple of four sectors (a"
            " multi-view prior has none of its own), or set perp_neg to 0."
        )
    views = getattr(prior, "outward_words", ())
    outward = (
        prior.embed([f"{prompt}, {view} view" for view in views])
        if view_dependent and views
        else None
    )
    rows = (around, overhead, base, null, negative_row)
    return ViewPrompts(
        prompt,
        negative,
        *rows,
        interpolate,
        perp_neg,
        **factors,
        outward=outward,
        perp_neg_weights=perp_neg_weights,
        perp_neg_from=perp_neg_from,
    )
