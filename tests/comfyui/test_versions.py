"""The pack in older ComfyUIs: every node is there, and the quickstart leaves its files."""

from __future__ import annotations

import io

import plyfile
import pytest
import trimesh
from harness import environment, prompts
from harness.server import Server


@pytest.mark.parametrize("version", [version for version in environment.SDISTS if version != environment.MAIN])
def test_quickstart_runs_in_an_older_comfyui(tmp_path, version):
    with Server(environment.tree(version), tmp_path / "base", tmp_path / "comfyui.log") as server:
        info = server.object_info()
        wanted = prompts.NODES - (set() if "SplatToFile3D" in info else prompts.WITH_SPLAT)
        assert {name for name in info if name.startswith("Distill3D_")} == wanted
        run = server.run(prompts.reduced(prompts.api_form(prompts.read("quickstart"), info), steps=4))
        assert run.status == "success", run.error
        assert run.previews
        assert plyfile.PlyData.read(io.BytesIO(server.fetch(run, ".ply")))["vertex"].count > 100
        assert len(trimesh.load(io.BytesIO(server.fetch(run, ".glb")), file_type="glb", force="mesh").faces) > 100
