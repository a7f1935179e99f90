"""What a loss sees and wants of a few views: its own code run once, with every question to the
prior recorded.
"""

from __future__ import annotations

import copy
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from ..cameras.pinhole import Cameras
from ..devices.pace import reached
from ..gaussians.cloud import Gaussians
from ..losses.base import Loss, Views, guided, identity
from ..losses.combine import part_of
from ..priors.base import Prior
from ..priors.conditioning import Conditioning
from ..priors.noise_schedule import clean_from_noise
from ..priors.prompts import ViewPrompts
from ..priors.view_conditioning import (
    check_views,
    condition_on_views,
    encoder_input,
    needs_depth,
)
from ..rasterizers.rasterize import Rendering, render

STEP = 0.1  # root mean square of the latents' change that stands for the gradient


@dataclass(frozen=True)
class Question:
    """One call of `Prior.predict`.

    Args:
        z_t: [V,C,h,w]
        t: [V]
        answers: noise estimates [V,C,h,w], one per conditioning
    """

    z_t: Tensor
    t: Tensor
    conditionings: tuple[Conditioning, ...]
    answers: tuple[Tensor, ...]

    def answer(self, conditioning: Conditioning) -> Tensor | None:
        """The estimate under that very conditioning, if it was among those asked."""
        for other, answer in zip(self.conditionings, self.answers, strict=True):
            if other is conditioning:
                return answer
        return None


def record_predictions(prior: Prior) -> tuple[Prior, list[Question]]:
    """A prior that answers as ``prior`` does, of the same type and weights, and the list its
    questions go to.
    """
    questions: list[Question] = []

    def predict(z_t: Tensor, t: Tensor, conditionings: Sequence[Conditioning]) -> list[Tensor]:
        reached()
        answers = prior.predict(z_t, t, conditionings)
        questions.append(Question(z_t.detach(), t.detach(), tuple(conditionings), tuple(answers)))
        return answers

    twin: Any = copy.copy(prior)
    twin.predict = predict
    return twin, questions


@dataclass(frozen=True)
class Inspection:
    """Pictures [V,3,H,W] in 0..1, but for ``gradient``, and what they were made with.

    Args:
        noised: z_t
        x0_text: the clean latent of the text's estimate
        x0_guided: and of the guided one
        degraded: M_psi's answer to x0_text; None where the loss asked none
        gradient: signed: how each colour would change, 1 the 99.5th percentile of its size
        t: [V] the timesteps of z_t
        guidance: of x0_guided, standard form
        continued: the loss went on from the cloud's own training state
        logs: the loss's
    """

    render: Tensor
    noised: Tensor
    x0_text: Tensor
    x0_guided: Tensor
    degraded: Tensor | None
    gradient: Tensor
    t: Tensor
    guidance: float
    continued: bool
    logs: dict[str, float]


