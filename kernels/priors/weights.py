"""Weights read whole, or refused with the name of what they belong to."""

from __future__ import annotations

from collections.abc import Collection, Iterator
from contextlib import contextmanager

import torch
from torch import nn


@contextmanager
def read_whole(owner: str) -> Iterator[None]:
    """Raises ValueError, beginning with ``owner``, where reading weights inside fails for what the
    file holds; want of memory passes through.
    """
    try:
        yield
    except (MemoryError, torch.OutOfMemoryError):
        raise
    # The libraries' own checks are few: a damaged file or config ends in the first error there is.
    except Exception as error:
        if isinstance(error, ValueError) and str(error).startswith(owner):
            raise
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


def check_finite(owner: str, module: nn.Module) -> None:
    """Raises ValueError, beginning with ``owner``, for weights that are NaN or infinite: nothing
    that they make would be a number.
    """
    for name, value in module.state_dict().items():
        if value.is_floating_point() and value.numel():
            # the ends alone: a mask of all values would take as much memory again
            low, high = torch.aminmax(value)
            if not bool(torch.isfinite(low) & torch.isfinite(high)):
                raise ValueError(
                    f"{owner} holds weights that are NaN or infinite, {name} for one. Download it"
                    " again; where it was saved in half precision, take the full one."
                )
