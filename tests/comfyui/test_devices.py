"""Several devices in a true server, where its CPU twice stands for GPUs."""

from __future__ import annotations

import pytest
from harness import prompts
from harness.nodes import columns, node, succeeded
from harness.server import PromptRefused


def with_devices(prompt, info, devices):
    """Two steps of three small views on these devices, and nothing but the splat file of them."""
    (id,) = prompts.of_type(prompt, "Distill3D_Optimize")
    (save,) = prompts.of_type(prompt, "Distill3D_SaveGaussians")
    dropped = {"Distill3D_ExportMesh", "Distill3D_RenderViews", "SaveAnimatedWEBP", "Preview3D"}
    kept = {key: value for key, value in prompt.items() if value["class_type"] not in dropped}
    options = node(info, "RunOptions", devices=devices)
    few = {"steps": 2, "views": 3, "image_size": 64}
    given = {**prompt[id]["inputs"], "options": ["options", 0], **few}
    kept |= {id: {**prompt[id], "inputs": given}, "options": options}
    return kept, save


def test_views_are_shared_and_the_cloud_is_that_of_one_device(
    comfyui, object_info, quickstart_prompt
):
    clouds = []
    for devices in ("one", "cpu,cpu"):
        prompt, save = with_devices(quickstart_prompt, object_info, devices)
        run = succeeded(comfyui.run(prompt))
        (file,) = (file for file in run.files if file["node"] == save)
        clouds.append(columns(comfyui.output / file["subfolder"] / file["filename"]))
    one, two = clouds
    # Adam moves a value whose gradient is rounding by a whole step either way.
    assert (abs(two - one) < 1e-3).mean() > 0.9
    assert (two != one).any()  # it has been shared


def test_what_names_no_device_is_refused_before_anything_runs(
    comfyui, object_info, quickstart_prompt
):
    prompt, _ = with_devices(quickstart_prompt, object_info, "gpu0")
    with pytest.raises(PromptRefused, match="devices is 'gpu0'; write one"):
        comfyui.queue(prompt)
