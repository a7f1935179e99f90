"""The object session's program, as README's first command runs it."""

from __future__ import annotations

import json
import re
import signal
import socket
import subprocess
import sys
import time
from pathlib import Path

import plyfile
import pytest
import trimesh
from harness import prompts
from harness.environment import ROOT, child_environment
from PIL import Image


def start(*arguments: str, **options) -> subprocess.Popen:
    command = [sys.executable, str(ROOT / "tests" / "comfyui" / "make_object.py"), *arguments]
    if sys.platform != "win32":
        # A shell's background jobs ignore Ctrl-C and hand that on; these tests send it.
        options["preexec_fn"] = lambda: signal.signal(signal.SIGINT, signal.SIG_DFL)
    return subprocess.Popen(
        command,
        env=child_environment(),
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        **options,
    )


def assert_server_is_gone(log: Path) -> None:
    port = int(re.search(r"http://127\.0\.0\.1:(\d+)", log.read_text())[1])
    with socket.socket() as probe:
        assert probe.connect_ex(("127.0.0.1", port)) != 0


@pytest.mark.parametrize(
    ("arguments", "told"),
    [
        (["a red dragon"], "'dragon'"),
        (["a red zebra on a bike"], "'zebra', 'on', 'bike'"),
        ([""], "empty"),
        (["   "], "empty"),
        (["mug red"], "not a toybox caption"),
        (["a", "red", "mug"], 'in quotes: -- "a red mug"'),
        ([], "one prompt is needed"),
        (["a red mug", "--steps", "0"], "--steps 0"),
        (["a red mug", "--seed", "-1"], "--seed -1"),
        (["a red mug", "--workflow", "nowhere.json"], "--workflow nowhere.json"),
        (["a red mug", "--steps", "many"], "invalid int value: 'many'"),
    ],
)
def test_bad_prompt_is_told_at_once(arguments, told):
    process = start("--check", *arguments)
    output, _ = process.communicate(timeout=60)
    assert process.returncode == 2
    assert told in output
    assert "Traceback" not in output


def test_object_leaves_its_files_and_measures(tmp_path):
    workflow_file = tmp_path / "workflow.json"
    workflow_file.write_text(json.dumps(prompts.read("quickstart")))
    options = {"--steps": 3, "--seed": 5, "--workflow": workflow_file, "--output": tmp_path}
    process = start("a red mug", *(str(word) for option in options.items() for word in option))
    output, _ = process.communicate(timeout=500)
    assert process.returncode == 0, output
    assert plyfile.PlyData.read(str(tmp_path / "object.ply"))["vertex"].count > 100
    assert len(trimesh.load(tmp_path / "object.glb", force="mesh").faces) > 100
    animation, strip = (
        Image.open(tmp_path / "turntable.webp"),
        Image.open(tmp_path / "turntable.png"),
    )
    assert animation.n_frames > 8
    assert strip.size == (8 * animation.width, animation.height)
    report = json.loads(tmp_path.joinpath("metrics.json").read_text())
    assert report["prompt"] == "a red mug"
    assert report["steps"] == 3
    phases = {"setup", "server_start", "load", "optimize", "export", "measure", "total"}
    assert set(report["seconds"]) == phases
    assert 0 <= report["iou"] <= 1
    assert report["psnr"] > 0
    assert_server_is_gone(tmp_path / "comfyui.log")


@pytest.mark.skipif(sys.platform == "win32", reason="Windows has no SIGINT for another process")
def test_ctrl_c_stops_the_server_and_keeps_the_cloud_so_far(tmp_path):
    process = start(
        "a red mug", "--steps", "100000", "--output", str(tmp_path), start_new_session=True
    )
    seen = ""
    while not re.search(r"[1-9]\d*/100000", seen):  # the first steps are done
        piece = process.stdout.read(1)
        assert piece, seen
        seen += piece
    process.send_signal(signal.SIGINT)
    rest, _ = process.communicate(timeout=200)
    assert process.returncode == 130, rest
    assert "Interrupted" in rest
    assert "Traceback" not in rest
    assert plyfile.PlyData.read(str(tmp_path / "partial.ply"))["vertex"].count > 100
    assert not tmp_path.joinpath("metrics.json").exists()
    assert_server_is_gone(tmp_path / "comfyui.log")


@pytest.mark.nightly(reason="as Ctrl-C above")
@pytest.mark.skipif(sys.platform == "win32", reason="Windows has no SIGTERM")
def test_being_terminated_while_starting_takes_the_server_along(tmp_path):
    process = start("a red mug", "--output", str(tmp_path), start_new_session=True)
    log = tmp_path / "comfyui.log"
    end = time.monotonic() + 120
    while not (log.exists() and "http://127.0.0.1:" in log.read_text()):
        assert process.poll() is None, process.stdout.read()
        assert time.monotonic() < end
        time.sleep(0.05)
    process.terminate()
    process.communicate(timeout=60)
    assert process.returncode == 143
    assert_server_is_gone(log)
