"""What is kept of a run that does not end well, and what is said of it."""

from __future__ import annotations

import traceback
from typing import Any

from ..devices import streams

CURE = "Lower the guidance or the learning rates, or run the prior in float32."
HOST = "can't allocate memory"  # torch's words where main memory runs out


class DivergedError(RuntimeError):
    """Too many steps in a row whose loss or gradient was NaN or infinite."""

    def __init__(self, message: str, result: Any, bad_steps: int) -> None:
        super().__init__(message)
        self.result = result  # the last one whose render gave a finite loss and gradient
        self.bad_steps = bad_steps  # in a row


def diverged_message(owner: str, noun: str, step: int, reached: int, bad_run: int) -> str:
    """What is said of a run without a good end; ``step``: that of what is kept."""
    return (
        f"{owner}: the last {bad_run} steps up to step {reached} gave a loss or gradient that is"
        f" NaN or infinite and were skipped. The {noun} of step {step} is kept. {CURE}"
    )


def last_good_note(owner: str, noun: str, step: int, reached: int, bad_run: int) -> str:
    """What is said of a run that ended in bad steps and returns the result of ``step``."""
    return (
        f"{owner}: the last {bad_run} steps up to step {reached} gave a loss or gradient that is"
        f" NaN or infinite. The {noun} is that of step {step}, the last one known to be good."
        f" {CURE}"
    )


def skipped_note(owner: str, bad: int, steps: int) -> str:
    """What is said of a run of ``steps`` steps, ``bad`` of which changed nothing."""
    return (
        f"{owner}: {bad} of {steps} steps gave a loss or gradient that is NaN or infinite and were"
        f" skipped. {CURE}"
    )


def is_out_of_memory(error: BaseException) -> bool:
    """Whether it tells of want of memory, the device's or the machine's."""
    known = isinstance(error, MemoryError) or streams.is_out_of_memory(error)
    return known or HOST in str(error)


def forget_locals(error: BaseException) -> None:
    """After memory ran out let go of what the failed calls held, their pictures and graphs: keeping
    the result needs room.
    """
    if is_out_of_memory(error):
        traceback.clear_frames(error.__traceback__)
