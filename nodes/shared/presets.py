"""Presets: named values that the page writes into a node's own inputs, where a person sees them.

What a node computes follows from its inputs alone. The page (web/presets.mjs) reads the values from
the input's entry in /object_info.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from comfy_api.latest import io

CUSTOM = "custom"
KEY = "distill3d_presets"
FILLS = (
    " Choosing one fills the inputs of this node; what counts are their values. custom: they are as"
    " somebody set them."
)


def preset_input(presets: Mapping[str, Mapping[str, Any]], tooltip: str) -> io.Combo.Input:
    """A choice among ``presets``, {name: {input: value}}, the first of which has the defaults."""
    return io.Combo.Input(
        "preset",
        options=[*presets, CUSTOM],
        default=next(iter(presets)),
        tooltip=tooltip + FILLS,
        socketless=True,
        extra_dict={KEY: {name: dict(values) for name, values in presets.items()}},
    )
