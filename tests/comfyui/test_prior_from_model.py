"""ComfyUI's MODEL, CLIP and VAE as a prior: the same numbers as ComfyUI's own networks, and whole
runs with it.
"""

from __future__ import annotations

import json

import numpy as np
import pytest
import torch
from harness import environment
from harness.nodes import columns, node, optimize, saved, succeeded
from harness.probing import probing_server
from safetensors.torch import save_file


def parts(info, source="source", **inputs):
    """API form of the probe's model and the prior made of it."""
    links = {"model": [source, 0], "clip": [source, 1], "vae": [source, 2]}
    return {
        "source": node(info, "ProbeModel", **inputs),
        "prior": {"class_type": "Distill3D_DiffusionPriorFromModel", "inputs": links},
    }


def asked_of(prior):
    return {"class_type": "ProbePrior", "inputs": {"prior": [prior, 0]}}


def looked(prompt):
    """The prompt with the prior looked at, and the parts that it was made of."""
    links = {name: prompt["prior"]["inputs"][name] for name in ("model", "clip", "vae")}
    return prompt | {
        "said": asked_of("prior"),
        "direct": {"class_type": "ProbeDirect", "inputs": {**links, "v": False}},
    }


def said(probing, prompt):
    outputs = succeeded(probing.run(prompt)).history["outputs"]
    return [json.loads(outputs[id]["said"][0]) for id in ("said", "direct")]


def close(a, b, tolerance=1e-5):
    np.testing.assert_allclose(np.array(a), np.array(b), rtol=tolerance, atol=tolerance)


@pytest.mark.parametrize("family", ["sd15", "sd20", "sdxl", "sd3", "flux"])
def test_answers_are_those_of_the_networks_called_directly(probing, info, family):
    prior, direct = said(probing, looked(parts(info, family=family)))
    for name in ("noise", "embeddings", "latents", "images"):
        close(prior[name], direct[name])
    assert not any(prior["needs_grad"])
    assert np.std(prior["noise"]) > 0.1
    for name in ("noise", "latents"):  # a picture at a time
        close(prior["apart"][name], prior[name])
    assert prior["apart"]["gradient"] < 1e-4
    total, finite = prior["gradient"]
    assert finite and total > 0
    size, channels = {"sd15": (512, 4), "sd20": (512, 4)}.get(
        family, (1024, 16 if family in ("sd3", "flux") else 4)
    )
    assert prior["size"] == [size, 8, channels]
    first, again, other = map(np.array, prior["samples"])
    assert np.array_equal(first, again) and not np.array_equal(first, other)


@pytest.mark.nightly(reason="a server for each; test_versions.py starts the oldest")
@pytest.mark.parametrize("version", environment.OLDER)
def test_answers_are_those_of_an_older_comfyui_too(tmp_path, version):
    with probing_server(tmp_path, version) as server:
        prior, direct = said(server, looked(parts(server.object_info(), family="sd15")))
    for name in ("noise", "embeddings", "latents", "images"):
        close(prior[name], direct[name])
    assert prior["gradient"][1] and prior["gradient"][0] > 0


def test_what_other_nodes_did_to_the_model_counts(probing, info):
    plain = said(probing, looked(parts(info, family="sd15")))[0]
    (probing.base / "models" / "loras").mkdir(exist_ok=True)
    save_file(lora(), probing.base / "models" / "loras" / "tiny.safetensors")
    prompt = parts(info, family="sd15")
    prompt["lora"] = {
        "class_type": "LoraLoader",
        "inputs": {
            "model": ["source", 0],
            "clip": ["source", 1],
            "lora_name": "tiny.safetensors",
            "strength_model": 1.0,
            "strength_clip": 1.0,
        },
    }
    prompt["prior"]["inputs"] |= {"model": ["lora", 0], "clip": ["lora", 1]}
    patched, direct = said(probing, looked(prompt))
    for name in ("noise", "embeddings"):
        close(patched[name], direct[name])
        assert np.abs(np.array(patched[name]) - np.array(plain[name])).max() > 0.01
    assert patched["latents"] == plain["latents"]
    # without it the model is as it was
    again = said(probing, looked(parts(info, family="sd15")))[0]
    close(again["noise"], plain["noise"])


