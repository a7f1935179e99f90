"""What the embedded prior's networks and its judge descend."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, nn

from .captions import COLORS
from .data import NO_VIEW, Batch
from .models import (
    Judge,
)


def autoencoder_loss(vae: Any, images: Tensor) -> Tensor:
    """Absolute error of pictures and of their gradients (crisp edges), and the usual tiny KL
    term.

    images: [B,3,H,W] 0..1. A scalar.
    """
    x = (images * 2 - 1).contiguous(memory_format=torch.channels_last)
    posterior = vae.encode(x).latent_dist
    y = vae.decode(posterior.sample()).sample.float()
    x = x.float()
    edges = sum((y.diff(dim=d) - x.diff(dim=d)).abs().mean() for d in (2, 3))
    loss: Tensor = (
        (y - x).abs().mean() + (y - x).square().mean() + 0.5 * edges + 2e-7 * posterior.kl().mean()
    )
    return loss


def denoiser_loss(
    unet: Any, text: Any, latents: Tensor, ids: Tensor, alphas: Tensor, generator: torch.Generator
) -> Tensor:
    """v prediction (Salimans and Ho 2022) at uniformly drawn, stratified steps.

    latents [B,4,h,w], ids [B,tokens], alphas [T] cumulative. A scalar.
    """
    b, device = len(latents), latents.device
    t = (torch.arange(b, device=device) + torch.rand(b, generator=generator, device=device)) / b
    t = (t * len(alphas)).long().clamp_max(len(alphas) - 1)
    a, s = alphas[t].sqrt()[:, None, None, None], (1 - alphas[t]).sqrt()[:, None, None, None]
    noise = torch.randn(latents.shape, generator=generator, device=device)
    words = text(ids)[0]
    v: Tensor = unet(a * latents + s * noise, t, words, return_dict=False)[0].float()
    return (v - (a * noise - s * latents)).square().mean()


def judge_loss(judge: Judge, batch: Batch, generator: torch.Generator) -> Tensor:
    """Cross entropy of every head, on pictures with a little noise. A second colour counts where
    there is a pattern, a view where its word is fair."""
    x = batch.images
    noise = torch.randn(x.shape, generator=generator, device=x.device)
    strength = 0.06 * torch.rand(len(x), 1, 1, 1, generator=generator, device=x.device)
    logits = judge((x + strength * noise).contiguous(memory_format=torch.channels_last))
    ce = nn.functional.cross_entropy
    total = sum(ce(logits[name], getattr(batch, name)) for name in ("category", "color", "finish"))
    patterned = (batch.finish > 0).float()
    second = ce(logits["second"], batch.second, reduction="none") * patterned
    fair = (batch.view_said != NO_VIEW).float()
    view = ce(logits["view"], batch.view, reduction="none") * fair
    return (
        total + second.sum() / patterned.sum().clamp_min(1) + view.sum() / fair.sum().clamp_min(1)
    )


def drop_words(words: list[Tensor], generator: torch.Generator) -> tuple[Tensor, ...]:
    """Caption indices (category, colour, finish, second, view) as the prior hears them: 10 %
    nothing at all, 5 % no colour (plain ones), 12 % no view, else 30 % the view's word (none near a
    boundary), 70 % the finer words.

    ``words`` has both: (category, colour, finish, second, view, side)."""
    category, color, finish, second, view, side = words
    u = torch.rand(4, len(category), generator=generator, device=category.device)
    silent = (u[1] < 0.05) & (finish == 0)
    return (
        torch.where(u[0] < 0.10, -1, category), torch.where(silent, len(COLORS), color), finish, second,
        torch.where(u[2] < 0.12, NO_VIEW, torch.where(u[3] < 0.3, view, side)),
    )  # fmt: skip
