"""Distill3D: text to 3D by score distillation, as ComfyUI nodes."""

WEB_DIRECTORY = "./web"


async def comfy_entrypoint():
    """ComfyUI's way in. Nothing of ComfyUI is imported before it calls, so that the kernels import
    anywhere.
    """
    from .nodes.extension import Distill3D

    return Distill3D()
