"""The pack's nodes as functions of the kernels: what each computes, without ComfyUI around it.

Each takes a node's inputs by name and returns its outputs in order, as the node of that name in
nodes/ does. Previews make nothing.
"""

from __future__ import annotations

import re
import time
from collections.abc import Callable, Mapping
from dataclasses import astuple, dataclass, field, replace
from functools import partial
from pathlib import Path
from typing import Any

import torch
from PIL import Image

from ...kernels.cameras.orbit import OrbitSampler, Widening
from ...kernels.cameras.pinhole import orbit
from ...kernels.cameras.scene import SceneSampler
from ...kernels.files.formats import FORMATS
from ...kernels.files.notes import notes
from ...kernels.gaussians.cloud import Gaussians
from ...kernels.init.ball import random_ball
from ...kernels.init.text import from_text, load_point_model
from ...kernels.losses.cds import CDS
from ...kernels.losses.combine import Combined, Scheduled
from ...kernels.losses.csd import CSD
from ...kernels.losses.degradation import Degradation
from ...kernels.losses.ism import ISM
from ...kernels.losses.nfsd import NFSD
from ...kernels.losses.picture import Picture
from ...kernels.losses.rfds import RFDS
from ...kernels.losses.sctd import SCTD
from ...kernels.losses.sdi import SDI
from ...kernels.losses.sds import SDS
from ...kernels.losses.suited import Auto, settled, suited_size
from ...kernels.losses.vdm import VDM
from ...kernels.priors.diffusers.loading import load_diffusers
from ...kernels.priors.prompts import view_prompts
from ...kernels.rasterizers.rasterize import choose, render
from ...kernels.run.checkpoint import load_training, save_training
from ...kernels.run.growth import growth
from ...kernels.run.learning_rates import LearningRates
from ...kernels.run.optimize import optimize
from ...kernels.run.presets import PRESETS
from ...kernels.run.settings import OptimizeSettings, RunSettings
from ...kernels.run.step import Progress
from ...kernels.toybox.captions import spelled
from ...kernels.toybox.scene_captions import check_sentence, vocabulary
from ..checks import EMBEDDED
from .base import Keep, Made

Inputs = dict[str, Any]
Outputs = tuple[Any, ...]
MODELS = Path(__file__).resolve().parents[2] / "models"
TOYBOX, POINTS = MODELS / "toybox", MODELS / "text_to_points" / "points.safetensors"
PRECISIONS = {"fp32": torch.float32, "fp16": torch.float16, "bf16": torch.bfloat16}
BACKGROUNDS = {"white": 1.0, "gray": 0.5, "black": 0.0}
METHODS = {"default": 4, "fastest": 0, "slowest": 6}  # of WebP's compression
SECONDS, SHARE = 20.0, 0.02  # between autosaves at most, and of the time at most
AT_ONCE = 1 << 21  # pixels that are rendered together
STATE = ".safetensors"


@dataclass
class Context:
    """What a job's nodes share.

    Args:
        folder: for the files
        priors: of the process, by what was asked for; "device": where they are
        models: folder of diffusers folders, for models given by name
        saved: autosaves to go on from, by node
        node: the id of the one that runs
        values: outputs of those that have run
    """

    folder: Path
    priors: dict[str, Any]
    models: Path | None
    saved: Mapping[str, Path]
    keep: Keep
    made: Made
    node: str = ""
    values: dict[str, Any] = field(default_factory=dict)

    @property
    def device(self) -> torch.device:
        return torch.device(self.priors["device"])

    def file(self, prefix: str, extension: str) -> Path:
        name = re.sub(r"[^\w-]+", "-", prefix.rpartition("/")[2]) or "object"
        path = self.folder / f"{self.node}-{name}_00001_.{extension}"
        self.made.files.append(path)
        return path


def run(kind: str, inputs: Inputs, context: Context) -> Outputs:
    """The outputs of a node of that type. Raises ValueError for inputs that do not fit."""
    inputs.pop("preset", None)  # what counts are the values beside it
    return NODES[kind.removeprefix("Distill3D_")](context, **inputs)


