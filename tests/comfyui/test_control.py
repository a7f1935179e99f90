"""Control Prior: the same numbers as ComfyUI's own call with that ControlNet, and whole runs with
either kind.
"""

from __future__ import annotations

import json

import numpy as np
import pytest
from harness import environment
from harness.nodes import columns, node, optimize, saved, succeeded
from harness.probing import probing_server
from harness.server import PromptRefused
from test_four_ways import alive, freed
from test_prior_from_model import asked_of, close, parts
from tiny_prior import write_tiny_control, write_tiny_prior

SMALL = {"count": 300, "scale": 0.08, "opacity": 0.9}  # solid enough to be seen


def control_prior(info, source="prior", **inputs):
    return node(info, "ControlPrior", prior=[source, 0], **inputs)


def seen(info, family, **inputs):
    """API form: the probe's model and ControlNet, the prior of both, and the look at it."""
    prompt = parts(info, family=family) | {
        "net": {"class_type": "ProbeControlNet", "inputs": {"family": family, "file": ""}},
        "controlled": control_prior(info, control_net=["net", 0], **inputs),
    }
    links = {
        "prior": ["controlled", 0],
        "model": ["source", 0],
        "clip": ["source", 1],
        "vae": ["source", 2],
    }
    numbers = {
        name: inputs.get(key, default)
        for name, key, default in (
            ("strength", "strength", 1.0),
            ("start", "start_percent", 0.0),
            ("end", "end_percent", 1.0),
        )
    }
    prompt["said"] = {
        "class_type": "ProbeControlled",
        "inputs": {**links, "control_net": ["net", 0], **numbers},
    }
    return prompt


def told(server, prompt, id="said"):
    return json.loads(succeeded(server.run(prompt)).history["outputs"][id]["said"][0])


def nightly(*values):
    """Parameters for the nightly session: of the same kind as those beside them."""
    return pytest.param(*values, marks=pytest.mark.nightly(reason="as the others"))


@pytest.mark.parametrize(
    "family", ["sd15", nightly("sd20"), nightly("sdxl"), nightly("sd3"), "flux"]
)
def test_answers_are_those_of_comfyuis_own_call_with_the_control_net(probing, info, family):
    said = told(probing, seen(info, family, strength=0.8))
    close(said["noise"], said["direct"])
    without = told(probing, seen(info, family, strength=0.0))
    assert np.abs(np.array(said["noise"]) - np.array(without["noise"])).max() > 0.01
    assert said["gradient"][1] and said["gradient"][0] > 0 and not any(said["needs_grad"])


@pytest.fixture(scope="module")
def file(probing, info):
    """A ControlNet of SD 1.5's layout (control_model.*) below models/controlnet."""
    folder = probing.base / "models" / "controlnet"
    folder.mkdir(parents=True, exist_ok=True)
    name = "random-sd15.safetensors"
    inputs = {"family": "sd15", "file": str(folder / name)}
    succeeded(probing.run({"net": {"class_type": "ProbeControlNet", "inputs": inputs}}))
    return name


@pytest.mark.nightly(reason="as a random one above")
def test_a_file_from_comfyuis_loader_does_the_same_and_the_first_prior_stays(probing, info, file):
    prompt = seen(info, "sd15") | {"plain": asked_of("prior")}
    prompt["net"] = {"class_type": "ControlNetLoader", "inputs": {"control_net_name": file}}
    run = succeeded(probing.run(prompt))
    said, plain = (json.loads(run.history["outputs"][id]["said"][0]) for id in ("said", "plain"))
    close(said["noise"], said["direct"])
    alone = told(probing, parts(info, family="sd15") | {"said": asked_of("prior")})
    assert plain["noise"] == alone["noise"]


