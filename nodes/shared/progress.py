"""What a running node says of itself."""

from __future__ import annotations

import comfy.model_management
import torch
from comfy_execution.utils import get_executing_context
from server import PromptServer

from ...kernels.rasterizers.gsplat import compile_beside
from ...kernels.rasterizers.rasterize import compiles


def prepare_to_render(backend: str, device: torch.device) -> None:
    """Compile the rasterizer if its first use would, showing on the running node for how long;
    interruptible.
    """

    def wait(seconds: float) -> None:
        tell(f"compiling gsplat for this GPU, once, in one to five minutes: {seconds:.0f} s so far")
        comfy.model_management.throw_exception_if_processing_interrupted()

    if compiles(backend, device):
        compile_beside(wait)


def tell(text: str, node_id: str | None = None) -> None:
    """Show a line of text on the node that is running, or on another."""
    context, server = get_executing_context(), getattr(PromptServer, "instance", None)
    if context is not None and server is not None:
        server.send_progress_text(text, node_id or context.node_id)
