"""What the nodes of cameras have in common."""

from __future__ import annotations

from comfy_api.latest import io


def degrees(
    id: str, default: float, low: float, high: float, tooltip: str, advanced: bool = False
) -> io.Float.Input:
    return io.Float.Input(
        id,
        default=default,
        min=low,
        max=high,
        step=1.0,
        round=0.01,
        tooltip=tooltip,
        advanced=advanced or None,
    )
