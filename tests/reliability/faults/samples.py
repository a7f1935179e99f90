"""Sound files of every kind that a node reads, and how each is damaged."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable
from dataclasses import dataclass, replace
from pathlib import Path
from random import Random
from typing import Any

import numpy as np
import torch
import trimesh
from format_clouds import object_cloud
from harness.environment import ROOT
from harness.nodes import node
from mutations import mutated, mutated_glb, mutated_safetensors, mutated_sog, mutated_tree
from safetensors.torch import load_file, save_file
from tiny_prior import write_tiny_prior

from distill3d.kernels.files.export import save_mesh
from distill3d.kernels.files.formats import FORMATS
from distill3d.kernels.meshes.mesh import Mesh
from distill3d.kernels.run.checkpoint import save_training
from distill3d.kernels.run.state import fresh_state

Graph = dict[str, Any]
Damage = Callable[[bytes, Random], bytes]
KSPLAT = ROOT / "tests" / "unit" / "ksplat" / "gs3d1.ksplat"
TOYBOX = ROOT / "models" / "toybox"
HEADERS = {".splat": 32, ".spz": 128, ".sog": 512, ".ksplat": 512, ".stl": 84}
PARTS = (
    "unet/config.json", "unet/diffusion_pytorch_model.safetensors", "vae/config.json",
    "vae/diffusion_pytorch_model.safetensors", "text_encoder/config.json",
    "text_encoder/model.safetensors", "scheduler/scheduler_config.json", "model_index.json",
    "tokenizer/tokenizer_config.json", "tokenizer/vocab.json", "distill3d.json",
)  # fmt: skip


@dataclass(frozen=True)
class Kind:
    """One kind of file.

    Args:
        name: in the report
        folder: below the server's base folder
        file: its name there, of which a number of copies are made
        content: of a sound one
        damage: that content, changed
        node: that reads it
        given: the node's inputs by the file's name
    """

    name: str
    folder: str
    file: str
    content: bytes
    damage: Damage
    node: str
    given: Callable[[str, Random], Graph]
    input: str = "gaussians"

    def graph(self, info: Graph, file: str, rng: Random) -> Graph:
        """What reads a file and looks at what it holds."""
        return {
            "read": node(info, self.node, **self.given(file, rng)),
            "check": {"class_type": "SaboteurCheck", "inputs": {self.input: ["read", 0]}},
        }


def kinds(work: Path) -> list[Kind]:
    """All of them; sound files are made in the folder ``work``."""
    work.mkdir(parents=True, exist_ok=True)
    return [*_splats(work), *_meshes(work), *_states(work), _lora(work)]


def _from_list(root: str) -> Callable[[str, Random], Graph]:
    return lambda file, rng: {"file": f"{root}/{file}"}


def _splats(work: Path) -> list[Kind]:
    found = []
    for name in [name for name in FORMATS if name not in ("html", "sog folder")]:
        path = work / f"splat.{FORMATS[name].extension}"
        FORMATS[name].save(object_cloud(12, 1), path)
        found.append(_splat(name, path))
    return [*found, _splat("ksplat", KSPLAT)]


def _splat(name: str, path: Path) -> Kind:
    damage = _damage(path)
    if name == "sog":
        damage = _one_of(damage, mutated_sog)
    return Kind(
        f"damaged {name}", "input/3d", path.name, path.read_bytes(), damage, "LoadGaussians",
        _from_list("input/3d"),
    )  # fmt: skip


def _meshes(work: Path) -> list[Kind]:
    ball = trimesh.creation.icosphere(1)
    vertices = torch.tensor(ball.vertices, dtype=torch.float32)
    plain = Mesh(vertices, torch.tensor(ball.faces), (vertices + 1) / 2)
    texture = torch.rand(8, 8, 3, generator=torch.Generator().manual_seed(0))
    textured = replace(plain, uvs=(vertices[:, :2] + 1) / 2, texture=texture)
    files = {}
    for suffix in ("glb", "obj", "ply", "stl"):
        files[f"{suffix} mesh"] = work / f"mesh.{suffix}"
        save_mesh(textured if suffix == "glb" else plain, files[f"{suffix} mesh"])
    files["gltf mesh"] = work / "mesh.gltf"
    parts = trimesh.exchange.gltf.export_gltf(trimesh.Scene(ball))
    for name, data in parts.items():
        (work / name.replace("model.gltf", "mesh.gltf")).write_bytes(data)
    files["ply points"] = work / "points.ply"
    points = trimesh.PointCloud(ball.vertices, np.full((len(ball.vertices), 4), 200, np.uint8))
    files["ply points"].write_bytes(trimesh.exchange.ply.export_ply(points))
    files["ascii stl mesh"] = work / "ascii.stl"
    files["ascii stl mesh"].write_text(trimesh.exchange.stl.export_stl_ascii(ball))
    return [
        Kind(
            f"damaged {name}", "input/3d", path.name, path.read_bytes(), _damage(path),
            "InitMesh", lambda file, rng: {"file": f"input/3d/{file}", "count": 50},
        )
        for name, path in files.items()
    ]  # fmt: skip


def _states(work: Path) -> list[Kind]:
    cloud = object_cloud(12, 0)
    cloud = replace(cloud, training=replace(fresh_state(cloud.tensors(), 0), step=3))
    path = work / "state.safetensors"
    run = {"node": "Optimize", "prompt": "a red mug", "step": 3, "steps": 6, "time": 1.0}
    save_training(cloud, path, {**run, "bad_steps": 0, "finished": False})
    content = path.read_bytes()

    def damage(data: bytes, rng: Random) -> bytes:
        return mutated_safetensors(data, rng, ("training", "run"))

    kept = "output/distill3d/autosave"
    return [
        Kind("damaged training state", "input/3d", path.name, content, damage, "LoadGaussians",
             _from_list("input/3d")),
        Kind("damaged autosave", kept, path.name, content, damage, "Recover", _from_list(kept)),
    ]  # fmt: skip


def _lora(work: Path) -> Kind:
    """For two layers of the embedded prior."""
    (weights,) = (TOYBOX / "unet").glob("*.safetensors")
    layers = [
        (name.removesuffix(".weight"), value)
        for name, value in load_file(weights).items()
        if name.endswith(("attn2.to_k.weight", "attn2.to_q.weight")) and value.dim() == 2
    ][:2]
    tensors = {}
    for i, (name, value) in enumerate(layers):
        key = "lora_unet_" + name.replace(".", "_")
        tensors[f"{key}.lora_up.weight"] = torch.full((value.shape[0], 2), 0.01)
        tensors[f"{key}.lora_down.weight"] = torch.full((2, value.shape[1]), 0.01 * (i + 1))
        tensors[f"{key}.alpha"] = torch.tensor(2.0)
    path = work / "lora.safetensors"
    save_file(tensors, path)
    return Kind(
        "damaged LoRA", "models/loras", path.name, path.read_bytes(), mutated_safetensors,
        "LoadDiffusionPrior", lambda file, rng: {"lora": file, "lora_strength": 0.7}, "prior",
    )  # fmt: skip


def _damage(path: Path) -> Damage:
    content = path.read_bytes()
    if b"end_header" in content[:4096]:
        header = content.index(b"end_header") + 11
    else:
        header = HEADERS.get(path.suffix, len(content))

    def bytes_of_it(data: bytes, rng: Random) -> bytes:
        return mutated(data, min(header, len(data)), rng)

    if path.suffix == ".glb":
        return _one_of(bytes_of_it, mutated_glb)
    if path.suffix == ".gltf":
        return _one_of(
            bytes_of_it,
            lambda data, rng: json.dumps(mutated_tree(json.loads(data), rng)).encode(),
        )
    return bytes_of_it


def _one_of(*ways: Damage) -> Damage:
    return lambda data, rng: rng.choice(ways)(data, rng)


def folder(place: Path) -> Path:
    """A sound diffusers folder with a tiny prior."""
    if not place.is_dir():
        write_tiny_prior(place)
    return place


def damage_folder(sound: Path, copy: Path, rng: Random) -> None:
    """A copy of it with one file damaged."""
    shutil.rmtree(copy, ignore_errors=True)
    shutil.copytree(sound, copy)
    path = copy / rng.choice([part for part in PARTS if (copy / part).is_file()])
    content = path.read_bytes()
    if path.suffix == ".safetensors":
        path.write_bytes(mutated_safetensors(content, rng))
    elif rng.random() < 0.8:
        path.write_text(json.dumps(mutated_tree(json.loads(content), rng)))
    else:
        path.write_bytes(mutated(content, len(content), rng))
