"""What is wrong with a run, said before it begins."""

from __future__ import annotations

from ..cameras.sampler import CameraSampler
from ..losses.base import Loss
from ..priors.base import Prior
from ..priors.view_conditioning import ViewConditionedPrior, check_views
from .settings import RunSettings
from .state import TrainingState


def check_run(
    loss: Loss,
    prior: Prior,
    cameras: CameraSampler,
    steps: int,
    settings: RunSettings,
    training: object,
    name: str,
) -> int:
    """Raise ValueError for whatever could fail later, naming the cure; returns the steps that lie
    behind ``training``.

    ``name``: what carries the training, for messages.
    """
    settings.check()
    loss.check()
    cameras.check(check_views(prior, settings.views))
    if settings.flip_share > 0 and isinstance(prior, ViewConditionedPrior):
        raise ValueError(
            f"flip_share is {settings.flip_share:g}, but prior {prior.name!r} is told of each view,"
            " which a mirrored picture would belie. Set it to 0."
        )
    prior.check_size(settings.judged_size or settings.image_size or prior.image_size)
    if isinstance(steps, bool) or not isinstance(steps, int) or steps < 1:
        raise ValueError(f"steps is {steps!r}; give a whole number of 1 or more.")
    if training is not None and not isinstance(training, TrainingState):
        raise ValueError(
            f"{name}.training is a {type(training).__name__}; expected a TrainingState or None."
        )
    done = 0 if training is None else training.step
    if settings.schedule_steps and settings.schedule_steps < done + steps:
        raise ValueError(
            f"schedule_steps is {settings.schedule_steps}, but {done} steps are done and {steps}"
            f" more are asked for. Give {done + steps} or more, or 0 to end the schedule with this"
            " call."
        )
    return done
