"""Init from Shap-E."""

from __future__ import annotations

import comfy.model_management
import comfy.utils
import torch
from comfy_api.latest import io

from ...kernels.init.shap_e import load_shap_e, shap_e_mesh
from ...kernels.init.surface import from_mesh
from ..priors.load import folders, path
from ..priors.memory import autograd, visiting, weights_dtype
from .shape import cloud_of_a_shape, opacity_of_a_shape

NO_FOLDER = "(no Shap-E folder yet)"
SCRATCH = 2 * 2**30  # bytes, mostly of the marching cubes on a grid of 130^3


class InitShapE(io.ComfyNode):
    @classmethod
    def define_schema(cls) -> io.Schema:
        return io.Schema(
            node_id="Distill3D_InitShapE",
            display_name="Init from Shap-E",
            category="Distill3D",
            description=(
                "A rough coloured shape of the prompt to start from, made by Shap-E: DreamMapping"
                " and other papers begin so. Put a Shap-E folder in diffusers format"
                " (ShapEPipeline) into ComfyUI's models/diffusers. Gaussians are spread evenly over"
                " its surface; the papers put them around its vertices."
            ),
            search_aliases=[
                "shap-e",
                "shape",
                "text to mesh",
                "3d init",
                "point cloud",
                "dreammapping",
            ],
            inputs=[
                io.Combo.Input(
                    "model",
                    options=shap_e_folders() or [NO_FOLDER],
                    tooltip=(
                        "A folder below models/diffusers whose model_index.json says ShapEPipeline,"
                        " with .safetensors weights. Press R to look for new ones."
                    ),
                ),
                io.String.Input(
                    "prompt",
                    default="a red mug",
                    multiline=True,
                    tooltip=(
                        "The object in a few plain words; any text. Style words help Optimize, not"
                        " Shap-E."
                    ),
                ),
                io.Int.Input(
                    "count",
                    default=20_000,
                    min=1,
                    max=1_000_000,
                    tooltip=(
                        "Number of Gaussians. LucidDreamer: 81,920 (20 around each of 4,096"
                        " vertices)."
                    ),
                ),
                io.Int.Input(
                    "seed",
                    default=0,
                    min=0,
                    max=0xFFFFFFFFFFFFFFFF,
                    control_after_generate=io.ControlAfterGenerate.fixed,
                    tooltip=(
                        "Seed of the shape and of the places on it. Shap-E's shapes differ much:"
                        " try several."
                    ),
                ),
                io.Float.Input(
                    "turn",
                    default=0.0,
                    min=-360.0,
                    max=360.0,
                    step=15.0,
                    round=0.01,
                    tooltip=(
                        "Turn about the vertical, degrees of azimuth. Shap-E promises no front, but"
                        " the view words need it at azimuth 0: look with Render Views, then turn."
                    ),
                ),
                io.Float.Input(
                    "guidance",
                    default=15.0,
                    min=1.0,
                    max=100.0,
                    step=0.5,
                    round=0.01,
                    advanced=True,
                    tooltip=(
                        "Guidance of Shap-E's denoiser. OpenAI's example and LucidDreamer's"
                        " descendants: 15."
                    ),
                ),
                io.Int.Input(
                    "steps",
                    default=64,
                    min=1,
                    max=1000,
                    advanced=True,
                    tooltip="Steps of Shap-E's denoiser, two calls each. OpenAI's example: 64.",
                ),
                opacity_of_a_shape(),
            ],
            outputs=[cloud_of_a_shape()],
        )

    @classmethod
    def validate_inputs(cls, model: str | None = None, prompt: str | None = None) -> bool | str:
        if model is not None and model not in shap_e_folders():
            return (
                f"model {model!r} is no Shap-E folder below ComfyUI's models/diffusers. Put one"
                " there in diffusers format (its model_index.json says ShapEPipeline, its weights"
                " are .safetensors), press R, choose it."
            )
        if prompt is not None and not prompt.strip():
            return "The prompt is empty; describe one object, for instance 'a red mug'."
        return True

    @classmethod
    def execute(
        cls,
        model: str,
        prompt: str,
        count: int,
        seed: int,
        turn: float,
        guidance: float,
        steps: int,
        opacity: float,
    ) -> io.NodeOutput:
        bar, generator = comfy.utils.ProgressBar(steps), torch.Generator().manual_seed(seed)

        def on_call(done: int, calls: int) -> None:
            comfy.model_management.throw_exception_if_processing_interrupted()
            bar.update_absolute(done, calls)

        with autograd():
            dtype = weights_dtype("auto", comfy.model_management.get_torch_device())
            pipeline = load_shap_e(path(model), dtype=dtype)
            with visiting(pipeline, SCRATCH):
                mesh = shap_e_mesh(pipeline, prompt, generator, guidance, steps, turn, on_call)
            logit = torch.logit(torch.tensor(opacity, dtype=torch.float64)).item()
            return io.NodeOutput(from_mesh(mesh, count, generator, opacity_logit=logit))


def shap_e_folders() -> list[str]:
    """Shap-E's folders below ComfyUI's models/diffusers, by their relative names."""
    return folders("shap-e")
