"""A clock that somebody has set: time.time is off, what measures durations is not."""

from __future__ import annotations

import time

_time, _time_ns = time.time, time.time_ns


def shift(seconds: float) -> None:
    """From now on; 0 puts it right again."""
    if seconds:
        time.time = lambda: _time() + seconds
        time.time_ns = lambda: _time_ns() + int(seconds * 1e9)
    else:
        time.time, time.time_ns = _time, _time_ns
