"""One object of refine_mesh.py: distilled, meshed, refined, and measured against the true toy after
every stage.
"""

from __future__ import annotations

import argparse
import math
import os
import time
from dataclasses import asdict, replace
from functools import lru_cache
from typing import Any

import numpy as np
import torch
import trimesh
from quality_sheet import strip
from refine_mesh_plan import STAGES, Extract, Stage, Task
from safetensors.torch import load_file, save_file
from scipy.spatial import cKDTree
from torch import Tensor

from distill3d.kernels.cameras.pinhole import orbit
from distill3d.kernels.evaluate.metrics import BACKGROUND, ring_of_views, score
from distill3d.kernels.gaussians.cloud import Gaussians
from distill3d.kernels.init.ball import random_ball
from distill3d.kernels.meshes.mesh import Mesh
from distill3d.kernels.meshes.rasterize import render_mesh
from distill3d.kernels.meshes.surface import extract_surface
from distill3d.kernels.priors.diffusers.loading import load_diffusers
from distill3d.kernels.priors.prompts import view_prompts
from distill3d.kernels.rasterizers.rasterize import render
from distill3d.kernels.run.optimize import optimize
from distill3d.kernels.run.refine import refine_mesh
from distill3d.kernels.run.step import Progress
from distill3d.kernels.toybox.captions import Caption
from distill3d.kernels.toybox.data import FOV_Y
from distill3d.kernels.toybox.meshes import mesh as toy_mesh
from distill3d.kernels.toybox.render import render_truth
from distill3d.kernels.toybox.shapes import shape

SIZE, SHEET_AZIMUTHS = 128, (30.0, 120.0, 210.0, 300.0)
SAMPLES, DENSE = 20_000, 200_000  # as in mesh.py
MEASURED = ("iou", "psnr", "chamfer", "to_truth", "from_truth", "bias", "normals")


class Bench:
    """The prior on one device, and what is known of each caption's truth."""

    def __init__(self, options: argparse.Namespace, device: str) -> None:
        self.device, self.work = torch.device(device), options.work
        cuda = self.device.type == "cuda"
        if cuda:
            torch.cuda.set_device(self.device)
            torch.backends.cudnn.benchmark = True  # every step has the same shapes
        dtype = (
            torch.float16
            if options.dtype == "auto" and cuda
            else getattr(torch, options.dtype, torch.float32)
        )
        self.prior = load_diffusers(
            options.prior, self.device, dtype, getattr(torch, options.vae_dtype)
        )
        if cuda and not options.eager:
            self.prior.accelerate()
        self.ring = ring_of_views(options.views, SIZE).to(self.device)
        self.sheet = orbit(torch.tensor(SHEET_AZIMUTHS), 15.0, 2.0, FOV_Y, SIZE).to(self.device)
        self.truths: dict[str, Any] = {}
        self.meshes: dict[tuple[str, Extract], Mesh] = {}

    def run(self, task: Task) -> tuple[dict[str, Any], dict[str, bytes]]:
        """The row of an object, and JPEG strips of its stages; of a distillation only the time it
        took.
        """
        begun = time.perf_counter()
        cloud = self.cloud(task)
        if task.config is None:
            return {"seconds_distil": time.perf_counter() - begun}, {}
        row: dict[str, Any] = {
            "config": task.config, "caption": task.caption.text, "seed": task.seed, "fingerprint": task.fingerprint,
            "cloud": self.seen(render(cloud, self.ring, BACKGROUND, depth=False), task.caption),
        }  # fmt: skip
        strips = {
            f"truth|{task.caption.text}": strip(
                render_truth(task.caption, self.sheet, BACKGROUND).color
            ),
            f"{task.key}|cloud": strip(
                render(cloud, self.sheet, BACKGROUND, depth=False).color.clamp(0, 1)
            ),
        }
        key = (task.cloud, task.plan.extract)
        if key not in self.meshes:
            self.meshes = {key: extract_surface(cloud, **asdict(task.plan.extract))}
        mesh = self.meshes[key]
        row["faces"] = len(mesh.faces)
        for name, stage in zip(STAGES, (None, task.plan.geometry, task.plan.texture), strict=True):
            begun = time.perf_counter()
            if stage is not None and stage.steps:
                mesh = self.refined(mesh, stage, task)
            row[f"seconds_{name}"] = time.perf_counter() - begun
            row[name] = self.measured(mesh, task.caption)
            strips[f"{task.key}|{name}"] = strip(self.pictures(mesh, self.sheet).color.clamp(0, 1))
        return row, strips

    def cloud(self, task: Task) -> Gaussians:
        """The distilled cloud, from the work folder if it is there."""
        file, setup = self.work / task.cloud, task.plan.distil
        if not file.is_file():
            start = random_ball(
                **asdict(setup.init), generator=torch.Generator().manual_seed(task.seed)
            )
            prompts = view_prompts(self.prior, task.caption.text, **asdict(setup.prompts))
            settings = replace(setup.settings, seed=task.seed)
            made = optimize(
                start, setup.loss, self.prior, prompts, setup.cameras, setup.steps, settings
            )
            part = file.with_name(f"{file.name}.{os.getpid()}")
            save_file(
                {name: value.cpu().contiguous() for name, value in made.tensors().items()}, part
            )
            os.replace(part, file)
        return Gaussians(**load_file(file)).to(self.device)

    def refined(self, mesh: Mesh, stage: Stage, task: Task) -> Mesh:
        prompts = view_prompts(self.prior, task.caption.text, **asdict(task.plan.distil.prompts))
        # cameras other than the distillation's
        settings = replace(stage.settings, seed=task.seed + 1)
        bad: list[Tensor] = []

        def on_step(progress: Progress[Mesh]) -> None:
            bad[:] = [progress.logs["bad_steps"]]

        cameras = task.plan.distil.cameras
        start = replace(mesh, training=None)  # each stage has a schedule of its own
        result = refine_mesh(
            start, stage.loss, self.prior, prompts, cameras, stage.steps, settings, on_step
        )
        if int(bad[0]):
            raise RuntimeError(f"{int(bad[0])} of {stage.steps} steps were not finite")
        return result

    def measured(self, mesh: Mesh, caption: Caption) -> dict[str, float | None]:
        return self.seen(self.pictures(mesh, self.ring), caption) | distances(
            mesh, caption.category
        )

    def seen(self, rendering: Any, caption: Caption) -> dict[str, float | None]:
        if caption.text not in self.truths:
            self.truths[caption.text] = render_truth(caption, self.ring, BACKGROUND, 2)
        found = score(rendering, self.truths[caption.text], caption.color is not None)
        return {
            name: value if math.isfinite(value) else None for name, value in asdict(found).items()
        }

    def pictures(self, mesh: Mesh, cameras: Any) -> Any:
        with torch.no_grad():
            return render_mesh(mesh.map(lambda value: value.to(self.device)), cameras, BACKGROUND)


