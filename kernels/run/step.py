"""The step that splats and meshes share, and the loop around it: render, encode, ask the prior by a
loss, move.
"""

from __future__ import annotations

import copy
import time
from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import Generic

import torch
from torch import Tensor

from ..cameras.pinhole import Cameras
from ..cameras.sampler import CameraSampler
from ..devices.streams import send
from ..files.notes import note
from ..gaussians.cloud import Gaussians
from ..losses.base import Loss, Views, identity
from ..priors.base import Prior
from ..priors.prompts import ViewPrompts
from ..priors.view_conditioning import (
    condition_on_views,
    group_size,
    needs_depth,
)
from .adam import adam, all_finite, clipped_norms
from .guide import Guide, Look
from .judged import draw_judging
from .kept import DivergedError, LastGood, Moment, forget_locals, result_of
from .origin import differences, origin
from .references import References
from .settings import RunSettings, background_range, draw_backgrounds
from .shared_views import fallen_back, parts_of, rendered_and_encoded, shared, whole_gradients
from .state import TrainingState, random_streams
from .subject import Rendered, RenderedViews, Result, Subject

# degrees of azimuth and elevation: front, one side and the top are in view
PREVIEW_ANGLES = (25.0, 15.0)


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
    viewer_cloud: Callable[[], Gaussians]


