"""Shap-E (Jun and Nichol 2023, arXiv 2305.02463), from a diffusers folder on disk: a rough coloured
mesh of a text.
"""

from __future__ import annotations

import importlib.util
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch

from ..meshes.color import linear_to_srgb
from ..meshes.mesh import Mesh
from ..meshes.placing import upright
from ..priors.folder import CONFIG_LIMIT, check_folder, check_numbers, read_json
from ..priors.weights import check_finite, read_whole

PIPELINE = "ShapEPipeline"
WEIGHTS = {
    "prior": "diffusion_pytorch_model",
    "shap_e_renderer": "diffusion_pytorch_model",
    "text_encoder": "model",
}
CONFIGS = {
    "prior": "config.json",
    "shap_e_renderer": "config.json",
    "text_encoder": "config.json",
    "tokenizer": "tokenizer_config.json",
    "scheduler": "scheduler_config.json",
}


def is_shap_e(folder: str | Path) -> bool:
    """Whether the folder says of itself that it is a ShapEPipeline."""
    index = Path(folder) / "model_index.json"
    if not index.is_file():
        return False
    with open(index, "rb") as file:
        return f'"{PIPELINE}"'.encode() in file.read(CONFIG_LIMIT)


def load_shap_e(
    folder: str | Path, device: torch.device | str = "cpu", dtype: torch.dtype = torch.float32
) -> Any:  # a diffusers.ShapEPipeline
    """Load a ShapEPipeline folder, weights from safetensors only. Never uses the network.

    Raises ValueError naming the folder and what is missing or of another kind.
    """
    folder = Path(folder)
    if folder.is_dir() and not is_shap_e(folder):
        index = folder / "model_index.json"
        found = (
            read_json(index).get("_class_name")
            if index.is_file()
            else "no pipeline (it has no model_index.json)"
        )
        raise ValueError(
            f"Shap-E folder {folder} holds {found}; a diffusers folder of {PIPELINE} is needed."
        )
    variants = check_folder(folder, WEIGHTS, CONFIGS, "Shap-E folder", f"A {PIPELINE}")
    for part, file in CONFIGS.items():
        check_numbers(f"Shap-E folder {folder}: its {part}", read_json(folder / part / file))

    # imported here: together they take seconds, which ComfyUI's start should not pay for
    from diffusers import HeunDiscreteScheduler, PriorTransformer, ShapEPipeline
    from diffusers.pipelines.shap_e.renderer import ShapERenderer
    from transformers import CLIPTextModelWithProjection, CLIPTokenizer

    options: dict[str, Any] = {"local_files_only": True, "use_safetensors": True}
    spare: dict[str, Any] = {
        "low_cpu_mem_usage": importlib.util.find_spec("accelerate") is not None
    }

    def load(kind: Any, part: str, **more: Any) -> Any:
        owner = f"Shap-E folder {folder}: its {part}"
        with read_whole(owner):
            found = kind.from_pretrained(folder / part, variant=variants[part], **options, **more)
        check_finite(owner, found)
        return found

    # decoding writes into the renderer's weights
    with torch.inference_mode(False), read_whole(f"Shap-E folder {folder}"):
        pipeline = ShapEPipeline(
            prior=load(PriorTransformer, "prior", torch_dtype=dtype, **spare),
            text_encoder=load(CLIPTextModelWithProjection, "text_encoder").to(dtype),
            tokenizer=CLIPTokenizer.from_pretrained(folder / "tokenizer", local_files_only=True),
            scheduler=HeunDiscreteScheduler.from_pretrained(
                folder / "scheduler", local_files_only=True
            ),
            shap_e_renderer=load(ShapERenderer, "shap_e_renderer", torch_dtype=dtype, **spare),
        )
        pipeline.set_progress_bar_config(disable=True)
        return pipeline.to(device)


def shap_e_mesh(
    pipeline: Any,
    prompt: str,
    generator: torch.Generator,
    guidance: float = 15.0,
    steps: int = 64,
    turn: float = 0.0,
    on_call: Callable[[int, int], None] = lambda done, calls: None,
) -> Mesh:
    """What Shap-E makes of the prompt: on the CPU, Y up, front +Z, in Shap-E's own size (within a
    cube of side 2).

    guidance in the standard form; steps of Heun's method, which calls the denoiser 2 * steps - 1
    times; the defaults are those of OpenAI's example. turn: degrees of azimuth about the vertical.
    ``on_call`` (calls done, calls in all) is called throughout, also while the mesh is made, and
    may raise to end the work. Raises ValueError for a prompt that is too long and for an empty
    mesh.
    """
    _check_length(pipeline.tokenizer, prompt)
    renderer, done = pipeline.shap_e_renderer, 0

    def called(*_: Any) -> None:
        nonlocal done
        done += 1
        calls = len(pipeline.scheduler.timesteps)
        on_call(min(done, calls), calls)

    def refuse_empty(_module: Any, _inputs: Any, surface: Any) -> None:
        # the renderer itself stumbles over it, with a message that helps nobody
        if len(surface.faces) == 0:
            raise ValueError(
                f"Shap-E made an empty mesh of {prompt!r}. Choose another seed, or describe one"
                " object in fewer words."
            )

    # The pipeline has no callback.
    hooks = [module.register_forward_hook(called) for module in (pipeline.prior, renderer.mlp)]
    hooks.append(renderer.mesh_decoder.register_forward_hook(refuse_empty))
    try:
        output = pipeline(
            prompt,
            generator=generator,
            guidance_scale=guidance,
            num_inference_steps=steps,
            output_type="mesh",
        )
    finally:
        for hook in hooks:
            hook.remove()
    made = output.images[0]
    linear = torch.stack([made.vertex_channels[channel] for channel in "RGB"], -1)
    # The turntable of the pipeline's renderer (diffusers, create_pan_cameras) has Z up and begins
    # at -Y with +X on its right; that side is taken as the front. Shap-E itself promises none:
    # objects face as its training data did.
    vertices = upright(made.verts.float().cpu(), "Z", turn)
    return Mesh(vertices, made.faces.cpu(), linear_to_srgb(linear.float().cpu())).check(
        "Shap-E's mesh"
    )


def _check_length(tokenizer: Any, prompt: str) -> None:
    length, count = tokenizer.model_max_length, len(tokenizer(prompt)["input_ids"])
    if count > length:
        raise ValueError(
            f"prompt {prompt[:60]!r}... has {count} tokens; Shap-E reads {length}. Shorten it."
        )
