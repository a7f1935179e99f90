"""What a prior made of texts, kept up to a number of bytes."""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Callable, Sequence
from typing import Generic, TypeVar

Row = TypeVar("Row")

# bytes of all texts but the null text: some 800 of a Stable Diffusion 2, a few of a large language
# model
LIMIT = 256 << 20


class TextCache(Generic[Row]):
    """Rows by text; beyond ``limit`` bytes those go that were asked for longest ago.

    The null text stays, which every run asks for, and so does whatever the latest call asked for.
    """

    def __init__(self, size: Callable[[Row], int], limit: int = LIMIT) -> None:
        """size: bytes of a row."""
        self.size, self.limit, self.bytes = size, limit, 0
        self._rows: OrderedDict[str, tuple[Row, int]] = OrderedDict()

    def __len__(self) -> int:
        return len(self._rows)

    def of(self, texts: Sequence[str], make: Callable[[str], Row]) -> list[Row]:
        """The rows of the texts, in order; ``make`` makes those that are not there."""
        found: dict[str, Row] = {}
        for text in texts:
            if text in found:
                continue
            if text not in self._rows:
                row = make(text)
                self._rows[text] = row, self.size(row)
                self.bytes += self._rows[text][1]
            self._rows.move_to_end(text)
            found[text] = self._rows[text][0]
        for text in list(self._rows):
            if self.bytes <= self.limit:
                break
            if text and text not in found:
                self.bytes -= self._rows.pop(text)[1]
        return [found[text] for text in texts]

    def clear(self) -> None:
        self._rows.clear()
        self.bytes = 0
