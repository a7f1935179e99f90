"""Saving a cloud or a mesh together with what lets a run go on from it."""

from __future__ import annotations

import json
import os
from collections.abc import Callable, Collection, Mapping
from dataclasses import fields
from typing import Any, TypeVar

from safetensors import SafetensorError, safe_open
from torch import Tensor

from ..files.ordinary import check_ordinary
from ..files.tensors import write_tensors
from ..gaussians.cloud import Gaussians
from ..meshes.mesh import Mesh
from .restored import training_state
from .state import TrainingState

FORMAT, MESH_FORMAT = "distill3d training 1", "distill3d mesh training 1"
Groups = Mapping[str, Mapping[str, Tensor]]
Trained = TypeVar("Trained", Gaussians, Mesh)


def save_training(
    trained: Gaussians | Mesh,
    path: str | os.PathLike[str],
    run: Mapping[str, Any] | None = None,
) -> None:
    """Write the cloud or mesh with its training state as safetensors: appears whole or not at all.

    Tensor by tensor, without a second copy of them. ``run``: what `run_of` shall say of it, for
    JSON. Raises ValueError if it carries no training state.
    """
    state = trained.training
    if not isinstance(state, TrainingState):
        noun, other = ("cloud", "a .ply") if isinstance(trained, Gaussians) else ("mesh", "a .glb")
        raise ValueError(
            f"The {noun} carries no training state (it was never optimized); save it as {other}"
            " instead."
        )
    own, format = (
        (_cloud(trained), FORMAT)
        if isinstance(trained, Gaussians)
        else (_mesh(trained), MESH_FORMAT)
    )
    groups = {
        **own,
        "first": state.first,
        "second": state.second,
        "counters": {
            "updates": state.updates,
            "bad_steps": state.bad_steps,
            "bad_run": state.bad_run,
        },
        "generators": state.generators,
        "loss": state.loss,
        "statistics": state.statistics,
        "carried": state.carried,
        "references": state.references,
    }
    tensors = {
        f"{group}/{key}": value for group, values in groups.items() for key, value in values.items()
    }
    record = {
        "step": state.step,
        "seed": state.seed,
        "loss_name": state.loss_name,
        "latent_shape": state.latent_shape,
        "made_with": state.made_with,
    }
    metadata = {"format": format, "training": json.dumps(record)}
    if run is not None:
        metadata["run"] = json.dumps(run)
    write_tensors(path, tensors, metadata)


def run_of(path: str | os.PathLike[str]) -> dict[str, Any] | None:
    """What `save_training` was told of the run whose cloud or mesh is in the file, with "mesh" for
    whether it is one; only the file's header is read. None for any other file.
    """
    try:
        with safe_open(path, framework="pt", device="cpu") as file:
            metadata = file.metadata() or {}
        run = json.loads(metadata["run"])
    except (SafetensorError, OSError, ValueError, KeyError, OverflowError, RuntimeError):
        return None
    if metadata.get("format") not in (FORMAT, MESH_FORMAT) or not isinstance(run, dict):
        return None
    return {**run, "mesh": metadata["format"] == MESH_FORMAT}


def load_training(path: str | os.PathLike[str]) -> Gaussians:
    """Read back what `save_training` wrote of a cloud, on the CPU. Raises ValueError, one sentence
    with the file's name, for any other file, and for one that is damaged; OSError where there is
    none.
    """
    return _read(path, FORMAT, _cloud_of)


def load_mesh_training(path: str | os.PathLike[str]) -> Mesh:
    """The same of a mesh."""
    return _read(path, MESH_FORMAT, _mesh_of)


def _cloud_of(groups: Groups, state: TrainingState) -> Gaussians:
    _check_kinds(groups["cloud"], ())
    anchored = groups.get("mask", {}).get("anchored")
    cloud = Gaussians(**groups["cloud"], anchored=anchored, training=state).check("cloud")
    state.check(cloud.tensors(), "cloud")
    return cloud


def _mesh_of(groups: Groups, state: TrainingState) -> Mesh:
    _check_kinds(groups["mesh"], ("faces",))
    mesh, carried = Mesh(**groups["mesh"], training=state).check("mesh"), state.carried
    for name in ("edge_length", "level"):
        if name not in carried or carried[name].numel() != 1:
            raise ValueError(f"its carried/{name} is missing, or no single number")
    for name, moments in state.first.items():
        if name not in carried or carried[name].shape != moments.shape:
            raise ValueError(f"its carried/{name} does not fit first/{name}")
    return mesh


def _check_kinds(tensors: Mapping[str, Tensor], whole: Collection[str]) -> None:
    for name, value in tensors.items():
        if value.is_floating_point() == (name in whole) or value.is_complex():
            raise ValueError(f"its {name} holds numbers of another kind ({value.dtype})")


def _cloud(cloud: Gaussians) -> Groups:
    return {
        "cloud": cloud.tensors(),
        "mask": {} if cloud.anchored is None else {"anchored": cloud.anchored},
    }


def _mesh(mesh: Mesh) -> Groups:
    values = {field.name: getattr(mesh, field.name) for field in fields(mesh)}
    return {"mesh": {name: value for name, value in values.items() if isinstance(value, Tensor)}}


def _read(
    path: str | os.PathLike[str], format: str, build: Callable[[Groups, TrainingState], Trained]
) -> Trained:
    check_ordinary(path)
    try:
        with safe_open(path, framework="pt", device="cpu") as file:
            metadata = file.metadata() or {}
            if metadata.get("format") == format:
                tensors = {key: file.get_tensor(key) for key in file.keys()}
    except (SafetensorError, OverflowError, RuntimeError) as error:
        raise ValueError(
            f"{path} is not a readable safetensors file ({error}); save the training again."
        ) from error
    if metadata.get("format") != format:
        raise ValueError(
            f"{path} holds {metadata.get('format')!r}, expected {format!r}; it is no saved"
            " training."
        )
    groups: dict[str, dict[str, Tensor]] = {}
    for name, value in tensors.items():
        group, _, key = name.partition("/")
        groups.setdefault(group, {})[key] = value
    try:
        return build(groups, training_state(metadata.get("training", ""), groups))
    # TypeError, KeyError: tensors of a cloud or mesh that are missing, or that none has
    except (ValueError, TypeError, KeyError, IndexError) as error:
        raise ValueError(
            f"{path} is a damaged training state: {str(error)[:300]}. Take an earlier save, or the"
            " .ply or .glb beside it."
        ) from error
