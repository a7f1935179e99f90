"""MVDream as a prior, from a folder and from a file: random weights in its own layout, inside a
running ComfyUI.
"""

from __future__ import annotations

import json

import mvdream_reference as reference
import numpy as np
import pytest
import torch
from harness.nodes import columns, node, optimize, saved, succeeded
from safetensors.torch import load_file
from test_checkpoints import load_prior
from tiny_mvdream import FILES, FOLDER, write_checkpoint, write_tiny_mvdream

VOCABULARY = 49408  # CLIP's, whose tokenizer ComfyUI brings along
FOLDER_NAME, FILE_NAME = "tiny-mvdream", "tiny-mvdream-sd2.safetensors"


@pytest.fixture(scope="module")
def models(probing):
    """Below models/diffusers and models/checkpoints; the file's weights."""
    folder, files = (probing.base / "models" / name for name in ("diffusers", "checkpoints"))
    files.mkdir(parents=True, exist_ok=True)
    write_tiny_mvdream(folder / FOLDER_NAME)
    write_tiny_mvdream(folder / "tiny-imagedream", ip_dim=16)
    return write_checkpoint(files / FILE_NAME, "sd2", VOCABULARY)


def part(weights, prefix):
    return {
        name.removeprefix(prefix): value
        for name, value in weights.items()
        if name.startswith(prefix)
    }


def heard(probing, name):
    prompt = {
        "prior": load_prior(name, "fp32"),
        "said": {"class_type": "ProbeViews", "inputs": {"prior": ["prior", 0]}},
    }
    said = json.loads(succeeded(probing.run(prompt)).history["outputs"]["said"]["said"][0])
    return {name: torch.tensor(values) for name, values in said.items()}


def agrees(said, weights, config):
    """Noise estimates of the network written down plainly, for the embeddings that the prior made
    itself.
    """
    total, finite = said["gradient"]
    assert finite and total > 0
    for noise, embedding in zip(said["noise"], said["embeddings"], strict=True):
        text = embedding.expand(8, -1, -1)
        with torch.no_grad():
            expected = reference.unet(
                weights, config, said["z"], said["t"], text, said["camera"], 4
            )
        assert expected.std() > 0.05
        torch.testing.assert_close(noise, expected, atol=1e-5, rtol=1e-5)


def test_folder_answers_as_the_network_written_down_plainly(probing, models):
    folder = probing.base / "models" / "diffusers" / FOLDER_NAME
    agrees(
        heard(probing, FOLDER_NAME),
        load_file(folder / "unet" / "diffusion_pytorch_model.safetensors"),
        FOLDER,
    )


def test_file_answers_as_the_networks_written_down_plainly(probing, models):
    said = heard(probing, FILE_NAME)
    agrees(said, part(models, "model.diffusion_model."), FILES["sd2"])
    own = reference.openclip(part(models, "cond_stage_model.model."), said["tokens"].long(), 64)
    torch.testing.assert_close(said["embeddings"][0], own, atol=1e-5, rtol=1e-5)
    mean = reference.encoder(part(models, "first_stage_model."), said["pixels"] * 2 - 1)
    torch.testing.assert_close(said["latents"], 0.18215 * mean, atol=1e-5, rtol=1e-5)


def run(info, name, loss, **inputs):
    return {
        "prior": load_prior(name, "fp32"),
        "prompts": node(info, "ViewPrompts", prior=["prior", 0], prompt="a red mug, 3d asset"),
        "cameras": node(
            info, "OrbitCameras", elevation_min=0.0, elevation_max=30.0, overhead_share=0.0
        ),
        "start": node(info, "InitGaussians", count=200, scale=0.04, opacity=0.12),
        "loss": node(info, loss),
        "optimize": optimize(info, "start", image_size=16, steps=2, **inputs),
        "save": node(
            info, "SaveGaussians", gaussians=["optimize", 0], filename_prefix="mvdream/saved"
        ),
    }


@pytest.mark.parametrize(("name", "loss"), [(FOLDER_NAME, "CDSLoss"), (FILE_NAME, "VDMLoss")])
def test_runs_go_to_their_end(probing, info, models, name, loss):
    prompt = run(info, name, loss, views=4)
    links = {
        "prior": ["prior", 0],
        "prompts": ["prompts", 0],
        "gaussians": ["optimize", 0],
        "loss": ["loss", 0],
    }
    prompt["inspect"] = node(info, "InspectGuidance", views=8, **links)
    prompt["shown"] = {"class_type": "PreviewImage", "inputs": {"images": ["inspect", 0]}}
    assert np.isfinite(columns(saved(probing, succeeded(probing.run(prompt))))).all()


def test_views_that_make_no_groups_and_scene_cameras_are_refused(probing, info, models):
    refused = probing.run(run(info, FOLDER_NAME, "SDSLoss", views=6))
    assert refused.status == "error"
    assert (
        "views is 6; prior 'tiny-mvdream' judges 4 views of one object together: use 4, 8"
        in refused.error
    )
    scene = run(info, FOLDER_NAME, "SDSLoss", views=4) | {"cameras": node(info, "SceneCameras")}
    refused = probing.run(scene)
    assert refused.status == "error" and "Use Orbit Cameras" in refused.error


def test_imagedream_is_refused_with_the_reason(probing, models):
    prompt = {
        "prior": load_prior("tiny-imagedream"),
        "said": {"class_type": "ProbeViews", "inputs": {"prior": ["prior", 0]}},
    }
    refused = probing.run(prompt)
    assert refused.status == "error" and "is an ImageDream model" in refused.error
