"""The pack in older ComfyUIs: every node is there; the quickstart and the blueprint leave their
files.
"""

from __future__ import annotations

import io

import plyfile
import pytest
import trimesh
from harness import environment, prompts
from harness.server import Server


@pytest.mark.parametrize(
    "version", [version for version in environment.SDISTS if version != environment.MAIN]
)
def test_quickstart_and_blueprint_run_in_an_older_comfyui(tmp_path, version):
    with Server(environment.tree(version), tmp_path / "base", tmp_path / "comfyui.log") as server:
        info = server.object_info()
        wanted = prompts.NODES - (set() if "SplatToFile3D" in info else prompts.WITH_SPLAT)
        assert {name for name in info if name.startswith("Distill3D_")} == wanted
        offered = {entry["name"] for entry in server.get("/global_subgraphs").values()}
        assert {file.stem for file in prompts.BLUEPRINTS.iterdir()} <= offered
        graphs = [
            prompts.read("quickstart"),
            *(prompts.read_blueprint(f.stem) for f in prompts.BLUEPRINTS.iterdir()),
        ]
        # of its own, or the second run would be the first's, cached
        for seed, graph in enumerate(graphs):
            run = server.run(
                prompts.with_seed(prompts.reduced(prompts.api_form(graph, info), steps=4), seed)
            )
            assert run.status == "success", run.error
            assert run.previews
            assert plyfile.PlyData.read(io.BytesIO(server.fetch(run, ".ply")))["vertex"].count > 100
            assert (
                len(
                    trimesh.load(
                        io.BytesIO(server.fetch(run, ".glb")), file_type="glb", force="mesh"
                    ).faces
                )
                > 100
            )
