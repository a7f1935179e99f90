"""What a run was asked for, so that one which goes on from it can tell what is different."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import fields, is_dataclass
from typing import Any

from ..losses.base import Loss, identity
from ..priors.base import Prior
from ..priors.prompts import ViewPrompts
from .settings import RunSettings

# What changes no direction, or may differ by intent and is told elsewhere.
UNTOLD = frozenset(
    (
        "seed",
        "schedule_steps",
        "preview_every",
        "check_every",
        "max_bad_steps",
        "accelerate",
        "micro_batch",
        "devices",
        "render_backend",
    )
)
SHOWN = 6  # differences that are told one by one
LENGTH = 60  # characters of a value


def origin(prior: Prior, prompts: ViewPrompts, loss: Loss, settings: RunSettings) -> dict[str, str]:
    """Prior, prompt, loss and every number of the settings, as text by name."""
    asked = {
        "prior": prior.name,
        "prompt": prompts.prompt,
        "negative prompt": prompts.negative,
        "loss": identity(loss),
    }
    return {**asked, **_values("", loss), **_values("", settings)}


def differences(before: Mapping[str, str], now: Mapping[str, str]) -> list[str]:
    """What is different, "name old, now new" each, the prior first; nothing where ``before`` is not
    known."""
    if not before:
        return []
    names = [name for name in {**now, **before} if before.get(name) != now.get(name)]
    told = [f"{name} {_short(before.get(name))}, now {_short(now.get(name))}" for name in names]
    more = len(told) - SHOWN
    return told[:SHOWN] + ([f"{more} more"] if more > 0 else [])


def _values(prefix: str, holder: Any) -> dict[str, str]:
    """Numbers, words and switches of a dataclass and of those in it, by name."""
    found: dict[str, str] = {}
    if not is_dataclass(holder):
        return found
    for each in fields(holder):
        name, value = f"{prefix}{each.name}", getattr(holder, each.name)
        if each.name in UNTOLD:
            continue
        if value is None or isinstance(value, bool | int | float | str):
            found[name] = str(value)
        elif isinstance(value, tuple | list):
            for place, part in enumerate(value):
                if is_dataclass(part):
                    found |= _values(f"{name}[{place}].", part)
                elif isinstance(part, bool | int | float | str):
                    found[f"{name}[{place}]"] = str(part)
        elif is_dataclass(value):
            found[name] = type(value).__name__
            found |= _values(f"{name}.", value)
    return found


def _short(value: str | None) -> str:
    if value is None:
        return "not there"
    return repr(value if len(value) <= LENGTH else value[: LENGTH - 3] + "...")
