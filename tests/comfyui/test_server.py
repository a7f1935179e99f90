"""The pack in a running ComfyUI: what the server lists, sends while it works, and hands out
afterwards.
"""

from __future__ import annotations

import importlib.util
import io
import json
import urllib.request

import numpy as np
import plyfile
import trimesh
from harness import prompts
from harness.environment import ROOT
from PIL import Image


def test_server_lists_every_node_of_the_pack(object_info):
    assert {name for name in object_info if name.startswith("Distill3D_")} == prompts.NODES


def test_pack_loads_without_a_warning(comfyui):
    log = comfyui.log.read_text(encoding="utf-8", errors="replace")
    about_us = [line for line in log.splitlines() if "distill3d" in line.lower()]
    assert about_us, "the log does not mention the pack"
    assert not [line for line in about_us if "IMPORT FAILED" in line or "Cannot import" in line]


def test_server_serves_every_script_of_the_pack(comfyui):
    listed = {
        path for path in comfyui.get("/extensions") if path.startswith("/extensions/distill3d/")
    }
    ours = {
        f"/extensions/distill3d/{file.relative_to(ROOT / 'web').as_posix()}"
        for file in ROOT.glob("web/**/*.js")
    }
    assert listed == ours


def test_page_offers_every_workflow_as_a_template(comfyui):
    offered = comfyui.get("/workflow_templates")["distill3d"]
    assert sorted(offered) == sorted(file.stem for file in prompts.WORKFLOWS.glob("*.json"))


def test_every_template_has_a_thumbnail_where_the_page_looks_for_it(comfyui):
    opener = urllib.request.build_opener(urllib.request.ProxyHandler({}))
    for name in comfyui.get("/workflow_templates")["distill3d"]:
        with opener.open(f"{comfyui.url}/api/workflow_templates/distill3d/{name}.jpg") as answer:
            content = answer.read()
        picture = Image.open(io.BytesIO(content))
        # it is shown as a square
        assert picture.format == "JPEG" and picture.size == (512, 512), name
        assert len(content) < 60_000, name


def test_notes_explain_every_template():
    """Beside the first node; what test_workflows.py says of their heights aside."""
    for file in prompts.WORKFLOWS.glob("*.json"):
        workflow = json.loads(file.read_text(encoding="utf-8"))
        notes = [node for node in workflow["nodes"] if node["type"] == "MarkdownNote"]
        assert notes, file.name
        left = min(node["pos"][0] for node in workflow["nodes"])
        assert any(
            node["pos"][0] == left and node["widgets_values"][0].startswith("## ") for node in notes
        ), file.name


def test_progress_counts_every_step(quickstart, quickstart_prompt):
    (optimize,) = prompts.of_type(quickstart_prompt, "Distill3D_Optimize")
    progress = quickstart.progress(optimize)
    steps = quickstart_prompt[optimize]["inputs"]["steps"]
    assert progress[-1] == (steps, steps)
    assert [value for value, _ in progress] == sorted(value for value, _ in progress)


def test_previews_arrive_as_pictures_while_the_optimizer_runs(quickstart, quickstart_prompt):
    (optimize,) = prompts.of_type(quickstart_prompt, "Distill3D_Optimize")
    pictures = [preview for preview in quickstart.previews if preview.node == optimize]
    assert pictures
    end = next(seconds for seconds, m in quickstart.events if m["type"] == "execution_success")
    for preview in pictures:
        assert preview.seconds < end
        assert Image.open(io.BytesIO(preview.image)).size[0] >= 64


def test_saved_gaussians_come_back_as_a_splat_ply(comfyui, quickstart):
    ply = plyfile.PlyData.read(io.BytesIO(comfyui.fetch(quickstart, ".ply")))
    fields = {field.name for field in ply["vertex"].properties}
    assert {
        "x",
        "y",
        "z",
        "f_dc_0",
        "f_dc_1",
        "f_dc_2",
        "opacity",
        "scale_0",
        "rot_0",
        "rot_3",
    } <= fields
    assert ply["vertex"].count > 100
    assert np.isfinite(ply["vertex"]["x"]).all()


def test_exported_mesh_comes_back_as_a_closed_coloured_glb(comfyui, quickstart):
    glb = comfyui.fetch(quickstart, ".glb")
    mesh = trimesh.load(io.BytesIO(glb), file_type="glb", force="mesh")
    textured = importlib.util.find_spec("xatlas") is not None
    assert (b'"baseColorTexture"' in glb) == textured and (b'"COLOR_0"' in glb) != textured
    mesh.merge_vertices(merge_tex=True, merge_norm=True)  # a texture's charts do not share theirs
    assert mesh.is_watertight
    assert mesh.volume > 0


def test_turntable_comes_back_as_an_animation(comfyui, quickstart, quickstart_prompt):
    (render,) = prompts.of_type(quickstart_prompt, "Distill3D_RenderViews")
    animation = Image.open(io.BytesIO(comfyui.fetch(quickstart, ".webp")))
    assert animation.n_frames == quickstart_prompt[render]["inputs"]["views"]


def test_prompt_queued_twice_is_answered_from_the_cache(comfyui, quickstart, quickstart_prompt):
    # ComfyUI may have dropped earlier results since: it keeps the last prompt's
    first = comfyui.run(quickstart_prompt)
    second = comfyui.run(quickstart_prompt)
    cached = next(m["data"]["nodes"] for _, m in second.events if m["type"] == "execution_cached")
    assert set(prompts.of_type(quickstart_prompt, "Distill3D_Optimize")) <= set(cached)
    # no output node: cached, it says nothing
    (optimize,) = prompts.of_type(quickstart_prompt, "Distill3D_Optimize")
    assert sorted(map(str, second.files)) == sorted(
        str(file) for file in first.files if file["node"] != optimize
    )
