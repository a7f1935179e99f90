"""Load Diffusion Prior."""

from __future__ import annotations

import os
from pathlib import Path

import comfy.model_management
import folder_paths
from comfy_api.latest import io

from ..kernels.priors.diffusers_prior import load_diffusers
from . import types
from .memory import ManagedPrior, autograd, weights_dtype

EMBEDDED = "toybox (embedded)"
EMBEDDED_FOLDER = Path(__file__).resolve().parents[1] / "models" / "toybox"


class LoadDiffusionPrior(io.ComfyNode):
    @classmethod
    def define_schema(cls) -> io.Schema:
        return io.Schema(
            node_id="Distill3D_LoadDiffusionPrior",
            display_name="Load Diffusion Prior",
            category="Distill3D",
            description="The 2D diffusion model that judges the renderings. The embedded one ships with the pack, runs "
            "on a CPU and knows the toybox: everyday objects in plain colours. For anything else put a Stable "
            "Diffusion 1.x or 2.x folder in diffusers format into ComfyUI's models/diffusers.",
            search_aliases=[
                "stable diffusion",
                "diffusers",
                "score distillation",
                "text to 3d",
                "checkpoint",
                "toybox",
            ],
            inputs=[
                io.Combo.Input(
                    "model",
                    options=[EMBEDDED, *folders()],
                    default=EMBEDDED,
                    tooltip="The embedded prior, or a diffusers folder below models/diffusers (with "
                    "model_index.json and .safetensors weights). Consistent3D: Stable Diffusion 2.1-base at 512 px; "
                    "DreamMapping: a Stable Diffusion.",
                ),
                io.Combo.Input(
                    "precision",
                    options=["auto", "fp32", "fp16", "bf16"],
                    default="auto",
                    advanced=True,
                    tooltip="Number format of the weights. auto: fp16 where the GPU is fast at it, else fp32. "
                    "Papers: fp16. Latents and gradients stay fp32.",
                ),
            ],
            outputs=[types.Prior.Output(display_name="prior", tooltip="For View Prompts and Optimize.")],
        )

    @classmethod
    def execute(cls, model: str, precision: str) -> io.NodeOutput:
        return io.NodeOutput(load(model, precision))


def load(model: str, choice: str) -> ManagedPrior:
    dtype = weights_dtype(choice, comfy.model_management.get_torch_device())
    with autograd():  # else the weights would be inference tensors, through which no gradient passes
        return ManagedPrior(load_diffusers(path(model), device="cpu", dtype=dtype))


def folders() -> list[str]:
    """Diffusers folders below ComfyUI's models/diffusers, by their relative names."""
    found = set()
    for root in folder_paths.get_folder_paths("diffusers"):
        for folder, below, files in os.walk(root, followlinks=True):
            if "model_index.json" in files:
                found.add(Path(folder).relative_to(root).as_posix())
                below.clear()  # a pipeline's own parts are not pipelines
    return sorted(found)


def path(model: str) -> Path:
    """The folder behind a choice of the model list."""
    if model == EMBEDDED:
        return EMBEDDED_FOLDER
    roots = [Path(root) for root in folder_paths.get_folder_paths("diffusers")]
    for root in roots:
        if model in folders() and (root / model / "model_index.json").is_file():
            return root / model
    raise ValueError(
        f"model {model!r} is not a diffusers folder below {' or '.join(map(str, roots))}. "
        "Put it there (it must hold model_index.json), then refresh the node list with R."
    )
