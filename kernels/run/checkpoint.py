"""Saving a cloud together with what lets a run go on from it."""

from __future__ import annotations

import json
import os

from safetensors import SafetensorError, safe_open
from safetensors.torch import save
from torch import Tensor

from ..files.atomic import atomic_write
from ..gaussians.cloud import Gaussians
from .state import TrainingState

FORMAT = "distill3d training 1"


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
