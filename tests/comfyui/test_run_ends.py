"""Whatever comes after the last step, and while a mesh is exported: nothing is lost, and a cancel
is heard at once.
"""

from __future__ import annotations

import time

import pytest
from harness import prompts
from harness.nodes import fresh_seed, node, optimize, saved, succeeded

from distill3d.kernels.run.checkpoint import load_training


def recoverable(comfyui, run):
    """What the server says can be gone on with of a prompt."""
    return comfyui.get(f"/distill3d/recover?prompt_id={run.prompt_id}")["runs"]


LATER = [pytest.param(s, marks=pytest.mark.nightly(reason="as 0")) for s in (0.05, 0.3)]


@pytest.mark.parametrize("late", [0.0, *LATER])
def test_a_cancel_at_the_last_step_or_after_it_loses_nothing(
    comfyui, quickstart, quickstart_prompt, late
):
    (id,) = prompts.of_type(quickstart_prompt, "Distill3D_Optimize")
    asked = []

    def cancel_at_the_end(run):
        progress = run.progress(id)
        if progress and progress[-1][0] == progress[-1][1] and not asked:
            asked.append(run.prompt_id)
            time.sleep(late)
            comfyui.interrupt(run.prompt_id)

    run = comfyui.run(
        prompts.with_seed(quickstart_prompt, fresh_seed()), on_event=cancel_at_the_end
    )
    (entry,) = recoverable(comfyui, run)
    assert (entry["step"], entry["steps"], entry["node"]) == (4, 4, "Optimize")
    assert entry["prompt"] and entry["bad_steps"] == 0
    assert load_training(comfyui.output / entry["file"].removeprefix("output/")).training.step == 4


def test_a_finished_run_says_what_came_of_it_in_the_history(comfyui, quickstart_prompt):
    run = comfyui.run(prompts.with_seed(quickstart_prompt, fresh_seed()))
    (about,) = (
        output["distill3d_run"][0]
        for output in run.history["outputs"].values()
        if "distill3d_run" in output
    )
    assert (about["steps"], about["step"], about["bad_steps"], about["notes"]) == (4, 4, 0, [])
    assert comfyui.output.joinpath(about["kept"].removeprefix("output/")).is_file()


def test_a_cancelled_run_is_recovered_with_its_prompt_and_goes_on(comfyui, graph, object_info):
    cancelled = graph("SDSLoss", optimize={"steps": 100_000, "seed": fresh_seed()})
    asked = []

    def cancel(run):
        if len(run.progress("optimize")) >= 3 and not asked:
            asked.append(1)
            comfyui.interrupt(run.prompt_id)

    run = comfyui.run(cancelled, on_event=cancel)
    assert run.status == "interrupted"
    (entry,) = recoverable(comfyui, run)
    again = graph("SDSLoss", save={"training": True})
    again["recover"] = node(object_info, "Recover", file=entry["file"])
    again["optimize"] = optimize(
        object_info, "recover", seed=cancelled["optimize"]["inputs"]["seed"]
    )
    del again["start"]
    done = succeeded(comfyui.run(again))
    rest = load_training(saved(comfyui, done).with_suffix(".safetensors"))
    assert rest.training.step == entry["step"] + 3
    assert entry["prompt"] in done.history["outputs"]["recover"]["text"][0]


def test_a_file_that_no_run_left_is_refused_before_anything_runs(comfyui, object_info):
    from harness.server import PromptRefused

    for file in ("output/distill3d/autosave/../../secret.safetensors", "/etc/passwd", "x"):
        prompt = {"recover": node(object_info, "Recover", file=file)}
        with pytest.raises(PromptRefused, match="Recover: file"):
            comfyui.queue(prompt)


def test_export_mesh_shows_its_progress_and_a_cancel_ends_it_on_the_way(
    comfyui, quickstart, quickstart_prompt
):
    (id,) = prompts.of_type(quickstart_prompt, "Distill3D_ExportMesh")
    large = prompts.set_values(
        quickstart_prompt, "Distill3D_ExportMesh", resolution=192, texture_size=1024
    )
    before = set(comfyui.output.rglob("*"))
    asked = []

    def cancel(run):
        began = run.started(id)
        if began is not None and len(run.progress(id)) >= 12 and not asked:
            asked.append(True)
            comfyui.interrupt(run.prompt_id)

    run = comfyui.run(large, on_event=cancel)
    assert run.status == "interrupted"
    values = [value for value, _ in run.progress(id)]
    assert values == sorted(values) and values[-1] > values[0]
    assert not [path for path in set(comfyui.output.rglob("*")) - before if path.suffix == ".glb"]
    assert succeeded(comfyui.run(prompts.with_seed(quickstart_prompt, 8)))


def test_looking_into_a_loss_and_saving_a_large_cloud_are_cancelled_in_the_middle(
    comfyui, object_info
):
    links = {name: [name, 0] for name in ("prior", "prompts", "loss")}
    graph = {
        "prior": node(object_info, "LoadDiffusionPrior"),
        "prompts": node(object_info, "ViewPrompts", prior=["prior", 0]),
        "loss": node(object_info, "SDILoss"),
        "few": node(object_info, "InitGaussians", count=3000),
        "start": node(object_info, "InitGaussians", count=300_000),
    }
    at_work = {
        "inspect": node(object_info, "InspectGuidance", gaussians=["few", 0], views=8, **links),
        "save": node(
            object_info, "SaveGaussians", gaussians=["start", 0], format="sog",
            filename_prefix="ends/cancelled",
        ),
    }  # fmt: skip
    for id, one in at_work.items():
        shown = {"class_type": "PreviewImage", "inputs": {"images": [id, 0]}}
        asked = []

        def cancel(run, id=id, asked=asked):
            if run.started(id) is not None and not asked:
                time.sleep(0.3)
                asked.append(time.monotonic())
                comfyui.interrupt(run.prompt_id)

        more = {"shown": shown} if id == "inspect" else {}
        run = comfyui.run(graph | {id: one} | more, on_event=cancel)
        assert run.status == "interrupted", id
        assert run.started("shown") is None  # it did not end by itself
    assert not list((comfyui.output / "ends").glob("*.sog"))