@lru_cache(maxsize=8)
def true_mesh(category: str) -> trimesh.Trimesh:
    return trimesh.Trimesh(*(tensor.numpy() for tensor in toy_mesh(category, 192)), process=False)


def distances(mesh: Mesh, category: str) -> dict[str, float]:
    """Between a mesh and a category's toy, in percent of the toy's longest side but for the
    normals.

    to_truth: mean distance of the mesh's points from the true surface, exact; from_truth: of true
    points from the mesh; chamfer: the mean of both; bias: the mean signed distance, positive where
    the mesh lies outside; normals: mean cosine between face normals and the true ones at the
    nearest point, the mean of both ways.
    """
    toy, true = shape(category), true_mesh(category)
    side = float(true.extents.max())
    solid = trimesh.Trimesh(
        mesh.vertices.double().cpu().numpy(), mesh.faces.cpu().numpy(), process=False
    )
    points, face = trimesh.sample.sample_surface(solid, SAMPLES, seed=0)
    signed = toy.distance(torch.tensor(np.asarray(points)))
    there = (
        (toy.normals(torch.tensor(np.asarray(points))).numpy() * solid.face_normals[face])
        .sum(-1)
        .mean()
    )
    dense, dense_face = trimesh.sample.sample_surface(solid, DENSE, seed=1)
    points, face = trimesh.sample.sample_surface(true, SAMPLES, seed=2)
    to_mesh, nearest = cKDTree(dense).query(points)
    back = (true.face_normals[face] * solid.face_normals[dense_face[nearest]]).sum(-1).mean()
    return {
        "chamfer": 50 * float(signed.abs().mean() + to_mesh.mean()) / side,
        "to_truth": 100 * float(signed.abs().mean()) / side,
        "from_truth": 100 * float(to_mesh.mean()) / side,
        "bias": 100 * float(signed.mean()) / side,
        "normals": float(there + back) / 2,
    }
