"""A training state as a file gives it: every part looked at before a run goes on from it."""

from __future__ import annotations

import json
from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor

from .state import TrainingState

GROUPS = ("first", "second", "generators", "counters")  # that every state has
COUNTERS = ("updates", "bad_steps", "bad_run")
LARGEST = 1 << 53  # steps; larger counts are no counts


def training_state(record: str, groups: Mapping[str, Mapping[str, Tensor]]) -> TrainingState:
    """The state that a saved file's header, in JSON, and its tensors by group tell.

    Raises ValueError saying what is missing or cannot be: negative counts, moments that are NaN,
    infinite or, of the squares, negative, random streams that are none.
    """
    told = _record(record)
    for group in GROUPS:
        if group not in groups:
            raise ValueError(f"it holds no {group}")
    for group in ("first", "second", "loss", "statistics", "carried", "references"):
        for key, value in groups.get(group, {}).items():
            if value.is_floating_point() and not bool(torch.isfinite(value).all()):
                raise ValueError(f"{group}/{key} holds numbers that are NaN or infinite")
    for key, value in groups["second"].items():
        if bool((value < 0).any()):
            raise ValueError(f"second/{key}, moments of squares, holds numbers below 0")
    for group in ("first", "second"):
        if other := [key for key, v in groups[group].items() if not v.is_floating_point()]:
            raise ValueError(f"{group}/{other[0]} holds whole numbers where moments belong")
    counters = {name: _counter(groups["counters"], name) for name in COUNTERS}
    for name, value in groups["generators"].items():
        _check_stream(name, value)
    return TrainingState(
        step=told["step"],
        seed=told["seed"],
        loss_name=told["loss_name"],
        latent_shape=tuple(told["latent_shape"]),
        first=dict(groups["first"]),
        second=dict(groups["second"]),
        generators=dict(groups["generators"]),
        loss=dict(groups.get("loss", {})),
        statistics=dict(groups.get("statistics", {})),
        carried=dict(groups.get("carried", {})),
        references=dict(groups.get("references", {})),
        made_with=told.get("made_with", {}),
        **counters,
    )


def _record(text: str) -> dict[str, Any]:
    try:
        told = json.loads(text)
    except (ValueError, RecursionError) as error:
        raise ValueError(f"its header is no JSON ({type(error).__name__})") from None
    if not isinstance(told, dict):
        raise ValueError("its header holds no names with values")
    for name in ("step", "seed"):
        value = told.get(name)
        most = LARGEST if name == "step" else (1 << 64) - 1
        if isinstance(value, bool) or not isinstance(value, int) or not 0 <= value <= most:
            raise ValueError(f"its {name} is {str(value)[:40]}, not a whole number from 0 on")
    if not isinstance(told.get("loss_name"), str):
        raise ValueError("its loss_name is no text")
    shape = told.get("latent_shape")
    if not isinstance(shape, list) or any(
        isinstance(side, bool) or not isinstance(side, int) or side < 1 for side in shape
    ):
        raise ValueError(f"its latent_shape is {str(shape)[:40]}, not a list of sizes")
    made = told.get("made_with", {})
    if not isinstance(made, dict) or not all(isinstance(value, str) for value in made.values()):
        raise ValueError(f"its made_with is {str(made)[:40]}, not names with texts")
    return told


def _counter(counters: Mapping[str, Tensor], name: str) -> Tensor:
    value = counters.get(name)
    if value is None or value.dtype != torch.int64 or value.dim() != 0:
        raise ValueError(f"its counter {name} is missing, or no single whole number")
    if not 0 <= int(value) <= LARGEST:
        raise ValueError(f"its counter {name} is {int(value)}, not a count from 0 on")
    return value


def _check_stream(name: str, state: Tensor) -> None:
    try:
        torch.Generator().set_state(state)
    except (RuntimeError, TypeError) as error:
        raise ValueError(
            f"its random stream {name[:40]!r} is none ({str(error).splitlines()[0][:80]})"
        ) from None
