"""The pack's socket types, and what the running ComfyUI has of the native 3D types."""

from __future__ import annotations

import inspect
from typing import Any

from comfy_api.latest import Types, io

from ..kernels.files.splat import to_splat_fields
from ..kernels.gaussians.cloud import Gaussians
from ..kernels.meshes.mesh import Mesh

Prior = io.Custom("DISTILL3D_PRIOR")  # a memory.ManagedPrior
Prompts = io.Custom("DISTILL3D_PROMPTS")  # kernels.priors.prompts.ViewPrompts
Cameras = io.Custom("DISTILL3D_CAMERAS")  # a kernels.gaussians.cameras.CameraSampler
GaussianCloud = io.Custom("DISTILL3D_GAUSSIANS")  # kernels.gaussians.cloud.Gaussians, on the CPU
Loss = io.Custom("DISTILL3D_LOSS")  # a frozen settings dataclass of kernels.losses

# All names that fit some format: Preview 3D of every ComfyUI takes FILE_3D, the splat nodes of 0.24 and later the
# others.
SplatFile = io.Custom("FILE_3D_PLY,FILE_3D,FILE_3D_SPLAT,FILE_3D_SPZ,FILE_3D_GLB,FILE_3D_SPLAT_ANY")

HAS_SPLAT = hasattr(io, "Splat") and hasattr(Types, "SPLAT")  # ComfyUI 0.24.1 and later


def splat_outputs() -> list[io.Output]:
    """The native splat socket, where this ComfyUI has one."""
    if not HAS_SPLAT:
        return []
    return [
        io.Splat.Output(display_name="splat", tooltip="The cloud as ComfyUI's own SPLAT, for the core splat nodes.")
    ]


def splat_values(gaussians: Gaussians) -> list[Any]:
    """What goes into `splat_outputs`: a batch of one cloud in core's frame (Y down, Z forward)."""
    return [Types.SPLAT(**to_splat_fields(gaussians))] if HAS_SPLAT else []


def native_mesh(mesh: Mesh) -> Any:
    """ComfyUI's MESH, a batch of one; with vertex colours where this ComfyUI's MESH holds them (0.24 and later)."""
    fields = {"vertices": mesh.vertices[None], "faces": mesh.faces[None]}
    # The colours are finished renderings, so a viewer should not light them again.
    extras = {"vertex_colors": mesh.colors[None], "unlit": True}
    known = inspect.signature(Types.MESH.__init__).parameters
    return Types.MESH(**fields, **{key: value for key, value in extras.items() if key in known})
