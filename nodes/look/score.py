"""Score Views."""

from __future__ import annotations

import math
import os
from dataclasses import asdict
from pathlib import Path
from typing import Any

import comfy.model_management
import comfy.model_patcher
import comfy.utils
import folder_paths
import torch
from comfy_api.latest import io

from ...kernels.cameras.load3d import from_load3d
from ...kernels.cameras.pinhole import Cameras
from ...kernels.evaluate.clip import is_clip, load_clip
from ...kernels.evaluate.judgement import Judgement, judge_cameras, judgement
from ...kernels.evaluate.metrics import BACKGROUND, ring_of_views, score
from ...kernels.gaussians.cloud import Gaussians
from ...kernels.toybox.captions import Caption, parse
from ...kernels.toybox.models import load_judge
from ...kernels.toybox.render import Truth, render_truth
from ..priors.memory import autograd
from ..shared import types
from ..shared.images import image
from ..shared.validation import check_declared
from .render import render_cloud

JUDGE_FOLDER = Path(__file__).resolve().parents[2] / "models" / "judge"
NO_CLIP = "none"
CLIP_PIXELS = 256
TRUTHS_AT_ONCE = 4
IGNORED = (
    "distractors are not used: they are CLIP's, and clip is none. Choose a model there, or empty"
    " them."
)
MEANINGS = {
    "iou": "IoU: overlap of the silhouettes, 1 is perfect",
    "psnr": "PSNR, dB",
    "false_alpha": "share of all pixels covered outside the true silhouette",
    "saturation": "saturation over the truth's, 1 is right",
    "contrast": "contrast over the truth's, 1 is right",
    "edges": "edges inside the object over the truth's, 1 is right: less is soft, more is rough",
    "judge_category": "judge: shows the right object, share of views",
    "judge_color": "judge: the right colours",
    "judge_view": "judge: the side it is",
    "janus": "judge: a front on the side or the back (Janus)",
    "r_precision": "judge: none of 32 captions is likelier than its own (R-precision; lenient)",
    "r_precision_all": "judge: nor any other caption of the toybox",
    "clip_score": "CLIP score: 100 x cosine with the prompt",
    "clip_r_precision": "CLIP: the own prompt fits best (R-precision)",
    "clip_janus": "CLIP: the back fits 'front view' better than 'back view'",
}


class ScoreViews(io.ComfyNode):
    @classmethod
    def define_schema(cls) -> io.Schema:
        return io.Schema(
            node_id="Distill3D_ScoreViews",
            display_name="Score Views",
            category="Distill3D",
            description=(
                "Measures the object. For a caption of the toybox: against the true shape, and by"
                " the judge that ships with the pack. For any prompt: by a CLIP model that you put"
                " into ComfyUI's models/clip_vision. Link the report to Preview as Text."
            ),
            search_aliases=[
                "metrics",
                "clip score",
                "r-precision",
                "iou",
                "psnr",
                "janus",
                "evaluate",
                "benchmark",
            ],
            inputs=[
                types.GaussianCloud.Input("gaussians", tooltip="The cloud to measure."),
                io.String.Input(
                    "prompt",
                    default="a red mug",
                    multiline=True,
                    tooltip="What it should be, without view words: as in View Prompts.",
                ),
                io.Int.Input(
                    "views",
                    default=24,
                    min=1,
                    max=360,
                    tooltip=(
                        "Pictures around it, at elevations 0, 20 and 40 in turn. The judge has"
                        " eleven of its own."
                    ),
                ),
                io.Combo.Input(
                    "clip",
                    options=[NO_CLIP, *folders()],
                    default=NO_CLIP,
                    tooltip=(
                        "A CLIP model in transformers format, a folder below models/clip_vision"
                        " with config.json, the tokenizer and .safetensors weights. Needed for"
                        " prompts outside the toybox."
                    ),
                ),
                io.String.Input(
                    "distractors",
                    default="",
                    multiline=True,
                    advanced=True,
                    tooltip=(
                        "Other prompts, one a line: CLIP's R-precision is how often the own one"
                        " fits best. Empty: not measured. Not used without clip: the judge has its"
                        " own list of 32 captions, which it compares without their colours if the"
                        " prompt names none."
                    ),
                ),
                types.CoreCameras.Input(
                    "cameras",
                    optional=True,
                    tooltip=(
                        "Views from another node instead of the ring: one camera of core's 3D nodes,"
                        " or a list of them."
                    ),
                ),
            ],
            outputs=[
                io.String.Output(display_name="report", tooltip="All scores, a line each."),
                io.Float.Output(
                    display_name="iou",
                    tooltip=(
                        "Overlap of the silhouettes (IoU), 0..1, more is better; NaN without a"
                        " truth."
                    ),
                ),
                io.Float.Output(
                    display_name="psnr",
                    tooltip=(
                        "Likeness to the true pictures, dB, more is better; NaN without a truth."
                    ),
                ),
                io.Float.Output(
                    display_name="r_precision",
                    tooltip=(
                        "Share of views that fit the prompt best, 0..1: CLIP's with distractors,"
                        " else the judge's; NaN without either."
                    ),
                ),
                io.Float.Output(
                    display_name="clip_score",
                    tooltip=(
                        "100 x cosine of pictures and prompt, more is better; NaN without CLIP."
                    ),
                ),
                io.Image.Output(
                    display_name="images",
                    tooltip="The views; below each, where there is one, the truth.",
                ),
            ],
        )

    @classmethod
    def validate_inputs(cls, prompt: str | None = None, clip: str | None = None) -> bool | str:
        if clip not in (None, NO_CLIP, *folders()):
            return (
                f"clip {clip!r} is not a CLIP folder below models/clip_vision; press R and choose"
                " another."
            )
        if prompt is not None and not prompt.strip():
            return 'prompt is empty; write what the object should be, as "a red mug".'
        if prompt is not None and clip == NO_CLIP:
            try:
                parse(prompt)
            except ValueError as error:
                return (
                    f"{error} For other prompts put a CLIP model into models/clip_vision and choose"
                    " it as clip."
                )
        return True

    @classmethod
    def execute(
        cls,
        gaussians: Gaussians,
        prompt: str,
        views: int,
        clip: str,
        distractors: str,
        cameras: Any = None,
    ) -> io.NodeOutput:
        problem = cls.validate_inputs(prompt, clip)  # a linked prompt was not known before
        if problem is not True:
            raise ValueError(problem)
        check_declared(cls, {"views": views})
        caption = toy(prompt)
        found: dict[str, float | None] = {}
        around = ring_of_views(views)
        if cameras:
            around = from_load3d(cameras, around.width)
        rendering = render_cloud(gaussians, around, BACKGROUND)
        images = image(rendering.color)
        if caption is not None:
            truth = true_views(caption, around)
            found |= asdict(score(rendering, truth, caption.color is not None))
            found |= asdict(judged(gaussians, caption))
            images = torch.cat([images, image(truth.color)], 1)
        if clip != NO_CLIP:
            large = render_cloud(gaussians, around.resize(CLIP_PIXELS), BACKGROUND).color
            found |= clip_scores(clip, large, around, prompt.strip(), distractors.splitlines())
            images = image(large) if caption is None else images
        best = found.get("clip_r_precision")
        numbers = (
            found.get("iou"),
            found.get("psnr"),
            found.get("r_precision") if best is None else best,
        )
        values = (
            math.nan if value is None else value for value in (*numbers, found.get("clip_score"))
        )
        head = f"{prompt.strip()}: {views} views, {len(gaussians)} Gaussians"
        unused = [IGNORED] if clip == NO_CLIP and distractors.strip() else []
        return io.NodeOutput("\n".join([head, *report(found), *unused]), *values, images)


