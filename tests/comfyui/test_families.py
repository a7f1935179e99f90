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
from harness.environment import ROOT
from test_nodes import columns, node, optimize, saved, succeeded
from test_prior_from_model import info, probing  # noqa: F401

RESULTS = ROOT / "tests" / "benchmarks" / "results" / "image_models.json"
LOSSES = {"SDS": "SDSLoss", "CDS": "CDSLoss", "VDM": "VDMLoss"}
# One of each form: texts of any length, frames of a video's VAE, pixels, few steps.
OFTEN = ("Z-Image", "Qwen-Image", "Chroma Radiance", "FLUX.1 schnell")
PIXELS = ("Chroma Radiance", "Z-Image pixel", "PixelDiT", "HiDream-O1")
LARGE = {"PixArt alpha": 272, "PixArt sigma": 272}
ROWS = json.loads(RESULTS.read_text())["rows"] if RESULTS.exists() else []


def made(info, family, **inputs):  # noqa: F811
    """API form of a family's MODEL, CLIP, VAE and prior."""
    links = {name: ["source", place] for place, name in enumerate(("model", "clip", "vae"))}
    if family in PIXELS and not inputs:
        links.pop("vae")
    return {
        "source": node(info, "ProbeFamily", family=family, **inputs),
        "prior": node(info, "DiffusionPriorFromModel", **links),
    }, links


def judged(probing, prompt, links, size):  # noqa: F811
    """What the probe says of the prior beside ComfyUI's own."""
    inputs = {"prior": ["prior", 0], "size": size, **links}
    prompt = prompt | {"said": {"class_type": "ProbeJudged", "inputs": inputs}}
    outputs = succeeded(probing.run(prompt)).history["outputs"]
    return json.loads(outputs["said"]["said"][0])


def runs(probing, info, prompt, size):  # noqa: F811
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


def checked(probing, info, family):  # noqa: F811
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
def test_a_family_answers_as_comfyuis_samplers_and_moves_the_gaussians(probing, info, family):  # noqa: F811
    row = checked(probing, info, family)
    (listed,) = [each for each in ROWS if each["model"] == family]
    same = ("class", "predicts", "latent", "tokens", "levels", "moved")
    assert {name: row[name] for name in same} == {name: listed[name] for name in same}


@pytest.mark.nightly
def test_every_family_answers_as_comfyuis_samplers_and_moves_the_gaussians(probing, info):  # noqa: F811
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


def test_the_table_lists_every_family(info):  # noqa: F811
    names = info["ProbeFamily"]["input"]["required"]["family"][0]
    assert [row["model"] for row in ROWS] == names


@pytest.mark.parametrize(
    ("family", "vae", "size"), [("Qwen-Image", "rgba", 64), ("Z-Image", "tiny16", 64)]
)
def test_other_forms_of_vae_serve_as_well(probing, info, family, vae, size):  # noqa: F811
    prompt, links = made(info, family, vae=vae)
    encode = judged(probing, prompt, links, size)["encode"]
    slope, wanted = encode["slope"]
    assert encode["finite"] and abs(slope - wanted) < 0.05 * abs(wanted)  # a tiny one has kinks
    assert encode["apart"] < 1e-5 and encode["images"] == [1, 3, size, size]
