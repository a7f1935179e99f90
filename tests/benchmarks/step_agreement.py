"""Whether the pack's step and the loop it is compared with are the same step: their gradients."""

from __future__ import annotations

from typing import Any

import torch
from step_bench import LOSSES, PROMPT, Bench, rounded
from step_priors import in_float32, prior
from torch import Tensor

from distill3d.kernels.gaussians.cloud import Gaussians
from distill3d.kernels.losses.base import Views
from distill3d.kernels.priors.conditioning import Conditioning
from distill3d.kernels.priors.diffusers.latent_prior import DiffusersPrior
from distill3d.kernels.rasterizers.rasterize import render


def gradients(
    bench: Bench,
    given: DiffusersPrior,
    texts: list[Conditioning],
    loss: str,
    cloud: Gaussians,
    views: int,
) -> dict[str, Tensor]:
    """Of one step with fixed draws: with respect to the pictures and to the cloud's tensors; and a
    noise estimate.
    """
    generator, device = torch.Generator().manual_seed(3), bench.device
    params = {k: v.detach().requires_grad_() for k, v in cloud.tensors().items()}
    cameras = bench.cameras(views)
    rendering = render(Gaussians(**params), cameras, 0.5, bench.backend, depth=False)
    latents = given.encode(rendering.color.permute(0, 3, 1, 2))
    shape = (latents.shape[1], latents.shape[2], latents.shape[3])
    run = LOSSES[loss].start(given, shape, generator)
    value, _ = run(
        latents,
        Views(texts[0], texts[1], cameras, 30, 100, views_per_group=bench.views_per_group),
        generator,
    )
    found = torch.autograd.grad(value, [rendering.color, *params.values()])
    z = torch.randn(latents.shape, generator=generator).to(device)
    (estimate,) = given.predict(z, torch.full((views,), 500, device=device), texts[:1])
    return {**dict(zip(("pictures", *params), found, strict=True)), "estimate": estimate}


def agreement(
    bench: Bench, ours: DiffusersPrior, loss: str, cloud: Gaussians, views: int
) -> dict[str, Any]:
    """Cosines with float32 of the naive dtype's plain networks and of the pack's fast ones."""
    texts = bench.condition_on_views(ours, *(ours.embed([words] * views) for words in (PROMPT, "")))
    torch.backends.cudnn.allow_tf32 = False
    truth = gradients(
        bench, prior(bench.kind, in_float32(bench.modules)), texts, loss, cloud, views
    )
    rows = {"plain": gradients(bench, ours, texts, loss, cloud, views)}
    with ours.running(accelerate=True):
        for _ in range(2):  # the second of a kind is a replayed graph
            rows["fast"] = gradients(bench, ours, texts, loss, cloud, views)
    result: dict[str, Any] = {}
    for name, row in rows.items():
        # a round Gaussian's rotation has no gradient worth comparing
        cosines = {key: cosine(row[key], truth[key]) for key in truth if key != "quats"}
        estimate = cosines.pop("estimate")
        result[name] = {
            "least": min(cosines.values()),
            "of": rounded(cosines),
            "estimate": round(estimate, 6),
        }
    return result


def cosine(a: Tensor, b: Tensor) -> float:
    a, b = a.double().flatten(), b.double().flatten()
    return float(a @ b / (a.norm() * b.norm()))
