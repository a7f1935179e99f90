"""The benchmarks of meshes measure what they say."""

import importlib
import json

import pytest
import torch
from test_benchmark import BENCHMARKS, importable, script

__all__ = ["importable"]  # a fixture


def test_every_configuration_of_the_mesh_refinement_can_be_built_and_names_its_own_cloud():
    plan = script("refine_mesh_plan")
    configs = json.loads((BENCHMARKS / "sweeps" / "refine_mesh.json").read_text())
    plans = {c["name"]: plan.build("second", 400, 60, 60, "auto", c["set"]) for c in configs}
    assert len(plans) == len(configs) and len({repr(p) for p in plans.values()}) == len(plans)
    first = plans["second"]
    assert first.geometry.settings.lr_colors == 0 and first.texture.settings.lr_vertices == 0
    assert plans["second, 200 + 100 steps"].geometry.steps == 200
    tasks = [
        plan.Task(name, script("quality_plan").parse("a red mug"), 0, p, "w")
        for name, p in plans.items()
    ]
    assert len(plan.distillations(tasks)) == 1 and len({task.fingerprint for task in tasks}) == len(
        tasks
    )
    with pytest.raises(ValueError, match="begin it with distil"):
        plan.build("second", 400, 60, 60, "auto", {"mesh.size": 3})
    with pytest.raises(ValueError, match="loss 'nope' is not one of"):
        plan.build("second", 400, 60, 60, "auto", {"geometry_loss": "nope"})


def test_stages_are_compared_with_the_start_object_by_object():
    refine = script("refine_mesh")
    rows = []
    for caption, before, after in (("a", 2.0, 1.5), ("b", 4.0, 3.7)):
        stages = {
            "start": {"chamfer": before},
            "geometry": {"chamfer": after},
            "texture": {"chamfer": after},
        }
        seconds = {f"seconds_{stage}": 1.0 for stage in stages}
        rows.append({"config": "x", "caption": caption, "seed": 0, **stages, **seconds})
    (entry,) = refine.summary(rows)
    assert entry["chamfer"] == 3.0 and entry["chamfer_geometry"] == [
        pytest.approx(-0.4),
        pytest.approx(0.1),
    ]
    assert entry["psnr"] is None and "chamfer" in refine.table([entry])


def test_distances_of_the_true_mesh_vanish_and_a_larger_one_lies_outside():
    run, mesh = script("refine_mesh_run"), importlib.import_module("distill3d.kernels.meshes.mesh")
    vertices, faces = run.toy_mesh("sphere", 64)
    right = run.distances(mesh.Mesh(vertices, faces, torch.zeros_like(vertices)), "sphere")
    assert right["chamfer"] < 0.5 and abs(right["bias"]) < 0.1 and right["normals"] > 0.99
    larger = run.distances(mesh.Mesh(vertices * 1.1, faces, torch.zeros_like(vertices)), "sphere")
    assert larger["bias"] == pytest.approx(5, abs=0.3) and larger["chamfer"] == pytest.approx(
        5, abs=0.5
    )