@pytest.mark.parametrize(("start", "end"), [nightly(0.0, 0.3), (0.3, 0.8), nightly(0.97, 1.0)])
def test_start_and_end_hold_for_each_row_as_for_comfyuis_single_one(probing, info, start, end):
    inside, whole, without = (
        told(probing, seen(info, "sd15", **range))
        for range in ({"start_percent": start, "end_percent": end}, {}, {"strength": 0.0})
    )
    close(inside["noise"], inside["direct"])
    counts = [start <= 1 - step / 999 <= end for step in (40, 500, 900)]
    for row, counted in enumerate(counts):
        expected = np.array((whole if counted else without)["noise"])[:, row]
        close(np.array(inside["noise"])[:, row], expected)


@pytest.mark.nightly(reason="a server for each; test_versions.py starts the oldest")
@pytest.mark.parametrize("version", environment.OLDER)
def test_answers_are_those_of_an_older_comfyui_too(tmp_path, version):
    with probing_server(tmp_path, version) as server:
        said = told(server, seen(server.object_info(), "sd15"))
    close(said["noise"], said["direct"])


def run_of(info, prior, loss="VDMLoss", **inputs):
    """API form of a short run with the node ``prior`` of these, saved."""
    links = {"loss": ["loss", 0], "prior": [prior, 0], "image_size": 64, "steps": 2, **inputs}
    return {
        "prompts": node(info, "ViewPrompts", prior=["prior", 0], prompt="a red mug", perp_neg=1.0),
        "cameras": node(info, "OrbitCameras"),
        "start": node(info, "InitGaussians", **SMALL),
        "loss": node(info, loss),
        "optimize": optimize(info, "start", **links),
        "save": node(
            info, "SaveGaussians", gaussians=["optimize", 0], filename_prefix="control/saved"
        ),
    }


def test_whole_runs_repeat_themselves_and_see_the_shape(probing, info, file):
    prompt = parts(info, family="sd15") | {
        "net": {"class_type": "ControlNetLoader", "inputs": {"control_net_name": file}},
        "controlled": control_prior(info, control_net=["net", 0]),
    }
    results = []
    for restart in (True, False):  # otherwise the same, so that ComfyUI runs it again
        run = succeeded(probing.run(prompt | run_of(info, "controlled", restart_schedule=restart)))
        results.append(saved(probing, run).read_bytes())
        cloud = columns(saved(probing, run))
    assert results[0] == results[1] and np.isfinite(cloud).all()
    other = dict(prompt)
    other["controlled"] = control_prior(info, control_net=["net", 0], shape="normal")
    alone = succeeded(probing.run(prompt | run_of(info, "prior")))
    turned = succeeded(probing.run(other | run_of(info, "controlled")))
    assert (
        len({results[0], saved(probing, alone).read_bytes(), saved(probing, turned).read_bytes()})
        == 3
    )


@pytest.mark.parametrize("family", [nightly("sdxl"), nightly("sd3"), "flux"])
def test_a_run_with_the_other_families_goes_to_its_end(probing, info, family):
    prompt = seen(info, family)
    del prompt["said"]
    run = succeeded(probing.run(prompt | run_of(info, "controlled")))
    assert np.isfinite(columns(saved(probing, run))).all()


@pytest.fixture(scope="module")
def folders(probing):
    """Names of a diffusers folder with a tiny prior and of a ControlNet folder for it."""
    prior = probing.base / "models" / "diffusers" / "tiny-controlled"
    write_tiny_prior(prior)
    write_tiny_control(prior, probing.base / "models" / "controlnet" / "tiny" / "depth")
    return "tiny-controlled", "tiny/depth"


@pytest.mark.nightly(reason="as those of ComfyUI's")
def test_folders_of_both_run_in_comfyuis_memory_and_repeat_themselves(probing, folders):
    info, (prior, control) = probing.object_info(), folders
    assert control in json.dumps(info["Distill3D_ControlPrior"]["input"]["required"]["folder"])
    prompt = {
        "prior": node(info, "LoadDiffusionPrior", model=prior),
        "controlled": control_prior(info, folder=control),
        "plain": asked_of("prior"),
        "inspect": node(info, "InspectGuidance", gaussians=["optimize", 0], **{
            name: [name, 0] for name in ("prompts", "cameras", "loss")
        }, prior=["controlled", 0]),
        "shown": {"class_type": "PreviewImage", "inputs": {"images": ["inspect", 0]}},
    }  # fmt: skip
    results = []
    for loss in ("VDMLoss", "VSDLoss"):
        for restart in (True, False):
            run = succeeded(
                probing.run(prompt | run_of(info, "controlled", loss, restart_schedule=restart))
            )
            results.append(saved(probing, run).read_bytes())
            probing.free()
    assert results[0] == results[1] and results[2] == results[3]
    alone = succeeded(probing.run(prompt | run_of(info, "prior")))
    assert saved(probing, alone).read_bytes() not in results


