"""Every image family of ComfyUI as a prior: small random networks of the true classes, from files of
the true layouts by ComfyUI's own loaders, in a real server.

The whole matrix is a nightly test; with DISTILL3D_WRITE_RESULTS=1 it writes the rows of the table in
docs/models-checked.md (then run tests/benchmarks/tables.py).
"""

from __future__ import annotations

import json
import os

import numpy as np
import pytest
import torch
from harness.environment import ROOT
from harness.nodes import columns, node, optimize, saved, succeeded
from safetensors.torch import save_file

RESULTS = ROOT / "tests" / "benchmarks" / "results" / "image_models.json"
LOSSES = {"SDS": "SDSLoss", "CDS": "CDSLoss", "VDM": "VDMLoss"}
# One of each form: texts of any length, frames of a video's VAE, pixels, few steps.
OFTEN = ("Z-Image", "Qwen-Image", "Chroma Radiance", "FLUX.1 schnell")
PIXELS = ("Chroma Radiance", "Z-Image pixel", "PixelDiT", "HiDream-O1")
LARGE = {"PixArt alpha": 272, "PixArt sigma": 272}
ROWS = json.loads(RESULTS.read_text())["rows"] if RESULTS.exists() else []


def made(info, family, **inputs):
    """API form of a family's MODEL, CLIP, VAE and prior."""
    links = {name: ["source", place] for place, name in enumerate(("model", "clip", "vae"))}
    if family in PIXELS:
        links.pop("vae")
    return {
        "source": node(info, "ProbeFamily", family=family, **inputs),
        "prior": node(info, "DiffusionPriorFromModel", **links),
    }, links


def judged(probing, prompt, links, size):
    """What the probe says of the prior beside ComfyUI's own."""
    inputs = {"prior": ["prior", 0], "size": size, **links}
    prompt = prompt | {"said": {"class_type": "ProbeJudged", "inputs": inputs}}
    outputs = succeeded(probing.run(prompt)).history["outputs"]
    return json.loads(outputs["said"]["said"][0])


def runs(probing, info, prompt, size):
    """How far one step of each loss moves the Gaussians at most."""
    prompt = prompt | {
        "prompts": node(
            info, "ViewPrompts", prior=["prior", 0], prompt="a red mug", interpolate=True, perp_neg=1.0
        ),
        "cameras": node(info, "OrbitCameras"),
        "start": node(info, "InitGaussians", count=200, scale=0.04, opacity=0.12),
    }  # fmt: skip
    for loss, kind in LOSSES.items():
        prompt[f"{loss} settings"] = node(info, kind)
        links = {"loss": [f"{loss} settings", 0], "image_size": size, "steps": 1, "views": 1}
        prompt[loss] = optimize(info, "start", **links)
    for id in ("start", *LOSSES):
        prompt[f"save {id}"] = node(
            info, "SaveGaussians", gaussians=[id, 0], filename_prefix=f"family/{id}"
        )
    run = succeeded(probing.run(prompt))
    clouds = {id: columns(saved(probing, run, f"save {id}")) for id in ("start", *LOSSES)}
    assert all(np.isfinite(cloud).all() for cloud in clouds.values())
    return {loss: float(np.abs(clouds[loss] - clouds["start"]).max()) for loss in LOSSES}


