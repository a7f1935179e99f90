"""View-dependent prompts: which side of the object the prior is told it sees (DreamFusion, section 3.2)."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from .base import Conditioning, Prior

# View words in equal sectors of azimuth, counter-clockwise from the front: what DreamFusion and its descendants say.
AROUND = ("front", "side", "back", "side")
OVERHEAD = ("overhead",)
OVERHEAD_ABOVE = 60.0  # degrees of elevation


@dataclass(frozen=True)
class ViewPrompts:
    """One prompt as seen from each side, embedded by one prior.

    Row i of ``around`` is the text of the sector centred at azimuth i * 360 / rows, and so for ``overhead``.
    """

    prompt: str
    negative: str
    around: Conditioning  # at least one row: views from the sides
    overhead: Conditioning  # at least one row: views from above
    base: Conditioning  # one row: the prompt without view words
    null: Conditioning  # one row: the empty text
    negative_row: Conditioning  # one row: the negative prompt, equal to null where that is empty
    interpolate: bool = False  # blend neighbouring views by azimuth rather than switch between them
    outward: Conditioning | None = None  # rows like those of ``around``, by the azimuth looked towards; None: ``base``

    def at(
        self, azimuths: Tensor, elevations: Tensor, interpolate: bool | None = None, outward: Tensor | None = None
    ) -> Conditioning:
        """V rows for cameras at these angles, both [V] in degrees (any turn: -190 is 170).

        Each camera gets the text of its sector: with four of them, front within 45 degrees of azimuth 0, back beyond
        135, side between. With interpolation the text runs linearly from one sector's centre to the next, so that it
        never jumps in azimuth. Above an elevation of 60 it is the overhead text. ``interpolate`` None takes the
        field's value. Cameras that look out of a scene, ``outward`` [V] bool, get the outward text instead.
        """
        blended = self.interpolate if interpolate is None else interpolate
        choose = _blended if blended else _switched
        high = (elevations > OVERHEAD_ABOVE).float()
        rows = Conditioning.lerp(choose(self.around, azimuths), choose(self.overhead, azimuths), high)
        if outward is None:
            return rows
        return Conditioning.lerp(
            rows, choose(self.base if self.outward is None else self.outward, azimuths), outward.float()
        )

    def negative_rows(self, count: int) -> Conditioning:
        """``count`` equal rows of what guidance leads away from."""
        return self.negative_row.repeat(count)


def _switched(rows: Conditioning, azimuths: Tensor) -> Conditioning:
    sector = (azimuths * (len(rows) / 360)).round().long() % len(rows)
    return rows.index(sector.to(rows.embeddings.device))


def _blended(rows: Conditioning, azimuths: Tensor) -> Conditioning:
    place = torch.remainder(azimuths * (len(rows) / 360), len(rows))
    low = place.floor().long() % len(rows)
    pair = ((low + step) % len(rows) for step in (0, 1))
    before, after = (rows.index(sector.to(rows.embeddings.device)) for sector in pair)
    return Conditioning.lerp(before, after, place - place.floor())


def view_prompts(
    prior: Prior, prompt: str, negative: str = "", view_dependent: bool = True, interpolate: bool = False
) -> ViewPrompts:
    """Embed ``prompt`` with view words: ", front view", ", side view", ", back view" and ", overhead view".

    A prior that was trained with finer ones names them in ``around_words`` and ``overhead_words``, in the order of
    `AROUND`; one that knows views out of a scene names theirs in ``outward_words``. view_dependent False uses the bare
    prompt from every side. Raises ValueError for a text that the prior rejects (empty, or outside its vocabulary).
    """
    prior.check_text(prompt)
    if negative:
        prior.check_text(negative)
    base, null, negative_row = (prior.embed([text]) for text in (prompt, "", negative))
    words = (getattr(prior, "around_words", AROUND), getattr(prior, "overhead_words", OVERHEAD))
    around, overhead = (
        prior.embed([f"{prompt}, {view} view" for view in views]) if view_dependent else base for views in words
    )
    views = getattr(prior, "outward_words", ())
    outward = prior.embed([f"{prompt}, {view} view" for view in views]) if view_dependent and views else None
    return ViewPrompts(prompt, negative, around, overhead, base, null, negative_row, interpolate, outward)
