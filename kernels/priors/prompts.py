"""View-dependent prompts: which side of the object the prior is told it sees (DreamFusion, section 3.2)."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from .base import Conditioning, Prior

VIEWS = ("front", "side", "back", "overhead")
FRONT_WITHIN = 45.0  # degrees of azimuth to either side
BACK_BEYOND = 135.0  # degrees of azimuth to either side
OVERHEAD_ABOVE = 60.0  # degrees of elevation


@dataclass(frozen=True)
class ViewPrompts:
    """One prompt as seen from each side, embedded by one prior. Every Conditioning holds a single row."""

    prompt: str
    negative: str
    front: Conditioning
    side: Conditioning
    back: Conditioning
    overhead: Conditioning
    base: Conditioning  # the prompt without view words
    null: Conditioning  # the empty text
    negative_row: Conditioning  # the negative prompt, equal to null where that is empty
    interpolate: bool = False  # blend neighbouring views by azimuth rather than switch between them

    def at(self, azimuths: Tensor, elevations: Tensor, interpolate: bool | None = None) -> Conditioning:
        """V rows for cameras at these angles, both [V] in degrees (any turn: -190 is 170).

        Front within 45 degrees of azimuth 0, back beyond 135, side between them, overhead above an elevation of 60.
        With interpolation the text runs linearly front (0), side (90), back (180) and the same way home, so that it
        never jumps in azimuth; overhead stays a switch. ``interpolate`` None takes the field's value.
        """
        turn = (torch.remainder(azimuths + 180, 360) - 180).abs()  # 0 in front .. 180 behind
        blended = self.interpolate if interpolate is None else interpolate
        around = self._blended(turn) if blended else self._switched(turn)
        return Conditioning.lerp(around, self.overhead, (elevations > OVERHEAD_ABOVE).float())

    def _blended(self, turn: Tensor) -> Conditioning:
        to_side = Conditioning.lerp(self.front, self.side, (turn / 90).clamp(0, 1))
        return Conditioning.lerp(to_side, self.back, (turn / 90 - 1).clamp(0, 1))

    def _switched(self, turn: Tensor) -> Conditioning:
        rows = Conditioning.cat([self.front, self.side, self.back])
        which = (turn > FRONT_WITHIN).long() + (turn > BACK_BEYOND).long()
        return rows.index(which.to(rows.embeddings.device))

    def negative_rows(self, count: int) -> Conditioning:
        """``count`` equal rows of what guidance leads away from."""
        return self.negative_row.repeat(count)


def view_prompts(
    prior: Prior, prompt: str, negative: str = "", view_dependent: bool = True, interpolate: bool = False
) -> ViewPrompts:
    """Embed ``prompt`` with the words "front view", "side view", "back view" and "overhead view".

    view_dependent False uses the bare prompt from every side. Raises ValueError for a text that the prior rejects
    (empty, or outside its vocabulary).
    """
    prior.check_text(prompt)
    if negative:
        prior.check_text(negative)
    base, null, negative_row = (prior.embed([text]) for text in (prompt, "", negative))
    front, side, back, overhead = (
        prior.embed([f"{prompt}, {view} view"]) if view_dependent else base for view in VIEWS
    )
    return ViewPrompts(prompt, negative, front, side, back, overhead, base, null, negative_row, interpolate)
