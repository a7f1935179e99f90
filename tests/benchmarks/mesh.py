"""Judges the way from Gaussians to a textured mesh; prints a table and one JSON object last.

    python tests/benchmarks/mesh.py --work FOLDER [--objects mug,duck] [--json FILE] [--faces 20000]
    [--texture 512]

For each toy, Gaussians that begin on its true surface, grey, are fitted to its true pictures with
the pack's own rasterizer, so that what is judged is the extraction and not the distillation; FOLDER
keeps the fitted clouds, and a run takes up what is there. The mesh goes through the GLB file and is
read back by trimesh. Measured are

* chamfer: mean distance from the mesh to the true surface (exact) and back (to 200,000 points of
  the mesh), the mean of both, in percent of the toy's longest side;
* normals: mean cosine between the mesh's face normals and the true ones at the nearest point, the
  mean of both ways;
* psnr: the textured mesh, unlit, against the Gaussians' own pictures, from views that the texture
  was not baked from, on grey; psnr_object: over the pixels that show the object in either;
* seconds: from the Gaussians to the written file, without the fit; cpu_seconds: the same in
  processor time of all threads, which other programs on the machine disturb less.
"""

from __future__ import annotations

import argparse
import json
import math
import os
import platform
import time
from pathlib import Path

import numpy as np
import torch
import trimesh
from scipy.spatial import cKDTree
from torch import Tensor

from distill3d.kernels.cameras.pinhole import Cameras, orbit, sphere
from distill3d.kernels.files.glb import write_glb
from distill3d.kernels.files.ply import load_ply, save_ply
from distill3d.kernels.gaussians.cloud import Gaussians
from distill3d.kernels.init.surface import from_mesh
from distill3d.kernels.meshes.mesh import Mesh
from distill3d.kernels.meshes.raster import rasterize_faces
from distill3d.kernels.meshes.surface import extract_surface
from distill3d.kernels.meshes.texture import add_texture
from distill3d.kernels.rasterizers.rasterize import choose, render
from distill3d.kernels.toybox.captions import Caption, parse
from distill3d.kernels.toybox.meshes import mesh as toy_mesh
from distill3d.kernels.toybox.render import render_truth
from distill3d.kernels.toybox.shapes import shape

OBJECTS = {
    "mug": "a red mug with white dots",
    "chair": "a blue chair",
    "duck": "a yellow duck",
    "car": "a green car with white stripes",
    "teapot": "a purple teapot",
    "house": "an orange house",
    "table": "a white table",
    "airplane": "a pink airplane",
    "torus": "a red torus with cyan dots",
    "snowman": "a black snowman with red stripes",
    "rocket": "a yellow rocket with blue checks",
    "lamp": "a brown lamp",
    "sofa": "a green sofa with red dots",
    "tree": "a gray tree with white checks",
    "castle": "a red castle",
    "windmill": "a brown windmill",
}
RATES = {"means": 2e-4, "log_scales": 5e-3, "quats": 2e-3, "opacity_logits": 2e-2, "sh": 1e-2}
GREY = 0.5
SAMPLES = 20_000  # points of a surface that look for the other one
# points of the mesh that are looked for: the spacing adds about 0.1 % to half of the chamfer
# distance
DENSE = 200_000


def fitted(name: str, options: argparse.Namespace) -> Gaussians:
    """The toy's cloud, from the work folder if it is there."""
    file = options.work / f"{name}-{options.gaussians}-{options.steps}.ply"
    if not file.exists():
        save_ply(fit(parse(OBJECTS[name]), options.gaussians, options.steps), file)
    return load_ply(file)