@pytest.mark.parametrize(
    "family", ["sd3", pytest.param("flux", marks=pytest.mark.nightly(reason="as SD 3's"))]
)
def test_a_denoisers_file_by_comfyuis_loader_answers_the_same(probing, info, family):
    prompt = parts(info, family=family)
    plain = said(probing, looked(prompt))[0]
    save = node(
        info, "ModelSave", model=["source", 0], filename_prefix=f"diffusion_models/{family}"
    )
    succeeded(probing.run({"source": prompt["source"], "save": save}))
    prompt["file"] = node(
        info, "UNETLoader", unet_name=f"{family}_00001_.safetensors", weight_dtype="default"
    )
    prompt["prior"]["inputs"]["model"] = ["file", 0]
    loaded, direct = said(probing, looked(prompt))
    for name in ("noise", "latents", "embeddings"):
        close(loaded[name], plain[name])
        close(loaded[name], direct[name])


@pytest.mark.parametrize("family", ["sd15", "sdxl"])
def test_patches_tell_prompts_from_negative_ones_as_in_comfyuis_samplers(probing, info, family):
    prompt = parts(info, family=family) | {
        "adapter": {"class_type": "ProbeAdapter", "inputs": {"model": ["source", 0]}}
    }
    links = {"prior": ["prior", 0], "model": ["source", 0], "clip": ["source", 1]}
    prompt["said"] = {"class_type": "ProbeSampled", "inputs": links}

    def answers():
        return json.loads(succeeded(probing.run(prompt)).history["outputs"]["said"]["said"][0])

    plain = answers()
    prompt["prior"]["inputs"]["model"] = prompt["said"]["inputs"]["model"] = ["adapter", 0]
    patched = answers()
    for said in (plain, patched):
        close(said["together"], said["direct"])
        close(said["alone"], said["direct"])
        close(said["some"], np.array(said["direct"])[:, :1])
    change = np.abs(np.array(patched["direct"]) - np.array(plain["direct"])).max((1, 2, 3, 4))
    # the prompt's half and the other's are changed, and not alike
    assert change[0] > 2 * change[1] > 0.01


def test_v_prediction_and_its_schedule_come_from_the_models_sampling(probing, info):
    prompt = parts(info, family="sd20")
    prompt["v"] = node(
        info, "ModelSamplingDiscrete", model=["source", 0], sampling="v_prediction", zsnr=True
    )
    prompt["prior"]["inputs"]["model"] = ["v", 0]
    prompt = looked(prompt)
    prompt["direct"]["inputs"]["v"] = True
    prior, direct = said(probing, prompt)
    close(prior["noise"], direct["noise"])
    assert prior["size"][0] == 768
    assert prior["ratio"][-1] == pytest.approx(1000, rel=1e-3)  # where ComfyUI's own is 4519
    assert np.all(np.diff(prior["ratio"]) >= 0)


@pytest.mark.parametrize(
    ("family", "node_type", "shift"),
    [("sd3", "ModelSamplingSD3", 6.0), ("flux", "ModelSamplingFlux", 0.7)],
)
def test_a_flows_times_are_those_of_its_shift(probing, info, family, node_type, shift):
    prompt = parts(info, family=family)
    inputs = (
        {"shift": shift}
        if family == "sd3"
        else {"max_shift": shift, "base_shift": shift, "width": 512, "height": 512}
    )
    prompt["shifted"] = node(info, node_type, model=["source", 0], **inputs)
    prompt["prior"]["inputs"]["model"] = ["shifted", 0]
    prior, direct = said(probing, looked(prompt))
    close(prior["noise"], direct["noise"])
    even = np.arange(1, 1000) / 1000
    factor = shift if family == "sd3" else np.exp(shift)
    np.testing.assert_allclose(prior["ratio"][:900], (factor * even / (1 - even))[:900], rtol=1e-3)


