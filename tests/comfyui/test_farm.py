"""The farm with true ComfyUIs: servers that are killed are started again, and what they were at
goes on from its autosave, bit for bit.
"""

from __future__ import annotations

import json
import os
import random
import signal
import time
from contextlib import suppress
from pathlib import Path

import pytest
from farm_runs import entries, small_graph, start, undisturbed, write_jobs
from harness import prompts

from distill3d.farm.checks import EMBEDDED, checked
from distill3d.farm.engines.python import PythonEngine
from distill3d.farm.graph import read_graph
from distill3d.farm.jobs import read_jobs

pytest.importorskip("ray", reason="the farm's tests need Ray: pip install 'ray[default]==2.60.*'")
pytestmark = pytest.mark.timeout(600)
STEPS = 12


def test_the_check_knows_what_a_server_says_of_its_nodes(tmp_path, object_info):
    graph = read_graph("quickstart")
    jobs = tmp_path / "jobs.csv"
    jobs.write_text("prompt,Render Views.views\na red mug,4\na red mug,0\n")
    good, bad = checked(graph, graph.jobs(read_jobs(jobs)), object_info)
    assert not good.problem
    assert bad.problem == "Distill3D_RenderViews.views is 0, which has to be from 1 to 1000"


@pytest.mark.nightly(reason="core's own list")
def test_a_list_of_prompts_in_a_graph_makes_an_object_of_each(comfyui, quickstart_prompt):
    """As docs/guide/farm.md has it: core's Create List before View Prompts."""
    prompt = dict(quickstart_prompt)
    for id in prompts.of_type(prompt, "Distill3D_ExportMesh"):
        del prompt[id]
    prompt = {id: node for id, node in prompt.items() if node["class_type"] != "Preview3D"}
    texts = ["a red cube", "a blue cone", "a green torus"]
    for place, text in enumerate(texts):
        prompt[f"text{place}"] = {"class_type": "PrimitiveString", "inputs": {"value": text}}
    grown = {f"inputs.input{place}": [f"text{place}", 0] for place in range(len(texts))}
    prompt["list"] = {"class_type": "CreateList", "inputs": grown}
    prompt = prompts.set_values(prompt, "Distill3D_ViewPrompts", prompt=["list", 0])
    run = comfyui.run(prompt)
    assert run.status == "success", run.error
    assert sum(file["filename"].endswith(".ply") for file in run.files) == len(texts)


@pytest.mark.nightly(reason="test_farm_kills and test_farm_resume have it without a server")
def test_a_server_that_is_killed_is_started_again_and_goes_on(tmp_path):
    made = disturbed(tmp_path, jobs=2, workers=1, kills=["engine_pid"], seed=0)
    assert any(entry["resumed"] for entry in made)
    assert max(entry["attempt"] for entry in made) == 2


@pytest.mark.nightly(reason="more of the one above, with workers and the driver killed too")
@pytest.mark.parametrize("seed", range(2))
def test_so_do_workers_and_the_driver(tmp_path, seed):
    kills = ["engine_pid", "pid", "driver", "engine_pid"]
    disturbed(tmp_path, jobs=8, workers=2, kills=kills, seed=seed)


@pytest.mark.nightly(reason="the one above asks a server that runs already")
def test_the_check_asks_a_server_and_makes_nothing(tmp_path, capsys):
    from distill3d.farm.__main__ import main

    (tmp_path / "jobs.csv").write_text(
        "prompt,Render Views.views\na red mug,4\na red mug,0\na red dragon,4\n"
    )
    words = ["--graph", "quickstart", "--out", str(tmp_path / "out"), "--dry-run"]
    assert main([str(tmp_path / "jobs.csv"), *words, "--workers", "1"]) == 1
    told = capsys.readouterr().out
    assert "line 3: Distill3D_RenderViews.views is 0, which has to be from 1 to 1000" in told
    assert "line 4" in told and "dragon" in told and "1 of 3 jobs fit quickstart.json" in told
    assert not (tmp_path / "out").exists()


def disturbed(folder: Path, jobs: int, workers: int, kills: list[str], seed: int) -> list[dict]:
    graph = small_graph(EMBEDDED, STEPS)
    (folder / "graph.json").write_text(json.dumps(graph))
    listed = write_jobs(folder / "jobs.jsonl", jobs)
    expected = undisturbed(PythonEngine(folder / "alone", 1), graph, listed)
    words, chance = ("--workers", str(workers)), random.Random(seed)
    kills, end, driver = list(kills), time.monotonic() + 550, start(folder, *words)
    try:
        while driver.poll() is None or driver.returncode < 0:
            assert time.monotonic() < end, (folder / "log.txt").read_text()[-4000:]
            if driver.poll() is not None:
                driver = start(folder, *words)
            if kills and (told := working(folder)):
                time.sleep(chance.uniform(0.0, 1.0))
                if (what := kills.pop(0)) == "driver":
                    driver.kill()
                    driver.wait()
                    (folder / "out" / ".farm" / "workers.json").unlink(missing_ok=True)
                else:
                    with suppress(ProcessLookupError):
                        os.kill(chance.choice(told)[what], signal.SIGKILL)
                    time.sleep(1.0)
            time.sleep(0.05)
    finally:
        driver.kill()
        driver.wait()
    assert driver.returncode == 0, (folder / "log.txt").read_text()[-4000:]
    assert not kills
    made = entries(folder)
    files = {file["name"]: file["blake2b"] for entry in made for file in entry["files"]}
    assert len(made) == jobs and files == expected
    return made


def working(folder: Path) -> list[dict]:
    """What workers that are alive have said of themselves, while some object is on its way."""
    own = folder / "out" / ".farm"
    try:
        told = json.loads((own / "workers.json").read_text())
    except (OSError, ValueError):
        return []
    there = [
        about
        for about in told
        if all(Path(f"/proc/{about[pid]}").exists() for pid in ("pid", "engine_pid"))
    ]
    return there if any((own / "autosaves").rglob("*.safetensors")) else []
