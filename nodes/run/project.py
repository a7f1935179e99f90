"""Project Pictures."""

from __future__ import annotations

from typing import Any

import torch
from comfy_api.latest import io

from ...kernels.gaussians.cloud import Gaussians
from ...kernels.meshes.project import UNSEEN, project_onto_cloud, project_onto_mesh
from ...kernels.run.references import References
from ..shared import types


class ProjectPictures(io.ComfyNode):
    @classmethod
    def define_schema(cls) -> io.Schema:
        return io.Schema(
            node_id="Distill3D_ProjectPictures",
            display_name="Project Pictures",
            category="Distill3D",
            description=(
                "Put pictures onto a mesh or a splat: what their cameras see of it takes their"
                " colours, the rest keeps its own. Refine Mesh or Optimize then lets the prior"
                " paint what no picture shows."
            ),
            search_aliases=[
                "texture projection",
                "restyle",
                "retexture",
                "bake",
                "camera projection",
            ],
            inputs=[
                types.References.Input(
                    "references",
                    tooltip="The pictures and their cameras, from Reference Views.",
                ),
                io.Combo.Input(
                    "unseen",
                    options=list(UNSEEN),
                    default=UNSEEN[0],
                    tooltip=(
                        "What no picture sees. keep: its own colours. nearest: those of the nearest"
                        " place that a picture sees, which the prior then need not repaint."
                    ),
                ),
                io.Mesh.Input("mesh", optional=True, tooltip="A mesh to paint."),
                types.GaussianCloud.Input("gaussians", optional=True, tooltip="A splat to paint."),
            ],
            outputs=[
                io.Mesh.Output(display_name="mesh", tooltip="The painted mesh, for Refine Mesh."),
                types.GaussianCloud.Output(
                    display_name="gaussians", tooltip="The painted splat, for Optimize."
                ),
                io.Float.Output(
                    display_name="seen",
                    tooltip="Share of the texels, vertices or Gaussians that a picture decides.",
                ),
            ],
        )  # fmt: skip

    @classmethod
    def execute(
        cls,
        references: References,
        unseen: str,
        mesh: Any = None,
        gaussians: Gaussians | None = None,
    ) -> io.NodeOutput:
        if mesh is None and gaussians is None:
            raise ValueError(
                "Project Pictures: neither mesh nor gaussians is linked; link what is to be"
                " painted."
            )
        shown = (references.images, references.masks, references.cameras)
        shares = []
        with torch.inference_mode(False), torch.no_grad():
            if mesh is not None:
                painted, share = project_onto_mesh(types.mesh_from_native(mesh), *shown, unseen)
                mesh = types.native_mesh(painted)
                shares.append(share)
            if gaussians is not None:
                own = gaussians.map(lambda value: value.detach().clone())
                gaussians, share = project_onto_cloud(own, *shown, unseen)
                shares.append(share)
        seen = float((torch.cat([share.flatten() for share in shares]) > 0.5).float().mean())
        return io.NodeOutput(mesh, gaussians, round(seen, 4))