def test_flux_is_told_the_guidance_that_the_node_says(probing, info):
    noise = []
    for guidance in (1.0, 3.5):
        prompt = looked(parts(info, family="flux"))
        prompt["prior"]["inputs"]["distilled_guidance"] = guidance
        noise.append(np.array(said(probing, prompt)[0]["noise"]))
    assert np.abs(noise[0] - noise[1]).max() > 1e-3


@pytest.mark.parametrize(
    ("source", "message"),
    [
        ({"channels": 9}, "model takes 9 channels per latent, 5 of them a mask or picture"),
        ({"latent_channels": 16}, "vae makes 16 channels per latent, but model reads 4"),
    ],
)
def test_parts_that_make_no_prior_are_refused_with_the_reason(probing, info, source, message):
    prompt = parts(info, family="sd15", **source)
    run = probing.run(prompt | {"said": asked_of("prior")})
    assert run.status == "error"
    assert run.error.startswith("Distill3D_DiffusionPriorFromModel") and message in run.error


def test_a_text_encoder_of_another_family_is_refused(probing, info):
    prompt = parts(info, family="sd15") | {"other": node(info, "ProbeModel", family="sd20")}
    prompt["prior"]["inputs"]["clip"] = ["other", 1]
    run = probing.run(prompt | {"said": asked_of("prior")})
    assert "clip makes 1024 values per token, but model reads 768" in run.error


@pytest.mark.parametrize(
    ("family", "other", "message"),
    [
        ("sd3", "sdxl", "clip makes 2048 values per token, but model reads 4096"),
        ("flux", "sd3", "clip makes 2048 values per text, but model reads 768"),
        ("sd15", "vae of sd3", "vae makes 16 channels per latent, but model reads 4"),
        ("flux", "vae of sd15", "vae makes 4 channels per latent, but model reads 16"),
    ],
)
def test_parts_of_two_families_are_refused(probing, info, family, other, message):
    kind = other.removeprefix("vae of ")
    prompt = parts(info, family=family) | {"other": node(info, "ProbeModel", family=kind)}
    socket, place = ("clip", 1) if kind == other else ("vae", 2)
    prompt["prior"]["inputs"][socket] = ["other", place]
    run = probing.run(prompt | {"said": asked_of("prior")})
    assert run.status == "error" and message in run.error


@pytest.mark.parametrize(
    ("family", "colors", "found"),
    [
        ("sd15", "sdxl", "SDXL, by its colours; model is Stable Diffusion 1.x or 2.x"),
        ("sdxl", "sd15", "Stable Diffusion 1.x or 2.x, by its colours; model is SDXL"),
        ("sd15", "sd15", None),
        pytest.param("sd20", "sd15", None, marks=pytest.mark.nightly(reason="as SD 1.5's")),
        ("sdxl", "sdxl", None),
        ("sd3", "sd3", None),
    ],
)
def test_a_vae_whose_colours_are_another_familys_is_refused(probing, info, family, colors, found):
    prompt = parts(info, family=family) | {
        "other": node(info, "ProbeModel", family=family, latent_channels=4, colors=colors),
        "said": asked_of("prior"),
    }
    prompt["prior"]["inputs"]["vae"] = ["other", 2]
    run = probing.run(prompt)
    assert run.status == ("success" if found is None else "error")
    if found:
        assert f"vae makes the latents of {found}" in run.error


LOSSES = ("VDMLoss", "CDSLoss", "SDSLoss", "CSDLoss", "NFSDLoss", "ISMLoss", "SDILoss", "SCTDLoss")


