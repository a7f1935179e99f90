"""Score Views and Inspect Guidance in a running ComfyUI."""

from __future__ import annotations

import io

import pytest
from harness import prompts
from harness.nodes import PACK, defaults
from harness.server import PromptRefused
from PIL import Image
from tiny_clip import write_tiny_clip

SCORE, INSPECT = "Distill3D_ScoreViews", "Distill3D_InspectGuidance"


@pytest.fixture
def prompt(object_info):
    """The shipped workflow at reduced size, API form."""
    return prompts.reduced(prompts.api_form(prompts.read("inspect"), object_info), steps=3)


@pytest.fixture(scope="module")
def clip(comfyui):
    """The name of a CLIP folder with a tiny random model."""
    folder = comfyui.base / "models" / "clip_vision" / "tiny" / "clip"
    if not folder.exists():
        write_tiny_clip(folder)
    return "tiny/clip"


def shown(comfyui, run, prompt, kind):
    """Pictures that a Preview Image behind a node of that kind showed."""
    (source,) = prompts.of_type(prompt, kind)
    ids = [
        id for id, node in prompt.items()
        if node["class_type"] == "PreviewImage" and node["inputs"]["images"][0] == source
    ]  # fmt: skip
    files = [file for file in run.files if file["node"] in ids]
    return [Image.open(io.BytesIO(comfyui.view(file))) for file in files]


def report(run, prompt):
    (id,) = prompts.of_type(prompt, "PreviewAny")
    return run.history["outputs"][id]["text"][0]


def needed(prompt, kind, /, **changes):
    """The prompt without what the pictures of that kind of node do not need; ``changes`` to that
    node's inputs.
    """
    (id,) = prompts.of_type(prompt, kind)
    prompt[id]["inputs"] |= changes
    keep = {
        name for name, node in prompt.items()
        if node["class_type"] == "PreviewImage" and node["inputs"]["images"][0] == id
    }  # fmt: skip
    todo = list(keep)
    while todo:
        links = [
            value[0] for value in prompt[todo.pop()]["inputs"].values() if isinstance(value, list)
        ]
        todo += [link for link in links if link not in keep]
        keep.update(links)
    return {name: node for name, node in prompt.items() if name in keep}


def test_a_toy_is_measured_against_the_truth_and_by_the_judge(comfyui, prompt):
    prompt = prompts.set_values(prompt, SCORE, views=3)
    run = comfyui.run(prompt)
    assert run.status == "success", run.error
    text = report(run, prompt)
    assert text.startswith("a red mug: 3 views, 4000 Gaussians")
    for word in (
        "IoU",
        "PSNR",
        "saturation",
        "judge: shows the right object",
        "R-precision",
        "Janus",
    ):
        assert word in text
    assert "CLIP" not in text and "distractors" not in text
    pictures = shown(comfyui, run, prompt, SCORE)
    assert [picture.size for picture in pictures] == [(128, 256)] * 3  # the truth below


def test_any_other_prompt_is_measured_by_clip(comfyui, prompt, clip):
    values = {
        "prompt": "a wooden dragon",
        "clip": clip,
        "distractors": "a cat\n\na dog",
        "views": 4,
    }
    prompt = prompts.set_values(prompt, SCORE, **values)
    run = comfyui.run(prompt)
    assert run.status == "success", run.error
    text = report(run, prompt)
    assert (
        "CLIP score" in text
        and "CLIP: the own prompt" in text
        and "back view" in text
        and "IoU" not in text
    )
    assert [picture.size for picture in shown(comfyui, run, prompt, SCORE)] == [(256, 256)] * 4


@pytest.mark.parametrize(
    ("values", "message"),
    [
        (
            {"prompt": "a wooden dragon"},
            "For other prompts put a CLIP model into models/clip_vision",
        ),
        ({"clip": "elsewhere"}, "'elsewhere' is not a CLIP folder below models/clip_vision"),
        ({"prompt": " ", "clip": "tiny/clip"}, "prompt is empty; write what the object should be"),
    ],
)
@pytest.mark.usefixtures("clip")
def test_what_cannot_be_measured_is_refused_before_the_run(comfyui, prompt, values, message):
    with pytest.raises(PromptRefused) as refused:
        comfyui.queue(needed(prompt, SCORE, **values))
    assert message in str(refused.value)


