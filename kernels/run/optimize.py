"""The loop: render the cloud, ask the prior by way of a loss, move the Gaussians."""

from __future__ import annotations

import time
from collections.abc import Callable
from dataclasses import dataclass, fields, replace
from typing import Any

import torch
from torch import Tensor

from ..devices import sent
from ..gaussians.cameras import Cameras, CameraSampler
from ..gaussians.cloud import Gaussians
from ..gaussians.densify import Densify, densify_and_prune, fresh_statistics, gather, reset_opacities
from ..gaussians.rasterize import Rendering, render, resolve
from ..losses.base import Loss, Views, identity
from ..priors.base import REPAYING_STEPS, Prior, running
from ..priors.prompts import ViewPrompts
from ..priors.seeing import check_views, needs_depth, told, views_together
from .adam import adam, all_finite
from .anchor import Anchor
from .learning_rates import sh_shares
from .penalties import penalties
from .settings import OptimizeSettings, background_range, draw_backgrounds
from .state import TrainingState, fresh_state, random_streams

PREVIEW_ANGLES = (25.0, 15.0)  # degrees of azimuth and elevation: front, one side and the top are in view


@dataclass(frozen=True)
class Progress:
    """What ``on_step`` learns after every step. Tensors stay on the device: reading one waits for it."""

    step: int  # steps done in this call, from 1
    steps: int  # steps of this call
    done: int  # steps done over all calls
    loss: Tensor  # [] of this step, penalties included
    logs: dict[str, Tensor]  # [] the loss's logs, the penalties, and "bad_steps" so far
    seconds: float  # since this call began
    preview_due: bool  # per OptimizeSettings.preview_every, and after the last step
    # These two describe the moment they are called at, which should be inside on_step:
    cloud: Callable[[], Gaussians]  # what `optimize` would return now
    preview: Callable[[], Tensor]  # [H,W,3] 0..1, CPU: the cloud from the front, a little from above and the side
    look: Callable[[], Gaussians]  # the cloud where it is, on the device and without training state: costs nothing


class DivergedError(RuntimeError):
    """Too many steps in a row whose loss or gradient was NaN or infinite."""

    def __init__(self, message: str, cloud: Gaussians, bad_steps: int) -> None:
        super().__init__(message)
        self.cloud = cloud  # the last one whose render gave a finite loss and gradient
        self.bad_steps = bad_steps  # in a row


def optimize(
    cloud: Gaussians,
    loss: Loss,
    prior: Prior,
    prompts: ViewPrompts,
    cameras: CameraSampler,
    steps: int,
    settings: OptimizeSettings | None = None,
    on_step: Callable[[Progress], bool | None] | None = None,
    on_partial: Callable[[Gaussians], None] | None = None,
    anchor: Anchor | None = None,
) -> Gaussians:
    """Distil the prior's idea of the prompt into the cloud, for ``steps`` steps.

    Pure from outside: the inputs stay as they are, and on the CPU the same inputs and seed give the same bits.
    A cloud that carries training state goes on where it stopped: with one ``schedule_steps``, 300 steps and then
    300 more are the same as 600. Runs on the prior's device; the result is detached, on the cloud's device, with its
    training state. Works under torch.inference_mode(). With an ``anchor`` the renders are held to those of its cloud.

    ``on_step`` is called after every step. A true answer ends the run there in good order, with the cloud so far as its
    result. It may also raise: whatever exception ends the run, BaseExceptions included, ``on_partial`` gets the cloud
    so far before it goes on.
    Raises ValueError for inputs that do not fit, before any work; DivergedError with the last good cloud once more
    than ``max_bad_steps`` steps in a row, or all steps of the call, were not finite. Bad steps leave the cloud
    and its moments as they are and are counted.
    """
    settings = settings or OptimizeSettings()
    accelerate = steps >= REPAYING_STEPS if settings.accelerate is None else settings.accelerate
    with (
        torch.inference_mode(False),
        torch.enable_grad(),
        running(prior, accelerate, settings.pictures_at_once),
    ):
        run = _Run(cloud, loss, prior, prompts, cameras, steps, settings, anchor)
        try:
            for _ in range(steps):
                logs = run.step()
                if on_step is not None and on_step(run.progress(logs)):
                    break
        except BaseException as error:
            if on_partial is not None:
                on_partial(error.cloud if isinstance(error, DivergedError) else run.result())
            raise
        return run.result()


