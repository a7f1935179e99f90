"""The views of a step shared over the devices of one machine: each renders, encodes and denoises
its own; gradients are summed in the devices' order, so that they are those of one device to
rounding, and the same bits every time.

In one process: what devices exchange is small (the cloud, latents, estimates, gradients), goes from
one to the other directly, and autograd follows it; see `devices.team`.
"""

from __future__ import annotations

import copy
import traceback
from collections.abc import Iterator, Sequence
from contextlib import ExitStack, contextmanager, suppress
from dataclasses import dataclass
from functools import cached_property
from typing import Any

import torch
from torch import Tensor

from ..cameras.pinhole import Cameras
from ..devices.autograd import Function
from ..devices.streams import first_line, give_back, is_out_of_memory, release_memory
from ..files.notes import note
from ..priors.base import REPAYING_STEPS, Prior, running
from ..priors.replicas import ReplicablePrior, Replicas
from .judged import Judging, judged
from .memory import check_memory
from .settings import AUTO, ONE, RunSettings, named_devices
from .subject import RenderedViews, Subject

SPARE = 2 << 30  # bytes that are to be free on a device besides the networks
COPIES_REPAY = 100  # steps of a run after which copies of the networks have saved what they took


@contextmanager
def prepared_prior(prior: Prior, steps: int, settings: RunSettings, owner: str) -> Iterator[None]:
    """Inside, gradients flow whatever the caller's mode, and the prior is at its best for so many
    steps, on all ``devices`` of the settings that there are. Raises ValueError where a step cannot
    fit into memory, and for devices that cannot be meant.
    """
    accelerate = steps >= REPAYING_STEPS if settings.accelerate is None else settings.accelerate
    devices = chosen(settings.devices, torch.device(prior.device), steps)
    with torch.inference_mode(False), torch.enable_grad(), ExitStack() as until:
        check_memory(prior, settings, owner)
        until.callback(give_back, torch.device(prior.device))
        replicas = _replicas(prior, devices, owner) if len(devices) > 1 else None
        if replicas is None or not isinstance(prior, ReplicablePrior):
            until.enter_context(running(prior, accelerate, settings.micro_batch))
            yield
            return
        for each in replicas.priors:
            until.enter_context(_quiet(running(each, accelerate, settings.micro_batch)))
        until.callback(replicas.keep_first)
        prior.replicas = replicas
        try:
            yield
        finally:
            prior.replicas = None


def chosen(asked: str, own: torch.device, steps: int = COPIES_REPAY) -> list[torch.device]:
    """The devices of a run on a prior that is on ``own``, which comes first.

    ``asked``: "one" for that alone; "auto" for all GPUs of its model where the run repays copies of
    the networks; or names with commas between, of which those that are not there are told and left
    out, for a workflow comes to other machines. Raises ValueError for what names no device, for
    devices of another kind, and without ``own``.
    """
    own = _numbered(own)
    if asked.strip() == ONE:
        return [own]
    if asked.strip() == AUTO:
        return [own, *_alike(own)] if steps >= COPIES_REPAY else [own]
    named = [_numbered(device) for device in named_devices(asked)]
    missing = [str(device) for device in named if not _there(device)]
    if missing:
        note(f"devices: {', '.join(missing)} not found here; the run goes on without.")
    others = [device for device in named if _there(device)]
    if not others:
        return [own]
    if own not in others:
        raise ValueError(
            f"devices is {asked!r}, but the prior is on {own}, which has to be among them. Add it,"
            " or set devices to auto."
        )
    others.remove(own)
    if any(device.type != own.type for device in others):
        raise ValueError(f"devices is {asked!r}; name devices of one kind, like {own}.")
    if own.type == "cuda" and len({own, *others}) <= len(others):
        raise ValueError(f"devices is {asked!r}; name each device once.")
    return [own, *others]


def _numbered(device: torch.device) -> torch.device:
    if device.type == "cuda" and device.index is None and torch.cuda.is_available():
        return torch.device("cuda", torch.cuda.current_device())
    return device


def _there(device: torch.device) -> bool:
    return device.type != "cuda" or (device.index or 0) < torch.cuda.device_count()


def _alike(own: torch.device) -> list[torch.device]:
    """The other GPUs of this one's model."""
    if own.type != "cuda":
        return []
    name, count = torch.cuda.get_device_name(own), torch.cuda.device_count()
    others = (torch.device("cuda", index) for index in range(count) if index != own.index)
    return [device for device in others if torch.cuda.get_device_name(device) == name]


def _replicas(prior: Prior, devices: Sequence[torch.device], owner: str) -> Replicas | None:
    """The prior on the devices that have room for it; None, told, where that is the first alone."""
    if not isinstance(prior, ReplicablePrior):
        note(
            f"{owner}: prior {prior.name!r} works on one device only, so devices is ignored. Load"
            " it from a diffusers folder to share its views."
        )
        return None
    copies = []
    for device in devices[1:]:
        try:
            _check_room(prior, device)
            copies.append(prior.replica(device))
        except (RuntimeError, ValueError) as error:
            note(f"{owner}: {device} takes no part: {first_line(error)}")
            if is_out_of_memory(error):
                release_memory(device)
    return Replicas([_itself(prior), *copies]) if copies else None


def _itself(prior: Any) -> Any:
    """The prior as one of its replicas, with its own networks."""
    first = copy.copy(prior)
    first.replicas = None
    return first