def run_of(info, losses, steps, **inputs):
    """API form of one Optimize per loss on the probe's model, saved under the loss's name, and the
    start.
    """
    prompt = parts(info, **inputs) | {
        "prompts": node(
            info, "ViewPrompts", prior=["prior", 0], prompt="a (red:1.2) mug", perp_neg=1.0
        ),
        "cameras": node(info, "OrbitCameras"),
        "start": node(info, "InitGaussians", count=300, scale=0.04, opacity=0.12),
    }
    for loss in losses:
        prompt[f"{loss} settings"] = node(info, loss)
        links = {"loss": [f"{loss} settings", 0], "image_size": 64, "steps": steps}
        prompt[loss] = optimize(info, "start", **links)
    for id in ("start", *losses):
        prompt[f"save {id}"] = node(
            info, "SaveGaussians", gaussians=[id, 0], filename_prefix=f"model/{id}"
        )
    return prompt


def test_whole_runs_move_the_gaussians_and_repeat_themselves(probing, info):
    losses = LOSSES[:3]  # those after them draw and learn as these do
    prompt = run_of(info, losses, 2, family="sd15")
    first = succeeded(probing.run(prompt))
    for loss in losses:
        # otherwise the same, so that ComfyUI runs it again
        prompt[loss]["inputs"]["restart_schedule"] = True
    again = succeeded(probing.run(prompt))
    start = columns(saved(probing, first, "save start"))
    for loss in losses:
        one, two = (saved(probing, run, f"save {loss}") for run in (first, again))
        assert np.isfinite(columns(one)).all(), loss
        assert not np.array_equal(columns(one), start), loss
        assert one.read_bytes() == two.read_bytes(), loss


@pytest.mark.parametrize(
    "family",
    [
        pytest.param("sd15", marks=pytest.mark.nightly(reason="three of them above")),
        pytest.param("sd20", marks=pytest.mark.nightly(reason="as SD 1.5")),
        pytest.param("sdxl", marks=pytest.mark.nightly(reason="as SD 1.5")),
        "sd3",
        "flux",
    ],
)
def test_every_loss_runs_with_the_other_families(probing, info, family):
    prompt = run_of(info, LOSSES, 1, family=family)
    if family == "sd20":
        prompt["v"] = node(
            info, "ModelSamplingDiscrete", model=["source", 0], sampling="v_prediction"
        )
        prompt["prior"]["inputs"]["model"] = ["v", 0]
    run = succeeded(probing.run(prompt))
    start = columns(saved(probing, run, "save start"))
    for loss in LOSSES:
        cloud = columns(saved(probing, run, f"save {loss}"))
        assert np.isfinite(cloud).all() and not np.array_equal(cloud, start), loss


def test_vsd_says_that_it_cannot_train_such_a_model(probing, info):
    prompt = parts(info, family="sd15") | {
        "prompts": node(info, "ViewPrompts", prior=["prior", 0]),
        "cameras": node(info, "OrbitCameras"),
        "start": node(info, "InitGaussians", count=100),
        "loss": node(info, "VSDLoss"),
        "optimize": optimize(info, "start", image_size=64),
        "save": node(info, "SaveGaussians", gaussians=["optimize", 0], filename_prefix="model/vsd"),
    }
    run = probing.run(prompt)
    assert "has no network that could be trained on the renders" in run.error


def lora():
    """A LoRA of rank 2 on one projection of the U-Net and one of the text encoder, in ComfyUI's and
    kohya's names.
    """
    generator = torch.Generator().manual_seed(8)
    unet, text = (
        "diffusion_model.input_blocks.1.1.transformer_blocks.0.attn2.to_v",
        "lora_te_text_model_encoder_layers_0_mlp_fc2",
    )
    shapes = {unet: (320, 768), text: (768, 64)}
    return {
        f"{name}.lora_{way}.weight": torch.randn(
            (shape[0], 2) if way == "up" else (2, shape[1]), generator=generator
        )
        / 4
        for name, shape in shapes.items()
        for way in ("up", "down")
    }
