"""Distill3D: text to 3D by score distillation, as ComfyUI nodes."""

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from comfy_api.latest import ComfyExtension

WEB_DIRECTORY = "./web"


async def comfy_entrypoint() -> "ComfyExtension":
    """ComfyUI's way in. Nothing of ComfyUI is imported before it calls, so that the kernels import
    anywhere.
    """
    from .nodes.extension import Distill3D

    return Distill3D()
