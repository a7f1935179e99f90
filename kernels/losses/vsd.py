"""Variational Score Distillation (ProlificDreamer, Wang et al., NeurIPS 2023)."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import ClassVar

import torch
from torch import Tensor

from ..devices.streams import send
from ..priors.base import AdaptablePrior, Adapter, Prior
from ..priors.conditioning import Conditioning
from ..settings.option import option
from .base import LossRun, Views, check_choice, check_range, draw_noise, guided
from .degradation import AdamState
from .timestep import TimestepLoss, TimestepRun, noised


def vsd(e_text: Tensor, e_negative: Tensor, e_renders: Tensor, guidance: Tensor | float) -> Tensor:
    """VSD direction e_cfg - e_q (ProlificDreamer, arXiv 2305.16213), without w(t).

    e_q [B,C,h,w] is what a network trained on the renders estimates, so this is zero where renders
    are distributed as the guided prior has it. With e_q = eps this is SDS, with e_q = e_c CSD.
    """
    return guided(e_text, e_negative, guidance) - e_renders


@dataclass(frozen=True)
class VSD(TimestepLoss):
    """Variational Score Distillation with a LoRA (ProlificDreamer, arXiv 2305.16213).

    The renders' own score comes from a LoRA on the prior's network that learns, one AdamW step per
    step of the run, to denoise the renders; the prior itself stays as it is. There is one set of
    Gaussians, one particle in the paper's terms. The paper's camera embedding is left out; by
    default the LoRA reads the prompt with its view words instead. Denoiser evaluations per step and view: 3, and one
    with its backward pass for the LoRA, which needs memory for it.

    Args:
        guidance: standard form s; ProlificDreamer's value
        lora_rank: of every low-rank layer; diffusers' default
        lora_lr: AdamW's learning rate; ProlificDreamer's value; 0 freezes the LoRA, which leaves
            CSD
        lora_decay: AdamW's default in torch
        lora_text: what the LoRA reads: the text of each "view" | the "prompt" without view words
            (threestudio)
        lora_beta2: AdamW's second beta; threestudio: 0.99
        lora_eps: AdamW's epsilon, of a summed loss; threestudio: 1e-15, of a mean
    """

    guidance: float = 7.5
    lora_rank: int = 4
    lora_lr: float = 1e-4
    lora_text: str = option("view")
    lora_beta2: float = option(0.999)
    lora_eps: float = option(1e-8)

    name: ClassVar[str] = "VSD"
    lora_decay: ClassVar[float] = 0.01

    def check(self) -> None:
        """Raises ValueError naming the setting that is wrong."""
        super().check()
        check_range(self.owner, "lora_rank", self.lora_rank, 1, 1024)
        check_range(self.owner, "lora_lr", self.lora_lr, 0, 1)
        check_choice(self.owner, "lora_text", self.lora_text, ("view", "prompt"))
        check_range(self.owner, "lora_beta2", self.lora_beta2, 0, 0.999999)
        check_range(self.owner, "lora_eps", self.lora_eps, 0, 1)

    def said(self, views: Views) -> Conditioning:
        """V rows, what the LoRA reads."""
        return views.text if self.lora_text == "view" or views.base is None else views.base

    def start(
        self,
        prior: Prior,
        latent_shape: tuple[int, int, int],
        generator: torch.Generator,
        state: Mapping[str, Tensor] | None = None,
    ) -> LossRun:
        """Begin with a LoRA that changes nothing, or continue the one in ``state``.

        Raises ValueError on bad settings, a foreign state, or a prior without a network that could
        be trained.
        """
        self.check_for(prior)
        if not isinstance(prior, AdaptablePrior):
            raise ValueError(
                f"{self.owner}: prior {prior.name!r} has no network that could be trained on the"
                " renders, as a checkpoint or a linked MODEL has none. Choose a folder in diffusers"
                " format, or VDM Loss, whose network is its own."
            )
        adapter = prior.adapter(self.lora_rank)
        if state is None:
            lora = AdamState.fresh(adapter.initial(generator))
        else:
            # only the shapes of these are wanted, so their generator is not the run's
            blank = adapter.initial(torch.Generator())
            lora = AdamState.restored(self.owner, "lora", state, blank, prior.device)
        return self.begun(prior, adapter, lora)

    def begun(self, prior: Prior, adapter: Adapter, lora: AdamState) -> LossRun:
        """The run of this loss with a LoRA."""
        return VSDRun(self, prior, adapter, lora)


@dataclass
class VSDRun(TimestepRun):
    """A `VSD` at work.

    Args:
        adapter: the prior's network with a LoRA
        lora: its weights and their moments, replaced as they learn
    """

    adapter: Adapter
    lora: AdamState

    def direction(
        self,
        latents: Tensor,
        t: Tensor,
        views: Views,
        guidance: Tensor | float,
        generator: torch.Generator,
    ) -> tuple[Tensor, dict[str, Tensor]]:
        z_t, _ = noised(self.prior, latents, t, generator)
        e_c, e_u = self.prior.predict(z_t, t, [views.text, views.negative])
        e_q = self.adapter.predict(self.lora.parameters, z_t, t, self.settings.said(views))
        return vsd(e_c, e_u, e_q, guidance), {"lora_loss": self._learn(latents, views, generator)}

    def _learn(self, latents: Tensor, views: Views, generator: torch.Generator) -> Tensor:
        """The LoRA's loss on the renders."""
        count, steps = len(latents), len(self.prior.schedule)
        t = torch.randint(0, steps, (count,), generator=generator, device=generator.device)
        t = views.alike(send(t, latents.device))
        noise = draw_noise(tuple(latents.shape), generator, latents)
        return self.learn(latents, noise, t, self.settings.said(views))

    def learn(self, z0: Tensor, noise: Tensor, t: Tensor, text: Conditioning) -> Tensor:
        """The LoRA's loss at alpha(t) z0 + sigma(t) noise, before the one AdamW step that lowers
        it."""
        lr = self.settings.lora_lr
        with torch.inference_mode(False), torch.enable_grad():
            weights = {
                key: value.detach().requires_grad_(lr > 0)
                for key, value in self.lora.parameters.items()
            }
            error = self.adapter.error(weights, z0, noise, t, text)
            if lr > 0:
                # of the sum, not the mean: half precision has no numbers as small, and Adam does
                # not mind the scale
                gradients = torch.autograd.grad(error.square().sum(), list(weights.values()))
                named = dict(zip(weights, gradients, strict=True))
                self.lora = self.lora.step(
                    named,
                    lr,
                    betas=(0.9, self.settings.lora_beta2),
                    eps=self.settings.lora_eps,
                    decay=self.settings.lora_decay,
                )
        return error.detach().square().mean()

    def state(self) -> dict[str, Tensor]:
        return self.lora.tensors("lora")
