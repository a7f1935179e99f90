"""The pack in older ComfyUIs: every node is there; the quickstart and the blueprint leave their
files.
"""

from __future__ import annotations

import io

import plyfile
import pytest
import trimesh
from harness import environment, prompts
from harness.nodes import node, saved, succeeded
from harness.server import Server


def server_of(version, folder):
    return Server(environment.tree(version), folder / "base", folder / "comfyui.log")


def all_offered(server):
    """What the server says of its nodes, of which none of the pack's lacks."""
    info = server.object_info()
    wanted = prompts.NODES - (set() if "SplatToFile3D" in info else prompts.WITH_SPLAT)
    assert {name for name in info if name.startswith("Distill3D_")} == wanted
    offered = {entry["name"] for entry in server.get("/global_subgraphs").values()}
    assert {file.stem for file in prompts.BLUEPRINTS.iterdir()} <= offered
    return info


@pytest.mark.nightly(reason="an older ComfyUI")
def test_oldest_comfyui_loads_every_node_and_saves_a_cloud(tmp_path):
    """What each older one makes of whole graphs is the nightly test's."""
    with server_of(environment.OLDER[-1], tmp_path) as server:
        info = all_offered(server)
        start = node(info, "InitGaussians", count=200)
        save = node(info, "SaveGaussians", gaussians=["start", 0], filename_prefix="oldest")
        run = succeeded(server.run({"start": start, "save": save}))
        assert plyfile.PlyData.read(str(saved(server, run)))["vertex"].count == 200


@pytest.mark.nightly(reason="a server and two whole runs for each; the oldest starts in every run")
@pytest.mark.parametrize("version", environment.OLDER)
def test_quickstart_and_blueprint_run_in_an_older_comfyui(tmp_path, version):
    with server_of(version, tmp_path) as server:
        info = all_offered(server)
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
