"""A run that blows up: it stops with a message that names the cure, and the last good cloud is on disk."""

from __future__ import annotations

import numpy as np
import plyfile
from harness import prompts


def test_a_diverging_run_stops_and_leaves_the_last_good_cloud(comfyui, quickstart, quickstart_prompt):
    (optimize,) = prompts.of_type(quickstart_prompt, "Distill3D_Optimize")
    folder = comfyui.output / "distill3d" / "partial"
    before = set(folder.glob("*"))
    blown_up = prompts.set_values(
        prompts.with_seed(prompts.with_steps(quickstart_prompt, 100), 9),
        "Distill3D_Optimize",
        lr_scales=10.0,  # the sizes overflow within some tens of steps
        max_bad_steps=2,
    )
    run = comfyui.run(blown_up)

    assert run.status == "error"
    message = run.error
    assert "NaN or infinite" in message and "Lower the guidance or the learning rates" in message
    assert run.progress(optimize)[-1][0] < 100
    left = {file.suffix: file for file in set(folder.glob("*")) - before}
    assert set(left) == {".ply", ".safetensors"}
    vertices = plyfile.PlyData.read(str(left[".ply"]))["vertex"]
    assert vertices.count > 100
    assert all(np.isfinite(vertices[field.name]).all() for field in vertices.properties)
    assert comfyui.run(prompts.with_seed(quickstart_prompt, 10)).status == "success"