def _prior(context: Context, model: str, precision: str = "auto", lora: str = "none",
           lora_strength: float = 1.0, low_vram: bool = False) -> Outputs:  # fmt: skip
    if lora != "none" or low_vram:
        raise ValueError("--engine python takes no LoRA and no low_vram; use --engine comfyui")
    wanted = f"{model} {precision}"
    if wanted not in context.priors:
        folder = TOYBOX if model == EMBEDDED else (context.models or Path()) / model
        auto = torch.float16 if context.device.type == "cuda" else torch.float32
        dtype = PRECISIONS.get(precision, auto)
        loaded = load_diffusers(folder, context.device, dtype)
        if context.device.type == "cuda":
            loaded.accelerate()  # for good: to record graphs takes as long as many steps
        context.priors[wanted] = loaded
    return (context.priors[wanted],)


def _texts(context: Context, prior: Any, prompt: str, negative: str = "", **given: Any) -> Outputs:
    if prior.vocabulary == frozenset(vocabulary()):
        prompt, negative = spelled(prompt), spelled(negative)
        prior.check_text(prompt)
        check_sentence(prompt)
    return (view_prompts(prior, prompt, negative, **given),)


def _orbit(context: Context, widen_every: int = 0, values: str = "own", **given: Any) -> Outputs:
    widening = Widening(every=widen_every) if widen_every else None
    sampler = OrbitSampler(**given, widening=widening)
    sampler.check()
    return (Auto(sampler, context.node) if values == "auto" else sampler,)


def _scene_cameras(context: Context, **given: Any) -> Outputs:
    sampler = SceneSampler(**given)
    sampler.check()
    return (sampler,)


def _ball(context: Context, count: int, radius: float, seed: int, scale: float,
          opacity: float) -> Outputs:  # fmt: skip
    logit = torch.logit(torch.tensor(opacity, dtype=torch.float64)).item()
    generator = torch.Generator().manual_seed(seed)
    cloud = random_ball(count, radius=radius, scale=scale, opacity_logit=logit, generator=generator)
    return (cloud,)


def _shape(context: Context, prompts: Any, count: int, seed: int, opacity: float) -> Outputs:
    logit = torch.logit(torch.tensor(opacity, dtype=torch.float64)).item()
    generator = torch.Generator().manual_seed(seed)
    return (from_text(load_point_model(POINTS), prompts.prompt, count, generator, logit),)


def _loss(kind: Callable[..., Any], context: Context, values: str = "own",
          degradation_map: Inputs | None = None, **given: Any) -> Outputs:  # fmt: skip
    loss = kind(**given, **(degradation_map or {}))
    loss.check()
    return (Auto(loss, context.node) if values == "auto" else loss,)


def _degradation(context: Context, design: str, widths: str, lr: float, lr_end: float) -> Outputs:
    sizes = tuple(int(width) for width in widths.split(","))
    network = Degradation(design=design, widths=sizes)
    return ({"degradation": network, "psi_lr": lr, "psi_lr_end": lr_end},)


def _combined(context: Context, loss_a: Any, loss_b: Any, weight_a: float,
              weight_b: float) -> Outputs:  # fmt: skip
    return _loss(Combined, context, losses=(loss_a, loss_b), weights=(weight_a, weight_b))


def _scheduled(context: Context, first: Any, second: Any, switch_at: float,
               first_anneals_over: str, second_anneals_over: str) -> Outputs:  # fmt: skip
    loss = Scheduled((first, second), (0.0, switch_at), (first_anneals_over, second_anneals_over))
    loss.check()
    return (loss,)


def _quality(context: Context, quality: str) -> Outputs:
    if quality == "auto":
        fast = context.device.type == "cuda" and choose(context.device) != "torch"
        quality = "fine" if fast else "standard"
    return astuple(PRESETS[quality])


def _rates(context: Context, **rates: float) -> Outputs:
    LearningRates(**rates).check()
    return (rates,)


def _penalties(context: Context, **weights: Any) -> Outputs:
    return (weights,)


def _growth(context: Context, **given: Any) -> Outputs:
    return (growth(**given),)


def _options(context: Context, autosave_every: int = 100, judged_size: int = 0,
             **given: Any) -> Outputs:  # fmt: skip
    given["judged_size"] = judged_size or None
    backend = given.pop("render_backend", "auto")
    RunSettings(**given).check()
    return ({"every": autosave_every, "settings": given | {"render_backend": backend}},)


