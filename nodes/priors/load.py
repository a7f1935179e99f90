"""Load Diffusion Prior."""

from __future__ import annotations

import os
from pathlib import Path, PurePosixPath

import comfy.model_management
import comfy.sd
import comfy.sd1_clip
import folder_paths
from comfy_api.latest import io

from ...kernels.init.shap_e import is_shap_e
from ...kernels.priors.diffusers.ldm import holds_multiview
from ...kernels.priors.diffusers.loading import load_diffusers
from ...kernels.priors.diffusers.multiview import load_multiview_file
from ...kernels.priors.lora_file import fuse
from ..shared import types
from ..shared.listing import Listing
from .comfy_checks import check_weights
from .comfy_lora import NO_LORA, lora_file, loras, patched
from .comfy_prior import ManagedComfyPrior, managed
from .memory import PRECISIONS, ManagedPrior, autograd, weights_dtype

EMBEDDED = "toybox (embedded)"
LISTED = 12  # models that an error names
INDEX = "model_index.json"  # what makes a folder a pipeline's
EMBEDDED_FOLDER = Path(__file__).resolve().parents[2] / "models" / "toybox"
_listing = Listing(
    (INDEX,), {"pipeline": lambda index: True, "shap-e": lambda index: is_shap_e(index.parent)}
)
CLIP_TOKENIZER = Path(comfy.sd1_clip.__file__).parent / "sd1_tokenizer"


class LoadDiffusionPrior(io.ComfyNode):
    @classmethod
    def define_schema(cls) -> io.Schema:
        return io.Schema(
            node_id="Distill3D_LoadDiffusionPrior",
            display_name="Load Diffusion Prior",
            category="Distill3D",
            description=(
                "The 2D diffusion model that judges the renderings. The embedded one ships with the"
                " pack, runs on a CPU and knows the toybox: everyday objects in plain colours. For"
                " anything else put a checkpoint of Stable Diffusion 1.x, 2.x or SDXL into"
                " ComfyUI's models/checkpoints, or a Stable Diffusion folder in diffusers format"
                " into models/diffusers. MVDream, as either, judges four views of the object"
                " together."
            ),
            search_aliases=[
                "stable diffusion",
                "diffusers",
                "score distillation",
                "text to 3d",
                "checkpoint",
                "toybox",
                "mvdream",
                "multi-view",
            ],
            inputs=[
                io.Combo.Input(
                    "model",
                    options=known_models(),
                    default=EMBEDDED,
                    tooltip=(
                        "The embedded prior, a diffusers folder below models/diffusers (with"
                        " model_index.json and .safetensors weights), or a .safetensors file below"
                        " models/checkpoints. An MVDream (4 views at 256 px) wants views 4 or 8,"
                        " elevations 0..30, no overhead views, and prompts that end in ', 3d"
                        " asset'. Consistent3D and LucidDreamer: Stable Diffusion 2.1-base at"
                        " 512 px; DreamMapping: a Stable Diffusion."
                    ),
                ),
                io.Combo.Input(
                    "precision",
                    options=["auto", "fp32", "fp16", "bf16"],
                    default="auto",
                    advanced=True,
                    tooltip=(
                        "Number format of the weights. auto: fp16 where the GPU is fast at it, else"
                        " fp32; of a checkpoint what ComfyUI chooses. Papers: fp16. Latents and"
                        " gradients stay fp32."
                    ),
                ),
                io.Combo.Input(
                    "lora",
                    options=[NO_LORA, *loras()],
                    default=NO_LORA,
                    optional=True,
                    tooltip=(
                        "A LoRA for the model: a .safetensors file below models/loras, fused into"
                        " its weights. It has to be for the model's own kind. For several,"
                        " ComfyUI's Load LoRA and Diffusion Prior from Model. Papers: none."
                    ),
                ),
                io.Float.Input(
                    "lora_strength",
                    default=1.0,
                    min=-10.0,
                    max=10.0,
                    step=0.05,
                    optional=True,
                    advanced=True,
                    tooltip=(
                        "Factor on the LoRA, of denoiser and text encoder alike; 0 is the model"
                        " without it."
                    ),
                ),
                io.Boolean.Input(
                    "low_vram",
                    default=False,
                    optional=True,
                    advanced=True,
                    tooltip=(
                        "Keep the weights in main memory and only the network that is at work on"
                        " the GPU: the same numbers for less memory, but slower, since two networks"
                        " move in every step. With micro_batch 1 of Optimize the least."
                        " ComfyUI's --lowvram and --novram turn it on by themselves, and are what"
                        " decides for checkpoints."
                    ),
                ),
            ],
            outputs=[
                types.Prior.Output(display_name="prior", tooltip="For View Prompts and Optimize.")
            ],
        )

    @classmethod
    def validate_inputs(cls, model: str | None = None) -> bool | str:
        return True if model is None or model in known_models() else absent(model)

    @classmethod
    def execute(
        cls,
        model: str,
        precision: str,
        lora: str = NO_LORA,
        lora_strength: float = 1.0,
        low_vram: bool = False,
    ) -> io.NodeOutput:
        file = None if lora == NO_LORA else lora_file(lora)
        return io.NodeOutput(load(model, precision, file, lora_strength, low_vram))


