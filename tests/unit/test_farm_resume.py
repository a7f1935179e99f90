"""Going on from autosaves: the same bits, and a graph for ComfyUI that does it."""

from __future__ import annotations

import json
import shutil
import struct

import pytest
from farm_runs import AUTOSAVE, STEPS, small_graph
from tiny_prior import write_tiny_prior

from distill3d.farm.engines.base import RefusedError
from distill3d.farm.engines.python import PythonEngine
from distill3d.farm.graph import Graph
from distill3d.farm.resume import resumed, run_of
from distill3d.farm.worker import digest_of
from distill3d.kernels.run.checkpoint import run_of as kernels_run_of


class Killed(BaseException):
    pass


@pytest.fixture(scope="module")
def models(tmp_path_factory):
    folder = tmp_path_factory.mktemp("models")
    write_tiny_prior(folder / "tiny")
    return folder


@pytest.fixture
def graph():
    return Graph("small", small_graph())


def made(engine, graph, key, saved=None, keep=lambda node, path: None, **values):
    return engine.make(graph.filled({"prompt": "a red mug", **values}), key, saved or {}, keep)


@pytest.mark.parametrize(
    "after", [pytest.param(1, marks=pytest.mark.nightly(reason="an earlier moment")), 3]
)
def test_a_job_that_was_killed_goes_on_bit_for_bit(tmp_path, models, graph, after):
    engine = PythonEngine(tmp_path / "whole", 1, models)
    whole = digest_of(made(engine, graph, "a", seed=5).files[0])
    kept = []

    def keep(node, path):
        kept.append((node, shutil.copy(path, tmp_path / "kept.safetensors")))
        if len(kept) == after:
            raise Killed

    with pytest.raises(Killed):
        made(PythonEngine(tmp_path / "first", 1, models), graph, "b", keep=keep, seed=5)
    saved = {"7": tmp_path / "kept.safetensors"}
    second = made(PythonEngine(tmp_path / "second", 1, models), graph, "b", saved, seed=5)
    assert second.resumed == {"7": after * AUTOSAVE}
    assert second.metrics["7"]["steps"] == STEPS
    assert digest_of(second.files[0]) == whole
    assert digest_of(made(engine, graph, "c", seed=6).files[0]) != whole


def test_the_prior_is_loaded_once_in_a_process(tmp_path, models, graph, monkeypatch):
    from distill3d.farm.engines import functions

    loads, load = [], functions.load_diffusers
    monkeypatch.setattr(
        functions, "load_diffusers", lambda *a, **k: (loads.append(a), load(*a, **k))[1]
    )
    engine = PythonEngine(tmp_path, 1, models)
    for seed in range(2):
        made(engine, graph, f"{seed}", seed=seed)
    assert len(loads) == 1


def test_a_value_that_the_kernels_refuse_is_not_tried_again(tmp_path, models, graph):
    engine = PythonEngine(tmp_path, 1, models)
    with pytest.raises(RefusedError, match="dragon"):
        engine.make(graph.filled({"prompt": "a dragon"}), "x", {}, lambda node, path: None)
    assert "Traceback" in engine.log()


def autosave(path, **run):
    header = json.dumps({"__metadata__": {"run": json.dumps(run)}}).encode()
    path.write_bytes(struct.pack("<Q", len(header)) + header)
    return path


def test_a_comfyui_graph_goes_on_by_recover_with_the_schedule_as_it_was(tmp_path, graph):
    saved = autosave(tmp_path / "farm-0.safetensors", node_id="7", step=8, steps=STEPS)
    changed, steps = resumed(graph.nodes, {"7": saved})
    assert steps == {"7": 8}
    inputs, before = changed["7"]["inputs"], changed["7 recovered"]
    assert before["class_type"] == "Distill3D_Recover"
    assert before["inputs"] == {"file": "output/distill3d/autosave/farm-0.safetensors"}
    assert inputs["gaussians"] == ["7 recovered", 0]
    assert (inputs["steps"], inputs["schedule_steps"]) == (STEPS - 8, STEPS)
    assert inputs["restart_schedule"] is False
    assert graph.nodes["7"]["inputs"]["gaussians"] == ["5", 0]  # not changed in place


def test_what_is_no_autosave_or_of_another_graph_starts_from_the_beginning(tmp_path, graph):
    wrong = [
        autosave(tmp_path / "done.safetensors", step=STEPS, steps=STEPS),
        autosave(tmp_path / "odd.safetensors", step="many", steps=STEPS),
        tmp_path / "missing.safetensors",
        tmp_path / "cut.safetensors",
    ]
    wrong[-1].write_bytes(b"\x10\0\0")
    for path in wrong:
        assert resumed(graph.nodes, {"7": path}) == (graph.nodes, {})
    good = autosave(tmp_path / "good.safetensors", step=1, steps=STEPS)
    for node in ("5", "99"):
        assert resumed(graph.nodes, {node: good}) == (graph.nodes, {})


def test_a_header_is_read_without_torch_as_the_kernels_read_it(tmp_path, models, graph):
    engine, kept = PythonEngine(tmp_path, 1, models), []
    made(
        engine,
        graph,
        "a",
        keep=lambda node, path: kept.append(run_of(path) | {"mesh": False} == kernels_run_of(path)),
    )
    assert kept and all(kept)