def toy(prompt: str) -> Caption | None:
    try:
        return parse(prompt)
    except ValueError:
        return None


def report(found: dict[str, float | None]) -> list[str]:
    """A line per score that there is."""
    return [
        f"{found[name]:8.3f}  {meaning}"
        for name, meaning in MEANINGS.items()
        if found.get(name) is not None and math.isfinite(found[name] or 0.0)
    ]


def true_views(caption: Caption, cameras: Cameras) -> Truth:
    """The caption's toy on the CPU, a few views at a time; interruptible."""
    device, bar, parts = (
        comfy.model_management.get_torch_device(),
        comfy.utils.ProgressBar(len(cameras)),
        [],
    )
    with autograd(), torch.no_grad():
        for first in range(0, len(cameras), TRUTHS_AT_ONCE):
            comfy.model_management.throw_exception_if_processing_interrupted()
            some = cameras[first : first + TRUTHS_AT_ONCE].to(device)
            parts.append(render_truth(caption, some, BACKGROUND, supersample=2))
            bar.update_absolute(min(first + TRUTHS_AT_ONCE, len(cameras)))
    return Truth(
        **{
            name: torch.cat([getattr(p, name).cpu() for p in parts])
            for name in Truth.__annotations__
        }
    )


def judged(gaussians: Gaussians, caption: Caption) -> Judgement:
    with autograd(), torch.no_grad():
        images = render_cloud(gaussians, judge_cameras(), BACKGROUND).color.clamp(0, 1)
        return judgement(load_judge(JUDGE_FOLDER), images.permute(0, 3, 1, 2).contiguous(), caption)


def clip_scores(
    clip: str, images: torch.Tensor, cameras: Cameras, prompt: str, rivals: list[str]
) -> dict[str, float | None]:
    """What the CLIP of that name says of pictures [V,H,W,3]; ComfyUI's memory manager makes room
    for it.
    """
    others = [line.strip() for line in rivals if line.strip()]
    with autograd():
        model = load_clip(path(clip))
        patcher = comfy.model_patcher.ModelPatcher(
            # ComfyUI sets attributes on what it manages
            torch.nn.ModuleDict({"clip": model.model}),
            load_device=comfy.model_management.get_torch_device(),
            offload_device=comfy.model_management.unet_offload_device(),
        )
        comfy.model_management.load_models_gpu([patcher], force_full_load=True)
        found = model.score(
            images.permute(0, 3, 1, 2).clamp(0, 1), cameras.azimuths, prompt, others
        )
    return {
        "clip_score": found.clip_score,
        "clip_r_precision": found.r_precision,
        "clip_janus": found.janus,
    }


def folders() -> list[str]:
    """CLIP folders below ComfyUI's models/clip_vision, by their relative names."""
    found = set()
    for root in folder_paths.get_folder_paths("clip_vision"):
        for folder, _, files in os.walk(root, followlinks=True):
            if "config.json" in files and is_clip(Path(folder)):
                found.add(Path(folder).relative_to(root).as_posix())
    return sorted(found)


def path(clip: str) -> Path:
    """The folder behind a choice of the list."""
    return next(
        Path(root) / clip
        for root in folder_paths.get_folder_paths("clip_vision")
        if is_clip(Path(root) / clip)
    )
