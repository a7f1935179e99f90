"""Checkpoint files as a prior, by Load Diffusion Prior: the layouts of each family with random
weights.
"""

from __future__ import annotations

import json
import os

import numpy as np
import pytest
import torch
from harness.nodes import columns, node, optimize, saved, succeeded
from harness.server import PromptRefused
from safetensors.torch import load_file, save_file
from test_prior_from_model import asked_of, close, looked, parts, said

# SDXL's text encoders take 3 GB of memory and minutes: only where it is asked for
FAMILIES = [
    "sd15",
    pytest.param("sd20v", marks=pytest.mark.nightly(reason="as SD 1.5's, of another layout")),
    *(["sd20", "sdxl"] if os.environ.get("DISTILL3D_LARGE_TESTS") else []),
]


def written(probing, info, family):
    """A checkpoint of that family: a narrow U-Net with the text encoder and the VAE of its own
    size, as one file.
    """
    folder = probing.base / "models" / "checkpoints"
    folder.mkdir(parents=True, exist_ok=True)
    file = folder / f"random-{family}.safetensors"
    if not file.exists():
        prompt = parts(info, family=family, whole=True)
        links = prompt.pop("prior")["inputs"]
        prompt["save"] = {"class_type": "ProbeSave", "inputs": {**links, "file": str(file)}}
        succeeded(probing.run(prompt))
        probing.free()
    return file


@pytest.fixture(scope="module")
def checkpoint(probing, info):
    return written(probing, info, "sd15")


def load_prior(name, precision="auto"):
    return {
        "class_type": "Distill3D_LoadDiffusionPrior",
        "inputs": {"model": name, "precision": precision},
    }


@pytest.mark.parametrize("family", FAMILIES)
def test_file_answers_as_comfyuis_own_loader_and_network_do(probing, info, family):
    file = written(probing, info, family)
    prompt = looked(
        {
            "source": {"class_type": "CheckpointLoaderSimple", "inputs": {"ckpt_name": file.name}},
            "prior": parts(info)["prior"],
        }
    )
    prompt["direct"]["inputs"]["v"] = family == "sd20v"
    linked, direct = said(probing, prompt)
    loaded, _ = said(
        probing, prompt | {"prior": load_prior(file.name, "fp32")} | {"direct": prompt["direct"]}
    )
    for name in ("noise", "embeddings", "latents", "images"):
        close(linked[name], direct[name])
        close(loaded[name], direct[name])
    assert np.isfinite(loaded["noise"]).all() and np.std(loaded["noise"]) > 0.1
    size = {"sd20v": 768, "sdxl": 1024}.get(family, 512)
    assert loaded["gradient"][1] and loaded["size"] == [size, 8, 4]
    probing.free()


def test_a_run_with_a_checkpoint_goes_to_its_end(probing, info, checkpoint):
    prompt = {
        "prior": load_prior(checkpoint.name, "fp32"),
        "prompts": node(info, "ViewPrompts", prior=["prior", 0]),
        "cameras": node(info, "OrbitCameras"),
        "start": node(info, "InitGaussians", count=200, scale=0.04, opacity=0.12),
        "loss": node(info, "VDMLoss"),
        "optimize": optimize(info, "start", image_size=64, steps=2),
        "save": node(
            info, "SaveGaussians", gaussians=["optimize", 0], filename_prefix="checkpoint/saved"
        ),
    }
    assert np.isfinite(columns(saved(probing, succeeded(probing.run(prompt))))).all()


def test_files_that_are_no_such_checkpoint_are_refused_with_the_reason(probing, info, checkpoint):
    weights = load_file(checkpoint)
    unet = {name: value for name, value in weights.items() if name.startswith("model.")}
    files = {
        "unknown": ({"some.weight": torch.zeros(2, 2)}, "ComfyUI does not recognise it"),
        "unet-only": (unet, "holds no text encoder"),
    }
    for name, (content, message) in files.items():
        save_file(content, checkpoint.with_name(f"{name}.safetensors"))
        run = probing.run({"prior": load_prior(f"{name}.safetensors"), "said": asked_of("prior")})
        assert (
            run.status == "error"
            and f"checkpoint '{name}.safetensors'" in run.error
            and message in run.error
        )


def test_files_that_lack_weights_or_are_cut_short_are_refused_by_name(probing, info, checkpoint):
    weights, folder = load_file(checkpoint), checkpoint.parent
    without = {
        "out": "model.diffusion_model.out.2.weight",
        "deep": "model.diffusion_model.output_blocks.",
        "encoder": "first_stage_model.encoder.mid.block_1.conv1.weight",
        "tokens": "cond_stage_model.transformer.text_model.embeddings.token_embedding.weight",
    }
    for name, lost in without.items():
        kept = {key: value for key, value in weights.items() if not key.startswith(lost)}
        save_file(kept, folder / f"without-{name}.safetensors")
    whole = checkpoint.read_bytes()
    (folder / "cut.safetensors").write_bytes(whole[: len(whole) // 2])
    (folder / "no-weights.safetensors").write_bytes(b"not found" * 50)
    (probing.base / "models" / "loras").mkdir(exist_ok=True)
    (probing.base / "models" / "loras" / "broken.safetensors").write_bytes(b"not found" * 50)
    reasons = {
        f"without-{name}": (lost if name != "deep" else "download it again")
        for name, lost in without.items()
    }
    reasons |= {"cut": "cut short: download it again", "no-weights": "cut short: download it again"}
    for name, reason in reasons.items():
        run = probing.run(
            {"prior": load_prior(f"{name}.safetensors", "fp32"), "said": asked_of("prior")}
        )
        assert run.status == "error" and name in run.error and reason in run.error, (
            name,
            run.error,
        )
        (folder / f"{name}.safetensors").unlink()
    old = {
        key.replace("transformer.text_model.", "transformer."): value
        for key, value in weights.items()
    }
    save_file(old, folder / "old-names.safetensors")
    succeeded(
        probing.run(
            {"prior": load_prior("old-names.safetensors", "fp32"), "said": asked_of("prior")}
        )
    )
    prompt = {"prior": load_prior(checkpoint.name, "fp32"), "said": asked_of("prior")}
    prompt["prior"]["inputs"]["lora"] = "broken.safetensors"
    run = probing.run(prompt)
    assert run.status == "error" and "lora 'broken.safetensors' cannot be read" in run.error
    probing.free()


def test_a_vae_from_another_familys_checkpoint_is_refused(probing, info, checkpoint):
    prompt = parts(info, family="sdxl") | {
        "other": {"class_type": "CheckpointLoaderSimple", "inputs": {"ckpt_name": checkpoint.name}},
        "said": asked_of("prior"),
    }
    prompt["prior"]["inputs"]["vae"] = ["other", 2]
    run = probing.run(prompt)
    assert run.status == "error"
    assert (
        f"vae comes from {checkpoint.name}, which is Stable Diffusion 1.x or 2.x; model is SDXL"
        in run.error
    )


def test_pickled_checkpoints_are_not_offered(probing, checkpoint):
    checkpoint.with_name("pickled.ckpt").write_bytes(b"")
    offered = json.dumps(
        probing.object_info()["Distill3D_LoadDiffusionPrior"]["input"]["required"]["model"]
    )
    assert checkpoint.name in offered and "pickled" not in offered
    with pytest.raises(PromptRefused):
        probing.queue({"prior": load_prior("pickled.ckpt"), "said": asked_of("prior")})
