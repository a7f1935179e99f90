"""Going on from autosaves: what they say of their run, and the graph that goes on from there."""

from __future__ import annotations

import json
import struct
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from .graph import Prompt

SUFFIX = ".safetensors"
LIMIT = 100 << 20  # bytes of a header, as the format has it
RECOVER = "Distill3D_Recover"
# nodes that autosave: the input that they start from, and the output of Recover that goes there
STARTS = {"Distill3D_Optimize": ("gaussians", 0), "Distill3D_RefineMesh": ("mesh", 1)}


def run_of(path: Path) -> dict[str, Any]:
    """What an autosave says of its run: node_id, workflow, step, steps, finished; empty for a file
    that is none. Only the header is read, without torch.
    """
    try:
        with open(path, "rb") as file:
            (length,) = struct.unpack("<Q", file.read(8))
            header = json.loads(file.read(min(length, LIMIT)))
        run = json.loads(header["__metadata__"]["run"])
    except (OSError, ValueError, KeyError, TypeError, struct.error):
        return {}
    return run if isinstance(run, dict) else {}


def resumed(prompt: Prompt, saved: Mapping[str, Path]) -> tuple[Prompt, dict[str, int]]:
    """The graph whose nodes go on from their autosaves, each by a Recover before it, and the steps
    that they go on from.

    ``saved``: in ComfyUI's output/distill3d/autosave, by node. The schedule stays as long as it
    was, so that the result is that of a run in one go.
    """
    changed, steps = dict(prompt), {}
    for id, path in saved.items():
        run, node = run_of(path), prompt.get(id)
        step, end = run.get("step"), run.get("steps")
        known = node is not None and node["class_type"] in STARTS
        if not known or not isinstance(step, int) or not isinstance(end, int) or step >= end:
            continue
        assert node is not None
        name, output = STARTS[node["class_type"]]
        before = f"{id} recovered"
        changed[before] = {
            "class_type": RECOVER,
            "inputs": {"file": f"output/distill3d/autosave/{path.name}"},
            "_meta": {"title": "Recover"},
        }
        changed[id] = {
            **node,
            "inputs": {
                **node["inputs"],
                name: [before, output],
                "steps": end - step,
                "schedule_steps": node["inputs"].get("schedule_steps") or end,
                "restart_schedule": False,
            },
        }
        steps[id] = step
    return changed, steps
