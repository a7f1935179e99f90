"""What is kept of a run that does not end well, and what is said of it."""

from __future__ import annotations

import traceback
from dataclasses import dataclass, replace
from typing import Any, Generic, TypeAlias

from ..devices import streams
from .state import TrainingState
from .subject import Rendered, Result, Subject

# what a run has come to, where it takes place
Moment: TypeAlias = tuple[Subject[Result, Rendered], TrainingState]

CURE = "Lower the guidance or the learning rates, or run the prior in float32."
HOST = "can't allocate memory"  # torch's words where main memory runs out


class DivergedError(RuntimeError):
    """Too many steps in a row whose loss or gradient was NaN or infinite."""

    def __init__(self, message: str, result: Any, bad_steps: int) -> None:
        super().__init__(message)
        self.result = result  # the last one whose render gave a finite loss and gradient
        self.bad_steps = bad_steps  # in a row


def result_of(moment: Moment[Result, Rendered]) -> Result:
    """What a run returns that has come so far."""
    subject, state = moment
    return subject.result(state)


@dataclass
class LastGood(Generic[Result, Rendered]):
    """The last moment of a run that is known to be good, which is kept where the run ends in bad
    steps.

    Args:
        start: of the run, not known to be good
        moment: ``start``, until a step after another moment was good
    """

    start: Moment[Result, Rendered]
    moment: Moment[Result, Rendered]

    @property
    def known(self) -> bool:
        """Whether there is one."""
        return self.moment is not self.start

    def check(self, before: Moment[Result, Rendered], state: TrainingState, most: int) -> None:
        """Read the count of bad steps (the one wait for the device) in the ``state`` that a step
        made of ``before``. Raises `diverged` after more than ``most`` in a row.
        """
        bad_run = int(state.bad_run)
        if bad_run == 0:
            self.moment = before  # not what is now: that has yet to give a finite loss
        elif bad_run > most:
            raise self.diverged(state)

    def result(self, state: TrainingState) -> Result:
        """What is returned in place of ``state``; it counts the bad steps up to there."""
        subject, good = self.moment
        return result_of((subject, replace(good, bad_steps=state.bad_steps)))

    def diverged(self, state: TrainingState) -> DivergedError:
        """What to raise for a run without a good end in ``state``."""
        subject, good = self.moment
        message = (
            f"{self._bad_end(state)} and were skipped. The {subject.noun} of step {good.step} is"
            f" kept. {CURE}"
        )
        return DivergedError(message, result_of(self.moment), int(state.bad_run))

    def told(self, state: TrainingState) -> str:
        """What is said of a run that ended in bad steps, in ``state``, and returns `result`."""
        subject, good = self.moment
        return (
            f"{self._bad_end(state)}. The {subject.noun} is that of step {good.step}, the last one"
            f" known to be good. {CURE}"
        )

    def _bad_end(self, state: TrainingState) -> str:
        return (
            f"{self.moment[0].owner}: the last {int(state.bad_run)} steps up to step {state.step}"
            " gave a loss or gradient that is NaN or infinite"
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
