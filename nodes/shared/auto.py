"""`values`: whether a node's own inputs count, or what suits the prior, which is not known before
there is one."""

from __future__ import annotations

from typing import Any

from comfy_api.latest import io
from comfy_execution.utils import get_executing_context

from ...kernels.losses.suited import Auto

OWN, AUTO = "own", "auto"


def values_input(what: str) -> io.Combo.Input:
    """A choice between the node's inputs and ``what`` suits the prior."""
    return io.Combo.Input(
        "values",
        options=[OWN, AUTO],
        default=OWN,
        optional=True,
        advanced=True,
        tooltip=(
            f"own: the inputs of this node count. auto: {what} that suit the prior count instead,"
            " and this node shows them when Optimize begins, with where they come from: the"
            " authors, a paper, measured here (embedded prior) or untried."
        ),
    )


def deferred(settings: Any, values: str) -> Any:
    """What a node gives out for its ``settings``: these, or with `auto` what becomes them later."""
    if values == OWN:
        return settings
    context = get_executing_context()
    return Auto(settings, None if context is None else context.node_id)
