"""Distils held-out scenes and scores them against the truth; prints a line per scene and one JSON
object last.

    python tests/benchmarks/scene.py --device cuda --loss cds --scenes 6 --steps 600 --json
    scene.json --sheet scene.png

A scene starts from `scene_cloud` and follows the prior (--prior); its pair of toys was never
trained on. PSNR is over 24 inward and 12 outward cameras that no training step uses. ``--loss
truth`` instead pulls the renders to the true pictures, without any prior: what initialiser, cameras
and rasterizer allow at these settings. ``--set`` keys are dotted: loss.*, settings.*, init.*
(`SceneInit`), cameras.* (`SceneSampler`).
"""

from __future__ import annotations

import argparse
import json
import math
import os
import statistics
import sys
import time
from dataclasses import dataclass, field, replace
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import arguments
import torch
from quality import write
from quality_plan import LOSSES, assignments, changed
from torch import Tensor
from two_parts import VDM

from distill3d.kernels.cameras.pinhole import Cameras, orbit
from distill3d.kernels.cameras.scene import SceneSampler, joined, look_around
from distill3d.kernels.evaluate.metrics import BACKGROUND, psnr
from distill3d.kernels.gaussians.cloud import Gaussians
from distill3d.kernels.init.scene import SceneInit, scene_cloud
from distill3d.kernels.losses.sds import SDS
from distill3d.kernels.priors.conditioning import Conditioning
from distill3d.kernels.priors.diffusers.loading import load_diffusers
from distill3d.kernels.priors.noise_schedule import NoiseSchedule
from distill3d.kernels.priors.prompts import view_prompts
from distill3d.kernels.rasterizers.rasterize import render
from distill3d.kernels.run.optimize import optimize
from distill3d.kernels.run.settings import OptimizeSettings
from distill3d.kernels.run.step import DivergedError
from distill3d.kernels.toybox.scene_captions import Scene, held_out_scenes, parse_scene
from distill3d.kernels.toybox.scenes import render_scene

# A scene's ground and sky are large and even: high noise levels tell nothing of where they meet.
SCENE_LOSSES = LOSSES | {
    "cds": replace(LOSSES["cds"], guidance_start=4.0, guidance_end=1.0),
    "vdm": VDM(guidance=6.0, t_max_start=850, psi_updates=1, refine_guidance=3.0, refine_t_min=200),
    "sds": SDS(guidance=6.0, weighting="sigma/alpha", t_min=200, t_max_start=850),
}
# as in the workflow scene
INIT = SceneInit(ground_count=3000, sky_count=1200, object_count=6000, object_scale=0.011)
INWARD, OUTWARD = 24, 12
# of the measured cameras: four from around, four from the middle
SHEET = (0, 6, 12, 18, 24, 27, 30, 33)
# bounds_radius lies beyond the dome, and nothing fades what an alpha of 1 everywhere needs.
SETTINGS = OptimizeSettings(preview_every=0, densify=None, lambda_gamut=20.0, bounds_radius=7.0)


@dataclass(frozen=True)
class TruthLoss:
    """Half the squared difference to the true pictures, summed over pixels and channels, mean over
    views.
    """

    scene: Scene
    name: str = "truth"

    def check(self) -> None:
        pass

    def start(
        self, prior: Any, latent_shape: Any, generator: torch.Generator, state: Any = None
    ) -> TruthLoss:
        return self

    def state(self) -> dict[str, Tensor]:
        return {}

    def __call__(
        self, latents: Tensor, views: Any, generator: torch.Generator
    ) -> tuple[Tensor, dict[str, Tensor]]:
        with torch.no_grad():
            truth = render_scene(self.scene, views.cameras, 1).permute(0, 3, 1, 2)
        return 0.5 * (latents - truth).square().sum() / len(latents), {}


@dataclass(frozen=True)
class Setup:
    loss: Any
    settings: OptimizeSettings = SETTINGS
    init: SceneInit = INIT
    cameras: SceneSampler = field(default_factory=SceneSampler)


def pictures_as_latents(device: str, size: int) -> Any:
    """What `optimize` needs of a prior when the loss looks at the pictures themselves."""
    row = Conditioning(torch.zeros(1, 1, 1))
    return SimpleNamespace(
        name="none", image_size=size, latent_channels=3, downscale=1, device=torch.device(device), vocabulary=None,
        dtype=torch.float32, schedule=NoiseSchedule.scaled_linear(), background=0.5, check_size=lambda size: None,
        check_text=lambda text: None, embed=lambda texts: row.repeat(len(texts)),
        encode=lambda images, generator=None: images,
    )  # fmt: skip


def held_out_cameras(size: int) -> Cameras:
    """24 cameras around the scene, then 12 in its middle that look outward."""
    inward, outward = torch.arange(INWARD), torch.arange(OUTWARD)
    around = orbit(
        inward * 15.0 + 7.5, torch.tensor([5.0, 18.0, 32.0])[inward % 3], 2.5, 40.0, size
    )
    out = look_around(
        outward * 30.0 + 11.0,
        torch.tensor([-5.0, 5.0, 20.0])[outward % 3],
        torch.zeros(3),
        65.0,
        size,
    )
    return joined([around, out])


def pictures(cloud: Gaussians, cameras: Cameras) -> Tensor:
    with torch.no_grad():
        return render(cloud, cameras, BACKGROUND, depth=False).color.clamp(0, 1)