class _Run:
    """One call of `optimize`: what stays the same, and the cloud and state that every step replaces."""

    def __init__(
        self,
        cloud: Gaussians,
        loss: Loss,
        prior: Prior,
        prompts: ViewPrompts,
        cameras: CameraSampler,
        steps: int,
        settings: OptimizeSettings,
        anchor: Anchor | None,
    ) -> None:
        self.prior, self.sampler, self.settings, self.steps = prior, cameras, settings, steps
        self.grays, self.depth = background_range(prior), needs_depth(prior)
        self.together = views_together(prior)
        self.size = settings.image_size or prior.image_size
        latent_size = self.size // prior.downscale
        self.latent_shape = (prior.latent_channels, latent_size, latent_size)
        if anchor is not None:
            anchor.check()
        done = _check(cloud, loss, prior, cameras, steps, self.size, settings)
        self.schedule_steps = settings.schedule_steps or done + steps

        self.home, self.device = cloud.device, torch.device(prior.device)
        # On the prior's device: else every step would wait for its texts to follow.
        self.prompts = prompts.to(self.device)
        resolve(settings.render_backend, self.device, cloud.means.dtype)
        self.anchor = None if anchor is None else anchor.to(self.device)
        # A copy: inputs may be inference tensors, and stay as they are.
        copied = cloud.map(lambda value: value.detach().to(self.device, copy=True))
        self.cloud = replace(copied, anchored=None if cloud.anchored is None else cloud.anchored.to(self.device))
        if cloud.training is None:
            state = fresh_state(self.cloud, settings.seed)
        else:
            state = cloud.training.to(self.device, cloud.means.dtype, copy=True)
        # Another seed asks for other draws, so it starts new streams; the same one continues them.
        self.streams = random_streams(settings.seed, state.generators if state.seed == settings.seed else None)
        self.loss_name = identity(loss)
        known = (state.loss_name, state.latent_shape) == (self.loss_name, self.latent_shape)
        self.loss = loss.start(prior, self.latent_shape, self.streams["noise"], state.loss if known else None)
        self.state: TrainingState = replace(state, seed=settings.seed, generators=self._stream_states())
        self.sh_shares = sh_shares(self.cloud.sh)
        self.taken, self.started = 0, time.perf_counter()
        self.good = self._now()

    def _stream_states(self) -> dict[str, Tensor]:
        return {name: stream.get_state() for name, stream in self.streams.items()}

    def _now(self) -> Gaussians:
        """The cloud with its training state where the run takes place; costs nothing, as no step edits in place."""
        kept = replace(
            self.state, loss_name=self.loss_name, latent_shape=self.latent_shape, loss=dict(self.loss.state())
        )
        return replace(self.cloud, training=kept)

    def result(self) -> Gaussians:
        return _home(self._now(), self.home)

    def step(self) -> dict[str, Tensor]:
        settings, last = self.settings, self.taken + 1 == self.steps
        before = self._now() if last or (self.taken + 1) % settings.check_every == 0 else None
        sampled = self.sampler.sample(settings.views, self.size, self.streams["cameras"], together=self.together)
        cameras = _moved(sampled, self.device)
        params = {name: value.detach().requires_grad_() for name, value in self.cloud.tensors().items()}
        backgrounds = self._backgrounds()
        rendering = render(Gaussians(**params), cameras, backgrounds, settings.render_backend, depth=self.depth)
        # Not clamped to 0..1: the prior pulls colours that overshoot back, a clamp would leave them stuck.
        posterior = self.streams["posterior"] if settings.sample_posterior else None
        latents = self.prior.encode(rendering.color.permute(0, 3, 1, 2), posterior)
        value, logs = self.loss(latents, self._views(sampled, cameras, rendering), self.streams["noise"])
        extra = penalties(settings, params, rendering.color, rendering.alpha)
        if self.anchor is not None:
            extra |= self.anchor.penalties(rendering, cameras, backgrounds, settings.render_backend)
        total = value + sum(extra.values())
        sources = [*params.values()] if settings.densify is None else [*params.values(), rendering.means2d]
        gradients = torch.autograd.grad(total, sources, allow_unused=True, materialize_grads=True)
        by_name = dict(zip(params, gradients, strict=False))
        accept = all_finite([total.detach(), *by_name.values()])

        cloud, state = self._updated(by_name, accept)
        if settings.densify is not None:
            cloud, state = self._densified(settings.densify, cloud, state, gradients[-1], rendering.visible, accept)
        self.cloud, self.state = cloud, replace(state, generators=self._stream_states())
        self.taken += 1
        if before is not None:
            self._look(before, last)
        logs = {"loss": total, **logs, **extra, "bad_steps": self.state.bad_steps}
        return {name: log.detach() for name, log in logs.items()}

    def _backgrounds(self) -> Tensor:
        """One colour per view, [V,3]."""
        settings, stream = self.settings, self.streams["background"]
        draws = draw_backgrounds(settings.background, self.grays, settings.views, stream)
        return sent(draws, self.device).to(self.cloud.means.dtype)

    def _views(self, sampled: Cameras, cameras: Cameras, rendering: Rendering) -> Views:
        # Perp-Neg reads its angles, which on the CPU waits for nothing.
        text = self.prompts.at(sampled.azimuths, sampled.elevations, outward=sampled.outward)
        negative = self.prompts.negative_rows(len(cameras))
        text, negative = told(self.prior, (text, negative), cameras, rendering.alpha, rendering.depth)
        factor = self.prompts.guidance_factor(cameras.azimuths, cameras.elevations)
        return Views(text, negative, cameras, self.state.step, self.schedule_steps, factor, self.together)

    def _updated(self, gradients: dict[str, Tensor], accept: Tensor) -> tuple[Gaussians, TrainingState]:
        state = self.state
        rates: dict[str, Any] = self.settings.at(state.step / self.schedule_steps)
        rates["sh"] = rates["sh"] * self.sh_shares
        if self.cloud.anchored is not None:
            free = (~self.cloud.anchored).to(self.cloud.means.dtype)
            for name in ("means", "log_scales", "quats"):
                rates[name] = rates[name] * free[:, None]
            rates["opacity_logits"] = rates["opacity_logits"] * free
        params, first, second, updates = adam(
            self.cloud.tensors(), gradients, state.first, state.second, state.updates, rates, accept
        )
        bad = (~accept).to(torch.int64)
        return replace(self.cloud, **params), replace(
            state,
            step=state.step + 1,
            first=first,
            second=second,
            updates=updates,
            bad_steps=state.bad_steps + bad,
            bad_run=(state.bad_run + bad) * bad,
        )

    def _densified(
        self,
        strategy: Densify,
        cloud: Gaussians,
        state: TrainingState,
        gradient: Tensor,
        visible: Tensor,
        accept: Tensor,
    ) -> tuple[Gaussians, TrainingState]:
        """Gather what the step says about each Gaussian; where a round is due, act on it, waiting for the device."""
        statistics = gather(
            state.statistics or fresh_statistics(cloud), gradient, visible, (self.size, self.size), accept
        )
        moments = {name: (state.first[name], state.second[name]) for name in cloud.tensors()}
        if strategy.due(state.step, self.schedule_steps):
            stream, limit = self.streams["densify"], self.settings.max_gaussians
            cloud, moments = densify_and_prune(strategy, cloud, statistics, moments, stream, limit)
            statistics = fresh_statistics(cloud)
        if strategy.reset_due(state.step, self.schedule_steps):
            cloud, moments = reset_opacities(strategy, cloud, moments)
        first, second = ({name: pair[place] for name, pair in moments.items()} for place in (0, 1))
        return cloud, replace(state, first=first, second=second, statistics=statistics)

    def _look(self, before: Gaussians, last: bool) -> None:
        """Read the count of bad steps (the one wait for the device): keep what is good, stop what is beyond hope."""
        bad_run = int(self.state.bad_run)
        if bad_run == 0:
            self.good = before  # not the cloud of now: that one has yet to give a finite loss
        elif bad_run > self.settings.max_bad_steps or (last and bad_run >= self.steps):
            raise DivergedError(
                f"Optimize: the last {bad_run} steps up to step {self.state.step} gave a loss or gradient that is NaN "
                f"or infinite and were skipped. The cloud of step {self.good.training.step} is kept. Lower the "
                "guidance or the learning rates, or run the prior in float32.",
                _home(self.good, self.home),
                bad_run,
            )

    def progress(self, logs: dict[str, Tensor]) -> Progress:
        logs, every = dict(logs), self.settings.preview_every
        return Progress(
            step=self.taken,
            steps=self.steps,
            done=self.state.step,
            loss=logs.pop("loss"),
            logs=logs,
            seconds=time.perf_counter() - self.started,
            preview_due=every > 0 and (self.taken % every == 0 or self.taken == self.steps),
            cloud=self.result,
            preview=self.preview,
            look=lambda: self.cloud,
        )

    def preview(self) -> Tensor:
        background = sum(self.grays or (0.5, 0.5)) / 2
        camera = self.sampler.from_angles(*PREVIEW_ANGLES, self.size).to(self.device)
        with torch.no_grad():
            rendering = render(self.cloud, camera, background, self.settings.render_backend, depth=False)
        return rendering.color[0].clamp(0, 1).cpu()