def _optimize(context: Context, prior: Any, prompts: Any, cameras: Any, gaussians: Gaussians,
              loss: Any, steps: int, image_size: int = 0, restart_schedule: bool = False,
              learning_rates: Inputs | None = None, penalties: Inputs | None = None,
              densification: Inputs | None = None, options: Inputs | None = None,
              **fields: Any) -> Outputs:  # fmt: skip
    chosen = options or {"every": 100, "settings": {}}
    grown = densification or growth()
    size = image_size or suited_size(prior)[0]
    judged = chosen["settings"].get("judged_size") or size
    loss, cameras = (
        settled(each, prior, judged, lambda said, _: context.made.notes.append(said))
        for each in (loss, cameras)
    )
    settings = OptimizeSettings(
        **fields, **(learning_rates or {}), **(penalties or {}), **grown,
        **{**chosen["settings"], "preview_every": 0}, image_size=size,
    )  # fmt: skip
    start = replace(gaussians, training=None) if restart_schedule else gaussians
    begun = 0 if start.training is None else start.training.step
    end = begun + steps
    settings = replace(settings, schedule_steps=settings.schedule_steps or end)
    if context.node in context.saved:
        start = load_training(context.saved[context.node])
        context.made.resumed[context.node] = start.training.step
    saver = Saver(context, chosen["every"])
    with notes() as told:
        left = end - (0 if start.training is None else start.training.step)
        result = optimize(
            start, loss, prior, prompts, cameras, left, settings, saver.step
        ) if left else start  # fmt: skip
    context.made.notes += told
    context.made.metrics[context.node] = {
        "steps": result.training.step, "bad_steps": int(result.training.bad_steps),
        "gaussians": len(result),
    }  # fmt: skip
    return result, partial(_turn, context, result, cameras, size)


class Saver:
    """Autosaves a run every so many steps, and every 20 seconds where those are slow."""

    def __init__(self, context: Context, every: int) -> None:
        self.context, self.every, self.node = context, every, context.node
        self._last, self._pause = 0.0, SECONDS

    def step(self, progress: Progress[Gaussians]) -> None:
        if not self.every or progress.step >= progress.steps:
            return
        if progress.done % self.every and progress.seconds - self._last < self._pause:
            return
        start = time.perf_counter()
        path = self.context.folder / f"{self.node}{STATE}"
        run = {"node_id": self.node, "step": progress.done}
        save_training(progress.result(), path, run)
        self.context.keep(self.node, path)
        took = time.perf_counter() - start
        self._last, self._pause = progress.seconds, max(SECONDS, took / SHARE)


def _turn(context: Context, cloud: Gaussians, cameras: Any, size: int) -> torch.Tensor:
    angles = torch.arange(8) * 45.0
    return _rendered(context, cloud, cameras.from_angles(angles, 15.0, size), 0.5)


def _views(context: Context, gaussians: Gaussians, views: int, size: int, elevation: float,
           background: str, start: float = 0.0, distance: float = 2.0, fov_y: float = 40.0,
           path: str = "orbit", cameras: Any = None) -> Outputs:  # fmt: skip
    if path != "orbit" or cameras is not None:
        raise ValueError("--engine python renders orbits only; use --engine comfyui")
    around = orbit(start + torch.arange(views) * (360.0 / views), elevation, distance, fov_y, size)
    return (_rendered(context, gaussians, around, BACKGROUNDS[background]),)


