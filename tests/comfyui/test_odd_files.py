"""A server with pipes, devices and links among its files, and with requests of every kind, goes on
answering everybody.
"""

from __future__ import annotations

import json
import os
import time
import urllib.error
import urllib.request

import numpy as np
import pytest
from harness.nodes import PACK
from harness.server import PromptRefused

pytestmark = pytest.mark.skipif(os.name == "nt", reason="pipes and links are POSIX's")
FIELDS = (
    "x y z f_dc_0 f_dc_1 f_dc_2 opacity scale_0 scale_1 scale_2 rot_0 rot_1 rot_2 rot_3".split()
)


def splat() -> bytes:
    head = "ply\nformat binary_little_endian 1.0\nelement vertex 1\n"
    head += "".join(f"property float {name}\n" for name in FIELDS) + "end_header\n"
    return head.encode() + np.ones(len(FIELDS), "<f4").tobytes()


@pytest.fixture
def odd(comfyui, tmp_path):
    """Pipes, devices and linked files in output and input/3d, taken away afterwards."""
    folders = [comfyui.output, comfyui.base / "input" / "3d"]
    other, made = tmp_path / "disk", []
    other.mkdir()
    (other / "linked.ply").write_bytes(splat())
    for folder in folders:
        folder.mkdir(parents=True, exist_ok=True)
        for name in ("pipe.ply", "pipe.glb", "pipe.safetensors"):
            os.mkfifo(folder / name)
            made.append(folder / name)
        (folder / "device.ply").symlink_to("/dev/zero")
        (folder / "file.ply").symlink_to(other / "linked.ply")
        (folder / "folder").symlink_to(other)
        made += [folder / name for name in ("device.ply", "file.ply", "folder")]
    yield other
    for path in made:
        path.unlink()


def offered(comfyui, node: str) -> list[str]:
    spec = comfyui.get(f"/object_info/{PACK}{node}")[PACK + node]["input"]["required"]["file"]
    return spec[1]["options"] if spec[0] == "COMBO" else spec[0]


def test_pipes_and_devices_stop_nobody_and_links_can_be_read(comfyui, odd):
    start = time.monotonic()
    found = comfyui.object_info()
    splats, meshes = offered(comfyui, "LoadGaussians"), offered(comfyui, "InitMesh")
    assert time.monotonic() - start < 10 and PACK + "LoadGaussians" in found
    for root in ("output", "input/3d"):
        assert {f"{root}/file.ply", f"{root}/folder/linked.ply"} <= set(splats)
    assert not [name for name in (*splats, *meshes) if "pipe" in name or "device" in name]

    def load(file: str) -> dict:
        return {
            "load": {"class_type": PACK + "LoadGaussians", "inputs": {"file": file}},
            "view": {"class_type": PACK + "PreviewGaussians", "inputs": {"gaussians": ["load", 0]}},
        }

    for file in ("output/file.ply", "input/3d/folder/linked.ply"):
        run = comfyui.run(load(file))
        assert run.status == "success", run.error
    for file in ("output/pipe.ply", "input/3d/device.ply", "output/pipe.safetensors"):
        with pytest.raises(PromptRefused, match="is a pipe, a device or a socket"):
            comfyui.queue(load(file))


@pytest.mark.parametrize(
    ("body", "content", "status"),
    [
        (b'{"steps": 3}', "application/json", 204),
        (b"[" * 100_000, "application/json", 400),
        (b'{"steps": 3}', "application/json; charset=klingon", 400),
        (b'{"a": "' + b"x" * (2 << 20) + b'"}', "application/json", 413),
    ],
)
def test_requests_are_answered_below_500(comfyui, body, content, status):
    opener = urllib.request.build_opener(urllib.request.ProxyHandler({}))
    request = urllib.request.Request(
        comfyui.url + "/distill3d/anew/7", body, {"Content-Type": content}, method="POST"
    )
    try:
        with opener.open(request, timeout=60) as answer:
            found = answer.status
    except urllib.error.HTTPError as error:
        found = error.code
    assert found == status
    assert json.dumps(comfyui.get("/distill3d/live")) == "{}"