def _check_room(prior: Any, device: torch.device) -> None:
    if device.type != "cuda":
        return
    modules = (part for part in vars(prior).values() if isinstance(part, torch.nn.Module))
    needed = SPARE + sum(tensor.nbytes for part in modules for tensor in part.parameters())
    free, _ = torch.cuda.mem_get_info(device)
    if free < needed:
        raise RuntimeError(f"{needed / 1e9:.1f} GB are needed, {free / 1e9:.1f} are free")


@contextmanager
def _quiet(inner: Any) -> Iterator[None]:
    """``inner``, whose end is not an error: its device may be gone by then."""
    inner.__enter__()
    try:
        yield
    finally:
        with suppress(RuntimeError):
            inner.__exit__(None, None, None)


@dataclass(frozen=True)
class GatheredViews:
    """The renders of several devices, each part on its own; what is asked for comes to the first,
    with its gradient."""

    parts: Sequence[Any]
    device: torch.device

    def _whole(self, name: str) -> Tensor:
        return torch.cat([getattr(part, name).to(self.device) for part in self.parts])

    @cached_property
    def color(self) -> Tensor:
        return self._whole("color")

    @cached_property
    def alpha(self) -> Tensor:
        return self._whole("alpha")

    @cached_property
    def depth(self) -> Tensor:
        return self._whole("depth")

    @cached_property
    def visible(self) -> Tensor:
        return self._whole("visible")


def rendered_and_encoded(
    prior: Prior,
    subject: Subject[Any, Any],
    params: dict[str, Tensor],
    cameras: Cameras,
    backgrounds: Tensor,
    depth: bool,
    judging: Judging,
    posterior: torch.Generator | None,
) -> tuple[Any, Tensor]:
    """The renders of a step and the latents [V,C,h,w] of what the prior is shown of them, on all
    devices that the prior is on.

    params, cameras, backgrounds [V,3]: on the first. A subject that renders on its own device only
    is encoded on all.
    """
    replicas: Replicas | None = getattr(prior, "replicas", None)
    parts = [] if replicas is None else replicas.shares(len(cameras))
    if replicas is None or len(parts) == 1 or not subject.renders_anywhere:
        rendering = subject.render(params, cameras, backgrounds, depth)
        images = judged(prior, judging, rendering, cameras, backgrounds)
        return rendering, prior.encode(images, posterior)
    devices = replicas.devices[: len(parts)]
    copies = {name: _Copies.apply(value, devices) for name, value in params.items()}
    side = judging.size or cameras.height
    noise = replicas.priors[0].posterior_noise((len(cameras), 3, side, side), posterior)

    def work(index: int) -> tuple[RenderedViews, Tensor]:
        rows, device, replica = parts[index], devices[index], replicas.priors[index]
        views, grounds = cameras[rows].to(device), backgrounds[rows].to(device)
        tensors = {name: value[index] for name, value in copies.items()}
        rendering = subject.render(tensors, views, grounds, depth)
        images = judged(replica, judging, rendering, views, grounds)
        drawn = None if noise is None else noise[rows].to(device)
        return rendering, replica.encode_with(images, drawn)

    made = replicas.team.each(work, len(parts))
    latents = replicas.gathered([latents for _, latents in made])
    return GatheredViews([rendering for rendering, _ in made], replicas.devices[0]), latents


def shared(prior: Prior) -> bool:
    """Whether it is on several devices now."""
    replicas: Replicas | None = getattr(prior, "replicas", None)
    return replicas is not None and len(replicas.priors) > 1


def fallen_back(prior: Prior, owner: str, error: RuntimeError) -> bool:
    """Whether the prior was on several devices, and is on its first alone from now on; told."""
    replicas: Replicas | None = getattr(prior, "replicas", None)
    if replicas is None or not shared(prior):
        return False
    lost = ", ".join(map(str, replicas.devices[1:]))
    # what failed holds memory: its pictures and graphs
    traceback.clear_frames(error.__traceback__)
    replicas.keep_first()
    note(
        f"{owner}: a step failed on {replicas.devices[0]}, {lost} ({first_line(error)}); the run"
        f" goes on on {replicas.devices[0]} alone."
    )
    return True


def parts_of(rendering: Any) -> Sequence[Any]:
    """What each device rendered."""
    return rendering.parts if isinstance(rendering, GatheredViews) else [rendering]


def whole_gradients(gradients: Sequence[Tensor], parts: int, device: torch.device) -> list[Tensor]:
    """The gradients, part after part, of as many tensors of views of each of ``parts``; those of
    one tensor as one."""
    if parts == 1:
        return list(gradients)
    each = len(gradients) // parts
    return [
        torch.cat([gradient.to(device) for gradient in gradients[index::each]])
        for index in range(each)
    ]


class _Copies(Function):
    """A tensor on each device; its gradient is the sum of theirs, in their order."""

    @staticmethod
    def forward(context: Any, value: Tensor, devices: Sequence[torch.device]) -> tuple[Tensor, ...]:
        context.device = value.device
        return tuple(
            value.view_as(value) if index == 0 else value.to(device, copy=True)
            for index, device in enumerate(devices)
        )

    @staticmethod
    def backward(context: Any, *gradients: Tensor) -> tuple[Tensor, None]:
        total = gradients[0]
        for gradient in gradients[1:]:
            total = total + gradient.to(context.device)
        return total, None
