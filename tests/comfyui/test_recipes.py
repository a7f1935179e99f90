"""Published recipes as workflows: their values are those of nodes/papers.json, one input is left to
choose, and each runs to its end on Stable Diffusion's architecture in both of its forms on disk.
"""

from __future__ import annotations

import json
import re
from pathlib import Path

import numpy as np
import pytest
import tiny_sd
from harness import environment, papers, prompts, recipes
from harness.nodes import succeeded
from harness.server import PromptRefused
from test_prior_from_model import asked_of

NAMES = recipes.names()
SCRIPT = "tests/comfyui/write_texts.py"
FOLDER, FILE = "tiny-sd", "tiny-sd.safetensors"
RESULTS = environment.ROOT / "tests" / "benchmarks" / "results"
NUMBER = re.compile(r"(?<![\w.])-?\d+(?:\.\d+)?(?:e-?\d+)?(?!\w)")
TOKENIZER = Path("comfy", "sd1_tokenizer")  # in ComfyUI's tree: CLIP's own


def test_every_file_is_made_of_the_papers_values(object_info):
    assert sorted(NAMES) == prompts.RECIPES and len(NAMES) == 9
    for file, text in recipes.files(object_info):
        assert file.read_text(encoding="utf-8") == text, f"run {SCRIPT}"


@pytest.mark.parametrize("name", NAMES)
def test_every_value_of_the_file_stands_in_its_node(object_info, name):
    prompt = prompts.api_form(prompts.read(name), object_info)
    nodes = {node["_meta"]["title"]: node["inputs"] for node in prompt.values()}
    for title, values in recipes.recipe(name).values.items():
        for input, value in values.items():
            assert nodes[title][input] == value, (title, input)


def kind(title):
    name = title.partition(":")[0].replace("Optimize N Steps", "Optimize")
    return f"Distill3D_{name.replace(' ', '')}"


STAGES = {"coarse": "coarse", "geometry": "refine", "texture": "texture", "later": "after"}
SIGNED = re.compile(r"(?<![\w.)])-?\d+(?:,\d{3})*(?:\.\d+)?(?:e-?\d+)?")


def part(told, title):
    """What the table says of the stage that the node's title names: "101 coarse, 51 texture", "40
    coarse, 30 after", "3,000 + 5,000" and "normal, then color" in their order; else all of it.
    """
    stage = title.partition(": ")[2]
    if " + " in told or ", then " in told:
        pieces = re.split(r" \+ |, then ", told)
        order = ("coarse", "geometry", "texture")
        place = order.index(stage) if stage in order else 0
        return pieces[max(place - 3 + len(pieces), 0)]
    pieces = re.split(r", (?=\S+ (?:coarse|refine|texture|after))", told)
    wanted = (STAGES.get(stage, "coarse"), "after" if stage != "coarse" else "coarse")
    named = [piece for piece in pieces if piece.split(" (")[0].split()[-1] in wanted]
    return named[0] if named and len(pieces) > 1 else told


def agrees(value, told, title):
    """Whether a recipe's value is what the table of the papers says of that stage."""
    told = part(told, title)
    if isinstance(value, bool):
        return ("on" if value else "off") in re.findall(r"\w+", told)
    if isinstance(value, str):
        return (value or "empty") in told or (len(value) > 40 and "a list" in told)
    numbers = [float(found.replace(",", "")) for found in SIGNED.findall(told)]
    return any(abs(value - number) <= 0.02 * abs(number) for number in numbers)


@pytest.mark.parametrize(
    ("value", "told", "title", "right"),
    [
        (31.0, "51 coarse, 31 refine, 51 texture", "CDS Loss: geometry", True),
        (51.0, "51 coarse, 31 refine, 51 texture", "CDS Loss: geometry", False),
        (30.0, "40 coarse, 30 after", "Orbit Cameras: later", True),
        (40.0, "40 coarse, 30 after", "Orbit Cameras: later", False),
        (5000, "3,000 + 3,000 + 5,000", "Refine Mesh: texture", True),
        (3000, "3,000 + 3,000 + 5,000", "Refine Mesh: texture", False),
        (5000, "3,000, then 5,000", "Refine Mesh: geometry", False),
        ("color", "normal, then color", "Refine Mesh: texture", True),
        (7.5, "-7.5, with Perp-Neg", "SDI Loss", False),
        (-10.0, "-10", "Orbit Cameras: coarse", True),
        ("uniform", "uniform coarse, 1-abar refine, 1-abar texture", "CDS Loss: texture", False),
        (64, "64 coarse (judged_size 512), 512 after", "Optimize: coarse", True),
        (0.0, "0.1 coarse, 0 after", "Orbit Cameras: coarse", False),
    ],
)
def test_a_value_agrees_with_what_is_said_of_its_stage_and_sign(value, told, title, right):
    assert agrees(value, told, title) == right


@pytest.mark.parametrize("name", NAMES)
def test_the_authors_values_are_those_of_the_papers_table(name):
    each, known, compared = recipes.recipe(name), papers.data()["values"], 0
    for title, values in each.values.items():
        for input, value in values.items():
            told = known.get(kind(title), {}).get(input, {}).get(each.short)
            if told is not None and input not in each.ours[title]:
                assert agrees(value, told, title), (
                    f"{title} {input}: {value!r}, the table says {told!r}"
                )
                compared += 1
    assert compared >= 5 or each.short not in papers.data()["papers"]  # its long configs


