"""Refine Mesh."""

from __future__ import annotations

from dataclasses import replace
from io import BytesIO
from typing import Any

import torch
from comfy_api.latest import Types, io

from ...kernels.cameras.sampler import CameraSampler
from ...kernels.losses.base import Loss
from ...kernels.meshes.mesh import Mesh
from ...kernels.meshes.rasterize import render_mesh
from ...kernels.priors.prompts import ViewPrompts
from ...kernels.run.references import References
from ...kernels.run.refine import refine_mesh
from ...kernels.run.settings import JUDGED, NORMAL_AXES, RefineSettings
from ..priors.memory import ManagedPrior
from ..priors.needs import check_prompts, scratch_bytes
from ..priors.suited import settled, settled_size
from ..shared import types
from ..shared.images import image
from ..shared.outputs import check_prefix, new_output
from ..shared.validation import undeclared, validate
from .keep import MESH
from .optimize import ends_early, workflow_id
from .options import Options
from .watch import NO_PREVIEW, Watch, attempted

DEFAULTS = RefineSettings()
PREVIEW_EVERY, PREVIEW_VIEWS = 10, 8  # steps, pictures


def _number(
    id: str, high: float, step: float, tooltip: str, advanced: bool = True
) -> io.Float.Input:
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
            "mesh with a texture the texture learns. A mesh of another Refine Mesh goes on where that stopped.",
            hidden=[io.Hidden.extra_pnginfo],
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
                    tooltip="Pixels of the renders; 0: what suits the prior (see Optimize).",
                ),
                io.Int.Input(
                    "schedule_steps",
                    default=0,
                    min=0,
                    max=1_000_000,
                    advanced=True,
                    tooltip="Length of the whole schedule, steps, over which noise levels and rates anneal; 0 ends "
                    "it with this node. To split one run over several nodes, give each the sum of their steps.",
                ),
                io.Boolean.Input(
                    "restart_schedule",
                    default=False,
                    advanced=True,
                    tooltip="Begin a new schedule: forget the steps, momentum and loss state that a mesh from another "
                    "Refine Mesh brings along. For a second stage, such as texture after geometry.",
                ),
                types.MeshPenalties.Input(
                    "mesh_penalties",
                    optional=True,
                    tooltip="What is asked of the mesh's shape besides the prior's judgement, from Mesh Penalties.",
                ),
                types.RunOptions.Input(
                    "options",
                    optional=True,
                    tooltip="Backgrounds, previews and autosaves, from Run Options.",
                ),
                io.Combo.Input(
                    "normal_axes",
                    options=list(NORMAL_AXES),
                    default=DEFAULTS.normal_axes,
                    optional=True,
                    advanced=True,
                    tooltip=(
                        "Which directions are red, green and blue where normals are judged."
                        " Consistent3D: front right up, on background black."
                    ),
                ),
                types.References.Input(
                    "references",
                    optional=True,
                    tooltip=(
                        "Pictures that the renders from their cameras are held to, from Reference"
                        " Views."
                    ),
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
        cls,
        filename_prefix: str | None = None,
        lr_vertices: float | None = None,
        lr_colors: float | None = None,
        judged: str | None = None,
        steps: int | None = None,
        schedule_steps: int | None = None,
    ) -> bool | str:
        counts = {"steps": steps, "schedule_steps": schedule_steps}
        problem = check_prefix(filename_prefix)
        if problem is True:
            problem = undeclared(cls, counts) or ends_early(**counts) or True
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
        restart_schedule: bool,
        mesh_penalties: dict[str, Any] | None = None,
        options: Options | None = None,
        references: References | None = None,
        **fields: Any,
    ) -> io.NodeOutput:
        options = options or Options(settings={"preview_every": PREVIEW_EVERY})
        size = settled_size(image_size, prior.prior)
        settings = RefineSettings(
            **fields, **(mesh_penalties or {}), **options.settings, image_size=size
        )
        start = types.mesh_from_native(mesh)
        if restart_schedule:
            start = replace(start, training=None)
        workflow = workflow_id(getattr(cls.hidden, "extra_pnginfo", None))
        watch = Watch(steps, options.autosave_every, start, prompts.prompt, workflow, MESH)
        judged_size = settings.judged_size or size
        cameras = settled(cameras, prior.prior, judged_size)
        loss = settled(loss, prior.prior, judged_size)
        together = settings.micro_batch or settings.views
        with prior.loaded(scratch=scratch_bytes(together, judged_size, prior.prior.dtype)) as model:
            check_prompts(prompts, model)
            with watch:
                result = refine_mesh(
                    start, loss, model, prompts, cameras, steps, settings, watch.step, watch.keep,
                    references,
                )  # fmt: skip
                glb, files = written(result, filename_prefix, watch)
                pictures = attempted(lambda: turn(result, cameras, size), NO_PREVIEW)
        return io.NodeOutput(
            glb, types.native_mesh(result), image(pictures), ui=files | watch.told()
        )


def written(result: Mesh, prefix: str, watch: Watch) -> tuple[Any, dict[str, Any]]:
    """The finished mesh as a File3D in the output folder, and the node's ui entry of that.

    Where the disk refuses it raises, with the place of the copy that is kept elsewhere; without
    such a copy the file is in memory alone, so that the graph can still go on with it.
    """
    from ...kernels.files.glb import glb_bytes, write_glb  # trimesh takes seconds to import

    refused = None
    try:
        with new_output(MESH.node, prefix, "glb") as file:
            write_glb(result, file.path)
    except OSError as error:
        refused = error
    finally:  # whatever else comes
        watch.finish(result)
    if refused is None:
        return Types.File3D(str(file.path), "glb"), {"3d": [file.result]}
    if watch.keeper.place is None:
        watch.keep(result)
    if watch.keeper.place is not None:
        raise refused
    watch.say(f"{refused} Until then the mesh is in memory alone; link it to a node that saves.")
    return Types.File3D(BytesIO(glb_bytes(result)), "glb"), {}


def turn(mesh: Mesh, cameras: CameraSampler, size: int) -> torch.Tensor:
    """A turntable [8,size,size,3] at the middle of the training cameras' ranges."""
    azimuths = torch.arange(PREVIEW_VIEWS) * (360.0 / PREVIEW_VIEWS)
    with torch.inference_mode(False), torch.no_grad():
        return (
            render_mesh(mesh, cameras.from_angles(azimuths, 15.0, size), 0.5)
            .color.clamp(0, 1)
            .cpu()
        )
