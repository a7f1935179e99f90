"""What lets a run go on where it stopped: moments, random streams, loss state and counters, in memory and on disk."""

from __future__ import annotations

import hashlib
import json
import os
from collections.abc import Mapping
from dataclasses import dataclass, replace

import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import save
from torch import Tensor

from .files.atomic import atomic_write
from .gaussians.cloud import Gaussians

STREAMS = ("cameras", "noise", "background", "posterior", "densify")
FORMAT = "distill3d training 1"


@dataclass(frozen=True)
class TrainingState:
    """Everything a run carries from step to step besides the cloud itself. Immutable by convention.

    Travels as ``Gaussians.training``. The tensors live where the cloud does, generator states on the CPU.
    """

    step: int  # steps done over all calls, bad ones included
    seed: int  # the seed the streams were derived from
    first: dict[str, Tensor]  # Adam's first moments by the cloud's field names and shapes
    second: dict[str, Tensor]  # second moments
    updates: Tensor  # [] int64, Adam steps taken (bad steps are not)
    bad_steps: Tensor  # [] int64, steps skipped for NaN or infinity, over all calls
    bad_run: Tensor  # [] int64, how many of those came directly before this point
    generators: dict[str, Tensor]  # state of each random stream, uint8
    loss_name: str
    latent_shape: tuple[int, ...]  # (C,h,w) the loss was started for
    loss: dict[str, Tensor]  # the loss's own state: fixed noise, network weights and their moments
    statistics: dict[str, Tensor]  # what densification has gathered since it last acted, rows [N]

    def to(self, device: torch.device | str, dtype: torch.dtype | None = None, copy: bool = False) -> TrainingState:
        """The same state elsewhere, the moments as ``dtype``; with ``copy`` it shares no memory with this one."""

        def moved(values: Mapping[str, Tensor], kind: torch.dtype | None = None) -> dict[str, Tensor]:
            return {key: value.detach().to(device, kind or value.dtype, copy=copy) for key, value in values.items()}

        return replace(
            self,
            first=moved(self.first, dtype),
            second=moved(self.second, dtype),
            updates=self.updates.to(device, copy=copy),
            bad_steps=self.bad_steps.to(device, copy=copy),
            bad_run=self.bad_run.to(device, copy=copy),
            loss=moved(self.loss),
            statistics=moved(self.statistics),
        )

    def check(self, cloud: Gaussians, name: str = "gaussians") -> TrainingState:
        """Return self, or raise ValueError if this state does not belong to ``cloud``."""
        tensors = cloud.tensors()
        expected = {(group, key): tuple(v.shape) for group in ("first", "second") for key, v in tensors.items()}
        expected |= {("statistics", key): (len(cloud),) for key in self.statistics}
        for (group, key), shape in expected.items():
            value = getattr(self, group).get(key)
            if value is None or tuple(value.shape) != shape:
                found = "missing" if value is None else f"of shape {tuple(value.shape)}"
                raise ValueError(
                    f"{name}.training.{group}[{key!r}] is {found}, expected {shape}: the cloud was edited after its "
                    "training. Start afresh with dataclasses.replace(cloud, training=None)."
                )
        return self


def fresh_state(cloud: Gaussians, seed: int) -> TrainingState:
    """The state before the first step of a run on ``cloud``."""
    zeros = {key: torch.zeros_like(value) for key, value in cloud.tensors().items()}
    count = torch.zeros((), dtype=torch.int64, device=cloud.device)
    generators = {name: g.get_state() for name, g in random_streams(seed).items()}
    return TrainingState(0, seed, zeros, dict(zeros), count, count, count, generators, "", (), {}, {})


def random_streams(seed: int, states: Mapping[str, Tensor] | None = None) -> dict[str, torch.Generator]:
    """One CPU generator per random part of a run, independent of each other, all from one seed; ``states`` goes on.

    Always on the CPU, so that a seed means the same run on every device.
    """
    streams = {}
    for name in STREAMS:
        digest = hashlib.blake2b(f"distill3d {name} {seed}".encode(), digest_size=8).digest()
        streams[name] = torch.Generator().manual_seed(int.from_bytes(digest, "little") >> 1)
        if states is not None:
            streams[name].set_state(states[name])
    return streams


def save_training(cloud: Gaussians, path: str | os.PathLike[str]) -> None:
    """Write the cloud with its training state as safetensors: appears whole or not at all.

    Raises ValueError if the cloud carries no training state.
    """
    state = cloud.training
    if not isinstance(state, TrainingState):
        raise ValueError("The cloud carries no training state (it was never optimized); save it as a .ply instead.")
    groups = {
        "cloud": cloud.tensors(),
        "first": state.first,
        "second": state.second,
        "counters": {"updates": state.updates, "bad_steps": state.bad_steps, "bad_run": state.bad_run},
        "generators": state.generators,
        "loss": state.loss,
        "statistics": state.statistics,
        "mask": {} if cloud.anchored is None else {"anchored": cloud.anchored},
    }
    # Copies: safetensors refuses tensors that share memory.
    tensors = {
        f"{group}/{key}": value.detach().cpu().contiguous().clone()
        for group, values in groups.items()
        for key, value in values.items()
    }
    record = {"step": state.step, "seed": state.seed, "loss_name": state.loss_name, "latent_shape": state.latent_shape}
    content = save(tensors, metadata={"format": FORMAT, "training": json.dumps(record)})
    with atomic_write(path) as file:
        file.write(content)


def load_training(path: str | os.PathLike[str]) -> Gaussians:
    """Read back what `save_training` wrote, on the CPU. Raises ValueError for any other file."""
    try:
        with safe_open(path, framework="pt", device="cpu") as file:
            metadata = file.metadata() or {}
            tensors = {key: file.get_tensor(key) for key in file.keys()}
    except SafetensorError as error:
        raise ValueError(f"{path} is not a readable safetensors file ({error}); save the training again.") from error
    if metadata.get("format") != FORMAT:
        raise ValueError(f"{path} holds {metadata.get('format')!r}, expected {FORMAT!r}; it is no saved training.")
    groups: dict[str, dict[str, Tensor]] = {}
    for name, value in tensors.items():
        group, key = name.split("/", 1)
        groups.setdefault(group, {})[key] = value
    record = json.loads(metadata["training"])
    state = TrainingState(
        step=record["step"],
        seed=record["seed"],
        loss_name=record["loss_name"],
        latent_shape=tuple(record["latent_shape"]),
        first=groups["first"],
        second=groups["second"],
        generators=groups["generators"],
        loss=groups.get("loss", {}),
        statistics=groups.get("statistics", {}),
        **groups["counters"],
    )
    return Gaussians(**groups["cloud"], anchored=groups.get("mask", {}).get("anchored"), training=state)