def load(
    model: str, choice: str, lora: Path | None = None, strength: float = 1.0, low_vram: bool = False
) -> ManagedPrior | ManagedComfyPrior:
    """The prior behind a choice of the model list, with a LoRA file in its weights where one is
    given.
    """
    file = (
        folder_paths.get_full_path_or_raise("checkpoints", model)
        if model in checkpoints()
        else None
    )
    # ComfyUI's loader would take an MVDream for a Stable Diffusion, and leave out what reads the
    # cameras.
    if file is not None and not holds_multiview(file):
        return load_checkpoint(model, choice, lora, strength)
    dtype = weights_dtype(choice, comfy.model_management.get_torch_device())
    # else the weights would be inference tensors, through which no gradient passes
    with autograd():
        if file is None:
            prior = load_diffusers(path(model), dtype=dtype)
        else:
            prior = load_multiview_file(file, CLIP_TOKENIZER, dtype=dtype)
        if lora is not None:
            fuse(prior, lora, strength)
        return ManagedPrior(prior, low_vram)


def load_checkpoint(
    model: str, choice: str, lora: Path | None, strength: float
) -> ManagedComfyPrior:
    """The prior in a file below models/checkpoints, by ComfyUI's own loader. Raises ValueError,
    with the reason, for a file that is none, and for a LoRA that does not fit."""
    file = folder_paths.get_full_path_or_raise("checkpoints", model)
    options = {} if choice == "auto" else {"dtype": PRECISIONS[choice]}
    embeddings = folder_paths.get_folder_paths("embeddings")
    try:
        loaded = comfy.sd.load_checkpoint_guess_config(
            file, embedding_directory=embeddings, model_options=options
        )
        denoiser, clip, vae = loaded[:3]
    except comfy.model_management.OOM_EXCEPTION:
        raise
    # files that are cut short, or of kinds that it does not know, each in a way of its own
    except Exception as error:
        reason = (str(error).strip().splitlines() or [type(error).__name__])[0]
        raise ValueError(
            f"checkpoint {model!r}: ComfyUI does not recognise it ({reason}). Checkpoints of image"
            " models can be loaded, with their text encoder and VAE inside. If it is one, its file"
            " is damaged or cut short: download it again."
        ) from error
    if missing := [
        name for name, part in (("model", denoiser), ("text encoder", clip)) if part is None
    ]:
        raise ValueError(
            f"checkpoint {model!r} holds no {' and no '.join(missing)}. Load its parts with"
            " ComfyUI's nodes and link them to Diffusion Prior from Model."
        )
    check_weights(f"checkpoint {model!r}", file, denoiser, clip, vae)
    if lora is not None:
        denoiser, clip = patched(denoiser, clip, lora, strength)
    return managed(denoiser, clip, vae, Path(model).stem)


def known_models() -> list[str]:
    """What `model` can be."""
    return [EMBEDDED, *folders(), *checkpoints()]


def absent(model: str) -> str:
    """What is said of a model that is not there: what can be chosen, and how to add one."""
    known = known_models()
    listed = ", ".join(map(repr, known[:LISTED]))
    more = f" and {len(known) - LISTED} more" if len(known) > LISTED else ""
    return (
        f"model {model!r} is not among this ComfyUI's models. Choose one of {listed}{more}; or put"
        " a Stable Diffusion into ComfyUI's models folder, as a folder in diffusers format below"
        " diffusers or as a .safetensors file below checkpoints, press R, and choose it as model."
    )


def checkpoints() -> list[str]:
    """Checkpoint files below ComfyUI's models/checkpoints, by their relative names; pickled ones
    are left out.
    """
    return [
        name
        for name in folder_paths.get_filename_list("checkpoints")
        if name.endswith((".safetensors", ".sft"))
    ]


def folders(kind: str = "pipeline") -> list[str]:
    """Diffusers folders below ComfyUI's models/diffusers, by their relative names; kind "shap-e":
    those of Shap-E alone.
    """
    found = sorted({_parent(name) for name in _listing.names(kind, _roots())})
    pipelines = found if kind == "pipeline" else folders()
    # a pipeline's own parts are not pipelines
    return [name for name in found if not any(name.startswith(f"{other}/") for other in pipelines)]


def path(model: str) -> Path:
    """The folder behind a choice of the model list."""
    if model == EMBEDDED:
        return EMBEDDED_FOLDER
    roots = list(_roots().values())
    for root in roots:
        folder = Path(os.path.abspath(root / model))
        inside = folder.is_relative_to(os.path.abspath(root))
        if inside and (folder / INDEX).is_file():
            return folder
    raise ValueError(absent(model))


def _roots() -> dict[str, Path]:
    roots = folder_paths.get_folder_paths("diffusers")
    return {str(place): Path(root) for place, root in enumerate(roots)}


def _parent(name: str) -> str:
    """Of a listed file, the folder's name below its root."""
    return PurePosixPath(name.partition("/")[2]).parent.as_posix()
