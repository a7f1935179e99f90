"""What stands in a node's inputs is what the kernels are given, and what a prompt leaves out is
their default."""

from __future__ import annotations

import ast
from dataclasses import fields

import pytest
from harness.nodes import declared_inputs, node, succeeded

from distill3d.kernels.cameras.orbit import OrbitSampler, Widening
from distill3d.kernels.gaussians.densify import Densify
from distill3d.kernels.gaussians.mcmc import MCMC
from distill3d.kernels.losses.cds import CDS
from distill3d.kernels.losses.csd import CSD
from distill3d.kernels.losses.ism import ISM
from distill3d.kernels.losses.nfsd import NFSD
from distill3d.kernels.losses.picture import Picture
from distill3d.kernels.losses.rfds import RFDS
from distill3d.kernels.losses.sctd import SCTD
from distill3d.kernels.losses.sdi import SDI
from distill3d.kernels.losses.sds import SDS
from distill3d.kernels.losses.trace import TraCe
from distill3d.kernels.losses.vdm import VDM
from distill3d.kernels.losses.vsd import VSD
from distill3d.kernels.run.learning_rates import LearningRates
from distill3d.kernels.run.settings import RunSettings

COMMON = {"reduction": "sum", "shared_t": True, "first_step": 1}
LATER = {  # node: its inputs that a prompt may leave out, none at its default
    "SDSLoss": COMMON,
    "NFSDLoss": COMMON,
    "RFDSLoss": COMMON,
    "CSDLoss": COMMON | {"negative_start": 0.9, "negative_end": 0.5},
    "ISMLoss": COMMON | {"start_level": 1, "gap_start": 100, "noise_offset": 0.1},
    "SCTDLoss": COMMON
    | {"t_low_start": 501, "t_low_end": 21, "margin_above": 11, "single_below": 150}
    | {"noise_per_view": True, "noise_offset": 0.1},
    "SDILoss": COMMON
    | {"reduction": "elements", "first_level": 1, "remap": False, "reverse_steps": 3},
    "VSDLoss": COMMON | {"lora_text": "prompt", "lora_beta2": 0.99, "lora_eps": 1e-15},
    "TraCeLoss": COMMON | {"lora_text": "view", "lora_beta2": 0.99, "lora_eps": 1e-15},
    "CDSLoss": {"reduction": "sum"},
    "VDMLoss": {"reduction": "sum"},
    "PictureLoss": {"reduction": "sum"},
    "OrbitCameras": {
        "azimuth_sectors": 4,
        "sphere_share": 0.5,
        "sphere_law": "consistent3d",
        "position_jitter": 0.025,
        "look_jitter": 0.05,
        "up_jitter": 0.01,
        "shared_fov": True,
        "widen_every": 300,
    },
    "LearningRates": {
        "final_scales": 0.3,
        "final_quats": 0.4,
        "final_opacities": 1.0,
        "final_colors": 0.6,
    },
    "RunOptions": {
        "judged_size": 512,
        "flip_share": 0.5,
        "depth_share": 0.2,
        "clip_norm_start": 2.0,
        "clip_norm_end": 8.0,
        "clip_norm_share": 0.25,
        "devices": "cpu",
    },
    "Densification": {
        "strategy": "gradients",
        "densify_start": 0.02,
        "gradient_threshold": 7.5e-4,
        "split_scale": 0.0105,
        "prune_scale": 0.35,
        "bounds": 1000.0,
        "split_opacity": "kept",
        "grow_first": True,
        "summed_views": True,
        "reset_every": 300,
        "reset_opacity": 0.02,
    },
}
LOSSES = (SDS, NFSD, RFDS, CSD, ISM, SCTD, SDI, VSD, TraCe, CDS, VDM, Picture)
KINDS = {f"{kind.name}Loss": kind for kind in LOSSES} | {"OrbitCameras": OrbitSampler}
RENAMED = {"densify_every": "every", "densify_start": "start", "densify_stop": "stop"}
RENAMED |= {"densify_grow": "grow_share"}


