"""How far a long piece of work is, for whoever waits for it, and a place to end it at."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from contextvars import ContextVar

Listener = Callable[[str, float], None]
_listener: ContextVar[Listener | None] = ContextVar("_listener", default=None)


def reached(part: str = "", share: float = 0.0) -> None:
    """Say that ``share``, 0..1, of a named part of the work is done; without a name only that here
    it may end. Raises what the listener raises, which ends it.
    """
    listener = _listener.get()
    if listener is not None:
        listener(part, share)


@contextmanager
def paced(listener: Listener) -> Iterator[None]:
    """Inside, ``listener`` hears what is `reached`."""
    token = _listener.set(listener)
    try:
        yield
    finally:
        _listener.reset(token)
