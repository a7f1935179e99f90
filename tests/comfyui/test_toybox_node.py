"""Toybox Truth in a running ComfyUI."""

from __future__ import annotations

import io

import numpy as np
import pytest
import torch
from PIL import Image

from distill3d.kernels.cameras.pinhole import orbit
from distill3d.kernels.toybox.captions import parse
from distill3d.kernels.toybox.render import render_truth

CAMERAS = {"views": 3, "size": 48, "elevation": 20.0, "start": 30.0, "distance": 2.0, "fov_y": 40.0}


def prompt(text):
    seen = {
        "prior": ["prior", 0],
        "prompt": text,
        "negative": "",
        "view_dependent": True,
        "interpolate": False,
    }
    seen |= {"perp_neg": 0.0, "side_guidance": 1.0, "back_guidance": 1.0, "overhead_guidance": 1.0}
    values = CAMERAS | {"prompts": ["prompts", 0], "background": "white"}
    return {
        "prior": {
            "class_type": "Distill3D_LoadDiffusionPrior",
            "inputs": {"model": "toybox (embedded)", "precision": "fp32"},
        },
        "prompts": {"class_type": "Distill3D_ViewPrompts", "inputs": seen},
        "truth": {"class_type": "Distill3D_ToyboxTruth", "inputs": values},
        "mask": {"class_type": "MaskToImage", "inputs": {"mask": ["truth", 1]}},
        "images": {"class_type": "PreviewImage", "inputs": {"images": ["truth", 0]}},
        "masks": {"class_type": "PreviewImage", "inputs": {"images": ["mask", 0]}},
    }


def pictures(comfyui, run, id):
    found = [comfyui.view(file) for file in run.files if file["node"] == id]
    return (
        np.stack([np.asarray(Image.open(io.BytesIO(data)).convert("RGB")) for data in found]) / 255
    )


def test_pictures_and_masks_are_the_exact_ones(comfyui):
    run = comfyui.run(prompt("a red mug with white stripes"))
    assert run.status == "success", run.error
    cameras = orbit(torch.tensor([30.0, 150.0, 270.0]), 20.0, 2.0, 40.0, 48)
    truth = render_truth(parse("a red mug with white stripes"), cameras, 1.0)
    assert np.abs(pictures(comfyui, run, "images") - truth.color.numpy()).max() < 0.005
    assert np.abs(pictures(comfyui, run, "masks") - truth.alpha.numpy()).max() < 0.005


@pytest.mark.parametrize("text", ["a mug red", "white stripes"])
def test_a_prompt_that_names_no_toy_is_refused(comfyui, text):
    run = comfyui.run(prompt(text))
    assert run.status == "error"
    assert "is no sentence that the embedded prior was trained on" in run.error


def test_no_views_from_a_link_are_named(comfyui):
    graph = prompt("a red mug")
    graph["zero"] = {"class_type": "PrimitiveInt", "inputs": {"value": 0}}
    graph["truth"]["inputs"]["views"] = ["zero", 0]
    run = comfyui.run(graph)
    assert run.status == "error"
    assert "Toybox Truth: views is 0; choose a value within 1..1000." in run.error
