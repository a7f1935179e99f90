"""What cannot fit into memory is refused by a sentence, not by the system that ends the server."""

from __future__ import annotations

import pytest
from harness import prompts
from harness.nodes import node, optimize


def test_the_embedded_prior_at_a_size_that_no_machine_has_room_for(
    comfyui, quickstart, quickstart_prompt
):
    huge = prompts.set_values(
        quickstart_prompt, "Distill3D_Optimize", image_size=4096, views=64, seed=1
    )
    run = comfyui.run(huge)
    assert run.status == "error"
    for part in ("image_size 4096 with 64 views takes more than", "GB are free", "Set image_size"):
        assert part in run.error
    assert comfyui.run(quickstart_prompt).status == "success"


@pytest.mark.parametrize("family", ["sd15", "sdxl"])
def test_a_model_likewise(probing, info, family):
    nodes = {
        "source": node(info, "ProbeModel", family=family),
        "prior": {
            "class_type": "Distill3D_DiffusionPriorFromModel",
            "inputs": {name: ["source", i] for i, name in enumerate(("model", "clip", "vae"))},
        },
        "prompts": node(info, "ViewPrompts", prior=["prior", 0]),
        "cameras": node(info, "OrbitCameras"),
        "start": node(info, "InitGaussians", count=300),
        "loss": node(info, "SDSLoss"),
        "optimize": optimize(info, "start", image_size=4096, views=64),
        "save": node(info, "SaveGaussians", gaussians=["optimize", 0]),
    }
    run = probing.run(nodes)
    assert run.status == "error"
    assert (
        "image_size 4096 with 64 views takes more than" in run.error and "GB are free" in run.error
    )