@pytest.fixture(scope="module")
def said(probing, info):
    """The text of what each node gives out: told everything, and no more than it must be."""
    prompt = {}
    for kind, later in LATER.items():
        full = node(info, kind, **later)
        least = {name: value for name, value in full["inputs"].items() if name not in later}
        for id, inputs in ((kind, full["inputs"]), (f"{kind} least", least)):
            prompt[id] = full | {"inputs": inputs}
            prompt[f"{id} said"] = {"class_type": "ProbeSettings", "inputs": {"value": [id, 0]}}
    mcmc = {"strategy": "MCMC", "densify_start": 0.02}
    prompt["MCMC"] = node(info, "Densification", **mcmc)
    prompt["MCMC said"] = {"class_type": "ProbeSettings", "inputs": {"value": ["MCMC", 0]}}
    outputs = succeeded(probing.run(prompt)).history["outputs"]
    texts = {id.removesuffix(" said"): output["said"][0] for id, output in outputs.items()}
    assert len(texts) == len(prompt) / 2
    return texts


def given(info, kind, later=()):
    """The node's inputs by name, as they are in a prompt with these."""
    values = node(info, kind, **dict(later))["inputs"]
    return {name: value for name, value in values.items() if name not in ("preset", "values")}


@pytest.mark.parametrize("kind", KINDS)
def test_a_losss_and_the_cameras_inputs_are_the_kernels_settings(said, info, kind):
    for text, later in ((said[kind], LATER[kind]), (said[f"{kind} least"], {})):
        values = given(info, kind, later)
        every = values.pop("widen_every", 0)
        if every:
            values["widening"] = Widening(every=every)
        assert text == repr(KINDS[kind](**values))


def test_learning_rates_and_run_options_are_fields_of_the_runs_settings(said, info):
    for id, later in (("", True), (" least", False)):
        rates = given(info, "LearningRates", LATER["LearningRates"] if later else {})
        told = ast.literal_eval(said[f"LearningRates{id}"])
        assert LearningRates(**told) == LearningRates(**rates)
        wanted = given(info, "RunOptions", LATER["RunOptions"] if later else {})
        own = {name: wanted.pop(name) for name in ("autosave_every", "render_backend")}
        text = said[f"RunOptions{id}"]
        assert text.startswith(
            f"Options(autosave_every={own['autosave_every']}, backend={own['render_backend']!r}"
        )
        told = ast.literal_eval(text.partition("settings=")[2].removesuffix(")"))
        wanted["judged_size"] = wanted["judged_size"] or None
        assert RunSettings(**told) == RunSettings(**wanted)


def test_densifications_inputs_are_its_strategys_fields(said, info):
    assert said["Densification least"] == repr(
        {"densify": Densify(count_max=20_000), "max_gaussians": 20_000}
    )
    names = {field.name for field in fields(Densify)}
    values = given(info, "Densification", LATER["Densification"])
    values = {RENAMED.get(name, name): value for name, value in values.items()}
    strategy = Densify(**{k: v for k, v in values.items() if k in names}, count_max=20_000)
    assert said["Densification"] == repr({"densify": strategy, "max_gaussians": 20_000})
    chain = MCMC(every=50, start=0.02, stop=0.6, growth=1.1, count_max=20_000)
    assert said["MCMC"] == repr({"densify": chain, "max_gaussians": 20_000})


def test_what_came_later_is_advanced_and_stands_last(info):
    """Else old workflows' values would belong to other inputs."""
    for kind, later in LATER.items():
        declared = [
            (name, options)
            for name, _, options in declared_inputs(info[f"Distill3D_{kind}"])
            if "default" in options
        ]
        if kind in KINDS:
            assert declared.pop()[0] == "values"
        last = declared[-len(later) :]
        assert {name for name, _ in last} == set(later), kind
        assert all(options.get("advanced") for _, options in last), kind
