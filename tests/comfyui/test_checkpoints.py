"""Checkpoint files as a prior, by Load Diffusion Prior: Stable Diffusion 1.5's layout with random weights."""

from __future__ import annotations

import json

import numpy as np
import pytest
import torch
from harness.server import PromptRefused
from safetensors.torch import load_file, save_file
from test_nodes import columns, node, optimize, saved, succeeded
from test_prior_from_model import asked_of, close, info, looked, parts, probing, said  # noqa: F401 - fixtures


@pytest.fixture(scope="module")
def checkpoint(probing, info):  # noqa: F811
    """A shallow U-Net with the text encoder and the VAE of Stable Diffusion 1.5's own size, as one file."""
    folder = probing.base / "models" / "checkpoints"
    folder.mkdir(parents=True, exist_ok=True)
    prompt = parts(info, family="sd15", whole=True)
    links = prompt.pop("prior")["inputs"]
    file = folder / "random-sd15.safetensors"
    prompt["save"] = {"class_type": "ProbeSave", "inputs": {**links, "file": str(file)}}
    succeeded(probing.run(prompt))
    probing.free()
    return file


def load_prior(name, precision="auto"):
    return {"class_type": "Distill3D_LoadDiffusionPrior", "inputs": {"model": name, "precision": precision}}


def test_file_answers_as_comfyuis_own_loader_and_network_do(probing, info, checkpoint):  # noqa: F811
    prompt = looked(
        {
            "source": {"class_type": "CheckpointLoaderSimple", "inputs": {"ckpt_name": checkpoint.name}},
            "prior": parts(info)["prior"],
        }
    )
    linked, direct = said(probing, prompt)
    loaded, _ = said(probing, prompt | {"prior": load_prior(checkpoint.name, "fp32")} | {"direct": prompt["direct"]})
    for name in ("noise", "embeddings", "latents", "images"):
        close(linked[name], direct[name])
        close(loaded[name], direct[name])
    assert np.isfinite(loaded["noise"]).all() and np.std(loaded["noise"]) > 0.1
    assert loaded["gradient"][1] and loaded["size"] == [512, 8, 4]


def test_a_run_with_a_checkpoint_goes_to_its_end(probing, info, checkpoint):  # noqa: F811
    prompt = {
        "prior": load_prior(checkpoint.name, "fp32"),
        "prompts": node(info, "ViewPrompts", prior=["prior", 0]),
        "cameras": node(info, "OrbitCameras"),
        "start": node(info, "InitGaussians", count=200, scale=0.04, opacity=0.12),
        "loss": node(info, "VDMLoss"),
        "optimize": optimize(info, "start", image_size=64, steps=2),
        "save": node(info, "SaveGaussians", gaussians=["optimize", 0], filename_prefix="checkpoint/saved"),
    }
    assert np.isfinite(columns(saved(probing, succeeded(probing.run(prompt))))).all()


def test_files_that_are_no_such_checkpoint_are_refused_with_the_reason(probing, info, checkpoint):  # noqa: F811
    weights = load_file(checkpoint)
    unet = {name: value for name, value in weights.items() if name.startswith("model.")}
    files = {
        "unknown": ({"some.weight": torch.zeros(2, 2)}, "ComfyUI does not recognise it"),
        "unet-only": (unet, "holds no text encoder"),
    }
    for name, (content, message) in files.items():
        save_file(content, checkpoint.with_name(f"{name}.safetensors"))
        run = probing.run({"prior": load_prior(f"{name}.safetensors"), "said": asked_of("prior")})
        assert run.status == "error" and f"checkpoint '{name}.safetensors'" in run.error and message in run.error


def test_pickled_checkpoints_are_not_offered(probing, checkpoint):  # noqa: F811
    checkpoint.with_name("pickled.ckpt").write_bytes(b"")
    offered = json.dumps(probing.object_info()["Distill3D_LoadDiffusionPrior"]["input"]["required"]["model"])
    assert checkpoint.name in offered and "pickled" not in offered
    with pytest.raises(PromptRefused):
        probing.queue({"prior": load_prior("pickled.ckpt"), "said": asked_of("prior")})
