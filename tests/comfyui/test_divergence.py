"""A prior whose answers are NaN: the run stops with a message that names the cure, and the last
good cloud is kept.
"""

from __future__ import annotations

import numpy as np
import plyfile
import torch
from harness import prompts
from safetensors.torch import load_file, save_file
from tiny_prior import write_tiny_prior


def test_a_diverging_run_stops_and_leaves_the_last_good_cloud(
    comfyui, quickstart, quickstart_prompt, object_info
):
    prior = comfyui.base / "models" / "diffusers" / "broken"
    write_tiny_prior(prior)
    weights = prior / "unet" / "diffusion_pytorch_model.safetensors"
    broken = load_file(weights)
    save_file(
        broken | {"conv_out.weight": torch.full_like(broken["conv_out.weight"], 1e38)}, weights
    )
    (optimize,) = prompts.of_type(quickstart_prompt, "Distill3D_Optimize")
    folder = comfyui.output / "distill3d" / "partial"
    before = set(folder.glob("*"))
    prompt = prompts.with_seed(prompts.with_steps(quickstart_prompt, 100), 9)
    prompt = prompts.set_values(prompt, "Distill3D_LoadDiffusionPrior", model="broken")
    run = comfyui.run(prompts.with_settings(prompt, object_info, max_bad_steps=2))

    assert run.status == "error"
    assert (
        "NaN or infinite" in run.error and "Lower the guidance or the learning rates" in run.error
    )
    assert run.progress(optimize)[-1][0] < 100
    left = {file.suffix: file for file in set(folder.glob("*")) - before}
    assert set(left) == {".ply", ".safetensors"}
    vertices = plyfile.PlyData.read(str(left[".ply"]))["vertex"]
    assert vertices.count > 100
    assert all(np.isfinite(vertices[field.name]).all() for field in vertices.properties)
    assert comfyui.run(prompts.with_seed(quickstart_prompt, 10)).status == "success"
