"""A run by each way to a prior, in API form, and what its events tell."""

from __future__ import annotations

import itertools
import time
from typing import Any

from bed import Bed, prompts

OPTIMIZE = "Distill3D_Optimize"
STEPS, SHORTER = 200, 38  # with CUDA graphs, and without
KEPT = ("ViewPrompts", "OrbitCameras", "InitText", "CDSLoss", "Optimize")


def optimizing(
    bed: Bed, way: dict[str, Any], steps: int = STEPS, **settings: Any
) -> dict[str, Any]:
    """The quickstart's run with another prior and these ``settings``, its cloud saved; no view
    words, which only the folder has.
    """
    prompt = bed.plain_quickstart()
    base = {
        id: node
        for id, node in prompt.items()
        if node["class_type"] in {f"Distill3D_{k}" for k in KEPT} | {*prompts.SETTINGS.values()}
    }
    (old,) = prompts.of_type(prompt, "Distill3D_LoadDiffusionPrior")
    for node in base.values():
        for name, value in node["inputs"].items():
            if isinstance(value, list) and value[0] == old:
                node["inputs"][name] = ["prior", 0]
    (optimize,) = prompts.of_type(base, OPTIMIZE)
    base = prompts.set_values(base, "Distill3D_ViewPrompts", view_dependent=False)
    # said, as no MODEL tells for what size it was trained
    base = prompts.set_values(base, OPTIMIZE, steps=steps, image_size=128)
    base = prompts.with_settings(base, bed.info, **settings)
    save = bed.node("SaveGaussians", gaussians=[optimize, 0], filename_prefix="gpu/run")
    return {**way, **base, "save": save}


def folder(bed: Bed, **inputs: Any) -> dict[str, Any]:
    return {"prior": bed.node("LoadDiffusionPrior", **inputs)}


def model(bed: Bed, lora: bool = False) -> dict[str, Any]:
    """Load Checkpoint, perhaps Load LoRA, Diffusion Prior from Model."""
    source = "lora" if lora else "file"
    links = {"model": [source, 0], "clip": [source, 1], "vae": ["file", 2]}
    way = {
        "file": {
            "class_type": "CheckpointLoaderSimple",
            "inputs": {"ckpt_name": bed.toybox_file()},
        },
        "prior": {"class_type": "Distill3D_DiffusionPriorFromModel", "inputs": links},
    }
    if lora:
        inputs = {
            "model": ["file", 0],
            "clip": ["file", 1],
            "strength_model": 1.0,
            "strength_clip": 1.0,
        }
        way["lora"] = {"class_type": "LoraLoader", "inputs": inputs | {"lora_name": bed.lora()}}
    return way


def seeded(prompt: dict[str, Any]) -> dict[str, Any]:
    """Another seed each time, or the server would answer from its cache."""
    return prompts.with_seed(prompt, time.time_ns() % 2**31)


def per_step(run: Any, prompt: dict[str, Any]) -> float:
    """Milliseconds of a step, over the second half of the last Optimize."""
    (node,) = prompts.of_type(prompt, OPTIMIZE)[-1:]
    told = [
        (s, m["data"])
        for s, m in run.events
        if m["type"] == "progress" and m["data"]["node"] == node
    ]
    steps = [(int(data["value"]), s) for s, data in told]
    first = next(pair for pair in steps if pair[0] >= steps[-1][0] // 2)
    return round(1e3 * (steps[-1][1] - first[1]) / (steps[-1][0] - first[0]), 1)


def by_node(run: Any, prompt: dict[str, Any]) -> dict[str, float]:
    """Seconds of the nodes that took a tenth of one or more."""
    told = [(s, m["data"]["node"]) for s, m in run.events if m["type"] == "executing"]
    spans = [(node, end - start) for (start, node), (end, _) in itertools.pairwise(told)]
    return {
        prompt[node]["class_type"].removeprefix("Distill3D_"): round(seconds, 2)
        for node, seconds in spans
        if node and seconds >= 0.1
    }