def fit(caption: Caption, count: int, steps: int, size: int = 128, views: int = 48) -> Gaussians:
    """Gaussians from the true surface, grey, after ``steps`` Adam steps on the absolute error of
    colour and alpha.
    """
    cameras = sphere(views, size=size)
    truth = render_truth(caption, cameras, GREY, supersample=2)
    vertices, faces = toy_mesh(caption.category)
    generator = torch.Generator().manual_seed(0)
    cloud = from_mesh(
        Mesh(vertices, faces, torch.full_like(vertices, GREY)), count, generator, size=None
    )
    values = {key: value.clone().requires_grad_() for key, value in cloud.tensors().items()}
    groups = [{"params": [values[key]], "lr": rate} for key, rate in RATES.items()]
    adam = torch.optim.Adam(groups, eps=1e-15)
    for _ in range(steps):
        chosen = torch.randperm(views, generator=generator)[:4]
        seen = render(Gaussians(**values), cameras[chosen], GREY, depth=False)
        error = (seen.color - truth.color[chosen]).abs().mean() + (
            seen.alpha - truth.alpha[chosen]
        ).abs().mean()
        adam.zero_grad()
        error.backward()
        adam.step()
    return Gaussians(**{key: value.detach() for key, value in values.items()})


def judge(name: str, options: argparse.Namespace) -> dict:
    cloud = fitted(name, options)
    file = options.work / f"{name}.glb"
    begin, worked = time.perf_counter(), time.process_time()
    mesh = extract_surface(cloud, resolution=options.resolution, faces=options.faces)
    extracted = time.perf_counter()
    if options.texture:
        mesh = add_texture(mesh, cloud, options.texture)
    write_glb(mesh, file)
    end, work = time.perf_counter(), time.process_time() - worked
    (solid,) = trimesh.load(file, process=False).geometry.values()
    welded = solid.copy()
    welded.merge_vertices(merge_tex=True, merge_norm=True)
    result = {
        "faces": len(solid.faces),
        "watertight": bool(welded.is_watertight),
        "pieces": int(welded.body_count),
        "seconds": round(end - begin, 2),
        "cpu_seconds": round(work, 2),
        "seconds_surface": round(extracted - begin, 2),
        "megabytes": round(file.stat().st_size / 1e6, 2),
    }
    return result | distances(name, solid) | pictures(cloud, solid, mesh)


def distances(name: str, solid: trimesh.Trimesh) -> dict:
    """Chamfer distance and normal consistency between the mesh and the toy."""
    category = parse(OBJECTS[name]).category
    toy = shape(category)
    true = trimesh.Trimesh(*(tensor.numpy() for tensor in toy_mesh(category, 192)), process=False)
    side = float(true.extents.max())
    points, face = trimesh.sample.sample_surface(solid, SAMPLES, seed=0)
    to_truth = toy.distance(torch.tensor(points)).abs().mean()
    there = (toy.normals(torch.tensor(points)).numpy() * solid.face_normals[face]).sum(-1).mean()
    dense, dense_face = trimesh.sample.sample_surface(solid, DENSE, seed=1)
    points, face = trimesh.sample.sample_surface(true, SAMPLES, seed=2)
    to_mesh, nearest = cKDTree(dense).query(points)
    back = (true.face_normals[face] * solid.face_normals[dense_face[nearest]]).sum(-1).mean()
    return {
        "chamfer_percent": round(50 * float(to_truth + to_mesh.mean()) / side, 3),
        "mesh_to_truth_percent": round(100 * float(to_truth) / side, 3),
        "truth_to_mesh_percent": round(100 * float(to_mesh.mean()) / side, 3),
        "normals": round(float(there + back) / 2, 4),
    }


def pictures(cloud: Gaussians, solid: trimesh.Trimesh, mesh: Mesh, size: int = 256) -> dict:
    """PSNR between the mesh as read back and the Gaussians, over 12 views."""
    cameras = orbit(
        torch.arange(12) * 30.0 + 7, torch.tensor([-20.0, 10.0, 40.0]).repeat(4), 2.0, size=size
    )
    with torch.no_grad():
        seen = render(cloud, cameras, GREY, depth=False)
        shown, covered = picture(solid, mesh, cameras)
    square = (seen.color - shown).square()
    inside = (seen.alpha[..., 0] > 0.05) | (covered > 0)
    return {"psnr": decibel(square.mean()), "psnr_object": decibel(square[inside].mean())}


