"""Work in a thread beside the set-up's own."""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager


@contextmanager
def background(function: Callable, *arguments) -> Iterator[Callable]:
    """Runs ``function`` in a thread; gives a function that waits for its result, or raises its
    exception.
    """
    outcome: dict = {}

    def work() -> None:
        try:
            outcome["result"] = function(*arguments)
        except BaseException as error:
            outcome["error"] = error

    thread = threading.Thread(target=work, daemon=True)
    thread.start()

    def result():
        thread.join()
        if "error" in outcome:
            raise outcome["error"]
        return outcome["result"]

    try:
        yield result
    finally:
        thread.join()
