"""Refine Mesh in a running ComfyUI."""

from __future__ import annotations

import numpy as np
import pytest
import torch
import trimesh
from harness import prompts
from tiny_prior import write_tiny_prior

from distill3d.kernels.files.mesh import load_mesh
from distill3d.kernels.run.checkpoint import load_mesh_training


@pytest.fixture(scope="module")
def graph(comfyui, object_info, quickstart_prompt):
    """A function that gives the quick start on a tiny prior, and refinements by name: (mesh's node,
    inputs).
    """
    folder = comfyui.base / "models" / "diffusers" / "tiny-refine"
    if not folder.exists():
        write_tiny_prior(folder)
    base = prompts.set_values(
        quickstart_prompt, "Distill3D_LoadDiffusionPrior", model="tiny-refine"
    )
    base = prompts.set_values(base, "Distill3D_InitText", count=300, opacity=0.9)
    still = {"lr_opacities": 0.0, "lr_means": 0.0, "densify": False}
    base = prompts.set_values(base, "Distill3D_Optimize", steps=1, views=2)
    base = prompts.with_settings(base, object_info, **still)
    base = prompts.set_values(base, "Distill3D_ExportMesh", resolution=32, texture_size=0)
    (export,) = prompts.of_type(base, "Distill3D_ExportMesh")
    kinds = {
        "prior": "LoadDiffusionPrior",
        "prompts": "ViewPrompts",
        "cameras": "OrbitCameras",
        "loss": "CDSLoss",
    }
    links = {
        name: [prompts.of_type(base, f"Distill3D_{kind}")[0], 0] for name, kind in kinds.items()
    }
    declared = object_info["Distill3D_RefineMesh"]["input"]["required"]
    values = {name: spec[1]["default"] for name, spec in declared.items() if "default" in spec[1]}

    def build(**refinements):
        prompt = dict(base)
        for name, (source, inputs) in refinements.items():
            small = {"steps": 2, "views": 2, "filename_prefix": f"refine/{name}"}
            mesh = {"mesh": [source or export, 1]}
            prompt[name] = {
                "class_type": "Distill3D_RefineMesh",
                "inputs": values | links | small | mesh | inputs,
            }
            prompt[f"{name} seen"] = {"class_type": "PreviewImage", "inputs": {"images": [name, 2]}}
        return prompt, export

    return build


def test_geometry_and_texture_are_refined_in_turn_and_what_is_frozen_stays(comfyui, graph):
    prompt, export = graph(
        shape=("", {"lr_vertices": 0.02, "lr_colors": 0.0}),
        paint=("shape", {"lr_vertices": 0.0, "lr_colors": 0.2}),
    )
    run = comfyui.run(prompt)
    assert run.status == "success", run.error

    def written(id):
        (file,) = (f for f in run.files if f["node"] == id and f["filename"].endswith(".glb"))
        return load_mesh(comfyui.output / file["subfolder"] / file["filename"])

    before, shape, paint = written(export), written("shape"), written("paint")
    assert torch.equal(before.faces, shape.faces) and torch.equal(shape.faces, paint.faces)
    assert (shape.vertices - before.vertices).abs().max() > 0.003
    torch.testing.assert_close(paint.vertices, shape.vertices, atol=1e-4, rtol=0)
    torch.testing.assert_close(shape.colors, before.colors, atol=0.01, rtol=0)
    assert (paint.colors - shape.colors).abs().max() > 0.05
    assert run.progress("paint")[-1] == (2, 2)
    assert len([file for file in run.files if file["node"] == "paint seen"]) == 8


def test_a_texture_learns_and_stays_a_texture(comfyui, graph):
    prompt, export = graph(paint=("", {"lr_vertices": 0.0, "lr_colors": 0.2}))
    prompt = prompts.set_values(prompt, "Distill3D_ExportMesh", resolution=32, texture_size=128)
    run = comfyui.run(prompt)
    assert run.status == "success", run.error

    def picture(id):
        (file,) = (f for f in run.files if f["node"] == id and f["filename"].endswith(".glb"))
        (mesh,) = trimesh.load(
            comfyui.output / file["subfolder"] / file["filename"]
        ).geometry.values()
        return np.asarray(mesh.visual.material.baseColorTexture.convert("RGB"), float) / 255

    before, after = picture(export), picture("paint")
    assert before.shape == after.shape == (128, 128, 3)
    assert abs(after - before).max() > 0.05


def test_the_form_of_the_penalties_changes_where_the_vertices_go(comfyui, graph):
    moved = {"lr_vertices": 0.02, "lr_colors": 0.0}
    prompt, _ = graph(
        edges=("", moved | {"mesh_penalties": ["edges penalties", 0]}),
        theirs=("", moved | {"mesh_penalties": ["theirs penalties", 0]}),
    )
    values = {"preset": "custom", "smoothness": 0.0, "lambda_laplacian": 1e4, "lambda_normal": 0.0}
    for name, form in (("edges", "edges"), ("theirs", "consistent3d")):
        prompt[f"{name} penalties"] = {
            "class_type": "Distill3D_MeshPenalties",
            "inputs": values | {"penalty_form": form},
        }
    run = comfyui.run(prompt)
    assert run.status == "success", run.error
    edges, theirs = (
        load_mesh(comfyui.output / file["subfolder"] / file["filename"])
        for id in ("edges", "theirs")
        for file in run.files
        if file["node"] == id and file["filename"].endswith(".glb")
    )
    assert (edges.vertices - theirs.vertices).abs().max() > 0.003


def test_two_nodes_with_one_schedule_are_one_node_and_a_restart_is_not(comfyui, graph):
    whole, half = {"steps": 4, "schedule_steps": 4}, {"steps": 2, "schedule_steps": 4}
    again = half | {"restart_schedule": True}
    prompt, _ = graph(
        one=("", whole), first=("", half), second=("first", half), anew=("first", again)
    )
    run = comfyui.run(prompt)
    assert run.status == "success", run.error
    one, second, anew = (
        load_mesh(comfyui.output / file["subfolder"] / file["filename"])
        for id in ("one", "second", "anew")
        for file in run.files
        if file["node"] == id and file["filename"].endswith(".glb")
    )
    assert torch.equal(one.vertices, second.vertices) and torch.equal(one.colors, second.colors)
    assert not torch.equal(one.vertices, anew.vertices)


def test_cancel_leaves_the_mesh_so_far_with_what_lets_it_go_on(comfyui, graph):
    folder = comfyui.output / "distill3d" / "partial"
    before = set(folder.glob("*"))
    prompt, _ = graph(shape=("", {"steps": 100_000, "seed": 5}))
    asked = []

    def cancel_after_two_steps(run):
        progress = run.progress("shape")
        if progress and progress[-1][0] >= 2 and not asked:
            asked.append(progress[-1][0])
            comfyui.interrupt(run.prompt_id)

    assert comfyui.run(prompt, on_event=cancel_after_two_steps).status == "interrupted"
    left = {file.suffix: file for file in set(folder.glob("*")) - before}
    assert set(left) == {".glb", ".safetensors"}
    kept = load_mesh_training(left[".safetensors"])
    assert kept.training.step >= 2
    torch.testing.assert_close(load_mesh(left[".glb"]).vertices, kept.vertices)
