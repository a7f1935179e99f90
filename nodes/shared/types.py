"""The pack's socket types, and what the running ComfyUI has of the native 3D types."""

from __future__ import annotations

import inspect
from typing import Any

import torch
from comfy_api.latest import Types, io

from ...kernels.files.splat import to_splat_fields
from ...kernels.gaussians.cloud import Gaussians
from ...kernels.meshes.cleanup import weld
from ...kernels.meshes.mesh import Mesh
from ...kernels.meshes.texels import texels

Prior = io.Custom("DISTILL3D_PRIOR")  # a memory.ManagedPrior or a comfy_prior.ManagedComfyPrior
Prompts = io.Custom("DISTILL3D_PROMPTS")  # kernels.priors.prompts.ViewPrompts
Cameras = io.Custom("DISTILL3D_CAMERAS")  # a kernels.cameras.sampler.CameraSampler
GaussianCloud = io.Custom("DISTILL3D_GAUSSIANS")  # kernels.gaussians.cloud.Gaussians, on the CPU
# core's: a dictionary, or a list of them
CoreCameras = io.Custom("LOAD3D_CAMERA")
Loss = io.Custom("DISTILL3D_LOSS")  # a frozen settings dataclass of kernels.losses
Scorer = io.Custom("DISTILL3D_SCORER")  # a callable: pictures [B,3,H,W] in 0..1 to scores [B]
DegradationMap = io.Custom("DISTILL3D_DEGRADATION_MAP")  # dict: some fields of kernels' VDM
LearningRates = io.Custom("DISTILL3D_LEARNING_RATES")  # dict: some fields of OptimizeSettings
Penalties = io.Custom("DISTILL3D_PENALTIES")  # dict: some fields of OptimizeSettings
Densification = io.Custom("DISTILL3D_DENSIFICATION")  # dict: some fields of OptimizeSettings
MeshPenalties = io.Custom("DISTILL3D_MESH_PENALTIES")  # dict: some fields of RefineSettings
RunOptions = io.Custom("DISTILL3D_RUN_OPTIONS")  # nodes.run.options.Options
Refining = io.Custom("DISTILL3D_REFINING")  # nodes.run.refining.Hold
References = io.Custom("DISTILL3D_REFERENCES")  # kernels.run.references.References

# All names that fit some format: Preview 3D of every ComfyUI takes FILE_3D, the splat nodes of 0.24
# and later the others.
SplatFile = io.Custom("FILE_3D_PLY,FILE_3D,FILE_3D_SPLAT,FILE_3D_SPZ,FILE_3D_GLB,FILE_3D_SPLAT_ANY")
MeshFile = io.Custom("FILE_3D_GLB,FILE_3D_OBJ,FILE_3D_PLY,FILE_3D_STL,FILE_3D")

# the attribute by which a MESH carries a refined mesh with its training state
REFINED = "distill3d_mesh"
HAS_SPLAT = hasattr(io, "Splat") and hasattr(Types, "SPLAT")  # ComfyUI 0.24.1 and later


def splat_outputs() -> list[io.Output]:
    """The native splat socket, where this ComfyUI has one."""
    if not HAS_SPLAT:
        return []
    return [
        io.Splat.Output(
            display_name="splat",
            tooltip="The cloud as ComfyUI's own SPLAT, for the core splat nodes.",
        )
    ]


def splat_values(gaussians: Gaussians) -> list[Any]:
    """What goes into `splat_outputs`: a batch of one cloud in core's frame (Y down, Z forward)."""
    return [Types.SPLAT(**to_splat_fields(gaussians))] if HAS_SPLAT else []


def native_mesh(mesh: Mesh) -> Any:
    """ComfyUI's MESH, a batch of one; with texture or vertex colours where this ComfyUI's MESH
    holds them (0.24 on).

    A mesh that has been refined travels along, so that another Refine Mesh can go on with it.
    """
    native = _native(mesh)
    if mesh.training is not None:
        setattr(native, REFINED, mesh)
    return native


def _native(mesh: Mesh) -> Any:
    fields = {"vertices": mesh.vertices[None], "faces": mesh.faces[None]}
    known = inspect.signature(Types.MESH.__init__).parameters
    if mesh.uvs is not None and mesh.texture is not None and {"uvs", "texture"} <= set(known):
        return Types.MESH(**fields, uvs=mesh.uvs[None], texture=mesh.texture[None])
    # The colours are finished renderings, so a viewer should not light them again.
    extras = {"vertex_colors": mesh.colors[None], "unlit": True}
    return Types.MESH(**fields, **{key: value for key, value in extras.items() if key in known})


def mesh_from_native(mesh: Any) -> Mesh:
    """A MESH of ComfyUI as the kernels' own, on the CPU; grey where it has no colours.

    With a texture it is as it came, seams included; else vertices at one place become one. Raises
    ValueError for a batch of several meshes and for a bad one. One that comes from Refine Mesh as
    it was is that very mesh.
    """
    refined: Mesh | None = getattr(mesh, REFINED, None)
    if (
        refined is not None
        and len(mesh.vertices) == 1
        and torch.equal(mesh.vertices[0], refined.vertices)
    ):
        return refined
    with torch.inference_mode(False):
        own = textured_from_native(mesh)
        return weld(own) if own.texture is None else own


def textured_from_native(mesh: Any) -> Mesh:
    """The same with its seams and its texture."""
    parts = {
        name: getattr(mesh, name, None)
        for name in ("vertices", "faces", "vertex_colors", "uvs", "texture")
    }
    batched = mesh.vertices.dim() == 3
    if batched and len(mesh.vertices) != 1:
        raise ValueError(f"mesh holds {len(mesh.vertices)} meshes; give one at a time.")
    with torch.inference_mode(False):
        own = {
            k: (v[0] if batched else v).detach().cpu().clone()
            for k, v in parts.items()
            if v is not None
        }
        vertices, faces = own["vertices"].float(), own["faces"].long()
        colors, uvs, texture = torch.full_like(vertices, 0.5), None, None
        if "texture" in own and "uvs" in own:
            uvs, texture = own["uvs"].float(), own["texture"][..., :3].float()
            colors = texels(texture, uvs)
        if "vertex_colors" in own:
            colors = own["vertex_colors"][:, :3].float()
        return Mesh(vertices, faces, colors, uvs, texture).check()
