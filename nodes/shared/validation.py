"""Checks of constant inputs before anything runs, for nodes whose inputs depend on each other, and
of linked ones.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from comfy_api.latest import io


def validate(
    node: type[io.ComfyNode], values: dict[str, Any], build: Callable[..., Any]
) -> bool | str:
    """What a node's validate_inputs returns: True, or the message for the first thing wrong with
    ``values``.

    ComfyUI skips its own range and list checks for every input that validate_inputs names, so these
    come first; then ``build(**values).check()`` compares the inputs with each other. A linked input
    arrives as None: what depends on it is checked when the node runs.
    """
    problem = undeclared(node, values)
    if problem:
        return problem
    if any(value is None for value in values.values()):
        return True
    try:
        build(**values).check()
    except ValueError as error:
        return str(error)
    return True


def undeclared(node: type[io.ComfyNode], values: dict[str, Any]) -> str | None:
    """A message for the first value outside the range or list its input declares."""
    for declared in node.define_schema().inputs:
        value = values.get(declared.id)
        if value is None:
            continue
        if isinstance(declared, io.Int.Input | io.Float.Input) and not isinstance(
            value, int | float
        ):
            kind = "whole number" if isinstance(declared, io.Int.Input) else "number"
            return (
                f"{declared.id} is {value!r}; give a {kind} within {declared.min}..{declared.max}."
            )
        low, high = getattr(declared, "min", None), getattr(declared, "max", None)
        # NaN fails both
        if (low is not None and not value >= low) or (high is not None and not value <= high):
            return f"{declared.id} is {value}; choose a value within {low}..{high}."
        options = getattr(declared, "options", None)
        if options is not None and value not in options:
            return f"{declared.id} is {value!r}; choose one of {', '.join(map(repr, options))}."
    return None


def check_declared(node: type[io.ComfyNode], values: dict[str, Any]) -> None:
    """Raise ValueError for the first value outside what its input declares, which ComfyUI checks
    neither of a linked value nor of NaN."""
    problem = undeclared(node, values)
    if problem:
        raise ValueError(f"{node.define_schema().display_name}: {problem}")
