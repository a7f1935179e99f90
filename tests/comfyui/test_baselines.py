"""The other published losses in a running ComfyUI: each runs, and VSD trains there without touching
the prior.
"""

from __future__ import annotations

import numpy as np
import plyfile
import pytest
from harness import prompts
from harness.server import PromptRefused
from safetensors.numpy import load_file
from tiny_prior import write_tiny_prior

LOSSES = ("CSDLoss", "NFSDLoss", "ISMLoss", "VSDLoss", "TraCeLoss", "SDILoss", "SCTDLoss")


@pytest.fixture(scope="module")
def branches(comfyui, object_info, quickstart_prompt):
    """A function that gives a prompt of runs, {name: (loss, where it starts, Optimize's inputs)},
    on a tiny prior.
    """
    folder = comfyui.base / "models" / "diffusers" / "tiny-baselines"
    if not folder.exists():
        write_tiny_prior(folder)
    base = prompts.set_values(
        quickstart_prompt, "Distill3D_LoadDiffusionPrior", model="tiny-baselines"
    )
    optimize = base[prompts.of_type(base, "Distill3D_Optimize")[0]]["inputs"]
    kept = ("LoadDiffusionPrior", "ViewPrompts", "OrbitCameras", "InitText")
    kinds = [*(f"Distill3D_{kind}" for kind in kept), *prompts.SETTINGS.values()]
    shared = {id: base[id] for kind in kinds for id in prompts.of_type(base, kind)}
    (start,) = prompts.of_type(base, "Distill3D_InitText")

    def node(kind, **inputs):
        declared = object_info[f"Distill3D_{kind}"]["input"]["required"]
        values = {
            name: spec[1].get("default") for name, spec in declared.items() if "default" in spec[1]
        }
        return {"class_type": f"Distill3D_{kind}", "inputs": values | inputs}

    def build(**runs):
        prompt = dict(shared)
        for name, (loss, source, values) in runs.items():
            links = {
                "loss": [f"{name} loss", 0],
                "gaussians": [source or start, 0],
                "views": 2,
            }
            prompt[f"{name} loss"] = node(loss)
            inputs = optimize | links | {"steps": 2, "schedule_steps": 0} | values
            prompt[name] = {"class_type": "Distill3D_Optimize", "inputs": inputs}
            prompt[f"{name} saved"] = node(
                "SaveGaussians",
                gaussians=[name, 0],
                filename_prefix=f"baselines/{name}",
                training=True,
            )
        return prompt

    return build


def saved(comfyui, run, name):
    """The .ply that a run's Save Gaussians wrote."""
    assert run.status == "success", run.error
    (record,) = (file for file in run.files if file["node"] == f"{name} saved")
    return comfyui.output / record["subfolder"] / record["filename"]


def test_every_loss_runs_and_moves_the_gaussians(comfyui, branches):
    run = comfyui.run(branches(**{loss: (loss, None, {}) for loss in LOSSES}))
    clouds = []
    for loss in LOSSES:
        rows = plyfile.PlyData.read(str(saved(comfyui, run, loss)))["vertex"].data
        clouds.append(np.stack([rows[name] for name in rows.dtype.names], -1))
        assert np.isfinite(clouds[-1]).all()
    different = {cloud.tobytes() for cloud in clouds}
    # without a negative prompt NFSD is CSD above its t_low, so these two may agree
    assert len(different) >= 6


def test_better_draws_count_more_by_the_scorer_that_is_linked(comfyui, branches):
    prompt = branches(SDSLoss=("SDSLoss", None, {}), other=("CDSLoss", None, {}))
    prompt["scorer"] = {
        "class_type": "Distill3D_PictureScorer",
        "inputs": {"model": "judge of the toybox (embedded)", "prompt": "a red mug"},
    }
    settings = {"draws": 2, "strategy": "best", "sharpness": 1.0, "steps": 1, "until": 1.0}
    links = {"loss": ["SDSLoss loss", 0], "scorer": ["scorer", 0]}
    prompt["reward"] = {"class_type": "Distill3D_RewardLoss", "inputs": links | settings}
    refused = {"loss": ["other loss", 0], "scorer": ["scorer", 0]} | settings
    wrong = {"class_type": "Distill3D_RewardLoss", "inputs": refused}
    prompt["weighed"] = dict(prompt["SDSLoss"])
    prompt["weighed"]["inputs"] = prompt["SDSLoss"]["inputs"] | {"loss": ["reward", 0]}
    prompt["weighed saved"] = dict(prompt["SDSLoss saved"])
    prompt["weighed saved"]["inputs"] = prompt["SDSLoss saved"]["inputs"] | {
        "gaussians": ["weighed", 0],
        "filename_prefix": "baselines/weighed",
    }
    run = comfyui.run({id: each for id, each in prompt.items() if not id.startswith("other")})
    own, weighed = (saved(comfyui, run, name).read_bytes() for name in ("SDSLoss", "weighed"))
    assert own != weighed
    prompt["weighed"]["inputs"] |= {"loss": ["wrong", 0]}
    failed = comfyui.run(prompt | {"wrong": wrong})
    assert failed.status == "error" and "loss is CDS, which does not draw" in failed.error


def test_vsd_trains_goes_on_where_it_stopped_and_leaves_the_prior_as_it_was(comfyui, branches):
    half = {"steps": 2, "schedule_steps": 4}
    runs = {
        "before": ("SDSLoss", None, {}),
        "whole": ("VSDLoss", None, {"steps": 4}),
        "first": ("VSDLoss", None, half),
        "second": ("VSDLoss", "first", half),
        # else ComfyUI would answer with what it has
        "after": ("SDSLoss", None, {"restart_schedule": True}),
    }
    results = {}
    for name in runs:  # one after the other on the one prior that ComfyUI keeps
        wanted = {"first": runs["first"]} if name == "second" else {}
        results[name] = saved(comfyui, comfyui.run(branches(**wanted, **{name: runs[name]})), name)
    assert results["before"].read_bytes() == results["after"].read_bytes()
    assert results["whole"].read_bytes() == results["second"].read_bytes()

    trained = load_file(results["second"].with_suffix(".safetensors"))
    assert trained["loss/updates"] == 4
    up = [
        value
        for key, value in trained.items()
        if key.startswith("loss/lora.") and ".lora_B." in key
    ]
    assert up and all(np.abs(value).max() > 0 for value in up)


@pytest.mark.parametrize(
    ("loss", "values", "message"),
    [
        ("CSDLoss", {"t_min": 600}, "CSD Loss: t_min 600 is above t_max_end 500"),
        ("SCTDLoss", {"segments": 20}, "gap 80 does not fit into a segment of 48 steps"),
        ("SDILoss", {"stride": 0}, "stride"),
        ("VSDLoss", {"lora_rank": 0}, "lora_rank"),
    ],
)
def test_bad_settings_are_refused_before_anything_runs(comfyui, branches, loss, values, message):
    prompt = branches(run=(loss, None, {}))
    prompt["run loss"]["inputs"] |= values
    with pytest.raises(PromptRefused) as refused:
        comfyui.queue(prompt)
    assert message in str(refused.value)
