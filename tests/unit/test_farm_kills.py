"""Workers and the driver killed at random moments: every object exactly once, bit for bit as
undisturbed.
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
from farm_runs import entries, small_graph, start, stub_graph, undisturbed, write_jobs
from tiny_prior import write_tiny_prior

from distill3d.farm.engines.python import PythonEngine
from distill3d.farm.engines.stub import StubEngine

pytest.importorskip("ray", reason="the farm's tests need Ray: pip install 'ray[default]==2.60.*'")
pytest.importorskip("fcntl")
pytestmark = pytest.mark.timeout(600)

JOBS, WORKERS = 24, 3
LIMIT = 500.0  # seconds that a farm may take, with all that is done to it


@pytest.mark.slow(reason="a farm of three processes, some of which start several times")
def test_workers_and_driver_killed_at_random_leave_every_object_once(tmp_path):
    stubs(tmp_path, seed=0, drivers=1, workers=1)


@pytest.mark.nightly(reason="more moments of the one above")
@pytest.mark.parametrize("seed", range(1, 9))
def test_so_do_other_moments(tmp_path, seed):
    stubs(tmp_path, seed, drivers=2, workers=4)


@pytest.mark.nightly(reason="true objects; test_farm_resume has these without processes")
@pytest.mark.parametrize("seed", range(3))
def test_true_objects_come_out_bit_for_bit(tmp_path, seed):
    write_tiny_prior(tmp_path / "models" / "tiny")
    engine = PythonEngine(tmp_path / "alone", 1, tmp_path / "models")
    words = ("--engine", "python", "--models", str(tmp_path / "models"))
    made = disturbed(tmp_path, small_graph(), engine, words, seed, drivers=1, workers=3)
    assert any(entry["resumed"] for entry in made)


@pytest.mark.nightly(reason="three nodes of Ray's on this machine; one is lost and comes back")
def test_a_node_of_the_cluster_may_go_and_come(tmp_path):
    from ray.cluster_utils import Cluster

    cluster = Cluster(initialize_head=True, head_node_args={"num_cpus": 1})
    try:
        lost = cluster.add_node(num_cpus=1)
        cluster.add_node(num_cpus=1)
        (tmp_path / "graph.json").write_text(json.dumps(stub_graph(steps=8, seconds=0.1)))
        jobs = write_jobs(tmp_path / "jobs.jsonl", JOBS)
        expected = undisturbed(Hurried(tmp_path / "alone"), stub_graph(8, 0.1), jobs)
        words = ("--engine", "stub", "--workers", str(WORKERS), "--address", cluster.address)
        driver, end = start(tmp_path, *words), time.monotonic() + LIMIT
        try:
            while driver.poll() is None:
                assert time.monotonic() < end, log(tmp_path)
                if lost is not None and len(alive(tmp_path)) == WORKERS and working(tmp_path):
                    cluster.remove_node(lost, allow_graceful=False)
                    lost = None
                    time.sleep(2)
                    cluster.add_node(num_cpus=1)
                time.sleep(0.1)
        finally:
            driver.kill()
            driver.wait()
        assert driver.returncode == 0 and lost is None, log(tmp_path)
        files = [file for entry in entries(tmp_path) for file in entry["files"]]
        assert {file["name"]: file["blake2b"] for file in files} == expected
        assert len(files) == JOBS
    finally:
        cluster.shutdown()


class Hurried(StubEngine):
    """The same objects in no time."""

    def make(self, prompt, key, saved, keep):
        prompt = {
            id: node | {"inputs": node["inputs"] | {"seconds": 0}} for id, node in prompt.items()
        }
        return super().make(prompt, key, saved, keep)


def stubs(folder: Path, seed: int, drivers: int, workers: int) -> None:
    engine, graph = Hurried(folder / "alone"), stub_graph(steps=8, seconds=0.1)
    made = disturbed(folder, graph, engine, ("--engine", "stub"), seed, drivers, workers)
    assert any(entry["resumed"] for entry in made)


def disturbed(folder, graph, engine, words, seed, drivers, workers) -> list[dict]:
    """Runs a farm to its end while killing so many drivers and workers; its manifest, checked."""
    (folder / "graph.json").write_text(json.dumps(graph))
    jobs = write_jobs(folder / "jobs.jsonl", JOBS)
    expected = undisturbed(engine, graph, jobs)

    chance, end = random.Random(seed), time.monotonic() + LIMIT
    kills = [*["driver"] * drivers, *["worker"] * workers]
    chance.shuffle(kills)
    words = (*words, "--workers", str(WORKERS))
    driver = start(folder, *words)
    try:
        while driver.poll() is None or driver.returncode < 0:
            assert time.monotonic() < end, log(folder)
            if driver.poll() is not None:
                driver = start(folder, *words)
            if kills and working(folder):
                time.sleep(chance.uniform(0.0, 0.8))
                if kills.pop() == "driver":
                    driver.kill()
                    driver.wait()
                    (folder / "out" / ".farm" / "workers.json").unlink(missing_ok=True)
                elif pids := alive(folder):
                    kill(chance.choice(pids))
            time.sleep(0.05)
        assert driver.returncode == 0, log(folder)
    finally:
        driver.kill()
        driver.wait()
    assert not kills, "it was over before all kills"

    made = entries(folder)
    files = [file for entry in made for file in entry["files"]]
    assert sorted(file["name"] for file in files) == sorted(expected)  # each once
    assert {file["name"]: file["blake2b"] for file in files} == expected
    assert [entry["status"] for entry in made] == ["done"] * JOBS
    out = folder / "out"
    left = [path for path in (out / ".farm").rglob("*") if not path.name.startswith(".distill3d-")]
    assert not [
        path
        for path in left
        if path.suffix in (".json", ".safetensors") and path.name != "workers.json"
    ]
    assert set(expected) <= {path.name for path in out.iterdir()}
    return made


def working(folder: Path) -> bool:
    """Whether some worker makes an object just now."""
    saves = folder / "out" / ".farm" / "autosaves"
    return bool(alive(folder)) and any(saves.rglob("*.safetensors"))


def alive(folder: Path) -> list[int]:
    """Processes of the workers that have started."""
    try:
        told = json.loads((folder / "out" / ".farm" / "workers.json").read_text())
    except (OSError, ValueError):
        return []
    return [about["pid"] for about in told if Path(f"/proc/{about['pid']}").exists()]


def kill(pid: int) -> None:
    with suppress(ProcessLookupError):
        os.kill(pid, signal.SIGKILL)


def log(folder: Path) -> str:
    return (folder / "log.txt").read_text()[-4000:]
