"""Cases that only the whole mode has: a large MODEL that core samples, ControlNets, the published
recipes, the first command of all.
"""

from __future__ import annotations

import json
import os
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

from bed import Bed, Failed, prompts
from harness.environment import ROOT
from ways import OPTIMIZE, folder, optimizing, seeded

REFINE = "Distill3D_RefineMesh"
STAGE_STEPS = 60  # of a recipe's stage, so that it has graphs for some time
SOLID = {"scale": 0.05, "opacity": 0.5}  # a blob that leaves a mesh after so few steps

ROOM = 24  # GiB that the sampler finds free besides what the server has
FILLER = """
import sys, torch
free, _ = torch.cuda.mem_get_info()
held = torch.empty(max(free - int(sys.argv[1]) * 2**30, 1), dtype=torch.uint8, device="cuda")
print("held", flush=True)
sys.stdin.read()
"""


def sampler(bed: Bed) -> dict[str, Any]:
    """A large MODEL sampled by core's KSampler, four large pictures at once, right after a run of
    ours on a device with little room, and ours after it.
    """
    bed.run(seeded(bed.workflow("quickstart")))
    prompt = {
        "source": {
            "class_type": "CheckpointLoaderSimple",
            "inputs": {"ckpt_name": bed.large_file()},
        },
        "latent": {
            "class_type": "EmptyLatentImage",
            "inputs": {"width": 1024, "height": 1024, "batch_size": 4},
        },
    }
    for name in ("positive", "negative"):
        prompt[name] = {
            "class_type": "CLIPTextEncode",
            "inputs": {"clip": ["source", 1], "text": name},
        }
    links = {"model": ["source", 0], "positive": ["positive", 0], "negative": ["negative", 0]}
    values = {
        "seed": 1,
        "steps": 4,
        "cfg": 5.0,
        "sampler_name": "euler",
        "scheduler": "normal",
        "denoise": 1.0,
    }
    prompt["sample"] = {
        "class_type": "KSampler",
        "inputs": links | values | {"latent_image": ["latent", 0]},
    }
    prompt["decode"] = {
        "class_type": "VAEDecode",
        "inputs": {"samples": ["sample", 0], "vae": ["source", 2]},
    }
    prompt["save"] = {"class_type": "PreviewImage", "inputs": {"images": ["decode", 0]}}
    with filled(0 if bed.shared or not bed.fast else ROOM):
        _, seconds = bed.timed(seeded(prompt))
    _, ours = bed.timed(seeded(bed.workflow("quickstart")))
    return {"sampled_s": seconds, "next_s": ours}


@contextmanager
def filled(room: int) -> Iterator[None]:
    """All of the device is taken by another process but so many GiB; nothing for 0."""
    if not room:
        yield
        return
    command = [sys.executable, "-c", FILLER, str(room)]
    with subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE) as process:
        assert process.stdin and process.stdout
        if process.stdout.readline().strip() != b"held":
            raise Failed("the device could not be filled")
        try:
            yield
        finally:
            process.stdin.close()


def control(bed: Bed) -> dict[str, Any]:
    """A ControlNet for Stable Diffusion 2.1 at its true size: with a folder, and with a MODEL."""
    net = bed.large_control()
    file = {"control_net_name": f"{net}/diffusion_pytorch_model.safetensors"}
    links = {"model": ["file", 0], "clip": ["file", 1], "vae": ["file", 2]}
    ways = {
        "folder": (folder(bed, model=bed.large_folder()), {"folder": net}),
        "model": (
            {
                "file": {
                    "class_type": "CheckpointLoaderSimple",
                    "inputs": {"ckpt_name": bed.large_file()},
                },
                "prior": {"class_type": "Distill3D_DiffusionPriorFromModel", "inputs": links},
                "net": {"class_type": "ControlNetLoader", "inputs": file},
            },
            {"control_net": ["net", 0]},
        ),
    }
    found = {}
    for name, (way, inputs) in ways.items():
        prompt = prompts.set_values(optimizing(bed, way, 20), OPTIMIZE, views=2, image_size=512)
        (optimize,) = prompts.of_type(prompt, OPTIMIZE)
        prompt["controlled"] = bed.node("ControlPrior", prior=["prior", 0], **inputs)
        prompt[optimize]["inputs"]["prior"] = ["controlled", 0]
        found[name] = bed.timed(seeded(prompt))[1]
    return found


def recipe(bed: Bed, name: str) -> dict[str, Any]:
    """A published recipe at its own settings on random weights of Stable Diffusion 2.1's sizes.

    Each of its stages is stopped and kept after some steps and the graph goes on to its files:
    milliseconds of a step, and by them the hours of the whole.
    """
    bed.large_folder()
    prompt = seeded(bed.workflow(name))
    if prompts.of_type(prompt, "Distill3D_InitGaussians"):
        prompt = prompts.set_values(prompt, "Distill3D_InitGaussians", **SOLID)
    stages = [*prompts.of_type(prompt, OPTIMIZE), *prompts.of_type(prompt, REFINE)]
    marks: dict[str, list[tuple[float, int]]] = {id: [] for id in stages}
    stopped, held = set[str](), list[float]()

    def follow(run: Any) -> None:
        seconds, message = run.events[-1] if run.events else (0.0, {"type": ""})
        id = message["data"]["node"] if message["type"] == "progress" else None
        if id not in marks or message["data"]["value"] == message["data"]["max"]:
            return
        marks[id].append((seconds, int(message["data"]["value"])))
        if marks[id][-1][1] >= STAGE_STEPS and id not in stopped:
            held.append(bed.reserved())
            stopped.add(id)
            bed.server.post(f"/distill3d/stop/{id}", {})

    run, seconds = bed.timed(prompt, 300, on_event=follow)
    if stopped != set(stages) or not run.files:
        raise Failed(f"stages {stages}, stopped {sorted(stopped)}, files {run.files}")
    told, hours = [], 0.0
    for id in stages:
        steps, asked = marks[id], prompt[id]["inputs"]["steps"]
        half = next(mark for mark in steps if mark[1] >= steps[-1][1] // 2)
        step = (steps[-1][0] - half[0]) / (steps[-1][1] - half[1])
        told.append({"steps": asked, "ms": round(1e3 * step, 1)})
        hours += step * asked / 3600
    return {"stages": told, "hours": round(hours, 2), "held_mib": round(max(held)), "s": seconds}


def first_command(bed: Bed) -> dict[str, Any]:
    """What ``nox -s object`` does once everything is installed: a server of its own, an object, and
    its measures against the truth.
    """
    place = bed.base / "object"
    script = ROOT / "tests" / "comfyui" / "make_object.py"
    command = [sys.executable, str(script), "a red mug", "--output", str(place)]
    start = time.monotonic()
    environment = {**os.environ, "COMFYUI_PATH": str(bed.server.tree)}
    done = subprocess.run(command, env=environment, capture_output=True, text=True, timeout=300)
    seconds = round(time.monotonic() - start, 1)
    if done.returncode or "Working on the GPU" not in done.stdout:
        raise Failed(done.stdout[-800:] + done.stderr[-800:])
    report = json.loads(place.joinpath("metrics.json").read_text(encoding="utf-8"))
    return {"s": seconds, **report}
