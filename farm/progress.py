"""The bar: objects, objects an hour, time left."""

from __future__ import annotations

import sys
import time
from collections.abc import Callable
from typing import Any

from .errors import needed
from .manifest import DONE, Entry

FORMAT = "{percentage:3.0f}%|{bar}| {n_fmt}/{total_fmt} [{elapsed}{postfix}]"
QUIET = 15.0  # seconds between lines where nobody sees a bar move


class Progress:
    """Of one call; ``total`` objects are to be made."""

    def __init__(self, total: int) -> None:
        terminal = sys.stderr.isatty()
        self.total, self.made, self.count, self.memory = total, 0, 0, 0
        self._first: float | None = None
        self._refused = ""
        self._bar: Any = needed("tqdm").tqdm(
            total=total,
            bar_format=FORMAT,
            dynamic_ncols=terminal,
            mininterval=0.2 if terminal else QUIET,
            maxinterval=1.0 if terminal else QUIET,
        )
        self._bar.set_postfix_str("starting", refresh=False)

    def ended(self, entry: Entry) -> None:
        """A job has ended."""
        if (
            self._first is None and entry["status"] == DONE
        ):  # from when the first object was begun: what comes before is once
            self._first = time.monotonic() - float(entry.get("seconds") or 0.0)
        self.count += 1
        self.made += entry["status"] == DONE
        self.memory = max(self.memory, int(entry.get("memory") or 0))
        self._bar.set_postfix_str(self.told(), refresh=False)
        self._bar.update(1)

    def told(self) -> str:
        """The rate, and the time that the rest takes at it."""
        if self._first is None or not self.made:
            return "starting"
        rate = self.made / max(1e-3, time.monotonic() - self._first)
        return f"{rate * 3600:,.0f} objects/h, {clock((self.total - self.count) / rate)} left"

    def show(self, workers: int) -> None:
        """Bring the clock up to date."""
        self._bar.set_postfix_str(f"{self.told()}, {workers} workers", refresh=False)
        if sys.stderr.isatty():
            self._bar.refresh()

    def tell(self, text: str) -> None:
        """A line above the bar."""
        self._bar.write(text, file=sys.stderr)

    def attempt(self, write: Callable[[], object]) -> None:
        """Write something that can also be written later; a disk that refuses is told once."""
        try:
            write()
        except OSError as error:
            if str(error) != self._refused:
                self._refused = str(error)
                self.tell(f"OUT cannot be written to: {error}")

    def close(self) -> None:
        self._bar.close()


def clock(seconds: float) -> str:
    """1:02:03, or 2:03."""
    minutes, rest = divmod(round(seconds), 60)
    hours, minutes = divmod(minutes, 60)
    return f"{hours}:{minutes:02}:{rest:02}" if hours else f"{minutes}:{rest:02}"