def picture(
    solid: trimesh.Trimesh, mesh: Mesh, cameras: Cameras, supersample: int = 3
) -> tuple[Tensor, Tensor]:
    """The mesh's colours [V,H,W,3] on grey and its coverage [V,H,W], unlit; vertex colours where it
    has no texture.
    """
    vertices = torch.tensor(np.asarray(solid.vertices)).float()
    faces = torch.tensor(np.asarray(solid.faces)).long()
    face, weights, _ = rasterize_faces(vertices, faces, cameras.resize(cameras.width * supersample))
    hit = face >= 0
    if mesh.texture is None:
        values = mesh.colors
    else:
        values = torch.tensor(np.asarray(solid.visual.uv)).float()
    found = (weights[hit][..., None] * values[faces[face[hit]]]).sum(1)
    if mesh.texture is not None:
        image = np.asarray(solid.visual.material.baseColorTexture.convert("RGB"), np.float32) / 255
        # trimesh's v points up
        grid = torch.stack([2 * found[:, 0] - 1, 1 - 2 * found[:, 1]], -1)[None, None]
        layers = torch.from_numpy(image).permute(2, 0, 1)[None]
        found = torch.nn.functional.grid_sample(
            layers, grid, padding_mode="border", align_corners=False
        )[0, :, 0].T
    color = torch.full((*face.shape, 3), GREY)
    color[hit] = found
    pool = torch.nn.functional.avg_pool2d
    return pool(color.permute(0, 3, 1, 2), supersample).permute(0, 2, 3, 1), pool(
        hit.float(), supersample
    )


def decibel(square: Tensor) -> float:
    return round(-10 * math.log10(max(float(square), 1e-12)), 2)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument(
        "--work", type=Path, required=True, help="folder for the fitted clouds and the meshes"
    )
    parser.add_argument(
        "--objects", default=",".join(OBJECTS), help="some of " + ", ".join(OBJECTS)
    )
    parser.add_argument("--json", type=Path, help="also write the result to this file")
    parser.add_argument("--gaussians", type=int, default=5000)
    parser.add_argument("--steps", type=int, default=300, help="of the fit")
    parser.add_argument("--resolution", type=int, default=128, help="grid points of the surface")
    parser.add_argument("--faces", type=int, default=20_000, help="0 keeps all")
    parser.add_argument(
        "--texture", type=int, default=512, help="texels along a side; 0 for vertex colours"
    )
    parser.add_argument(
        "--threads", type=int, default=0, help="torch threads; 0 leaves torch's choice"
    )
    options = parser.parse_args()
    names = options.objects.split(",")
    if unknown := [name for name in names if name not in OBJECTS]:
        parser.error(f"--objects {','.join(unknown)}: choose some of {', '.join(OBJECTS)}")
    if options.threads:
        torch.set_num_threads(options.threads)
    options.work.mkdir(parents=True, exist_ok=True)
    rows = {}
    for name in names:
        rows[name] = judge(name, options)
        print(f"{name:10}", *(f"{key} {value}" for key, value in rows[name].items()), flush=True)
    numbers = {key: [float(row[key]) for row in rows.values()] for key in next(iter(rows.values()))}
    result = {
        "torch": torch.__version__,
        "threads": torch.get_num_threads(),
        "cpus": os.cpu_count(),
        "machine": platform.machine(),
        "render_backend": choose("cpu"),
        "settings": {
            key: value
            for key, value in vars(options).items()
            if key not in ("work", "json", "objects")
        },
        "count": len(rows),
        "objects": {name: {"caption": OBJECTS[name]} | row for name, row in rows.items()},
        "mean": {key: round(sum(values) / len(values), 4) for key, values in numbers.items()},
    }
    text = json.dumps(result)
    if options.json:
        options.json.write_text(text + "\n")
    print(text)


if __name__ == "__main__":
    main()
