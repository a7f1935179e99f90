"""A filename_prefix that no disk takes is refused before the run; what passes can be written."""

from __future__ import annotations

import os
import re
from pathlib import Path

import pytest

from distill3d.nodes.shared.prefix import ENDING, prefix_problem

ROOT = Path(__file__).resolve().parents[2]
LONGEST = "_99999_.compressed.ply.safetensors"
POSIX = pytest.mark.skipif(os.name == "nt", reason="Windows has other limits")


@POSIX
@pytest.mark.parametrize(
    "prefix",
    [
        "mug", "distill3d/mug", "a/b/../mug", "mug.", "con", "a:b*?", "~/mug", " mug ",
        "%date:yyyy-MM-dd%/mug", "%year%-%month%/mug", "-rf", "\u7ea2" * 70,
        "d/" + "\U0001f600" * 50,
        "a" * (255 - ENDING), "/".join(["folder"] * 100) + "/x", "...mug", "\u202emug",
    ],
)  # fmt: skip
def test_what_passes_can_be_written_with_the_longest_ending(tmp_path, prefix):
    assert prefix_problem(prefix, tmp_path) is None
    file = tmp_path / (prefix + LONGEST)
    file.parent.mkdir(parents=True, exist_ok=True)
    file.write_bytes(b"x")


@pytest.mark.parametrize(
    ("prefix", "message"),
    [
        ("", "holds no file name"),
        ("folder/", "holds no file name"),
        ("folder/..", "holds no file name"),
        ("folder\\", "holds no file name"),
        ("../elsewhere", "leads out of ComfyUI's output folder"),
        ("/tmp/elsewhere", "leads out of ComfyUI's output folder"),
        ("a/%year%/../../../elsewhere", "leads out of ComfyUI's output folder"),
        ("mug\0", "holds a sign that no name can have"),
        ("a\0b/mug", "holds a sign that no name can have"),
        ("mug\nred", "holds a sign that no name can have"),
        ("\ud800", "holds a sign that no name can have"),
        ("mug\x7f", "holds a sign that no name can have"),
        ("a" * 250, "its name takes 250 bytes"),
        ("d/" + "\u7ea2" * 90, "its name takes 270 bytes"),
        ("f" * 300 + "/mug", "is longer than 255 bytes"),
        ("/".join(["folder"] * 800) + "/x", "the whole path would take"),
        ("blocked/mug", "'blocked' in ComfyUI's output folder is no folder"),
        ("blocked/deep/mug", "'blocked' in ComfyUI's output folder is no folder"),
    ],
)
def test_what_cannot_be_written_is_refused_in_a_sentence(tmp_path, prefix, message):
    (tmp_path / "blocked").write_text("")
    problem = prefix_problem(prefix, tmp_path)
    assert problem is not None and message in problem
    assert problem.startswith("filename_prefix ") and len(problem) < 400
    problem.encode()  # it goes out as UTF-8


@POSIX
def test_folders_below_the_output_may_be_links(tmp_path):
    output, other = tmp_path / "output", tmp_path / "disk"
    output.mkdir(), other.mkdir()
    (output / "linked").symlink_to(other)
    assert prefix_problem("linked/mug", output) is None


def test_windows_takes_neither_its_devices_nor_its_signs(tmp_path, monkeypatch):
    monkeypatch.setattr("distill3d.nodes.shared.prefix.ON_WINDOWS", True)
    for prefix in ("con", "d/NUL.txt", "a:b", "what?", "mug.", "mug ", "a|b/mug", "com1/mug"):
        assert "no name that Windows takes" in prefix_problem(prefix, tmp_path), prefix
    assert prefix_problem("consistent/mug", tmp_path) is None


def test_every_node_with_a_filename_prefix_checks_it_before_the_run():
    nodes = [
        (file, text)
        for file in sorted((ROOT / "nodes").rglob("*.py"))
        if re.search(r'String\.Input\(\s*"filename_prefix"', text := file.read_text("utf-8"))
    ]
    assert len(nodes) >= 3
    for file, text in nodes:
        validation = text.partition("def validate_inputs(")[2].partition("@classmethod")[0]
        assert "check_prefix(filename_prefix)" in validation, file