def measure(cloud: Gaussians, scene: Scene, size: int) -> tuple[dict[str, float], Tensor, Tensor]:
    """PSNR over the held-out cameras, the pictures [36,H,W,3] and the true ones."""
    cameras = held_out_cameras(size).to(cloud.device)
    with torch.no_grad():
        truth = render_scene(scene, cameras, 2)
    seen = pictures(cloud, cameras)
    parts = {
        "psnr": slice(None),
        "psnr_inward": slice(0, INWARD),
        "psnr_outward": slice(INWARD, None),
    }
    return {name: psnr(seen[part], truth[part]) for name, part in parts.items()}, seen, truth


def save_sheet(file: Path, rows: list[tuple[str, Tensor, Tensor]]) -> None:
    """Per scene the truth above the result, from the cameras of `SHEET`."""
    from PIL import Image, ImageDraw

    size, band = rows[0][1].shape[1], 14
    sheet = Image.new("RGB", (size * len(SHEET), (2 * size + band) * len(rows)), "white")
    draw = ImageDraw.Draw(sheet)
    for i, (text, seen, truth) in enumerate(rows):
        top = i * (2 * size + band)
        draw.text((4, top + 1), text, "black")
        for j, shown in enumerate((truth, seen)):
            strip = torch.cat(list(shown[list(SHEET)]), 1)
            picture = Image.fromarray((strip.clamp(0, 1) * 255).round().byte().cpu().numpy())
            sheet.paste(picture, (0, top + band + j * size))
    file.parent.mkdir(parents=True, exist_ok=True)
    sheet.save(file)


def main(words: list[str] | None = None) -> None:
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument(
        "--device", type=arguments.device, default="cuda" if torch.cuda.is_available() else "cpu"
    )
    parser.add_argument("--loss", default="cds", choices=[*SCENE_LOSSES, "truth"])
    parser.add_argument("--scenes", type=int, default=6, help="held-out scenes")
    parser.add_argument("--caption-seed", type=int, default=0)
    parser.add_argument("--captions", help="these instead, divided by semicolons")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--steps", type=int, default=600)
    parser.add_argument(
        "--size", type=int, default=0, help="pixels of the renders; 0: the prior's, or 128"
    )
    parser.add_argument("--set", action="append", default=[], metavar="KEY=VALUE")
    parser.add_argument(
        "--max-seconds", type=float, default=math.inf, help="no new scene is begun after these"
    )
    parser.add_argument("--prior", type=Path, default=Path("models/toybox"))
    parser.add_argument(
        "--dtype", default="auto", help="of the U-Net; auto: float16 on CUDA, else float32"
    )
    parser.add_argument("--vae-dtype", default="float32")
    parser.add_argument("--json", type=Path)
    parser.add_argument("--sheet", type=Path)
    options = parser.parse_args(words)
    began, cuda = time.time(), options.device.startswith("cuda")
    try:
        texts = [text for text in (options.captions or "").split(";") if text.strip()]
        scenes = [parse_scene(text) for text in texts] or held_out_scenes(
            options.scenes, options.caption_seed
        )
        setup = Setup(
            SCENE_LOSSES.get(options.loss) or TruthLoss(scenes[0]),
            replace(SETTINGS, seed=options.seed),
        )
        for key, value in assignments(options.set).items():
            setup = changed(setup, key, value, key)
        for part in (setup.loss, setup.settings, setup.init, setup.cameras):
            part.check()
    except ValueError as error:
        parser.error(str(error))
    if options.loss == "truth":
        prior = pictures_as_latents(options.device, options.size or 128)
    else:
        dtype = (
            torch.float16
            if options.dtype == "auto" and cuda
            else getattr(torch, options.dtype, torch.float32)
        )
        prior = load_diffusers(
            options.prior, options.device, dtype, getattr(torch, options.vae_dtype)
        )
        if cuda:
            prior.accelerate()
    settings = replace(setup.settings, image_size=options.size or None)
    rows, shown = [], []
    for scene in scenes:
        if time.time() - began > options.max_seconds:
            break
        loss = TruthLoss(scene) if options.loss == "truth" else setup.loss
        cloud = scene_cloud(setup.init, torch.Generator().manual_seed(options.seed))
        prompts = view_prompts(prior, scene.text)
        start, error = time.perf_counter(), None
        try:
            result = optimize(cloud, loss, prior, prompts, setup.cameras, options.steps, settings)
        except DivergedError as stop:
            result, error = stop.result, str(stop)
        seconds = time.perf_counter() - start
        scores, seen, truth = measure(
            replace(result, training=None).to(options.device), scene, prior.image_size
        )
        row = {
            "caption": scene.text,
            **scores,
            "seconds": seconds,
            "gaussians": len(result),
            "diverged": error,
        }
        rows.append(row)
        text = (
            f"psnr {row['psnr']:.2f} (in {row['psnr_inward']:.2f}, out {row['psnr_outward']:.2f})"
            f" {scene.text}"
        )
        print(text, f"{seconds:.0f} s", file=sys.stderr, flush=True)
        shown.append((text, seen, truth))
        if options.sheet:
            save_sheet(options.sheet, shown)
    names = ("psnr", "psnr_inward", "psnr_outward", "seconds")
    result = {
        "torch": torch.__version__, "device": options.device, "loss": repr(setup.loss), "steps": options.steps,
        "machine": torch.cuda.get_device_name() if cuda else f"{os.cpu_count()} CPUs", "setup": repr(setup),
        "prior": str(options.prior), "seed": options.seed,
        "mean": {name: round(statistics.fmean(r[name] for r in rows), 3) for name in names} if rows else {},
        "missing": len(scenes) - len(rows), "rows": rows,
    }  # fmt: skip
    write(options.json, result)
    print(json.dumps(result))


if __name__ == "__main__":
    main()