def checked(probing, info, family):
    """A row of the table, every claim in it held."""
    size = LARGE.get(family, 64)
    prompt, links = made(info, family)
    said = judged(probing, prompt, links, size)
    assert max(said["apart"]) < 1e-5, said["apart"]
    assert min(said["spread"]) > 0.1 and said["between"]
    encode = said["encode"]
    slope, wanted = encode["slope"]
    assert encode["finite"] and abs(slope - wanted) < 0.02 * abs(wanted), encode["slope"]
    assert encode["apart"] < 1e-5 and encode["images"] == [1, 3, size, size]
    # the text counts, and where there is no negative branch both answers are one
    assert (said["text"] == 0) == (family == "FLUX.1 schnell")
    moved = runs(probing, info, prompt, size)
    # VDM's first step is guidance alone
    wanted = set(LOSSES) - ({"VDM"} if family == "FLUX.1 schnell" else set())
    assert {loss for loss, far in moved.items() if far > 0} == wanted, moved
    lengths = [shape[1] for shape in said["tokens"]]
    return {
        "model": family,
        "class": said["kind"],
        "predicts": said["about"].split(" predicts ")[1].split(";")[0],
        "latent": said["latent"],
        "tokens": lengths,
        "levels": said["levels"] if said["levels"] < 100 else 0,
        "apart": max(said["apart"]),
        "moved": sorted(wanted),
    }


@pytest.mark.parametrize("family", OFTEN)
def test_a_family_answers_as_comfyuis_samplers_and_moves_the_gaussians(probing, info, family):
    row = checked(probing, info, family)
    (listed,) = [each for each in ROWS if each["model"] == family]
    same = ("class", "predicts", "latent", "tokens", "levels", "moved")
    assert {name: row[name] for name in same} == {name: listed[name] for name in same}


@pytest.mark.nightly(reason="38 families, some minutes; four of them run every time")
@pytest.mark.timeout(3600)
def test_every_family_answers_as_comfyuis_samplers_and_moves_the_gaussians(probing, info):
    names = info["ProbeFamily"]["input"]["required"]["family"][0]
    failed, rows = {}, []
    for family in names:
        try:
            rows.append(checked(probing, info, family))
        except AssertionError as error:
            failed[family] = str(error)[:500]
    if os.environ.get("DISTILL3D_WRITE_RESULTS"):
        RESULTS.write_text(json.dumps({"comfyui": "0.30.0", "rows": rows}, indent=1) + "\n")
    assert not failed, "\n".join(f"{name}: {why}" for name, why in failed.items())
    assert len(rows) >= 28 and {row["model"] for row in rows} >= set(PIXELS)


def test_the_table_lists_every_family(info):
    names = info["ProbeFamily"]["input"]["required"]["family"][0]
    assert [row["model"] for row in ROWS] == names


@pytest.mark.parametrize(
    ("family", "vae"),
    [
        ("Qwen-Image", "rgba"),
        ("Z-Image", "tiny16"),
        pytest.param("MageFlow", "mage", marks=pytest.mark.nightly(reason="138 million weights")),
    ],
)
def test_other_forms_of_vae_serve_as_well(probing, info, family, vae):
    prompt, links = made(info, family, vae=vae)
    encode = judged(probing, prompt, links, 64)["encode"]
    slope, wanted = encode["slope"]
    assert encode["finite"] and abs(slope - wanted) < 0.05 * abs(wanted)  # a tiny one has kinks
    assert encode["apart"] < 1e-5 and encode["images"] == [1, 3, 64, 64]


@pytest.mark.parametrize("family", ["FLUX.2 klein", "Qwen-Image"])
def test_pictures_are_read_as_comfyuis_samplers_read_them(probing, info, family):
    prompt, links = made(info, family)
    prompt["picture"] = node(info, "SamplePicture")
    prompt["small"] = {
        "class_type": "ImageScale",
        "inputs": {"image": ["picture", 0], "upscale_method": "bilinear", "width": 64, "height": 64,
                   "crop": "disabled"},
    }  # fmt: skip
    prompt["prior"]["inputs"]["pictures"] = ["small", 0]
    said, without = (
        judged(probing, prompt, links | {"pictures": ["small", 0], "same": same}, 64)
        for same in (True, False)
    )
    assert max(said["apart"]) < 1e-5 and min(without["apart"]) > 1e-4, (said, without)


