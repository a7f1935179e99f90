"""The set-up's own parts, and the conversion of workflows, without a server."""

from __future__ import annotations

from concurrent.futures import Future

import pytest
from harness import environment, prompts
from harness.links import link
from harness.server import free_port


def test_half_installed_package_is_forgotten_and_a_whole_one_kept(tmp_path, monkeypatch):
    site = tmp_path / ".venv" / "lib" / "python3.11" / "site-packages"
    for name, files in {
        "whole-1.0.dist-info": ("METADATA", "RECORD"),
        "half-1.0.dist-info": ("METADATA",),
    }.items():
        site.joinpath(name).mkdir(parents=True)
        for file in files:
            site.joinpath(name, file).touch()
    monkeypatch.setattr(environment, "ROOT", tmp_path)
    environment._drop_half_installed()
    assert [folder.name for folder in site.iterdir()] == ["whole-1.0.dist-info"]


def test_unreachable_index_is_left_out(monkeypatch):
    monkeypatch.setattr("sys.platform", "linux")
    monkeypatch.setattr("platform.machine", lambda: "x86_64")
    monkeypatch.setattr(environment, "CPU_INDEX", f"http://127.0.0.1:{free_port()}")
    assert environment._index_arguments(gpu=False) == []


def test_a_tree_that_could_not_be_fetched_beside_pytorch_is_fetched_again(monkeypatch, tmp_path):
    early, failed = Future(), Future()
    early.set_result(tmp_path / "early")
    failed.set_exception(environment.SetupError("no build backend"))
    monkeypatch.setattr(environment, "tree", lambda: tmp_path)
    assert environment._fetched(failed) == tmp_path
    assert environment._fetched(early) == tmp_path / "early"


def test_requirements_keep_pins_and_lose_the_heavy_ones(tmp_path):
    tmp_path.joinpath("requirements.txt").write_text(
        "comfyui-frontend-package==1.47.12\ncomfyui-workflow-templates==0.11.27\ntorch\ntorchsde\n\n#"
        " x\nnumpy>=1.25 #y"
    )
    wanted = ["comfyui-frontend-package==1.47.12", "torchsde", "numpy>=1.25"]
    assert environment.comfyui_requirements(tmp_path) == wanted


def test_comfyui_path_that_is_no_tree_is_named(tmp_path, monkeypatch):
    monkeypatch.setenv("COMFYUI_PATH", str(tmp_path))
    with pytest.raises(environment.SetupError, match=r"COMFYUI_PATH=.*no main\.py"):
        environment.tree()


def test_link_is_renewed_and_its_old_target_left_alone(tmp_path):
    for name in ("old", "new"):
        tmp_path.joinpath(name).mkdir()
        tmp_path.joinpath(name, "file").write_text(name)
    for name in ("old", "new", "new"):
        link(tmp_path / name, tmp_path / "place")
    assert tmp_path.joinpath("place", "file").read_text() == "new"
    assert tmp_path.joinpath("old", "file").read_text() == "old"


def test_ci_runs_readmes_second_command():
    command = environment.ROOT.joinpath(".ci", "run").read_text().splitlines()[-1]
    assert command.endswith("nox -s tests")
    assert (
        command in environment.ROOT.joinpath("README.md").read_text(encoding="utf-8").splitlines()
    )


INFO = {
    "Source": {
        "display_name": "Source",
        "input": {"required": {"seed": ["INT", {"control_after_generate": True}]}},
    },
    "Sink": {
        "display_name": "Sink",
        "input": {
            "required": {"cloud": ["CLOUD", {}], "mode": [["a", "b"], {}]},
            "optional": {
                "scale": ["FLOAT", {}],
                "text": ["STRING", {"forceInput": True}],
                "note": ["STRING", {}],
            },
        },
    },
}


def graph(**changes: dict) -> dict:
    nodes = {
        "source": {"id": 1, "type": "Source", "widgets_values": [7, "fixed"]},
        "sink": {
            "id": 2,
            "type": "Sink",
            "inputs": [
                {"name": "cloud", "type": "CLOUD", "link": 5},
                {"name": "text", "type": "STRING", "link": None},
            ],
            "widgets_values": ["b", 0.5, "hi"],
        },
        "note": {"id": 3, "type": "MarkdownNote", "widgets_values": ["hello"]},
    }
    return {
        "nodes": [node | changes.get(name, {}) for name, node in nodes.items()],
        "links": [[5, 1, 0, 2, 0, "CLOUD"]],
    }


def test_values_find_their_names_past_sockets_and_the_seeds_extra_widget():
    prompt = prompts.api_form(graph(), INFO)
    assert prompt["1"]["inputs"] == {"seed": 7}
    assert prompt["2"]["inputs"] == {"mode": "b", "scale": 0.5, "note": "hi", "cloud": ["1", 0]}
    assert set(prompt) == {"1", "2"}


def test_link_from_a_muted_node_is_dropped():
    prompt = prompts.api_form(graph(source={"mode": prompts.MUTED}), INFO)
    assert set(prompt) == {"2"}
    assert "cloud" not in prompt["2"]["inputs"]


@pytest.mark.parametrize("change", [{"mode": prompts.BYPASSED}, {"type": "Unheard"}])
def test_what_cannot_be_converted_is_refused_by_node(change):
    with pytest.raises(ValueError, match="node 1"):
        prompts.api_form(graph(source=change), INFO)


def test_set_values_leaves_links_alone_and_misses_no_node():
    prompt = prompts.api_form(graph(), INFO)
    changed = prompts.set_values(prompt, "Sink", cloud="x", mode="a")
    assert changed["2"]["inputs"] == {"mode": "a", "scale": 0.5, "note": "hi", "cloud": ["1", 0]}
    assert prompt["2"]["inputs"]["mode"] == "b"
    with pytest.raises(ValueError, match="no Absent node"):
        prompts.set_values(prompt, "Absent", mode="a")
