"""Refine Mesh."""

from __future__ import annotations

import logging
from typing import Any

import comfy.model_management
import comfy.utils
import torch
from comfy_api.latest import Types, io

from ..kernels.gaussians.cameras import CameraSampler
from ..kernels.losses.base import Loss
from ..kernels.meshes.mesh import Mesh
from ..kernels.meshes.rasterize import render_mesh
from ..kernels.priors.prompts import ViewPrompts
from ..kernels.run.refine import JUDGED, RefineProgress, RefineSettings, refine_mesh
from . import types
from .memory import ManagedPrior
from .optimize import check_prompts, scratch_bytes
from .outputs import check_prefix, next_output, shown
from .pictures import image, picture
from .validation import validate

DEFAULTS = RefineSettings()
PREVIEW_EVERY, PREVIEW_PIXELS, PREVIEW_VIEWS = 10, 512, 8
PARTIALS = "distill3d/partial/mesh"


def _number(id: str, high: float, step: float, tooltip: str, advanced: bool = True) -> io.Float.Input:
    return io.Float.Input(
        id, default=getattr(DEFAULTS, id), min=0.0, max=high, step=step, round=0.00001, tooltip=tooltip,
        advanced=advanced or None,
    )  # fmt: skip


class RefineMesh(io.ComfyNode):
    @classmethod
    def define_schema(cls) -> io.Schema:
        return io.Schema(
            node_id="Distill3D_RefineMesh",
            display_name="Refine Mesh",
            category="Distill3D",
            description="Let any loss of the pack go on with a mesh: its vertices (geometry), its colours (texture) or "
            "both move for some steps, its triangles stay. Consistent3D's second and third stage. Writes a GLB. Of a "
            "mesh with a texture the texture learns.",
            search_aliases=["mesh refinement", "geometry stage", "texture stage", "dmtet", "fantasia3d"],
            is_output_node=True,
            inputs=[
                io.Mesh.Input("mesh", tooltip="The mesh to start from, of Export Mesh or a core node; one at a time."),
                types.Prior.Input("prior", tooltip="The model that judges the renders, from Load Diffusion Prior."),
                types.Prompts.Input("prompts", tooltip="From View Prompts, with the same prior."),
                types.Cameras.Input("cameras", tooltip="Where the training views come from: Orbit Cameras."),
                types.Loss.Input("loss", tooltip="Any loss; its schedule runs over these steps."),
                io.String.Input(
                    "filename_prefix",
                    default="distill3d/refined",
                    tooltip="Folder and name below ComfyUI's output folder; _00001_.glb and so on is appended.",
                ),
                io.Int.Input(
                    "steps",
                    default=60,
                    min=1,
                    max=100_000,
                    tooltip="How many steps. Embedded prior: 60. Consistent3D: 3000 (geometry) and 5000 (texture).",
                ),
                io.Int.Input(
                    "views",
                    default=DEFAULTS.views,
                    min=1,
                    max=64,
                    tooltip="Pictures per step, rendered and judged together. Consistent3D: 8.",
                ),
                io.Int.Input(
                    "seed",
                    default=0,
                    min=0,
                    max=0xFFFFFFFFFFFFFFFF,
                    control_after_generate=io.ControlAfterGenerate.fixed,
                    tooltip="Seed of cameras, noise and backgrounds.",
                ),
                _number(
                    "lr_vertices", 1.0, 0.001,
                    "Learning rate of the vertices, world units per step; falls to a tenth. 0: texture alone.",
                    advanced=False,
                ),
                _number(
                    "lr_colors", 1.0, 0.001,
                    "Learning rate of the colours or the texture, 0..1 per step; falls to a tenth. 0: geometry alone.",
                    advanced=False,
                ),
                _number(
                    "smoothness", 10000.0, 1.0,
                    "Vertices move together within about the square root of this many edges. 0: each on its own.",
                ),
                _number(
                    "lambda_laplacian", 1e6, 1.0,
                    "Weight of the squared distance of vertices from their neighbours' mean. Consistent3D: 100.",
                ),
                _number(
                    "lambda_normal", 1e6, 1.0,
                    "Weight of 1 - cosine between the normals of neighbouring triangles. Consistent3D: 100.",
                ),
                io.Combo.Input(
                    "judged",
                    options=list(JUDGED),
                    default=DEFAULTS.judged,
                    advanced=True,
                    tooltip="What the prior sees. color: the coloured mesh. normal: its normals as colours, as in "
                    "Consistent3D's geometry stage; needs lr_colors 0, and a prior that knows such pictures.",
                ),
                io.Int.Input(
                    "image_size",
                    default=0,
                    min=0,
                    max=2048,
                    step=16,
                    advanced=True,
                    tooltip="Pixels of the renders; 0: what the prior was trained for.",
                ),
            ],
            outputs=[
                io.File3DGLB.Output(display_name="glb", tooltip="The file, for Preview 3D and other core nodes."),
                io.Mesh.Output(display_name="mesh", tooltip="The mesh as ComfyUI's own MESH."),
                io.Image.Output(display_name="preview", tooltip="A turn around the result in 8 pictures."),
            ],
        )  # fmt: skip

    @classmethod
    def validate_inputs(
        cls, filename_prefix: str | None, lr_vertices: float | None, lr_colors: float | None, judged: str | None
    ) -> bool | str:
        problem = check_prefix(filename_prefix)
        values = {"lr_vertices": lr_vertices, "lr_colors": lr_colors, "judged": judged}
        return problem if problem is not True else validate(cls, values, RefineSettings)

    @classmethod
    def execute(
        cls,
        mesh: Any,
        prior: ManagedPrior,
        prompts: ViewPrompts,
        cameras: CameraSampler,
        loss: Loss,
        filename_prefix: str,
        steps: int,
        image_size: int,
        **fields: Any,
    ) -> io.NodeOutput:
        from ..kernels.files.glb import write_glb  # here, because trimesh takes seconds to import

        settings = RefineSettings(image_size=image_size or None, **fields)
        start, file = types.mesh_from_native(mesh), next_output(filename_prefix, "glb")
        bar = comfy.utils.ProgressBar(steps)
        size = image_size or prior.prior.image_size

        def on_step(progress: RefineProgress) -> None:
            comfy.model_management.throw_exception_if_processing_interrupted()
            preview = None
            if progress.step % PREVIEW_EVERY == 0 or progress.step == steps:
                shown_now = turn(progress.mesh(), cameras, size, 1)[0]
                preview = ("JPEG", picture(shown_now, PREVIEW_PIXELS), PREVIEW_PIXELS)
            bar.update_absolute(progress.step, steps, preview)

        def keep(part: Mesh) -> None:
            path = next_output(PARTIALS, "glb").path
            try:
                write_glb(part, path)
            except (OSError, ValueError) as error:
                logging.warning("Distill3D: the mesh so far could not be saved: %s", error)
            else:
                logging.warning("Distill3D: Refine Mesh ended early. The mesh so far is in %s.", shown(path))

        with prior.loaded(scratch=scratch_bytes(settings.views, size, prior.prior.dtype)) as model:
            check_prompts(prompts, model)
            result = refine_mesh(start, loss, model, prompts, cameras, steps, settings, on_step, keep)
            pictures = turn(result, cameras, size, PREVIEW_VIEWS)
        write_glb(result, file.path)
        glb = Types.File3D(str(file.path), "glb")
        return io.NodeOutput(glb, types.native_mesh(result), image(pictures), ui={"3d": [file.result]})


def turn(mesh: Mesh, cameras: CameraSampler, size: int, views: int) -> torch.Tensor:
    """A turntable [views,size,size,3] at the middle of the training cameras' ranges; of one view a little aside."""
    azimuths = torch.arange(views) * (360.0 / views) + (25.0 if views == 1 else 0.0)
    with torch.inference_mode(False), torch.no_grad():
        return render_mesh(mesh, cameras.from_angles(azimuths, 15.0, size), 0.5).color.clamp(0, 1).cpu()
