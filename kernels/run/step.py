"""The step that splats and meshes share, and the loop around it: render, encode, ask the prior by a
loss, move.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, fields, replace
from typing import Any, Generic, Protocol, TypeVar

import torch
from torch import Tensor

from ..cameras.pinhole import Cameras
from ..cameras.sampler import CameraSampler
from ..devices.streams import sent
from ..gaussians.cloud import Gaussians
from ..losses.base import Loss, Views, identity
from ..priors.base import REPAYING_STEPS, Prior, running
from ..priors.prompts import ViewPrompts
from ..priors.seeing import check_views, needs_depth, shown, told, views_together
from .adam import adam, all_finite
from .settings import RunSettings, background_range, draw_backgrounds
from .state import TrainingState, random_streams

# degrees of azimuth and elevation: front, one side and the top are in view
PREVIEW_ANGLES = (25.0, 15.0)

Result = TypeVar("Result", covariant=True)  # Gaussians or Mesh


class Pictures(Protocol):
    """What the prior is shown of V views, differentiable."""

    @property
    def color(self) -> Tensor: ...  # [V,H,W,3]

    @property
    def alpha(self) -> Tensor: ...  # [V,H,W,1] 0..1

    @property
    def depth(self) -> Tensor: ...  # [V,H,W,1] distance along the optical axis, world units


class Subject(Protocol[Result]):
    """A cloud or a mesh on its way through a run, on the prior's device. No step edits it: a step
    makes another.
    """

    @property
    def owner(self) -> str: ...  # what the run is called in messages

    @property
    def noun(self) -> str: ...  # and what it moves

    def tensors(self) -> dict[str, Tensor]:
        """What the steps move, by name."""
        ...

    def render(
        self, params: dict[str, Tensor], cameras: Cameras, backgrounds: Tensor, depth: bool
    ) -> Any:
        """`Pictures` of it with ``params`` in place of its tensors, on ``backgrounds`` [V,3]; no
        depth is needed where ``depth`` is False."""
        ...

    def penalties(
        self, params: dict[str, Tensor], pictures: Any, cameras: Cameras, backgrounds: Tensor
    ) -> dict[str, Tensor]:
        """Weighted penalties by name, scalars."""
        ...

    def traced(self, pictures: Any) -> list[Tensor]:
        """What else of the pictures `adapted` wants the gradient of."""
        ...

    def rates(self, step: int, steps: int) -> Mapping[str, Any]:
        """Learning rates by name after ``step`` of ``steps`` steps of the schedule."""
        ...

    def moved(self, params: dict[str, Tensor]) -> Subject[Result]:
        """The same with other tensors."""
        ...

    def adapted(
        self,
        state: TrainingState,
        steps: int,
        gradients: list[Tensor],
        pictures: Any,
        accept: Tensor,
        generator: torch.Generator,
    ) -> tuple[Subject[Result], TrainingState]:
        """What follows a step on a schedule of ``steps``, given the gradients of what was `traced`:
        densification.
        """
        ...

    def photographed(self, camera: Cameras, background: float) -> Tensor:
        """A picture [H,W,3] in 0..1 for people."""
        ...

    def look(self) -> Gaussians:
        """What a viewer of splats may show of it, without training state."""
        ...

    def result(self, state: TrainingState) -> Result:
        """What a run that ended here returns, where its input was, with its training state."""
        ...


@dataclass(frozen=True)
class Progress(Generic[Result]):
    """What ``on_step`` learns after every step. Tensors stay on the device: reading one waits for
    it.

    Args:
        step: steps done in this call, from 1
        steps: steps of this call
        done: steps done over all calls
        loss: [] of this step, penalties included
        logs: [] the loss's logs, the penalties, and "bad_steps" so far
        seconds: since this call began
        preview_due: per RunSettings.preview_every, and after the last step
        result: what the run would return now
        preview: [H,W,3] 0..1, CPU: from the front, a little from above and the side
        look: what a viewer of splats may show, on the device and without training state
    """

    step: int
    steps: int
    done: int
    loss: Tensor
    logs: dict[str, Tensor]
    seconds: float
    preview_due: bool
    # These describe the moment they are called at, which should be inside on_step:
    result: Callable[[], Result]
    preview: Callable[[], Tensor]
    look: Callable[[], Gaussians]


class DivergedError(RuntimeError):
    """Too many steps in a row whose loss or gradient was NaN or infinite."""

    def __init__(self, message: str, result: Any, bad_steps: int) -> None:
        super().__init__(message)
        self.result = result  # the last one whose render gave a finite loss and gradient
        self.bad_steps = bad_steps  # in a row


@contextmanager
def working(prior: Prior, steps: int, settings: RunSettings) -> Iterator[None]:
    """Inside, gradients flow whatever the caller's mode, and the prior is at its best for so many
    steps.
    """
    accelerate = steps >= REPAYING_STEPS if settings.accelerate is None else settings.accelerate
    with (
        torch.inference_mode(False),
        torch.enable_grad(),
        running(prior, accelerate, settings.pictures_at_once),
    ):
        yield


def check_run(
    loss: Loss,
    prior: Prior,
    cameras: CameraSampler,
    steps: int,
    settings: RunSettings,
    training: Any,
    name: str,
) -> int:
    """Raise ValueError for whatever could fail later, naming the cure; returns the steps that lie
    behind ``training``.

    ``name``: what carries the training, for messages.
    """
    settings.check()
    loss.check()
    cameras.check(check_views(prior, settings.views))
    prior.check_size(settings.image_size or prior.image_size)
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


class Run(Generic[Result]):
    """One call of `optimize` or `refine_mesh`: what stays the same, and the subject and state that
    a step replaces.
    """

    def __init__(
        self,
        subject: Subject[Result],
        state: TrainingState,
        loss: Loss,
        prior: Prior,
        prompts: ViewPrompts,
        cameras: CameraSampler,
        steps: int,
        settings: RunSettings,
    ) -> None:
        self.subject, self.prior, self.sampler = subject, prior, cameras
        self.steps, self.settings = steps, settings
        self.grays, self.depth = background_range(prior), needs_depth(prior)
        self.together = views_together(prior)
        self.size = settings.image_size or prior.image_size
        latent_size = self.size // prior.downscale
        self.latent_shape = (prior.latent_channels, latent_size, latent_size)
        self.schedule_steps = settings.schedule_steps or state.step + steps
        self.device = torch.device(prior.device)
        # On the prior's device: else every step would wait for its texts to follow.
        self.prompts = prompts.to(self.device)
        # Another seed asks for other draws, so it starts new streams; the same one continues them.
        self.streams = random_streams(
            settings.seed, state.generators if state.seed == settings.seed else None
        )
        self.loss_name = identity(loss)
        known = (state.loss_name, state.latent_shape) == (self.loss_name, self.latent_shape)
        self.loss = loss.start(
            prior, self.latent_shape, self.streams["noise"], state.loss if known else None
        )
        self.state: TrainingState = replace(
            state, seed=settings.seed, generators=self._stream_states()
        )
        self.taken, self.started = 0, time.perf_counter()
        self.good = self._now()

    def through(
        self,
        on_step: Callable[[Progress[Result]], bool | None] | None,
        on_partial: Callable[[Result], None] | None,
    ) -> Result:
        """All steps; see `optimize` for what the callbacks may do."""
        try:
            for _ in range(self.steps):
                logs = self.step()
                if on_step is not None and on_step(self.progress(logs)):
                    break
        except BaseException as error:
            if on_partial is not None:
                on_partial(error.result if isinstance(error, DivergedError) else self.result())
            raise
        return self.result()

    def _stream_states(self) -> dict[str, Tensor]:
        return {name: stream.get_state() for name, stream in self.streams.items()}

    def _now(self) -> tuple[Subject[Result], TrainingState]:
        """Subject and whole training state where the run takes place; costs nothing, as no step
        edits in place.
        """
        own = {
            "loss_name": self.loss_name,
            "latent_shape": self.latent_shape,
            "loss": dict(self.loss.state()),
        }
        return self.subject, replace(self.state, **own)  # type: ignore[arg-type]

    def result(self) -> Result:
        return _result(self._now())

    def step(self) -> dict[str, Tensor]:
        settings, subject, last = self.settings, self.subject, self.taken + 1 == self.steps
        before = self._now() if last or (self.taken + 1) % settings.check_every == 0 else None
        sampled = self.sampler.sample(
            settings.views, self.size, self.streams["cameras"], together=self.together
        )
        cameras = _moved(sampled, self.device)
        params = {
            name: value.detach().requires_grad_() for name, value in subject.tensors().items()
        }
        backgrounds = self._backgrounds()
        pictures = subject.render(params, cameras, backgrounds, self.depth)
        # Not clamped to 0..1: the prior pulls colours that overshoot back, a clamp would leave them
        # stuck.
        posterior = self.streams["posterior"] if settings.sample_posterior else None
        latents = self.prior.encode(shown(self.prior, pictures.color, pictures.alpha), posterior)
        value, logs = self.loss(
            latents, self._views(sampled, cameras, pictures), self.streams["noise"]
        )
        extra = subject.penalties(params, pictures, cameras, backgrounds)
        total = value + sum(extra.values())
        sources = [*params.values(), *subject.traced(pictures)]
        gradients = torch.autograd.grad(total, sources, allow_unused=True, materialize_grads=True)
        by_name = dict(zip(params, gradients, strict=False))
        accept = all_finite([total.detach(), *by_name.values()])

        moved, state = self._updated(by_name, accept)
        self.subject, state = moved.adapted(
            state,
            self.schedule_steps,
            [*gradients[len(params) :]],
            pictures,
            accept,
            self.streams["densify"],
        )
        self.state = replace(state, generators=self._stream_states())
        self.taken += 1
        if before is not None:
            self._check_bad_steps(before, last)
        logs = {"loss": total, **logs, **extra, "bad_steps": self.state.bad_steps}
        return {name: log.detach() for name, log in logs.items()}

    def _backgrounds(self) -> Tensor:
        """One colour per view, [V,3]."""
        settings, stream = self.settings, self.streams["background"]
        draws = draw_backgrounds(settings.background, self.grays, settings.views, stream)
        return sent(draws, self.device).to(next(iter(self.subject.tensors().values())).dtype)

    def _views(self, sampled: Cameras, cameras: Cameras, pictures: Pictures) -> Views:
        # Perp-Neg reads its angles, which on the CPU waits for nothing.
        text = self.prompts.at(sampled.azimuths, sampled.elevations, outward=sampled.outward)
        negative = self.prompts.negative_rows(len(cameras))
        text, negative = told(self.prior, (text, negative), cameras, pictures.alpha, pictures.depth)
        factor = self.prompts.guidance_factor(cameras.azimuths, cameras.elevations)
        return Views(
            text, negative, cameras, self.state.step, self.schedule_steps, factor, self.together
        )

    def _updated(
        self, gradients: dict[str, Tensor], accept: Tensor
    ) -> tuple[Subject[Result], TrainingState]:
        state = self.state
        rates = self.subject.rates(state.step, self.schedule_steps)
        params, first, second, updates = adam(
            self.subject.tensors(),
            gradients,
            state.first,
            state.second,
            state.updates,
            rates,
            accept,
        )
        bad = (~accept).to(torch.int64)
        return self.subject.moved(params), replace(
            state,
            step=state.step + 1,
            first=first,
            second=second,
            updates=updates,
            bad_steps=state.bad_steps + bad,
            bad_run=(state.bad_run + bad) * bad,
        )

    def _check_bad_steps(self, before: tuple[Subject[Result], TrainingState], last: bool) -> None:
        """Read the count of bad steps (the one wait for the device): keep what is good, stop what
        is beyond hope.
        """
        bad_run = int(self.state.bad_run)
        if bad_run == 0:
            self.good = before  # not what is now: that has yet to give a finite loss
        elif bad_run > self.settings.max_bad_steps or (last and bad_run >= self.steps):
            subject, state = self.good
            raise DivergedError(
                f"{subject.owner}: the last {bad_run} steps up to step {self.state.step} gave a"
                f" loss or gradient that is NaN or infinite and were skipped. The {subject.noun} of"
                f" step {state.step} is kept. Lower the guidance or the learning rates, or run the"
                " prior in float32.",
                _result(self.good),
                bad_run,
            )

    def progress(self, logs: dict[str, Tensor]) -> Progress[Result]:
        logs, every = dict(logs), self.settings.preview_every
        return Progress(
            step=self.taken,
            steps=self.steps,
            done=self.state.step,
            loss=logs.pop("loss"),
            logs=logs,
            seconds=time.perf_counter() - self.started,
            preview_due=every > 0 and (self.taken % every == 0 or self.taken == self.steps),
            result=self.result,
            preview=self.preview,
            look=lambda: self.subject.look(),
        )

    def preview(self) -> Tensor:
        background = sum(self.grays or (0.5, 0.5)) / 2
        camera = self.sampler.from_angles(*PREVIEW_ANGLES, self.size).to(self.device)
        with torch.no_grad():
            return self.subject.photographed(camera, background).cpu()


def _result(moment: tuple[Subject[Result], TrainingState]) -> Result:
    subject, state = moment
    return subject.result(state)


def _moved(cameras: Cameras, device: torch.device) -> Cameras:
    tensors = {f.name: getattr(cameras, f.name) for f in fields(cameras)}
    moved: dict[str, Any] = {
        name: sent(v, device) for name, v in tensors.items() if isinstance(v, Tensor)
    }
    return replace(cameras, **moved)