class Run(Generic[Result, Rendered]):
    """One call of `optimize` or `refine_mesh`: what stays the same, and the subject and state that
    a step replaces.
    """

    def __init__(
        self,
        subject: Subject[Result, Rendered],
        state: TrainingState,
        loss: Loss,
        prior: Prior,
        prompts: ViewPrompts,
        cameras: CameraSampler,
        steps: int,
        settings: RunSettings,
        references: References | None = None,
    ) -> None:
        self.subject, self.prior, self.sampler = subject, prior, cameras
        self.steps, self.settings = steps, settings
        self.grays = background_range(prior)
        self.depth = needs_depth(prior) or settings.needs_depth
        self.views_per_group = group_size(prior)
        self.size = settings.image_size or prior.image_size
        latent_size = (settings.judged_size or self.size) // prior.downscale
        self.latent_shape = (prior.latent_channels, latent_size, latent_size)
        self.schedule_steps = settings.schedule_steps or state.step + steps
        self.device = torch.device(prior.device)
        # On the prior's device: else every step would wait for its texts to follow.
        self.prompts = prompts.to(self.device)
        # Another seed asks for other draws, so it starts new streams; the same one continues them.
        self.streams = random_streams(
            settings.seed, state.generators if state.seed == settings.seed else None
        )
        self.guide = None
        if references is not None:
            self.guide = Guide(references, self.size, self.device)
        self.loss_name = identity(loss)
        self.loss = loss.start(
            prior, self.latent_shape, self.streams["noise"], self._carried_loss(state)
        )
        self.state: TrainingState = replace(
            state,
            seed=settings.seed,
            generators=self._stream_states(),
            references=self.guide.start(state.references) if self.guide else {},
            made_with=origin(prior, prompts, loss, settings)
            | ({"references": self.guide.identity} if self.guide else {}),
        )
        if state.step and (told := differences(state.made_with, self.state.made_with)):
            note(
                f"{subject.owner}: step {state.step} was reached otherwise, and the run goes on"
                f" from there: {'; '.join(told)}."
            )
        self.steps_taken, self.started = 0, time.perf_counter()
        start = self._snapshot()
        self.last_good = LastGood(start, start)

    def run_steps(
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
            return self._ended()
        except BaseException as error:
            forget_locals(error)
            if on_partial is not None:
                on_partial(error.result if isinstance(error, DivergedError) else self._kept())
            raise

    def _carried_loss(self, state: TrainingState) -> dict[str, Tensor] | None:
        """The loss's state that the input brings along, unless it is another loss's, another
        picture size's or another prior's, whose noise and networks say nothing here."""
        prior = state.made_with.get("prior", self.prior.name)
        carried = (state.loss_name, state.latent_shape, prior)
        known = carried == (self.loss_name, self.latent_shape, self.prior.name)
        if not known and state.step and state.loss:
            note(
                f"{self.subject.owner}: the loss begins anew at step {state.step}: its noise and"
                " networks belong to another loss, picture size or prior."
            )
        return state.loss if known else None

    def _ended(self) -> Result:
        """The result of a run that has taken its last step: as it stands, or where its last steps
        were bad, and one more is too, the last good one; told. Raises DivergedError if no step was
        good."""
        bad_run, now = int(self.state.bad_run), self._snapshot()
        if bad_run == 0:
            return result_of(now)
        if bad_run >= self.steps_taken:
            raise self.last_good.diverged(self.state)
        try:
            self.step()  # its result is of no interest, only whether it is good
            good = int(self.state.bad_run) == 0
        except (RuntimeError, ValueError):
            good = False
        if good:
            return result_of(now)
        self.subject, self.state = now
        if not self.last_good.known:
            raise self.last_good.diverged(self.state)
        note(self.last_good.told(self.state))
        return self.last_good.result(self.state)

    def _kept(self) -> Result:
        """What is kept of a run that something ended: `result`, or the last good one."""
        try:
            good = int(self.state.bad_run) == 0
        except RuntimeError:  # a device that answers no more: nothing of it can be had either way
            good = True
        return self.result() if good else self.last_good.result(self.state)

    def _stream_states(self) -> dict[str, Tensor]:
        return {name: stream.get_state() for name, stream in self.streams.items()}

    def _snapshot(self) -> Moment[Result, Rendered]:
        """Subject and whole training state where the run takes place; costs nothing, as no step
        edits in place.
        """
        return self.subject, replace(
            self.state,
            loss_name=self.loss_name,
            latent_shape=self.latent_shape,
            loss=dict(self.loss.state()),
        )

    def result(self) -> Result:
        return result_of(self._snapshot())

    def step(self) -> dict[str, Tensor]:
        """One more; once again on one device where it fails on several."""
        if not shared(self.prior):
            return self._step()
        loss, before = copy.copy(self.loss), self.state
        try:
            return self._step()
        except RuntimeError as error:
            diverged = isinstance(error, DivergedError)
            if diverged or not fallen_back(self.prior, self.subject.owner, error):
                raise
        self.loss, self.state = loss, before
        self.streams = random_streams(before.seed, before.generators)
        return self._step()

    def _step(self) -> dict[str, Tensor]:
        settings, subject, step = self.settings, self.subject, self.steps_taken + 1
        check = step == self.steps or step % settings.check_every == 0
        before = self._snapshot() if check else None
        sampled = self.sampler.at(self.state.step).sample(
            settings.views, self.size, self.streams["cameras"], views_per_group=self.views_per_group
        )
        cameras = sampled.send(self.device)
        params = {
            name: value.detach().requires_grad_() for name, value in subject.tensors().items()
        }
        backgrounds = self._backgrounds()
        look = self._look(params)
        movable = params if look is None else look.spare(subject, params)
        # Not clamped to 0..1: the prior pulls colours that overshoot back, a clamp would leave them
        # stuck.
        rendering, latents = rendered_and_encoded(
            self.prior,
            subject,
            movable,
            cameras,
            backgrounds,
            self.depth,
            draw_judging(settings, self.streams["augment"]),
            self.streams["posterior"] if settings.sample_posterior else None,
        )
        value, logs = self.loss(
            latents, self._views(sampled, cameras, rendering), self.streams["noise"]
        )
        extra = subject.penalties(params, rendering, cameras, backgrounds)
        free = []
        if look is not None and self.guide is not None:
            extra = extra | look.terms()
            extra = extra | self.guide.elsewhere(rendering, backgrounds, self._share)
            free = [look.raw] if look.raw.requires_grad else []
        total = value + sum(extra.values())
        traced = [each for part in parts_of(rendering) for each in subject.traced_tensors(part)]
        sources = [*params.values(), *traced, *free]
        found = torch.autograd.grad(total, sources, allow_unused=True, materialize_grads=True)
        gradients, to_cameras = found[: len(found) - len(free)], found[len(found) - len(free) :]
        by_name = dict(zip(params, gradients, strict=False))
        accept = all_finite([total.detach(), *by_name.values(), *to_cameras])
        if settings.clip_norm_start > 0:
            share = min(self._share / settings.clip_norm_share, 1)
            most = settings.clip_norm_start
            most += (settings.clip_norm_end - settings.clip_norm_start) * share
            by_name = clipped_norms(by_name, most)

        if self.guide is not None and to_cameras:
            moved = self.guide.learned(
                self.state.references, to_cameras[0], self.state.updates, accept, self._share
            )
            self.state = replace(self.state, references=moved)
        with_params, state = self._updated(by_name, accept)
        self.subject, state = with_params.adapt(
            state,
            self.schedule_steps,
            whole_gradients(gradients[len(params) :], len(parts_of(rendering)), self.device),
            rendering,
            accept,
            self.streams["densify"],
        )
        self.state = replace(state, generators=self._stream_states())
        self.steps_taken += 1
        if before is not None:
            self.last_good.check(before, self.state, settings.max_bad_steps)
        logs = {"loss": total, **logs, **extra, "bad_steps": self.state.bad_steps}
        return {name: log.detach() for name, log in logs.items()}

    @property
    def _share(self) -> float:
        """Of the schedule, that lies behind."""
        return min(self.state.step / self.schedule_steps, 1)

    def _look(self, params: dict[str, Tensor]) -> Look | None:
        if self.guide is None:
            return None
        learned, stream = self.state.references, self.streams["references"]
        return self.guide.look(self.subject, params, learned, self.state.step, self._share, stream)

    def _backgrounds(self) -> Tensor:
        """One colour per view, [V,3]."""
        settings, stream = self.settings, self.streams["background"]
        draws = draw_backgrounds(settings.background, self.grays, settings.views, stream)
        return send(draws, self.device).to(next(iter(self.subject.tensors().values())).dtype)

    def _views(self, sampled: Cameras, cameras: Cameras, rendering: RenderedViews) -> Views:
        # Perp-Neg reads its angles, which on the CPU waits for nothing.
        text = self.prompts.at(sampled.azimuths, sampled.elevations, outward=sampled.outward)
        rows = (
            text,
            self.prompts.negative_rows(len(cameras)),
            self.prompts.base.repeat(len(cameras)),
            self.prompts.null_rows(len(cameras)),
        )
        text, negative, base, null = condition_on_views(
            self.prior, rows, cameras, rendering.alpha, rendering.depth
        )
        factor = self.prompts.guidance_factor(cameras.azimuths, cameras.elevations)
        step, steps = self.state.step, self.schedule_steps
        group = self.views_per_group
        return Views(text, negative, cameras, step, steps, factor, group, base=base, null=null)

    def _updated(
        self, gradients: dict[str, Tensor], accept: Tensor
    ) -> tuple[Subject[Result, Rendered], TrainingState]:
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
        return self.subject.with_params(params), replace(
            state,
            step=state.step + 1,
            first=first,
            second=second,
            updates=updates,
            bad_steps=state.bad_steps + bad,
            bad_run=(state.bad_run + bad) * bad,
        )

    def progress(self, logs: dict[str, Tensor]) -> Progress[Result]:
        logs, every = dict(logs), self.settings.preview_every
        return Progress(
            step=self.steps_taken,
            steps=self.steps,
            done=self.state.step,
            loss=logs.pop("loss"),
            logs=logs,
            seconds=time.perf_counter() - self.started,
            preview_due=every > 0
            and (self.steps_taken % every == 0 or self.steps_taken == self.steps),
            result=self.result,
            preview=self.preview,
            viewer_cloud=lambda: self.subject.viewer_cloud(),
        )

    def preview(self) -> Tensor:
        background = sum(self.grays or (0.5, 0.5)) / 2
        camera = self.sampler.from_angles(*PREVIEW_ANGLES, self.size).to(self.device)
        with torch.no_grad():
            return self.subject.render_preview(camera, background).cpu()
