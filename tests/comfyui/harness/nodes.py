"""Nodes in API form with their defaults, and what a run of them left."""

from __future__ import annotations

import itertools
import json

import numpy as np
import plyfile
import pytest

PACK = "Distill3D_"


fresh_seed = itertools.count(1000).__next__  # for runs that ComfyUI must not answer from its cache


def node(object_info, kind, **inputs):
    """One node in API form with every default filled in."""
    name = kind if kind in object_info else PACK + kind
    return {"class_type": name, "inputs": defaults(object_info[name]) | inputs}


def optimize(object_info, start, **inputs):
    links = {name: [name, 0] for name in ("prior", "prompts", "cameras", "loss")} | {
        "gaussians": [start, 0]
    }
    small = {"steps": 3, "views": 2, "seed": 5}
    return node(object_info, "Optimize", **(links | small | inputs))


def declared_inputs(info):
    for group in ("required", "optional"):
        for name, spec in info["input"].get(group, {}).items():
            yield name, spec[0], spec[1] if len(spec) > 1 else {}


def defaults(info):
    values = {}
    for name, kind, options in declared_inputs(info):
        if "default" in options:
            values[name] = options["default"]
        elif kind == "COMBO":
            values[name] = options["options"][0]
    return values


def saved(comfyui, run, id="save"):
    """The file a Save or Export node wrote."""
    (record,) = (file for file in run.files if file["node"] == id)
    return comfyui.output / record["subfolder"] / record["filename"]


def succeeded(run):
    assert run.status == "success", run.error
    return run


def columns(path):
    rows = plyfile.PlyData.read(str(path))["vertex"].data
    return np.stack([rows[name] for name in rows.dtype.names], -1)


def skip_without(object_info, name):
    if name not in object_info:
        pytest.skip(f"this ComfyUI has no {name} yet")


def newest(folder, suffix):
    return max(folder.glob(f"*{suffix}"), key=lambda file: file.stat().st_mtime_ns)


def record(path):
    """What a saved training says about itself, from the safetensors header."""
    data = path.read_bytes()
    header = json.loads(data[8 : 8 + int.from_bytes(data[:8], "little")])
    return json.loads(header["__metadata__"]["training"])
