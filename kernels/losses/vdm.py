"""Variational Distribution Mapping with Distribution Coefficient Annealing: a derivation from
DreamMapping's abstract.

DreamMapping's text and code (arXiv 2409.05099) are not available to this project, only its
abstract, its figure captions and second-hand summaries. What follows is this project's own
documented derivation, consistent with those. It is not a reproduction, and none of its numbers are
the authors'.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from typing import ClassVar

import torch
from torch import Tensor
from torch.nn import functional as F

from ..devices.streams import SideStream
from ..priors.base import Prior
from ..priors.noise_schedule import clean_from_noise
from ..settings.option import Settings, option
from .base import (
    REDUCTIONS,
    WEIGHTINGS,
    LossRun,
    Views,
    check_choice,
    check_range,
    check_steps,
    cleaned,
    draw_noise,
    first_valid,
    gradient_logs,
    inject,
    reduction_factor,
    weighting,
)
from .degradation import AdamState, Degradation
from .schedule import SHAPES, TimestepRange, annealed


def vdm(
    x0_text: Tensor,
    x0_negative: Tensor,
    degraded: Tensor,
    eta: Tensor | float,
    guidance: Tensor | float,
) -> Tensor:
    """VDM direction in units of the latent: eta (M - x0_c) + (s - 1) (x0_u - x0_c), all [B,C,h,w].

    Derived as the reverse KL between renders and prior, w (e_cfg - e_q), whose render score e_q is
    taken from a map M placed after the frozen denoiser: E[z0 | z_t] ~ M(x0_c, t), so that no
    gradient passes the U-Net. With w = sigma/alpha it is this sum of a distribution part, scaled by
    DCA's eta, and a classifier part. M the identity, or eta 0: the classifier part alone (CSD). M =
    z0 and eta 1: SDS.
    """
    return eta * (degraded - x0_text) + (guidance - 1) * (x0_negative - x0_text)


def dca(t: Tensor, steps: int, eta_clean: float, eta_noisy: float, shape: str) -> Tensor:
    """DCA's coefficient eta(t) [B,1,1,1]: from eta_clean at step 0 to eta_noisy at the schedule's
    end.

    t [B] of a schedule of ``steps``; shape constant (eta_clean throughout) | linear | sqrt |
    cosine, in t.
    """
    share = t.float() / steps
    fraction = {
        "constant": torch.zeros_like(share),
        "linear": share,
        "sqrt": share.sqrt(),
        "cosine": 0.5 - 0.5 * torch.cos(torch.pi * share),
    }[shape]
    return (eta_clean + (eta_noisy - eta_clean) * fraction)[:, None, None, None]


@dataclass(frozen=True)
class VDM(Settings):
    """Variational Distribution Mapping with DCA (DreamMapping, arXiv 2409.05099, as derived by this
    project).

    Renders are taken for degraded versions of what the prior imagines, x0. A small network M_psi
    learns that degradation during the run; the difference M_psi(x0) - x0 is where the render falls
    short of the prior, beside the classifier part of guidance. eta(t) weighs the two: less eta
    means more saturated, more classifier-driven. The paper's equations and numbers are not public:
    every default here is this project's own.

    Args:
        guidance: standard form s; 100 is not needed as it is for SDS
        dca: shape of eta(t) over t: constant | linear | sqrt | cosine
        eta_clean: eta at step 0; 1 = plain VDM
        eta_noisy: eta at the schedule's last step; above eta_clean the coefficient increases with t
        t_min: lowest step, of 0..999; short runs on the embedded prior grow haze below 200, others
            want 20
        t_max_start: highest step at the start of the run
        t_max_end: highest step once annealed
        t_anneal: constant | linear | sqrt | cosine | jump
        t_anneal_share: share of the run over which t_max comes down; LucidDreamer's warm-up is 0.3
        shared_t: one step for all views of a batch, so that M_psi sees one noise level at a time
        weighting: w(t): "sigma/alpha" (a direction in latent units) | "1-abar" | "one"
        degradation: M_psi
        psi_lr: Adam's learning rate for M_psi at the start; 0 freezes it, which leaves CSD
        psi_lr_end: and at the end, linear in between
        psi_updates: Adam steps of M_psi per step of the run, all on its one batch
        x0_clip: clamp of |x0|, latent units; 0 = off, 5 tames high t
        x0_rescale: 0..1, how far x0 is brought to the spread of the render's latent
        clip: clamp of every gradient value, latent units; 0 = off
        weight: factor on the gradient, after the clip
        reduction: of the views' gradients, see `reduction_factor`
    """

    guidance: float = 7.5
    dca: str = "linear"
    eta_clean: float = 1.0
    eta_noisy: float = 0.5
    t_min: int = 300
    t_max_start: int = 980
    t_max_end: int = 600
    t_anneal: str = "linear"
    t_anneal_share: float = 1.0
    shared_t: bool = True
    weighting: str = "sigma/alpha"
    degradation: Degradation = field(default_factory=Degradation)
    psi_lr: float = 3e-3
    psi_lr_end: float = 1e-4
    psi_updates: int = 2
    x0_clip: float = 0.0
    x0_rescale: float = 0.0
    clip: float = 0.0
    weight: float = 1.0
    reduction: str = option("mean")

    name: ClassVar[str] = "VDM"

    @property
    def timesteps(self) -> TimestepRange:
        return TimestepRange(
            self.t_min, self.t_max_start, self.t_max_end, self.t_anneal, self.t_anneal_share
        )

    def below(self, top: int) -> VDM:
        """See `Loss.below`."""
        start, end = min(self.t_max_start, top), min(self.t_max_end, top)
        return replace(self, t_min=min(self.t_min, top // 2), t_max_start=start, t_max_end=end)

    def near(self, t: int) -> VDM:
        """See `Loss.near`."""
        wide = replace(self, t_max_start=t, t_max_end=t)
        return first_valid(replace(wide, t_min=t), wide, self)

    def guidance_at(self, progress: float) -> float:
        """See `Loss.guidance_at`."""
        return float(self.guidance)

    def check(self) -> None:
        """Raises ValueError naming the setting that is wrong."""
        owner = "VDM Loss"
        check_choice(owner, "dca", self.dca, SHAPES)
        check_choice(owner, "weighting", self.weighting, WEIGHTINGS)
        check_choice(owner, "reduction", self.reduction, REDUCTIONS)
        ranges = {
            "guidance": 1000.0,
            "eta_clean": 10.0,
            "eta_noisy": 10.0,
            "psi_lr": 1.0,
            "psi_lr_end": 1.0,
        }
        ranges |= {"x0_clip": 1e6, "x0_rescale": 1.0, "clip": 1e6, "weight": 1e6}
        for name, high in ranges.items():
            check_range(owner, name, getattr(self, name), 0, high)
        check_range(owner, "psi_updates", self.psi_updates, 1, 100)
        self.timesteps.check(owner)
        self.degradation.check(owner)

    def start(
        self,
        prior: Prior,
        latent_shape: tuple[int, int, int],
        generator: torch.Generator,
        state: Mapping[str, Tensor] | None = None,
    ) -> LossRun:
        """Begin with M_psi the identity, or continue from ``state``. Raises ValueError on bad
        settings or states.
        """
        self.check()
        check_steps(
            "VDM Loss", prior, {"t_max_start": self.t_max_start, "t_max_end": self.t_max_end}
        )
        if state is not None:
            # only the shapes of these are wanted, so their generator is not the run's
            blank = self.degradation.initial(
                latent_shape[0], torch.Generator(), torch.device("cpu")
            )
            return _Run(
                self, prior, AdamState.restored("VDM Loss", "psi", state, blank, prior.device)
            )
        # ComfyUI runs nodes in it; its tensors could never be trained
        with torch.inference_mode(False):
            parameters = self.degradation.initial(latent_shape[0], generator, prior.device)
            return _Run(self, prior, AdamState.fresh(parameters))


@dataclass
class _Run:
    settings: VDM
    prior: Prior
    psi: AdamState

    def __post_init__(self) -> None:
        # M_psi learns while gradients flow back to the Gaussians
        self.side_stream = SideStream(torch.device(self.prior.device))

    def __call__(
        self, latents: Tensor, views: Views, generator: torch.Generator
    ) -> tuple[Tensor, dict[str, Tensor]]:
        settings, schedule, z0 = self.settings, self.prior.schedule, latents.detach()
        draws = 1 if settings.shared_t else len(z0)
        t = views.alike(
            settings.timesteps.draw(draws, views.progress, generator, z0.device).expand(len(z0))
        )
        alpha, sigma = schedule.alpha(t).to(z0), schedule.sigma(t).to(z0)
        z_t = alpha * z0 + sigma * draw_noise(tuple(z0.shape), generator, z0)
        estimates = self.prior.predict(z_t, t, [views.text, views.negative])
        x0_c, x0_u = (self._bounded(clean_from_noise(z_t, e, alpha, sigma), z0) for e in estimates)

        lr = annealed(settings.psi_lr, settings.psi_lr_end, views.progress)
        degraded, psi_loss = self._degrade(x0_c.float(), z0.float(), t, lr, generator)
        eta = dca(t, len(schedule), settings.eta_clean, settings.eta_noisy, settings.dca)
        direction = vdm(x0_c, x0_u, degraded, eta, settings.guidance * views.guidance_factor)
        raw = weighting(schedule, t, settings.weighting) / schedule.ratio(t) * direction
        factor = settings.weight * reduction_factor(settings.reduction, latents)
        logs = {
            "t": t.float().mean(),
            "eta": eta.mean(),
            "psi_loss": psi_loss,
            **gradient_logs(factor * raw),
        }
        return inject(latents, factor * cleaned(raw, settings.clip)), logs

    def degraded(self, x0: Tensor, t: Tensor, generator: torch.Generator) -> Tensor:
        """M_psi's answer to x0 [B,C,h,w] at steps t [B] as it stands, without gradient."""
        self.side_stream.wait_for(self.psi.parameters.values())
        with torch.no_grad():
            steps = len(self.prior.schedule)
            return self.settings.degradation.apply(self.psi.parameters, x0, t, steps, generator)

    def _degrade(
        self, x0: Tensor, z0: Tensor, t: Tensor, lr: float, generator: torch.Generator
    ) -> tuple[Tensor, Tensor]:
        """M_psi(x0, t) as it stands, and its loss before the Adam steps that move it towards the
        renders.
        """
        answers = list[tuple[Tensor, Tensor]]()
        read = [x0, z0, t, *self.psi.tensors("psi").values()]
        with torch.inference_mode(False), torch.enable_grad(), self.side_stream.running(read):
            # what was made in inference mode cannot be kept for a backward pass, its copy can
            x0, z0, t = (value.clone() if value.is_inference() else value for value in (x0, z0, t))
            for _ in range(self.settings.psi_updates if lr > 0 else 1):
                parameters = {
                    k: v.detach().requires_grad_(lr > 0) for k, v in self.psi.parameters.items()
                }
                degraded = self.settings.degradation.apply(
                    parameters, x0, t, len(self.prior.schedule), generator
                )
                loss = F.mse_loss(degraded, z0)
                answers.append((degraded.detach(), loss.detach()))
                if len(answers) == 1:
                    self.side_stream.wait_for(answers[0])
                if lr > 0:
                    gradients = torch.autograd.grad(loss, list(parameters.values()))
                    self.psi = self.psi.step(dict(zip(parameters, gradients, strict=True)), lr)
        return answers[0]

    def _bounded(self, x0: Tensor, z0: Tensor) -> Tensor:
        """x0 at high t is the noise estimate's error times sigma/alpha (13 at step 980); these keep
        it in range.
        """
        settings = self.settings
        if settings.x0_rescale > 0:
            spread = z0.std((1, 2, 3), keepdim=True) / x0.std((1, 2, 3), keepdim=True).clamp(
                min=1e-6
            )
            x0 = x0 * torch.lerp(torch.ones_like(spread), spread, settings.x0_rescale)
        return x0.clamp(-settings.x0_clip, settings.x0_clip) if settings.x0_clip > 0 else x0

    def state(self) -> dict[str, Tensor]:
        tensors = self.psi.tensors("psi")
        self.side_stream.wait_for(tensors.values())
        return tensors
