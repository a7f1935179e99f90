"""Optimizing splats: what the step moves is the Gaussians of a cloud, which grows and shrinks on
its way.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace

import torch
from torch import Tensor

from ..cameras.pinhole import Cameras, focal_lengths
from ..cameras.sampler import CameraSampler
from ..gaussians.cloud import Gaussians
from ..gaussians.densify import (
    Densify,
    densify_and_prune,
    fresh_statistics,
    gather,
    reset_opacities,
)
from ..gaussians.mcmc import MCMC, perturbed, resampled
from ..losses.base import Loss
from ..priors.base import Prior
from ..priors.prompts import ViewPrompts
from ..rasterizers.rasterize import Rendering, render, resolve
from .anchor import Anchor
from .checks import check_run
from .learning_rates import sh_shares
from .penalties import disparity, penalties
from .references import References
from .settings import OptimizeSettings
from .shared_views import prepared_prior
from .state import TrainingState, fresh_state
from .step import Progress, Run


def optimize(
    cloud: Gaussians,
    loss: Loss,
    prior: Prior,
    prompts: ViewPrompts,
    cameras: CameraSampler,
    steps: int,
    settings: OptimizeSettings | None = None,
    on_step: Callable[[Progress[Gaussians]], bool | None] | None = None,
    on_partial: Callable[[Gaussians], None] | None = None,
    anchor: Anchor | None = None,
    references: References | None = None,
) -> Gaussians:
    """Distil the prior's idea of the prompt into the cloud, for ``steps`` steps.

    Pure from outside: the inputs stay as they are, and on the CPU the same inputs and seed give the
    same bits. A cloud that carries training state goes on where it stopped: with one
    ``schedule_steps``, 300 steps and then 300 more are the same as 600. Runs on the prior's device;
    the result is detached, on the cloud's device, with its training state. Works under
    torch.inference_mode(). With an ``anchor`` the renders are held to those of its cloud, with
    ``references`` those from their cameras to their pictures.

    ``on_step`` is called after every step. A true answer ends the run there in good order, with the
    cloud so far as its result. It may also raise: whatever exception ends the run, BaseExceptions
    included, ``on_partial`` gets the cloud so far before it goes on. Raises ValueError for inputs
    that do not fit, before any work; DivergedError with the last good cloud once more than
    ``max_bad_steps`` steps in a row, or all steps of the call, were not finite. Bad steps leave the
    cloud and its moments as they are and are counted.
    """
    settings = settings or OptimizeSettings()
    if anchor is not None:
        anchor.check()
    if references is not None:
        references.check()
    cloud.check()
    check_run(loss, prior, cameras, steps, settings, cloud.training, "gaussians")
    if len(cloud) > settings.max_gaussians:
        raise ValueError(
            f"max_gaussians is {settings.max_gaussians}, but the cloud already holds {len(cloud)}"
            " Gaussians. Raise it, or start from fewer."
        )
    device = torch.device(prior.device)
    resolve(settings.render_backend, device, cloud.means.dtype)
    with prepared_prior(prior, steps, settings, CloudSubject.owner):
        subject, state = _begin(
            cloud, settings, anchor, device, settings.image_size or prior.image_size
        )
        return Run(
            subject, state, loss, prior, prompts, cameras, steps, settings, references
        ).run_steps(on_step, on_partial)


def _begin(
    cloud: Gaussians,
    settings: OptimizeSettings,
    anchor: Anchor | None,
    device: torch.device,
    size: int,
) -> tuple[CloudSubject, TrainingState]:
    # A copy: inputs may be inference tensors, and stay as they are.
    own = cloud.map(lambda value: value.detach().to(device, copy=True))
    own = replace(own, anchored=None if cloud.anchored is None else cloud.anchored.to(device))
    if cloud.training is None:
        state = fresh_state(own.tensors(), settings.seed)
    else:
        cloud.training.check(cloud.tensors(), "gaussians")
        state = cloud.training.to(device, cloud.means.dtype, copy=True)
    held = None if anchor is None else anchor.to(device)
    return CloudSubject(own, settings, held, cloud.device, size, sh_shares(own.sh)), state


@dataclass(frozen=True)
class CloudSubject:
    """The cloud of a run between two steps.

    Args:
        cloud: without training state
        home: where the run's input was
        size: pixels of the renders
        sh_shares: [K,1]
    """

    cloud: Gaussians
    settings: OptimizeSettings
    anchor: Anchor | None
    input_device: torch.device
    size: int
    sh_shares: Tensor

    owner = "Optimize"
    noun = "cloud"
    renders_anywhere = True

    def tensors(self) -> dict[str, Tensor]:
        return self.cloud.tensors()

    def render(
        self, params: dict[str, Tensor], cameras: Cameras, backgrounds: Tensor, depth: bool
    ) -> Rendering:
        return render(
            Gaussians(**params), cameras, backgrounds, self.settings.render_backend, depth=depth
        )

    def painted(self, params: dict[str, Tensor]) -> tuple[str, Tensor]:
        return "sh", params["means"]

    def penalties(
        self, params: dict[str, Tensor], rendering: Rendering, cameras: Cameras, backgrounds: Tensor
    ) -> dict[str, Tensor]:
        terms = penalties(
            self.settings,
            params,
            rendering.color,
            rendering.alpha,
            lambda: disparity(rendering.depth, rendering.alpha, focal_lengths(cameras)),
        )
        if self.anchor is not None:
            terms |= self.anchor.penalties(
                rendering, cameras, backgrounds, self.settings.render_backend
            )
        return terms

    def traced_tensors(self, rendering: Rendering) -> list[Tensor]:
        return [rendering.means2d] if isinstance(self.settings.densify, Densify) else []

    def rates(self, step: int, steps: int) -> dict[str, float | Tensor]:
        rates: dict[str, float | Tensor] = {**self.settings.at(step / steps)}
        rates["sh"] = rates["sh"] * self.sh_shares
        if self.cloud.anchored is not None:
            free = (~self.cloud.anchored).to(self.cloud.means.dtype)
            for name in ("means", "log_scales", "quats"):
                rates[name] = rates[name] * free[:, None]
            rates["opacity_logits"] = rates["opacity_logits"] * free
        return rates

    def with_params(self, params: dict[str, Tensor]) -> CloudSubject:
        return replace(self, cloud=replace(self.cloud, **params))

    def adapt(
        self,
        state: TrainingState,
        steps: int,
        gradients: list[Tensor],
        rendering: Rendering,
        accept: Tensor,
        generator: torch.Generator,
    ) -> tuple[CloudSubject, TrainingState]:
        strategy = self.settings.densify
        if strategy is None:
            return self, state
        if isinstance(strategy, MCMC):
            return self._resampled(strategy, state, steps, accept, generator)
        return self._densified(
            strategy, state, steps, gradients[0], rendering.visible, accept, generator
        )

    def _densified(
        self,
        strategy: Densify,
        state: TrainingState,
        steps: int,
        gradient: Tensor,
        visible: Tensor,
        accept: Tensor,
        generator: torch.Generator,
    ) -> tuple[CloudSubject, TrainingState]:
        """Gather what the step says about each Gaussian; where a round is due, act on it, waiting
        for the device.
        """
        cloud = self.cloud
        statistics = gather(
            state.statistics or fresh_statistics(cloud),
            gradient,
            visible,
            (self.size, self.size),
            accept,
            strategy.summed_views,
        )
        moments = {name: (state.first[name], state.second[name]) for name in cloud.tensors()}
        if strategy.due(state.step, steps):
            limit = self.settings.max_gaussians
            cloud, moments = densify_and_prune(
                strategy, cloud, statistics, moments, generator, limit
            )
            statistics = fresh_statistics(cloud)
        if strategy.reset_due(state.step, steps):
            cloud, moments = reset_opacities(strategy, cloud, moments)
        first, second = ({name: pair[place] for name, pair in moments.items()} for place in (0, 1))
        return replace(self, cloud=cloud), replace(
            state, first=first, second=second, statistics=statistics
        )

    def _resampled(
        self,
        strategy: MCMC,
        state: TrainingState,
        steps: int,
        accept: Tensor,
        generator: torch.Generator,
    ) -> tuple[CloudSubject, TrainingState]:
        """Where a round is due, resample, waiting for the device; after every good step the noise."""
        cloud = self.cloud
        moments = {name: (state.first[name], state.second[name]) for name in cloud.tensors()}
        if strategy.due(state.step, steps):
            limit = self.settings.max_gaussians
            cloud, moments = resampled(strategy, cloud, moments, generator, limit)
        if strategy.noise > 0 and state.step <= strategy.noise_stop * steps:
            lr = self.settings.at(min(state.step / steps, 1))["means"]
            free = accept if cloud.anchored is None else accept & ~cloud.anchored[:, None]
            means = perturbed(strategy, cloud.tensors(), lr, generator)
            cloud = replace(cloud, means=torch.where(free, means, cloud.means))
        first, second = ({name: pair[place] for name, pair in moments.items()} for place in (0, 1))
        return replace(self, cloud=cloud), replace(state, first=first, second=second, statistics={})

    def render_preview(self, camera: Cameras, background: float) -> Tensor:
        rendering = render(
            self.cloud, camera, background, self.settings.render_backend, depth=False
        )
        return rendering.color[0].clamp(0, 1)

    def viewer_cloud(self) -> Gaussians:
        return self.cloud

    def result(self, state: TrainingState) -> Gaussians:
        return replace(self.cloud, training=state.to(self.input_device)).to(self.input_device)