def _check(
    cloud: Gaussians,
    loss: Loss,
    prior: Prior,
    cameras: CameraSampler,
    steps: int,
    size: int,
    settings: OptimizeSettings,
) -> int:
    """Raise ValueError for whatever could fail later, naming the cure; returns the steps the cloud has behind it."""
    settings.check()
    loss.check()
    cameras.check(check_views(prior, settings.views))
    cloud.check()
    prior.check_size(size)
    if isinstance(steps, bool) or not isinstance(steps, int) or steps < 1:
        raise ValueError(f"steps is {steps!r}; give a whole number of 1 or more.")
    if len(cloud) > settings.max_gaussians:
        raise ValueError(
            f"max_gaussians is {settings.max_gaussians}, but the cloud already holds {len(cloud)} Gaussians. "
            "Raise it, or start from fewer."
        )
    if cloud.training is None:
        done = 0
    elif isinstance(cloud.training, TrainingState):
        done = cloud.training.check(cloud).step
    else:
        raise ValueError(f"gaussians.training is a {type(cloud.training).__name__}; expected a TrainingState or None.")
    if settings.schedule_steps and settings.schedule_steps < done + steps:
        raise ValueError(
            f"schedule_steps is {settings.schedule_steps}, but {done} steps are done and {steps} more are asked for. "
            f"Give {done + steps} or more, or 0 to end the schedule with this call."
        )
    return done


def _home(cloud: Gaussians, device: torch.device) -> Gaussians:
    return replace(cloud, training=cloud.training.to(device)).to(device)


def _moved(cameras: Cameras, device: torch.device) -> Cameras:
    tensors = {f.name: getattr(cameras, f.name) for f in fields(cameras)}
    moved: dict[str, Any] = {name: sent(v, device) for name, v in tensors.items() if isinstance(v, Tensor)}
    return replace(cameras, **moved)