def test_a_model_that_reads_no_pictures_refuses_them(probing, info):
    prompt, links = made(info, "SD 1.5")
    prompt["picture"] = node(info, "SamplePicture")
    prompt["prior"]["inputs"]["pictures"] = ["picture", 0]
    prompt["said"] = {
        "class_type": "ProbeJudged", "inputs": {"prior": ["prior", 0], "size": 64, **links}
    }  # fmt: skip
    run = probing.run(prompt)
    assert run.status == "error" and "reads none beside its text. Link an edit model" in run.error


@pytest.mark.parametrize("weights", ["fp8", "fp8_scaled", "int8", "nvfp4"])
def test_quantised_models_judge_as_comfyui_samples_them(probing, info, weights):
    family = "Chroma Radiance"
    plain, quantised = (
        judged(probing, *made(info, family, weights=kind), 64) for kind in ("float32", weights)
    )
    assert max(quantised["apart"]) < 1e-5
    assert quantised["text"] != plain["text"]  # it is another model, a little


@pytest.mark.parametrize("weights", ["float32", "fp8_scaled"])
def test_a_lora_counts_on_a_transformer_too_quantised_or_not(probing, info, weights):
    generator = torch.Generator().manual_seed(8)
    layer = "diffusion_model.double_blocks.0.img_attn.qkv"
    state = {
        f"{layer}.lora_A.weight": torch.randn(2, 128, generator=generator),
        f"{layer}.lora_B.weight": torch.randn(384, 2, generator=generator) / 4,
    }
    folder = probing.base / "models" / "loras"
    folder.mkdir(parents=True, exist_ok=True)
    save_file(state, folder / "family.safetensors")
    prompt, links = made(info, "Chroma Radiance", weights=weights)
    plain = judged(probing, prompt, links, 64)
    lora = {"model": ["source", 0], "lora_name": "family.safetensors", "strength_model": 1.0}
    prompt["lora"] = {"class_type": "LoraLoaderModelOnly", "inputs": lora}
    prompt["prior"]["inputs"]["model"] = links["model"] = ["lora", 0]
    patched = judged(probing, prompt, links, 64)
    assert max(patched["apart"]) < 1e-5 and patched["text"] != plain["text"]


def test_a_kind_that_nobody_knows_is_taken_as_it_behaves(probing, info):
    links = {name: ["source", place] for place, name in enumerate(("model", "clip", "vae"))}
    prompt = {
        "source": {"class_type": "ProbeStandIn", "inputs": {}},
        "prior": node(info, "DiffusionPriorFromModel", **links),
    }
    said = judged(probing, prompt, links, 64)
    assert "QwenImage21" in said["about"] and "is not known here" in said["about"]
    assert said["latent"] == [64, 16, 2] and max(said["apart"]) < 1e-5
    slope, wanted = said["encode"]["slope"]
    assert abs(slope - wanted) < 0.02 * abs(wanted)
    assert min(runs(probing, info, prompt, 64).values()) > 0


def test_a_renders_alpha_is_judged_where_the_vae_takes_it(probing, info):
    prompt, _ = made(info, "Qwen-Image", vae="rgba")
    run = probing.run(
        prompt | {"said": {"class_type": "ProbeAlpha", "inputs": {"prior": ["prior", 0]}}}
    )
    said = json.loads(succeeded(run).history["outputs"]["said"]["said"][0])
    assert said["takes_alpha"] and said["gradient"] > 0
    assert said["opaque"] < 1e-6 < said["clear"]


