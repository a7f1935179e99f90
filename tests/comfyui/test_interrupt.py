"""Cancel, and what is left after it."""

from __future__ import annotations

import plyfile
from harness import prompts


def test_cancel_stops_between_steps_and_leaves_the_cloud_so_far(
    comfyui, quickstart, quickstart_prompt
):
    (optimize,) = prompts.of_type(quickstart_prompt, "Distill3D_Optimize")
    folder = comfyui.output / "distill3d" / "partial"
    before = set(folder.glob("*"))

    def cancel_after_two_steps(run):
        progress = run.progress(optimize)
        if progress and progress[-1][0] >= 2 and not asked:
            asked.append(progress[-1][0])
            comfyui.interrupt(run.prompt_id)

    asked: list[int] = []
    run = comfyui.run(
        prompts.with_seed(prompts.with_steps(quickstart_prompt, 100_000), 7),
        on_event=cancel_after_two_steps,
    )

    assert run.status == "interrupted"
    # One step may have been under way, and another begun before the request arrived.
    assert run.progress(optimize)[-1][0] <= asked[0] + 2
    left = set(folder.glob("*")) - before
    assert {file.suffix for file in left} == {".ply", ".safetensors"}
    (ply,) = (file for file in left if file.suffix == ".ply")
    assert plyfile.PlyData.read(str(ply))["vertex"].count > 100
    (end,) = (message["data"] for _, message in run.events if message["type"] == "distill3d.end")
    assert end["partial"] == f"output/distill3d/partial/{ply.name}"  # the page says so


def test_server_works_on_after_a_cancel_and_after_freeing_its_memory(
    comfyui, quickstart, quickstart_prompt
):
    comfyui.free()
    run = comfyui.run(prompts.with_seed(quickstart_prompt, 8))
    assert run.status == "success", run.error