@pytest.mark.parametrize("language", recipes.LANGUAGES)
@pytest.mark.parametrize("name", NAMES)
def test_no_number_of_a_note_is_not_in_the_file(name, language):
    each = recipes.recipe(name)
    given = [each.values, each.told, each.measured, each.code, each.paper]
    known = {float(number) for number in NUMBER.findall(json.dumps(given))}
    known |= {-number for number in known}  # of a range's dash
    for note in recipes.notes(each, language):
        bare = re.sub(r"(?m)^\d\. ", "", note)
        lacking = {float(number) for number in NUMBER.findall(bare)} - known
        assert not lacking and len(note) > 200


@pytest.mark.parametrize("name", [name for name in NAMES if recipes.recipe(name).measured])
def test_what_a_note_says_was_measured_is_a_committed_row(name):
    each = recipes.recipe(name)
    told, loss = each.measured, each.loss
    found = json.loads(RESULTS.joinpath(told["file"]).read_text(encoding="utf-8"))
    assert found["device"] == told["device"]
    rows = found.get("cases") or found["recipes"]["consistent3d"]["stages"][:1]
    (row,) = (
        row
        for row in rows
        if (row["loss"].upper(), row["views"]) == (loss, told["views"])
        and row["gaussians"] == told["gaussians"]
    )
    step = row.get("ours", row)
    assert round(step.get("step_ms", step.get("median_ms")), 1) == told["ms"]
    if "gb" in told:
        assert round(step["memory"]["reserved_gb"], 1) == told["gb"]


@pytest.mark.parametrize("name", NAMES)
def test_without_a_model_one_input_of_one_node_is_refused_with_the_cure(comfyui, object_info, name):
    with pytest.raises(PromptRefused) as refused:
        comfyui.queue(prompts.api_form(prompts.read(name), object_info))
    (told,) = refused.value.node_errors.values()
    assert told["class_type"] == "Distill3D_LoadDiffusionPrior"
    (error,) = told["errors"]
    assert error["extra_info"]["input_name"] == "model"
    for part in (
        "'stable-diffusion-2-1-base'",
        "'toybox (embedded)'",
        "below checkpoints",
        "press R",
    ):
        assert part in error["details"]


@pytest.fixture(scope="module")
def both_forms(probing):
    """The same weights as a folder and as a checkpoint, where ComfyUI looks for them."""
    models = probing.base / "models"
    tiny_sd.write_folder(models / "diffusers" / FOLDER, environment.tree() / TOKENIZER)
    tiny_sd.write_checkpoint(models / "checkpoints" / FILE)


def small(name, model, info):
    """The recipe on that model with few steps and small pictures."""
    prompt = prompts.reduced(prompts.api_form(prompts.read(name), info), steps=2)
    prompt = prompts.set_values(prompt, "Distill3D_LoadDiffusionPrior", model=model)
    if prompts.of_type(prompt, "Distill3D_ExportMesh"):
        prompt = prompts.set_values(prompt, "Distill3D_ExportMesh", views=12)
    sizes = {64: 32, 512: 64}  # of coarse renders, which are stretched, and of others
    for node in prompt.values():
        for input in ("image_size", "judged_size"):
            if node["inputs"].get(input):
                node["inputs"][input] = sizes[node["inputs"][input]]
    return prompt


def test_folder_and_checkpoint_are_the_same_network(probing, both_forms):
    said = []
    for model in (FOLDER, FILE):
        inputs = {"model": model, "precision": "fp32"}
        prior = {"class_type": "Distill3D_LoadDiffusionPrior", "inputs": inputs}
        run = succeeded(probing.run({"prior": prior, "said": asked_of("prior")}))
        said.append(json.loads(run.history["outputs"]["said"]["said"][0]))
    words = [0, 2]  # of the probe's texts; a folder does not read the weights in the other
    for what, rows in (("latents", [0, 1]), ("embeddings", words), ("noise", words)):
        one, other = (np.array(each[what]) for each in said)
        pick = (slice(None), rows) if what == "noise" else rows
        # ComfyUI's text encoder works in half precision
        np.testing.assert_allclose(one[pick], other[pick], atol=0.01)
        assert one.std() > 0.05
    assert said[0]["size"] == [64, 8, 4]


BY_DEFAULT = {  # each graph and each loss once
    ("consistent3d_sd", FOLDER), ("dreamfusion_sd", FOLDER), ("dreammapping_sd", FILE),
    ("luciddreamer_sd", FILE), ("prolificdreamer_sd", FOLDER), ("scene_sd", FILE),
    ("sdi_sd", FILE), ("segmentdreamer_sd", FOLDER),
}  # fmt: skip
CASES = [
    (name, model)
    if (name, model) in BY_DEFAULT
    else pytest.param(name, model, marks=pytest.mark.nightly(reason="as the other form's"))
    for name in NAMES
    for model in (FOLDER, FILE)
    if (name, model) != ("prolificdreamer_sd", FILE)
]


@pytest.mark.parametrize(("name", "model"), CASES)
def test_recipe_runs_to_its_end(probing, info, both_forms, name, model):
    prompt = small(name, model, info)
    run = succeeded(probing.run(prompt))
    for loop in ("Distill3D_Optimize", "Distill3D_RefineMesh"):
        for id in prompts.of_type(prompt, loop):
            assert run.progress(id)[-1] == (2, 2), id
    kinds = {Path(file["filename"]).suffix for file in run.files}
    assert kinds >= ({".webp", ".ply"} if name == "scene_sd" else {".ply", ".glb"})
    for file in run.files:
        assert probing.view(file)


@pytest.mark.nightly(reason="as test_prior_from_model's of VSD with a linked MODEL")
def test_vsd_says_of_a_checkpoint_that_it_wants_a_folder(probing, info, both_forms):
    run = probing.run(small("prolificdreamer_sd", FILE, info))
    assert run.status == "error"
    assert "as a checkpoint or a linked MODEL has none" in run.error
    assert "Choose a folder in diffusers format" in run.error