def inspect(
    cloud: Gaussians,
    cameras: Cameras,
    prior: Prior,
    prompts: ViewPrompts,
    loss: Loss,
    timestep: int | None,
    progress: float = 0.0,
    seed: int = 0,
    background: float = 0.5,
) -> Inspection:
    """Run ``loss`` once on renders [V,...] of ``cloud`` at ``progress`` 0..1 of a schedule, all on
    the prior's device.

    ``timestep`` narrows the loss's timestep settings as far as they let it, see `Loss.near`; None
    leaves them. It can be ended by `pace` between questions and pictures. State that the cloud
    brings from a run with the same loss, such as M_psi, is used and not changed. A prior that
    judges views together wants them in its groups, as `turntable` orders them. Of several questions
    to the prior that of the prompt at the loss's own t is shown; the gradient has them all.
    """
    views_per_group = check_views(prior, len(cameras))
    chosen = loss if timestep is None else loss.near(timestep)
    twin, questions = record_predictions(prior)
    with torch.no_grad():
        rendering = _rendered(cloud, cameras, background, needs_depth(prior))
        picture = rendering.color.permute(0, 3, 1, 2)
        grounds = rendering.color.new_full((len(cameras), 3), background)
        latents = prior.encode(encoder_input(prior, rendering.color, rendering.alpha, grounds))
    shape = (latents.shape[1], latents.shape[2], latents.shape[3])
    generator, training = torch.Generator().manual_seed(seed), cloud.training
    own = training is not None and (training.loss_name, tuple(training.latent_shape)) == (
        identity(loss),
        shape,
    )
    run = chosen.start(twin, shape, generator, training.loss if own else None)
    before = copy.copy(run)  # a step replaces what a run remembers, it does not edit it
    text = prompts.at(cameras.azimuths, cameras.elevations).to(latents.device)
    negative = prompts.negative_rows(len(cameras)).to(latents.device)
    rows = (text, negative, prompts.base.repeat(len(cameras)).to(latents.device))
    text, negative, base = condition_on_views(
        prior, rows, cameras, rendering.alpha, rendering.depth
    )
    factor = prompts.guidance_factor(cameras.azimuths, cameras.elevations)
    at = round(progress * 1000)
    views = Views(text, negative, cameras, at, 1000, factor, views_per_group, base=base)
    with torch.enable_grad():
        z = latents.detach().clone().requires_grad_()
        value, logs = run(z, views, generator)
        gradient = torch.autograd.grad(value, z)[0]

    numbers = {name: float(log) for name, log in logs.items()}
    question = _asked(questions, text, numbers)
    z_t, t = question.z_t, question.t
    e_text = question.answer(text)
    e_text = question.answers[0] if e_text is None else e_text
    e_negative = question.answer(negative)
    scale = 1.0 if e_negative is None else loss.guidance_at(progress)
    alpha, sigma = prior.schedule.alpha(t), prior.schedule.sigma(t)
    x0_text = clean_from_noise(z_t, e_text, alpha, sigma)
    e_guided = e_text if e_negative is None else guided(e_text, e_negative, scale * factor)
    with torch.no_grad():
        degraded = None
        learned = next((name for name in numbers if name.rpartition(".")[2] == "psi_loss"), None)
        if learned is not None:  # VDM's, and its turn in a schedule
            vdm: Any = part_of(before, learned)
            degraded = _decoded(prior, vdm.degraded(x0_text.float(), t, generator))
        return Inspection(
            render=picture.clamp(0, 1),
            noised=_decoded(prior, z_t),
            x0_text=_decoded(prior, x0_text),
            x0_guided=_decoded(prior, clean_from_noise(z_t, e_guided, alpha, sigma)),
            degraded=degraded,
            gradient=_change(prior, latents, gradient),
            t=t,
            guidance=scale,
            continued=own,
            logs=numbers,
        )


def _asked(questions: list[Question], text: Conditioning, logs: dict[str, float]) -> Question:
    """The question about the prompt whose t is what the loss calls its t; inversions ask on their
    way there.
    """
    about = [question for question in questions if question.answer(text) is not None] or questions
    wanted = next((value for name, value in logs.items() if name.rpartition(".")[2] == "t"), None)
    if wanted is None:
        return about[0]
    return min(about, key=lambda question: abs(float(question.t.float().mean()) - wanted))


def _rendered(cloud: Gaussians, cameras: Cameras, background: float, depth: bool) -> Rendering:
    """All views, one by one for the same reason as `_decoded`."""
    parts = []
    for view in range(len(cameras)):
        reached()
        parts.append(render(cloud, cameras[view], background, depth=depth))
    return Rendering(
        **{
            name: torch.cat([getattr(part, name) for part in parts])
            for name in Rendering.__annotations__
        }
    )


def _decoded(prior: Prior, latents: Tensor) -> Tensor:
    """Pictures one by one, so that nobody waits for many to end it."""
    pictures = []
    for row in latents.split(1):
        reached()
        pictures.append(prior.decode(row))
    return torch.cat(pictures)


def _change(prior: Prior, latents: Tensor, gradient: Tensor) -> Tensor:
    """What a small step along minus the latents' gradient changes in the decoded picture, signed
    and normalised.
    """
    length = STEP / gradient.square().mean((1, 2, 3), keepdim=True).sqrt().clamp_min(1e-12)
    change = _decoded(prior, latents - length * gradient) - _decoded(prior, latents)
    return (change / change.abs().flatten().quantile(0.995).clamp_min(1e-6)).clamp(-1, 1)
