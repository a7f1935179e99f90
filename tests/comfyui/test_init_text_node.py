"""Init from Text in a running ComfyUI."""

from __future__ import annotations

import pytest
import torch
from harness.environment import ROOT

from distill3d.kernels.files.ply import load_ply
from distill3d.kernels.init.text import from_text, load_point_model

MODEL = ROOT / "models" / "text_to_points" / "points.safetensors"


def graph(prompt, **inputs):
    views = {
        "prior": ["prior", 0],
        "prompt": prompt,
        "negative": "",
        "view_dependent": True,
        "interpolate": False,
    }
    start = {"prompts": ["prompts", 0], "count": 300, "seed": 5, "opacity": 0.5} | inputs
    save = {"gaussians": ["start", 0], "filename_prefix": "init-text/start", "training": False}
    return {
        "prior": {
            "class_type": "Distill3D_LoadDiffusionPrior",
            "inputs": {"model": "toybox (embedded)", "precision": "auto"},
        },
        "prompts": {"class_type": "Distill3D_ViewPrompts", "inputs": views},
        "start": {"class_type": "Distill3D_InitText", "inputs": start},
        "save": {"class_type": "Distill3D_SaveGaussians", "inputs": save},
    }


def test_it_makes_the_shape_that_the_prompt_names(comfyui):
    run = comfyui.run(graph("a grey car with red dots"))
    assert run.status == "success", run.error
    (record,) = run.files
    saved = load_ply(comfyui.output / record["subfolder"] / record["filename"])
    generator = torch.Generator().manual_seed(5)
    wanted = from_text(load_point_model(MODEL), "a gray car with red dots", 300, generator)
    torch.testing.assert_close(saved.means, wanted.means)
    torch.testing.assert_close(saved.sh, wanted.sh)
    assert saved.opacities.mean().item() == pytest.approx(0.5)


def test_a_scene_is_refused_with_the_node_for_it(comfyui):
    run = comfyui.run(graph("a red mug and a blue car on a green ground under a cyan sky"))
    assert run.status == "error" and "use Init Scene" in str(run.error)
