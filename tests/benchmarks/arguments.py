"""Types of the benchmarks' arguments for argparse, which say what is allowed before anything is
measured.
"""

from __future__ import annotations

import argparse
from collections.abc import Callable, Iterable
from pathlib import Path

import torch


def whole(low: int) -> Callable[[str], int]:
    """A whole number of at least ``low``."""

    def read(text: str) -> int:
        try:
            value = int(text)
        except ValueError:
            value = low - 1
        if value < low:
            raise argparse.ArgumentTypeError(f"{text!r} is not a whole number of at least {low}.")
        return value

    return read


def share(text: str) -> float:
    """Above 0, at most 1."""
    try:
        value = float(text)
    except ValueError:
        value = 0.0
    if not 0 < value <= 1:
        raise argparse.ArgumentTypeError(f"{text!r} is not a number above 0 and at most 1.")
    return value


def numbers(text: str) -> list[int]:
    """Whole numbers of at least 1 with commas between."""
    return [whole(1)(part) for part in text.split(",")]


def names(choices: Iterable[str]) -> Callable[[str], list[str]]:
    """Some of ``choices`` with commas between."""
    known = list(choices)

    def read(text: str) -> list[str]:
        found = text.split(",")
        for name in found:
            if name not in known:
                raise argparse.ArgumentTypeError(
                    f"{name!r} is not one of {', '.join(known)}; put commas between."
                )
        return found

    return read


def device(text: str) -> str:
    """cpu, or a CUDA device that there is."""
    if text.startswith("cuda") and not torch.cuda.is_available():
        raise argparse.ArgumentTypeError(
            f"{text!r}: this PyTorch finds no CUDA device. Leave it out, or give cpu."
        )
    return text


def file(text: str) -> Path:
    """A file to write, in a folder that is made if need be."""
    path = Path(text)
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise argparse.ArgumentTypeError(f"{text!r} cannot be written: {error}.") from error
    return path