def test_models_of_other_kinds_are_refused_by_what_they_do(probing):
    run = succeeded(probing.run({"said": {"class_type": "ProbeRefused", "inputs": {}}}))
    said = json.loads(run.history["outputs"]["said"]["said"][0])
    taken = {name for name, sentence in said.items() if not sentence}
    listed = {row["class"] for row in ROWS}
    assert taken == listed | {"HunyuanDiT1", "SD21UnclipL", "SD21UnclipH", "JoyImage"}
    for names, does in (
        (
            ("WAN21_T2V", "HunyuanVideo", "LTXV", "CogVideoX_T2V", "Kandinsky5"),
            "which makes videos",
        ),
        (("StableAudio", "ACEStep15"), "which makes sound"),
        (("Hunyuan3Dv2", "Hunyuan3Dv2_1"), "which makes shapes"),
        (("PiD",), "decodes another model's latents"),
        (("FluxInpaint",), "takes 96 channels per latent, 80 of them a mask or picture"),
        (("CosmosI2VPredict2",), "takes 17 channels per latent, 1 of them a mask or picture"),
        (("SD15_instructpix2pix",), "takes 8 channels per latent, 4 of them a mask or picture"),
        (("SDXLRefiner",), "refines pictures that SDXL has begun"),
        (("DepthAnything3",), "which measures depth in pictures"),
    ):
        for name in names:
            assert does in said[name], said[name]


@pytest.mark.parametrize("steps", [1, 8])
def test_a_distilled_model_is_asked_at_its_own_levels_without_a_negative_branch(
    probing, info, steps
):
    prompt, links = made(info, "Z-Image")
    prompt["prior"]["inputs"]["few_steps"] = steps
    said = judged(probing, prompt, links, 64)
    assert said["levels"] == steps and said["text"] == 0
    assert max(said["apart"]) < 1e-5
    for words in ("No negative branch", f"{steps} noise levels", "teaches better: Z-Image base"):
        assert words in said["about"]


def test_without_a_negative_branch_guidance_has_no_effect_at_any_level(probing, info):
    prompt, links = made(info, "Z-Image")
    prompt["prior"]["inputs"]["negative_branch"] = False
    said = judged(probing, prompt, links, 64)
    assert said["levels"] > 900 and said["text"] == 0 and max(said["apart"]) < 1e-5


def test_auto_fills_in_what_suits_the_model_and_tells_it(probing, info):
    prompt, _ = made(info, "Z-Image")
    prompt |= {
        "prompts": node(info, "ViewPrompts", prior=["prior", 0], prompt="a red mug"),
        "cameras": node(info, "OrbitCameras", values="auto"),
        "start": node(info, "InitGaussians", count=200, scale=0.04, opacity=0.12),
        "sds": node(info, "SDSLoss", values="auto", guidance=3.0),
        "cds": node(info, "CDSLoss", values="auto"),
        "both": node(info, "CombineLosses", loss_a=["sds", 0], loss_b=["cds", 0]),
        "run": optimize(info, "start", loss=["both", 0], image_size=64, steps=1, views=1),
    }
    prompt["save"] = node(info, "SaveGaussians", gaussians=["run", 0], filename_prefix="auto")
    run = succeeded(probing.run(prompt))
    assert np.isfinite(columns(saved(probing, run, "save"))).all()
    log = probing.log.read_text(encoding="utf-8")
    # its pictures are made at guidance 4, Stable Diffusion's at 7.5
    assert "auto, untried (after DreamFusion): guidance 47.2, t_min 43" in log
    assert "auto, untried (after Consistent3D): guidance_start 47.2" in log
    assert "auto, untried (after Consistent3D): overhead_share 0, distance_min 1.5" in log


def test_lcm_is_a_distilled_model_of_fifty_levels(probing, info):
    prompt, links = made(info, "SD 1.5")
    prompt["lcm"] = node(info, "ModelSamplingDiscrete", model=["source", 0], sampling="lcm")
    prompt["prior"]["inputs"]["model"] = links["model"] = ["lcm", 0]
    said = judged(probing, prompt, links, 64)
    assert said["levels"] == 50 and said["text"] == 0 and max(said["apart"]) < 1e-5


def test_long_prompts_are_read_whole(probing, info):
    prompt, links = made(info, "SD 1.5")
    prompt["said"] = {"class_type": "ProbeLong", "inputs": {"prior": ["prior", 0], **links}}
    said = json.loads(succeeded(probing.run(prompt)).history["outputs"]["said"]["said"][0])
    assert said["tokens"] == 154 and said["apart"] < 1e-5