def test_both_priors_hold_the_weights_once_and_give_them_back(probing, folders, file):
    info, (prior, control) = probing.object_info(), folders
    net = {"net": {"class_type": "ControlNetLoader", "inputs": {"control_net_name": file}}}
    ways = (
        # reads, judges, control
        ({"prior": node(info, "LoadDiffusionPrior", model=prior)}, {"folder": control}, 3),
        # the MODEL, its CLIP, the encoder, control
        (parts(info, family="sd15") | net, {"control_net": ["net", 0]}, 4),
    )
    start = freed(probing)
    for loaded, inputs, most in ways:
        prompt = loaded | {"controlled": control_prior(info, **inputs)} | run_of(info, "controlled")
        prompt["alone"] = optimize(info, "start", image_size=64, steps=1)
        prompt["save alone"] = node(
            info, "SaveGaussians", gaussians=["alone", 0], filename_prefix="control/alone"
        )
        succeeded(probing.run(prompt))
        assert 0 < alive(probing)[1] <= most
        left, models = freed(probing)
        assert left < start[0] + 2e6 and models == 0


def test_pairs_that_do_not_fit_are_refused_with_the_reason_before_the_run(probing, folders, file):
    info, (tiny, folder) = probing.object_info(), folders
    net = {"net": {"class_type": "ControlNetLoader", "inputs": {"control_net_name": file}}}
    diffusers = {"prior": node(info, "LoadDiffusionPrior", model=tiny)}
    linked = {"control_net": ["net", 0]}
    other = {"net": {"class_type": "ProbeControlNet", "inputs": {"family": "sdxl", "file": ""}}}
    twice = seen(info, "sd15")
    twice["first"], twice["controlled"] = (
        twice["controlled"],
        control_prior(info, "first", **linked),
    )
    cases = [
        (parts(info, family="sd15"), {}, "control_net is not linked"),
        (parts(info, family="sd15") | net, linked | {"folder": folder}, "folder is 'tiny/depth', but prior"),
        (parts(info, family="sdxl") | net, linked, "to_k.weight has 320 x 768 weights, that of the model 320 x 2048"),
        (parts(info, family="sd15") | other, linked, "label_emb.0.0.weight has 1280 x 2816 weights, that of the model"),
        (parts(info, family="flux") | net, linked, "that of the model none. Choose a ControlNet made for FLUX"),
        (diffusers | net, linked, "control_net is linked, but prior 'tiny-controlled' is a diffusers folder"),
        (diffusers, {}, "folder is 'none', but prior 'tiny-controlled' needs a ControlNet in diffusers format"),
        ({"prior": node(info, "LoadDiffusionPrior")}, {"folder": folder}, "its block_out_channels is [8, 16], but"),
    ]  # fmt: skip
    for prompt, inputs, message in cases:
        run = probing.run(
            prompt | {"controlled": control_prior(info, **inputs)} | run_of(info, "controlled")
        )
        assert run.status == "error" and run.error.startswith("Distill3D_ControlPrior"), (
            message,
            run.error,
        )
        assert message in run.error, run.error
    run = probing.run(twice)
    assert run.status == "error" and "is told of the views already" in run.error


def test_shares_in_the_wrong_order_are_refused_before_anything_runs(probing, info):
    prompt = parts(info, family="sd15") | {
        "controlled": control_prior(info, start_percent=0.8, end_percent=0.2)
    }
    prompt |= run_of(info, "controlled")
    with pytest.raises(PromptRefused, match=r"start is 0.8 and end 0.2"):
        probing.queue(prompt)