def unmade(prompt, object_info, kind, /, **changes):
    """``prompt`` around that node alone, with a fresh cloud and a PrimitiveInt of 0 named zero."""
    (start,) = prompts.of_type(prompt, "Distill3D_InitGaussians")
    prompt["zero"] = {"class_type": "PrimitiveInt", "inputs": {"value": 0}}
    if not prompts.of_type(prompt, kind):
        prompt["looking"] = {"class_type": kind, "inputs": defaults(object_info[kind])}
        prompt["seen"] = {"class_type": "PreviewImage", "inputs": {"images": ["looking", 0]}}
    return needed(prompt, kind, gaussians=[start, 0], **changes)


def test_distractors_without_clip_are_said_to_be_unused(comfyui, prompt, object_info):
    (id,) = prompts.of_type(prompt, SCORE)
    prompt = unmade(prompt, object_info, SCORE, distractors="a cat", views=1)
    prompt["said"] = {"class_type": "PreviewAny", "inputs": {"source": [id, 0]}}
    run = comfyui.run(prompt)
    assert run.status == "success", run.error
    assert "distractors are not used" in report(run, prompt)


@pytest.mark.parametrize(
    ("kind", "message"),
    [
        (SCORE, "Score Views: views is 0; choose a value within 1..360."),
        (INSPECT, "Inspect Guidance: views is 0; choose a value within 1..16."),
        (PACK + "RenderViews", "Render Views: views is 0; choose a value within 1..1000."),
    ],
)
def test_no_views_from_a_link_are_named(comfyui, prompt, object_info, kind, message):
    run = comfyui.run(unmade(prompt, object_info, kind, views=["zero", 0]))
    assert run.status == "error"
    assert message in run.error


def test_a_progress_that_is_no_number_is_refused_before_the_run(comfyui, prompt):
    with pytest.raises(PromptRefused) as refused:
        comfyui.queue(needed(prompt, INSPECT, progress=float("nan")))
    assert "progress is nan; choose a value within 0.0..1.0" in str(refused.value)


@pytest.mark.parametrize(("progress", "columns"), [(0.2, 6), (0.8, 5)])
def test_guidance_is_shown_with_a_row_per_view(comfyui, prompt, progress, columns):
    """The second part of VDM, from 0.4 on, asks M_psi no more."""
    prompt = needed(prompt, INSPECT, progress=progress)
    run = comfyui.run(prompt)
    assert run.status == "success", run.error
    pictures = shown(comfyui, run, prompt, INSPECT)
    assert [picture.size for picture in pictures] == [(columns * 256, 256 + 20)] * 2
    render = pictures[0].crop((0, 20, 256, 276)).convert("L").getextrema()
    assert render[0] < render[1]


@pytest.mark.parametrize("loss", ["SDSLoss", "CDSLoss"])
def test_other_losses_are_looked_into_too(comfyui, prompt, object_info, loss):
    (start,) = prompts.of_type(prompt, "Distill3D_InitGaussians")
    prompt["other"] = {"class_type": PACK + loss, "inputs": defaults(object_info[PACK + loss])}
    prompt = needed(prompt, INSPECT, loss=["other", 0], gaussians=[start, 0], views=1, timestep=-1)
    node = prompt[prompts.of_type(prompt, INSPECT)[0]]
    if loss == "SDSLoss":
        del node["inputs"]["cameras"]
    else:  # the cameras of a scene are as good as those of an object
        prompt["scene"] = {
            "class_type": PACK + "SceneCameras",
            "inputs": defaults(object_info[PACK + "SceneCameras"]),
        }
        node["inputs"]["cameras"] = ["scene", 0]
    run = comfyui.run(prompt)
    assert run.status == "success", run.error
    assert shown(comfyui, run, prompt, INSPECT)[0].size == (5 * 256, 276)
