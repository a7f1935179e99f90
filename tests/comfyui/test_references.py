"""Pictures as part of the prompt in a running ComfyUI: sheets are cut, cameras pass to core's nodes
and back, what is wrong is told with the picture, and a run goes on where it stopped.
"""

from __future__ import annotations

import io

import numpy as np
import pytest
from harness.nodes import node, optimize, saved, succeeded
from PIL import Image


def pictures(comfyui, run, id):
    found = [comfyui.view(file) for file in run.files if file["node"] == id]
    return [np.asarray(Image.open(io.BytesIO(data)).convert("RGB")) / 255 for data in found]


def sheet(object_info, **views):
    return {
        "sample": node(object_info, "SamplePicture", picture="car, sheet of four sides"),
        "cut": node(object_info, "CutSheet", image=["sample", 0], sheet="MVDream"),
        "views": node(
            object_info, "ReferenceViews", **({"images": ["cut", 0], "sheet": "MVDream"} | views)
        ),
    }


def shown(id, slot):
    return {"class_type": "PreviewImage", "inputs": {"images": [id, slot]}}


def test_a_sheet_is_cut_and_its_objects_stand_out_from_a_plain_background(comfyui, object_info):
    prompt = sheet(object_info) | {"cells": shown("cut", 0), "seen": shown("views", 1)}
    run = succeeded(comfyui.run(prompt))
    cells, seen = pictures(comfyui, run, "cells"), pictures(comfyui, run, "seen")
    assert len(cells) == len(seen) == 4 and cells[0].shape == (256, 256, 3)
    assert max(abs(a - b).mean() for a, b in zip(cells, seen, strict=True)) < 0.01


@pytest.mark.nightly(reason="a run of many steps")
def test_a_cloud_that_takes_the_pictures_is_seen_so_from_their_cameras(comfyui, object_info):
    """All the way: the cut pictures hold the run, the cameras go to Render Views."""
    prompt = sheet(object_info) | {
        "start": node(object_info, "InitGaussians", count=1500, scale=0.05, opacity=0.3),
        "prior": node(object_info, "LoadDiffusionPrior"),
        "prompts": node(object_info, "ViewPrompts", prior=["prior", 0], prompt="a blue car"),
        "cameras": node(object_info, "OrbitCameras"),
        "loss": node(object_info, "SDSLoss"),
        "rates": node(object_info, "LearningRates", lr_means=0.02, lr_colors=0.2, lr_opacities=0.4),
        "look": node(object_info, "RenderViews", gaussians=["optimize", 0], cameras=["views", 2],
                     size=64, background="gray"),
        "renders": shown("look", 0),
        "seen": shown("views", 1),
    }  # fmt: skip
    prompt["optimize"] = optimize(
        object_info, "start", steps=25, image_size=64, references=["views", 0],
        learning_rates=["rates", 0],
    )  # fmt: skip
    prompt["free"] = {**prompt["optimize"], "inputs": dict(prompt["optimize"]["inputs"])}
    del prompt["free"]["inputs"]["references"]
    prompt["free look"] = {
        **prompt["look"],
        "inputs": {**prompt["look"]["inputs"], "gaussians": ["free", 0]},
    }
    prompt["free renders"] = shown("free look", 0)
    run = succeeded(comfyui.run(prompt))
    seen = [picture[2::4, 2::4] for picture in pictures(comfyui, run, "seen")]
    errors = {}
    for id in ("renders", "free renders"):
        renders = pictures(comfyui, run, id)
        assert len(renders) == len(seen) == 4, [file["node"] for file in run.files]
        errors[id] = np.mean([(a - b) ** 2 for a, b in zip(renders, seen, strict=True)])
    assert errors["renders"] < 0.7 * errors["free renders"], errors


@pytest.mark.parametrize(
    ("views", "told"),
    [
        ({"images": ["sample", 0]}, "images holds 1 picture, but sheet MVDream has 4 views. Put"),
        ({"sheet": "as views say", "views": "front, back"}, "4 pictures, but views names"),
        ({"sheet": "as views say", "views": "front, back, 0 1, left"}, "Pictures 1 and 3 claim"),
        ({"mask": ["sample", 1]}, "mask holds 1 of 512 x 512 pixels, images 4 of 256 x 256"),
        ({"lambda_color": 0.0, "lambda_silhouette": 0.0}, "lambda_silhouette and lambda_structure"),
    ],
)  # fmt: skip
def test_what_is_wrong_with_the_pictures_is_told(comfyui, object_info, views, told):
    run = comfyui.run(sheet(object_info, **views) | {"seen": shown("views", 1)})
    assert run.status == "error" and told in run.error, run.error


def test_pictures_are_projected_onto_a_mesh_and_a_splat(comfyui, object_info):
    prompt = {
        "sample": node(object_info, "SamplePicture"),
        "views": node(object_info, "ReferenceViews", images=["sample", 0], mask=["sample", 1]),
        "start": node(object_info, "InitGaussians", count=3000, scale=0.06, opacity=0.9),
        "mesh": node(object_info, "ExportMesh", gaussians=["start", 0], resolution=32),
        "paint": node(
            object_info, "ProjectPictures", references=["views", 0], mesh=["mesh", 1],
            gaussians=["start", 0],
        ),
        "save": node(object_info, "SaveGaussians", gaussians=["paint", 1]),
    }  # fmt: skip
    run = succeeded(comfyui.run(prompt))
    assert saved(comfyui, run).stat().st_size > 10_000
