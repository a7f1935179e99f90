"""The examples of docs/guide/api.md, as they stand there, against a running server."""

from __future__ import annotations

import json
import os
import re
import shutil
import subprocess
import sys

import pytest
import trimesh
from harness import prompts
from harness.environment import ROOT

PAGE = ROOT / "docs" / "guide" / "api.md"
ADDRESS = "http://127.0.0.1:8188"
STEPS = 100_000  # more than any test waits for


def examples() -> dict[str, list[str]]:
    """The page's code blocks by language."""
    found: dict[str, list[str]] = {}
    for language, code in re.findall(
        r"^```(\w+)\n(.*?)^```$", PAGE.read_text(encoding="utf-8"), re.MULTILINE | re.DOTALL
    ):
        found.setdefault(language, []).append(code)
    return found


@pytest.fixture
def example(comfyui, quickstart_prompt, tmp_path):
    """A function that runs one of them in a folder with a smaller quickstart, and returns what it
    printed.
    """

    def run(language: str, place: int = 0, *arguments: str, steps: int = 4, seed: int = 0) -> str:
        code = examples()[language][place]
        assert ADDRESS in code
        file = tmp_path / f"example.{language}"
        file.write_text(code.replace(ADDRESS, comfyui.url), encoding="utf-8")
        place = tmp_path / "workflows" / "api" / "quickstart.json"
        place.parent.mkdir(parents=True, exist_ok=True)
        place.write_text(
            json.dumps(prompts.with_seed(prompts.with_steps(quickstart_prompt, steps), seed))
        )
        program = [sys.executable] if language == "python" else ["bash", "-eu", "-o", "pipefail"]
        done = subprocess.run(
            [*program, str(file), *arguments], cwd=tmp_path, capture_output=True, text=True, timeout=300,
            env=os.environ | {"no_proxy": "127.0.0.1", "PYTHONUTF8": "1"},
        )  # fmt: skip
        assert done.returncode == 0, done.stdout + done.stderr
        return done.stdout

    return run


@pytest.fixture
def curl():
    for program in ("bash", "curl"):
        if shutil.which(program) is None:
            pytest.skip(f"no {program} here")


def faces(folder) -> int:
    return len(trimesh.load(folder / "object.glb", force="mesh").faces)


@pytest.mark.parametrize("name", prompts.NAMES)
def test_workflows_in_api_form_are_the_workflows(object_info, name):
    file = prompts.WORKFLOWS / "api" / f"{name}.json"
    expected = prompts.api_form(prompts.read(name), object_info)
    assert json.loads(file.read_text(encoding="utf-8")) == expected, (
        "run python tests/comfyui/write_texts.py"
    )


def test_python_example_follows_the_run_and_fetches_the_mesh(example, comfyui, tmp_path):
    told = example("python", 0, "a blue chair", seed=21).splitlines()
    assert told[:4] == [f"step {step} of 4" for step in (1, 2, 3, 4)]
    assert re.fullmatch(r"object\.glb, in .* distill3d/quickstart_\d{5}_\.glb", told[-1])
    assert faces(tmp_path) > 100
    newest = max(comfyui.get("/history").values(), key=lambda entry: entry["prompt"][0])
    (prompted,) = prompts.of_type(newest["prompt"][2], "Distill3D_ViewPrompts")
    assert newest["prompt"][2][prompted]["inputs"]["prompt"] == "a blue chair"


@pytest.mark.nightly(reason="as the other program's")
def test_python_example_stops_and_keeps(example, tmp_path):
    told = example("python", 0, "a red mug", "1", steps=STEPS, seed=22).splitlines()
    steps = [int(line.split()[1]) for line in told if line.startswith("step")]
    assert 1 <= max(steps) < 1000 and all(line.endswith(f"of {STEPS}") for line in told[:-1])
    assert faces(tmp_path) > 100


def test_python_example_says_what_is_wrong_with_a_prompt(example):
    with pytest.raises(AssertionError, match="does not know 'dragon'"):
        example("python", 0, "a red dragon")
    with pytest.raises(AssertionError, match="prompt is empty"):
        example("python", 0, " ")


@pytest.mark.nightly(reason="as the other program's")
def test_curl_example_fetches_the_mesh(example, curl, tmp_path):
    example("sh", 0, seed=23)
    assert faces(tmp_path) > 100


@pytest.mark.nightly(reason="as the other program's")
def test_curl_example_stops_and_keeps(example, curl, comfyui, quickstart_prompt):
    (optimize,) = prompts.of_type(quickstart_prompt, "Distill3D_Optimize")
    told = []

    def stop(run):
        if run.progress(optimize) and not told:
            told.append(example("sh", 1))

    run = comfyui.run(
        prompts.with_seed(prompts.with_steps(quickstart_prompt, STEPS), 24), on_event=stop
    )
    assert run.status == "success", run.error
    running, stopped = (
        json.loads(answer) for answer in re.findall(r"\{.*?\}(?=\{|$)", told[0].strip())
    )
    assert running[optimize] == stopped and stopped["steps"] == STEPS
    assert [file for file in run.files if file["filename"].endswith(".glb")]
