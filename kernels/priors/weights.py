"""Weights read whole, or refused with the name of what they belong to."""

from __future__ import annotations

from collections.abc import Collection, Iterator
from contextlib import contextmanager

from safetensors import SafetensorError


@contextmanager
def read_whole(owner: str) -> Iterator[None]:
    """Raises ValueError, beginning with ``owner``, where reading weights inside fails for what the
    file holds.
    """
    try:
        yield
    # diffusers says OSError of a damaged file, and NotImplementedError where weights are missing
    except (SafetensorError, OSError, NotImplementedError) as error:
        reason = (str(error).strip().splitlines() or [type(error).__name__])[0]
        raise ValueError(
            f"{owner} cannot be read ({reason[:200]}): its file is damaged, cut short, or lacks"
            " weights. Download it again."
        ) from error


def check_complete(owner: str, missing: Collection[str]) -> None:
    """Raises ValueError, beginning with ``owner``, if names of weights are ``missing``: they would
    be random.
    """
    if missing:
        raise ValueError(
            f"{owner} lacks {len(missing)} of its weights, {min(missing)} for one. Download it"
            " again, or use a model that holds all of them."
        )
