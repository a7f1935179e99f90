"""Core's cameras and files in a running ComfyUI: its camera gives the picture that core itself
draws, views go out and in again, every format is saved and loaded.
"""

from __future__ import annotations

import math

import numpy as np
import pytest
from PIL import Image

PACK = "Distill3D_"
SIZE = 128
FORMATS = ("sog", "sog folder", "spz 4", "usdz", "html")


def defaults(info):
    found = {}
    for group in ("required", "optional"):
        for name, (kind, *more) in info["input"].get(group, {}).items():
            options = more[0] if more else {}
            if "default" in options:
                found[name] = options["default"]
            elif kind == "COMBO":
                found[name] = options["options"][0]
    return found


def node(info, kind, **inputs):
    name = kind if kind in info else PACK + kind
    return {"class_type": name, "inputs": defaults(info[name]) | inputs}


def pictures(comfyui, run, id):
    records = [file for file in run.files if file["node"] == id]
    folders = {"output": comfyui.output, "temp": comfyui.base / "temp"}
    return [
        np.asarray(
            Image.open(folders[r["type"]] / r["subfolder"] / r["filename"]).convert("RGB"),
            np.float32,
        )
        / 255
        for r in records
    ]


def test_a_camera_of_core_shows_what_core_shows(comfyui, object_info):
    for name in ("CreateCameraInfo", "RenderSplat"):
        if name not in object_info:
            pytest.skip(f"this ComfyUI has no {name} yet")
    prompt = {
        "start": node(object_info, "InitGaussians", count=400, scale=0.05, opacity=0.6),
        "camera": {
            "class_type": "CreateCameraInfo",
            "inputs": {
                "mode": "orbit", "mode.yaw": 30.0, "mode.pitch": 20.0, "mode.distance": 2.5,
                "target_x": 0.2, "target_y": -0.1, "target_z": 0.0, "roll": 15.0, "fov": 35.0,
                "zoom": 1.0, "camera_type": "perspective",
            },
        },
        "save": node(object_info, "SaveGaussians", gaussians=["start", 0]),
        "ours": node(
            object_info, "RenderViews", gaussians=["start", 0], cameras=["camera", 0], size=SIZE,
            background="black",
        ),
        "again": node(
            object_info, "RenderViews", gaussians=["start", 0], cameras=["ours", 3], size=SIZE,
            background="black",
        ),
        "core": node(
            object_info, "RenderSplat", splat=["save", 1], width=SIZE, height=SIZE, frames=1,
            sharpen=1.0, background="#000000", camera_info=["camera", 0],
        ),
    }  # fmt: skip
    for id in ("ours", "again", "core"):
        prompt[f"show {id}"] = {"class_type": "PreviewImage", "inputs": {"images": [id, 0]}}
    run = comfyui.run(prompt)
    assert run.status == "success", run.error
    (ours,), (again,), (core,) = (
        pictures(comfyui, run, f"show {id}") for id in ("ours", "again", "core")
    )
    assert abs(ours - again).max() <= 1 / 255
    decibels = -10 * math.log10(float(((ours - core) ** 2).mean()))
    turned = -10 * math.log10(float(((ours[::-1] - core) ** 2).mean()))
    print(f"{decibels:.1f} dB, upside down {turned:.1f}")
    assert decibels > 22 and decibels > turned + 3


def test_training_takes_cameras_of_core(comfyui, object_info):
    prompt = {
        "start": node(object_info, "InitGaussians", count=200),
        "look": node(object_info, "RenderViews", gaussians=["start", 0], views=5, size=32),
        "cameras": node(object_info, "OrbitCameras", views=["look", 3]),
        "prior": node(object_info, "LoadDiffusionPrior"),
        "prompts": node(object_info, "ViewPrompts", prior=["prior", 0]),
        "loss": node(object_info, "SDSLoss"),
    }
    links = {name: [name, 0] for name in ("prior", "prompts", "cameras", "loss")}
    prompt["optimize"] = node(
        object_info, "Optimize", gaussians=["start", 0], steps=2, **(links | {"views": 2})
    )
    prompt["save"] = node(object_info, "SaveGaussians", gaussians=["optimize", 0])
    run = comfyui.run(prompt)
    assert run.status == "success", run.error


def test_every_new_format_is_saved_and_loaded(comfyui, object_info):
    prompt = {"start": node(object_info, "InitGaussians", count=100)}
    for format in FORMATS:
        prompt[format] = node(
            object_info, "SaveGaussians", gaussians=["start", 0], format=format,
            filename_prefix=f"formats/{format.replace(' ', '_')}",
        )  # fmt: skip
    run = comfyui.run(prompt)
    assert run.status == "success", run.error
    names = {file["node"]: file for file in run.files}
    assert sorted(names) == sorted(FORMATS)
    loads = {}
    for format in FORMATS[:-1]:
        record = names[format]
        file = f"output/{record['subfolder']}/{record['filename']}"
        loads[f"load {format}"] = node(object_info, "LoadGaussians", file=file)
        loads[f"save {format}"] = node(
            object_info, "SaveGaussians", gaussians=[f"load {format}", 0],
            filename_prefix=f"formats/again_{format.replace(' ', '_')}",
        )  # fmt: skip
    run = comfyui.run(loads)
    assert run.status == "success", run.error
    assert len(run.files) == len(FORMATS) - 1