def _rendered(context: Context, cloud: Gaussians, cameras: Any, background: float) -> torch.Tensor:
    """Pictures [V,H,W,3] 0..1 on the CPU."""
    at_once = max(1, AT_ONCE // (cameras.width * cameras.height))
    cloud, parts = cloud.to(context.device), []
    with torch.no_grad():
        for first in range(0, len(cameras), at_once):
            some = cameras[first : first + at_once].to(context.device)
            parts.append(render(cloud, some, background).color.clamp(0, 1).float().cpu())
    return torch.cat(parts)


def _frames(images: Any) -> list[Image.Image]:
    pictures = images() if callable(images) else images
    data = (pictures * 255).clamp(0, 255).to(torch.uint8).numpy()
    return [Image.fromarray(frame) for frame in data]


def _webp(context: Context, images: Any, filename_prefix: str, fps: float, lossless: bool,
          quality: int, method: str) -> Outputs:  # fmt: skip
    first, *others = _frames(images)
    first.save(
        context.file(filename_prefix, "webp"), save_all=True, append_images=others,
        lossless=lossless, duration=int(1000.0 / fps), quality=quality,
        method=METHODS.get(method, 4),
    )  # fmt: skip
    return ()


def _pictures(context: Context, images: Any, filename_prefix: str) -> Outputs:
    for place, frame in enumerate(_frames(images)):
        path = context.file(filename_prefix, "png")
        context.made.files[-1] = path.with_name(f"{path.stem}{place:04}.png")
        frame.save(context.made.files[-1])
    return ()


def _save(context: Context, gaussians: Gaussians, filename_prefix: str, training: bool = False,
          format: str = "ply") -> Outputs:  # fmt: skip
    kind = FORMATS[format]
    kind.save(gaussians, context.file(filename_prefix, kind.extension))
    if training and gaussians.training is not None:
        save_training(gaussians, context.file(filename_prefix, STATE[1:]))
    return (context.made.files[-1],)


def _mesh(context: Context, gaussians: Gaussians, filename_prefix: str, faces: int = 0,
          format: str = "glb", texture_size: int = 1024, scale: float = 1.0, up_axis: str = "Y",
          normal_map: bool = False, **settings: Any) -> Outputs:  # fmt: skip
    # here, because they take seconds to import
    from ...kernels.files.export import TEXTURED, check_placing, save_mesh
    from ...kernels.meshes.cleanup import simplify
    from ...kernels.meshes.normal_map import add_normal_map
    from ...kernels.meshes.surface import extract_surface
    from ...kernels.meshes.texture import add_texture
    from ...kernels.meshes.unwrap import MISSING, available

    check_placing(format, scale, up_axis)
    cloud = gaussians.to(context.device)
    textured = bool(texture_size) and format in TEXTURED
    if textured and not available():
        textured = False
        context.made.notes.append(f"Export Mesh: colours at the vertices, no texture. {MISSING}")
    mapped = textured and normal_map
    dense = extract_surface(cloud, faces=0 if mapped else faces, **settings)
    mesh = simplify(dense, faces) if mapped else dense
    if textured:
        views = {key: settings[key] for key in ("views", "alpha_min") if key in settings}
        mesh = add_texture(mesh, cloud, texture_size, **views)
    if mapped:
        mesh = add_normal_map(mesh, dense, texture_size)
    path = context.file(filename_prefix, format)
    save_mesh(mesh, path, scale, up_axis)
    return path, mesh


NODES: dict[str, Callable[..., Outputs]] = {
    "LoadDiffusionPrior": _prior, "ViewPrompts": _texts, "OrbitCameras": _orbit,
    "SceneCameras": _scene_cameras, "InitGaussians": _ball, "InitText": _shape,
    "QualityPreset": _quality,
    "LearningRates": _rates, "Penalties": _penalties, "Densification": _growth,
    "RunOptions": _options, "Optimize": _optimize, "RenderViews": _views,
    "SaveGaussians": _save, "ExportMesh": _mesh, "SaveAnimatedWEBP": _webp, "SaveImage": _pictures,
    "CombineLosses": _combined, "ScheduleLosses": _scheduled,
    **{f"{kind.__name__}Loss": partial(_loss, kind)
       for kind in (CDS, SDS, VDM, Picture, CSD, NFSD, ISM, SDI, SCTD, RFDS)},
    "DegradationMap": _degradation,
}  # fmt: skip
WRITERS = {"Distill3D_SaveGaussians", "Distill3D_ExportMesh", "SaveAnimatedWEBP", "SaveImage"}
PREVIEWS = {"PreviewImage", "Preview3D", "PreviewAny", "Distill3D_PreviewGaussians"}
CORE = {"SaveAnimatedWEBP", "SaveImage"}
KNOWN = {name if name in CORE else f"Distill3D_{name}" for name in NODES} | PREVIEWS
