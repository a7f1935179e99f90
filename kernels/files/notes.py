"""What a reader has to tell of a file that it could read all the same."""

from __future__ import annotations

import logging
from collections.abc import Iterator
from contextlib import contextmanager
from contextvars import ContextVar

log = logging.getLogger(__name__)
_listening: ContextVar[list[str] | None] = ContextVar("_listening", default=None)


def note(text: str) -> None:
    """Log it, and add it to the list of the `notes` around."""
    log.warning("Distill3D: %s", text)
    listening = _listening.get()
    if listening is not None:
        listening.append(text)


@contextmanager
def notes() -> Iterator[list[str]]:
    """The notes of the block, as they come."""
    heard: list[str] = []
    token = _listening.set(heard)
    try:
        yield heard
    finally:
        _listening.reset(token)
